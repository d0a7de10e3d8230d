"""Images that stay in the shards are the same images."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from stages.artifacts import BadInput
from stages.dataset import codec, shards, tensors
from stages.dataset.streaming import StreamedImages
from stages.sections import Codec

PNG = Codec(format="png", quality=None)
COUNT, SIDE = 30, 8


def picture(i, size=SIDE):
    return Image.fromarray(np.random.default_rng(i).integers(0, 256, (size, size, 3), np.uint8))


def rows(count):
    for i in range(count):
        yield shards.Row(codec.encode(picture(i), PNG), f"{i}.png", i % 3, caption_id=i // 2)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Thirty images in four shards of row groups of four."""
    size = len(codec.encode(picture(0), PNG))
    monkeypatch.setattr(shards, "GROUP_BYTES", int(3.5 * size))
    monkeypatch.setattr(shards, "SHARD_BYTES", 9 * size)
    shards.write_shards(tmp_path, "train", rows(COUNT), "abc")
    assert len(shards.shard_paths(tmp_path, "train")) == 4
    return tmp_path


@pytest.fixture
def decoded(monkeypatch):
    """The images that are decoded from here on, by their first bytes."""
    calls, decode = [], codec.decode

    def counting(content):
        calls.append(content)
        return decode(content)

    monkeypatch.setattr(codec, "decode", counting)
    return calls


def expected(indices):
    return torch.from_numpy(np.stack([np.asarray(picture(i)).transpose(2, 0, 1) for i in indices]))


@pytest.mark.parametrize("cores", [1, 3])
def test_rows_come_as_from_a_tensor(folder, monkeypatch, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    images, whole = StreamedImages(folder, "train"), expected(range(COUNT))
    assert len(images) == COUNT
    assert images.shape == whole.shape
    for key in ([3, 0, 29, 28, 11], [5], [7, 7, 2, 7], [], list(range(COUNT))[::-1]):
        rows = torch.tensor(key, dtype=torch.int64)
        assert torch.equal(images[rows], whole[rows])
    for part in (slice(None), slice(2, 9), slice(25, 40), slice(30, 60), slice(3, 3)):
        assert torch.equal(images[part], whole[part])
    assert images[:].dtype == torch.uint8
    with pytest.raises(IndexError, match="30 images, asked for rows 4 to 30"):
        images[torch.tensor([4, 30])]


def test_only_what_is_asked_for_is_decoded_and_that_once(folder, decoded):
    images = StreamedImages(folder, "train")
    decoded.clear()
    images[torch.tensor([17, 4, 17, 5, 17])]
    assert sorted(decoded) == sorted(codec.encode(picture(i), PNG) for i in (4, 5, 17))


def test_the_size_of_a_split_chooses_where_it_lies(folder, monkeypatch):
    size = COUNT * 3 * SIDE * SIDE
    splits = {}
    for limit in (size, size - 1):
        monkeypatch.setattr(tensors, "MEMORY_BYTES", limit)
        splits[limit] = tensors.load_split(folder, "train")
    memory, disk = splits.values()
    assert isinstance(memory.images, torch.Tensor)
    assert isinstance(disk.images, StreamedImages)
    assert torch.equal(memory.images, disk.images[:])
    assert torch.equal(memory.labels, disk.labels)
    assert memory.caption_ids.tolist() == disk.caption_ids.tolist() == [i // 2 for i in range(COUNT)]
    assert memory.class_names == disk.class_names == ("a", "b", "c")
    assert tensors.count_distinct(memory.images) == tensors.count_distinct(disk.images) == COUNT
    tensors.check_arm("real", memory, {"val": disk})


def test_where_images_come(folder):
    images = StreamedImages(folder, "train")
    assert images.device == torch.empty(0).device
    moved = images.to(torch.device("meta"))
    assert moved[torch.tensor([3, 1, 3])].device.type == "meta"
    assert images[:2].device.type == "cpu"


def test_an_odd_image_is_named_when_it_is_read(tmp_path):
    odd = shards.Row(codec.encode(picture(1, 9), PNG), "odd.png", 0)
    shards.write_shards(tmp_path, "train", [*rows(2), odd], "abc")
    images = StreamedImages(tmp_path, "train")
    assert images[:2].shape == (2, 3, SIDE, SIDE)
    with pytest.raises(BadInput, match=r"odd\.png is 9x9, the first is 8x8"):
        images[torch.tensor([2])]


def test_a_split_of_no_images(tmp_path):
    shards.write_shards(tmp_path, "train", [], "abc")
    images = StreamedImages(tmp_path, "train")
    assert len(images) == 0
    assert images[:].shape == (0, 3, 0, 0)


def test_large_images_lie_in_small_row_groups(tmp_path):
    """Or reading one of them would read megabytes of others."""
    large = codec.encode(picture(0, 224), PNG)
    shards.write_shards(tmp_path, "train", [shards.Row(large, "0.png", 0)] * 20, "abc")
    groups = [facts.row_group(i).num_rows for _, facts, i in StreamedImages(tmp_path, "train")._groups]
    assert sum(groups) == 20
    assert max(groups) * len(large) <= shards.GROUP_BYTES + len(large)
