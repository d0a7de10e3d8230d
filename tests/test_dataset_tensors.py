import numpy as np
import pytest
import torch
from PIL import Image

from stages.artifacts import BadInput
from stages.dataset import codec, shards, tensors
from stages.sections import Codec

PNG = Codec(format="png", quality=None)


def picture(seed, size=8):
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    return Image.fromarray(pixels)


def rows(count, **facts):
    for i in range(count):
        yield shards.Row(image=codec.encode(picture(i), PNG), path=f"{i}.png", label=i % 3, **facts)


def test_load_split(tmp_path):
    shards.write_shards(tmp_path, "train", rows(6, caption_id=9), "abc")
    split = tensors.load_split(tmp_path, "train")
    assert len(split) == 6
    assert split.images.shape == (6, 3, 8, 8)
    assert split.images.dtype == torch.uint8
    for i in range(6):
        assert np.array_equal(split.images[i].permute(1, 2, 0).numpy(), np.asarray(picture(i)))
    assert split.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert split.caption_ids.tolist() == [9] * 6
    assert split.class_names == ("a", "b", "c")


def test_load_split_of_no_rows(tmp_path):
    shards.write_shards(tmp_path, "train", [], "abc")
    split = tensors.load_split(tmp_path, "train")
    assert len(split) == 0
    assert split.images.shape[:2] == (0, 3)


def test_load_split_names_what_is_wrong(tmp_path):
    with pytest.raises(BadInput, match=f"{tmp_path}: has no val split"):
        tensors.load_split(tmp_path, "val")
    odd = shards.Row(codec.encode(picture(1, 9), PNG), "odd.png", 0)
    shards.write_shards(tmp_path, "train", [*rows(1), odd], "abc")
    with pytest.raises(BadInput, match=r"odd\.png is 9x9, the first is 8x8"):
        tensors.load_split(tmp_path, "train")
