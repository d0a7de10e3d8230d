"""Real and generated images at even odds: what is drawn, from where, and that nothing is trained and judged on."""

import shutil

import numpy as np
import pytest
import torch

from stages.artifacts import BadInput
from stages.dataset import pairing, tensors
from stages.dataset.pairing import Part, carve, digests, draw_per_class, load_test, load_train_and_val, pair
from stages.dataset.shards import write_shards
from stages.dataset.tensors import Split
from tests.tiny import CLASSES
from tests.tiny_arms import make_study, rows


def part(counts, first=0):
    """A split with `counts[label]` images of each label, in mixed order; every image has a value of its own."""
    labels = torch.tensor([label for label, count in enumerate(counts) for _ in range(count)], dtype=torch.int64)
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(first))]
    values = torch.arange(first, first + len(labels), dtype=torch.uint8)
    images = values[:, None, None, None].expand(-1, 3, 4, 4).clone()
    return Part(Split(images, labels, torch.full_like(labels, -1), CLASSES), torch.arange(len(labels)))


def values(images):
    return images[:, 0, 0, 0].tolist()


def test_both_kinds_have_as_many_of_each_class():
    real, generated = part([9, 4, 0]), part([3, 8, 5], first=100)
    paired = pair(real, generated, seed=0)
    for kind in (0, 1):
        assert paired.labels[paired.kinds == kind].bincount(minlength=3).tolist() == [3, 4, 0]
    shown = values(paired.images)
    assert len(set(shown)) == len(shown) == len(paired) == 14
    for value, kind, label in zip(shown, paired.kinds.tolist(), paired.labels.tolist(), strict=True):
        source = generated if kind else real
        assert (value >= 100) == bool(kind)
        assert source.split.labels[value - 100 * kind] == label


def test_the_draw_is_a_function_of_the_seed():
    real, generated = part([30, 30, 30]), part([10, 10, 10], first=100)
    first, again, other = (values(pair(real, generated, seed).images) for seed in (0, 0, 1))
    assert first == again != other
    assert sorted(v for v in first if v >= 100) == list(range(100, 130)), "all of the poorer side"


def test_draws_are_at_most_what_there_is():
    labels = torch.tensor([2, 0, 2, 2, 0])
    drawn = draw_per_class(labels, [5, 1, 2], seed=3)
    assert drawn.tolist() == sorted(drawn.tolist())
    assert labels[drawn].bincount(minlength=3).tolist() == [2, 0, 2]


def test_carving_parts_a_split_in_two():
    whole = part([6, 7, 8])
    left, taken = carve(whole, [2, 3, 0], seed=0)
    assert taken.labels.bincount(minlength=3).tolist() == [2, 3, 0]
    assert sorted(left.rows.tolist() + taken.rows.tolist()) == list(range(21))
    with pytest.raises(BadInput, match="6 synthetic images of class circle can't give 6"):
        carve(whole, [6, 1, 1], seed=0)


def test_indexing_is_that_of_both_one_after_the_other():
    real, generated = part([5, 2, 1]), part([4, 3, 2], first=100)
    rows = torch.tensor([4, 0, 7]), torch.tensor([8, 1])
    joined = torch.cat([real.split.images[rows[0]], generated.split.images[rows[1]]])
    paired = pairing.PairedImages((real.split.images, rows[0]), (generated.split.images, rows[1]))
    assert paired.shape == joined.shape
    for key in (torch.tensor([4, 0, 0, 3, 2]), torch.tensor([1]), slice(1, 4), slice(0, 2), slice(3, 9), slice(None)):
        assert torch.equal(paired[key], joined[key])
        assert torch.equal(paired.to(joined.device)[key], joined[key])


def test_equal_pixels_have_equal_digests():
    one, other = part([2, 2, 2]), part([2, 2, 2], first=3)  # values 0..5 and 3..8
    found = digests(pair(one, other, seed=0))
    shown = values(pair(one, other, seed=0).images)
    assert [shown.index(v) for v in shown] == [found.tolist().index(d) for d in found.tolist()]
    assert len(set(found.tolist())) == 9
    assert found.dtype == np.int64


@pytest.fixture
def study(tmp_path, monkeypatch):
    make_study(tmp_path)
    rng = np.random.default_rng(7)
    write_shards(tmp_path / "data" / "test", "test", rows(rng, 10, 1, False), CLASSES)
    for name, count in (("train", 12), ("val", 4), ("test", 5)):
        write_shards(tmp_path / "data" / "fake", name, rows(rng, count, 1, False), CLASSES)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def known(*parts):
    return set(np.concatenate([digests(each) for each in parts]).tolist())


@pytest.mark.parametrize(("source", "sizes"), [("fake", (72, 24, 30)), ("synthetic", (84, 36, 36))])
def test_nothing_is_trained_on_and_judged_on(study, source, sizes):
    train, val = load_train_and_val(source, seed=0)
    test = load_test(source, seed=0)
    assert tuple(map(len, (train, val, test))) == sizes
    assert len(known(train, val, test)) == sum(sizes)
    for each in (train, val, test):
        assert each.kinds.double().mean() == 0.5


def test_training_never_opens_a_test_split(study):
    expected = {source: known(*load_train_and_val(source, 0)) for source in ("fake", "synthetic")}
    shutil.rmtree(study / "test")
    (study / "fake" / "test-00000-of-00001.parquet").unlink()
    (study / "synthetic" / "val-00000-of-00001.parquet").unlink()
    assert {source: known(*load_train_and_val(source, 0)) for source in ("fake", "synthetic")} == expected


def test_images_that_stay_on_disk_are_the_same(study, monkeypatch):
    in_memory = load_train_and_val("synthetic", 0)
    monkeypatch.setattr(tensors, "MEMORY_BYTES", 1000)
    streamed = load_train_and_val("synthetic", 0)
    for one, other in zip(in_memory, streamed, strict=True):
        assert isinstance(one.images, torch.Tensor)
        assert not isinstance(other.images, torch.Tensor)
        for key in (slice(None), slice(0, 3), torch.tensor([len(one) - 1, 0, len(one) - 1]), torch.tensor([1])):
            assert torch.equal(one.images[key], other.images[key])
        assert torch.equal(one.kinds, other.kinds)
        assert np.array_equal(digests(one), digests(other))


def test_sources_without_images_or_of_another_kind_are_refused(study):
    for name in ("train", "val", "test"):
        write_shards(study / "fake", name, [], CLASSES)
    with pytest.raises(BadInput, match=r"data/fake: has no images .* take fake out of detectors"):
        load_train_and_val("fake", 0)
    with pytest.raises(BadInput, match=r"data/fake: has no images"):
        load_test("fake", 0)
    write_shards(study / "fake", "test", rows(np.random.default_rng(1), 2, 1, False), ("a", "b", "c"))
    with pytest.raises(BadInput, match="its classes or image size differ"):
        load_test("fake", 0)
