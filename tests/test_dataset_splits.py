import hashlib
import random

import pytest

from stages.artifacts import BadInput
from stages.dataset import splits
from stages.dataset.examples import Collection, Example, Spool

NAMES = ("cat", "dog")
SPOOL = Spool()


def example(name, label):
    return Example(SPOOL.keep(name.encode()), label, content=hashlib.sha256(name.encode()).hexdigest())


def pool(start, stop, label):
    return [example(f"{label} {i}", label) for i in range(start, stop)]


def everything(parts):
    return [*parts.train, *parts.val, *parts.test]


def test_sizes_and_rule():
    real = [*pool(0, 20, 0), *pool(0, 15, 1)]
    parts = splits.split(Collection(NAMES, real), 3, 4, deduplicate=True)
    assert splits.per_class(parts.val, 2) == [3, 3]
    assert splits.per_class(parts.test, 2) == [4, 4]
    assert splits.per_class(parts.train, 2) == [13, 8]
    assert sorted(e.image for e in everything(parts)) == sorted(e.image for e in real)
    for label in (0, 1):  # per class, sorted by content: the first go to val, the next to test
        ordered = sorted(e.content for e in real if e.label == label)
        assert [e.content for e in parts.val if e.label == label] == ordered[:3]
        assert [e.content for e in parts.test if e.label == label] == ordered[3:7]
    assert parts.fake_train == parts.fake_val == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("deduplicate", [True, False])
def test_the_order_of_files_does_not_matter(seed, deduplicate):
    real = [*pool(0, 12, 0), *pool(0, 12, 1), *pool(3, 6, 0), example("0 1", 1)]
    fake = [*pool(20, 40, 0), *pool(20, 40, 1), *pool(22, 24, 1)]
    shuffled = Collection(NAMES, list(real), fake=list(fake))
    random.Random(seed).shuffle(shuffled.real)
    random.Random(seed).shuffle(shuffled.fake)
    wanted = splits.split(Collection(NAMES, real, fake=fake), 2, 2, deduplicate)
    assert splits.split(shuffled, 2, 2, deduplicate) == wanted


def test_duplicates_go_before_the_cut():
    real = [*pool(0, 10, 0), *pool(0, 10, 1), *pool(0, 5, 0), *pool(0, 5, 0), example("0 7", 1)]
    parts = splits.split(Collection(NAMES, real), 2, 2, deduplicate=True)
    contents = [e.content for e in everything(parts)]
    assert len(contents) == len(set(contents)) == 19  # 20 distinct images, of which one stands under two labels
    assert example("0 7", 0).content not in contents
    assert parts.duplicates == splits.Duplicates(inside_class=10, across_pools=0, across_classes=2)


def test_duplicates_stay_if_they_are_asked_for():
    real = [*pool(0, 10, 0), *pool(0, 10, 1), *pool(0, 5, 0)]
    parts = splits.split(Collection(NAMES, real), 2, 2, deduplicate=False)
    assert len(everything(parts)) == 25
    assert parts.duplicates == splits.Duplicates(0, 0, 0)


def test_a_published_test_split_is_kept_and_never_trained_on():
    real = [*pool(0, 10, 0), *pool(0, 10, 1)]
    published = [*pool(8, 14, 0), *pool(10, 14, 1), *pool(13, 14, 1)]  # two of them are among the training images
    parts = splits.split(Collection(NAMES, real, real_test=published), 2, 99, deduplicate=True)
    assert {e.image for e in parts.test} == {e.image for e in [*pool(10, 14, 0), *pool(10, 14, 1)]}
    assert splits.per_class(parts.train, 2) == [8, 8]
    assert parts.duplicates == splits.Duplicates(inside_class=1, across_pools=2, across_classes=0)
    assert not {e.content for e in parts.test} & {e.content for e in [*parts.train, *parts.val]}


def test_fakes_have_a_val_of_their_own_and_no_more_images_than_the_real_arm():
    real = [*pool(0, 10, 0), *pool(0, 12, 1)]
    fake = [*pool(100, 140, 0), *pool(100, 109, 1), *pool(0, 3, 0)]  # three are copies of real ones
    parts = splits.split(Collection(NAMES, real, fake=fake), 2, 2, deduplicate=True)
    assert splits.per_class(parts.train, 2) == [6, 8]
    assert splits.per_class(parts.fake_val, 2) == [2, 2]
    assert splits.per_class(parts.fake_train, 2) == [6, 7]
    assert parts.duplicates.across_pools == 3
    own = [e.content for e in [*parts.fake_train, *parts.fake_val]]
    assert len(own) == len(set(own))
    assert not set(own) & {e.content for e in everything(parts)}


def test_a_class_too_small_to_train_on_is_named_with_the_settings():
    real = [*pool(0, 20, 0), *pool(0, 7, 1)]
    with pytest.raises(BadInput, match=r"class dog has 7 distinct images, but 3 \(val_per_class\) \+ 4 \(test_per_cl"):
        splits.split(Collection(NAMES, real), 3, 4, deduplicate=True)
    assert len(splits.split(Collection(NAMES, real), 3, 3, deduplicate=True).train) == 15
    with pytest.raises(BadInput, match="class dog has 0 distinct images"):
        splits.split(Collection(NAMES, pool(0, 20, 0)), 1, 1, deduplicate=True)


def test_a_spool_gives_files_back_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spool, files = Spool(), [b"two", b"", b"one" * 5000, b"two"]
    kept = [spool.keep(file) for file in files]
    assert [stored.read() for stored in kept] == files
    assert spool.keep(b"three").read() == b"three"
    assert sorted(kept) == [kept[1], kept[2], kept[0], kept[3]]
    assert [stored.read() for stored in sorted(kept)] == sorted(files)
    assert (kept[0] == kept[3], kept[0] == kept[1], len({*kept})) == (True, False, 3)
    assert list(tmp_path.iterdir()) == []
