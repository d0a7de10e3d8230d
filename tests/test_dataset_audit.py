"""The audit finds what was planted, and measures what a slow reference measures."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from stages.dataset import audit, examples
from stages.dataset.examples import Example, Published
from stages.sections import Codec

PNG = Codec(format="png", quality=None)
SPOOL = examples.Spool()


def noise(seed, size=32):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def example(pixels, label=0, published=None):
    return examples.from_image(SPOOL, Image.fromarray(pixels), label, pixels.shape[0], PNG, published)


def pool(*seeds):
    return [example(noise(seed)) for seed in seeds]


def test_copies_are_counted_where_they_lie():
    parts = {"a": pool(1, 2, 3, 2, 2), "b": pool(4, 3, 4), "c": pool(1, 4, 9)}
    found = audit.exact_duplicates(parts)
    assert {place: len(pairs) for place, pairs in found.items()} == {
        "a": 2,
        "b": 1,
        "c": 0,
        "a + b": 1,
        "a + c": 1,
        "b + c": 1,
    }
    for pairs in found.values():
        for pair in pairs:
            assert pair.first is not pair.second
            assert pair.first.image == pair.second.image


def test_a_thousand_equal_images_are_999_copies():
    blank = example(np.zeros((8, 8, 3), np.uint8))
    equal = [Example(blank.stored, 0, blank.content) for _ in range(1000)]
    assert len(audit.exact_duplicates({"a": equal})["a"]) == 999


def slow_nearest(train, test, rmse):
    """Every difference, in float64."""
    found = []
    for i, asked in enumerate(test.astype(float)):
        distances = np.sqrt(((train.astype(float) - asked) ** 2).mean(1))
        if distances.min() < rmse:
            found.append((i, int(distances.argmin()), float(distances.min())))
    return found


@pytest.mark.parametrize("rmse", [1, 8, 15, 60])
def test_nearest_neighbours_agree_with_a_slow_reference(rmse):
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (300, 192), dtype=np.uint8)
    spread = rng.uniform(0, 40, (700, 1))
    test = np.clip(train[rng.integers(0, 300, 700)] + rng.normal(0, spread, (700, 192)), 0, 255).astype(np.uint8)
    wanted = slow_nearest(train, test, rmse)
    found = audit.nearest_below(train, test, rmse)
    assert len(wanted) > 5
    assert [pair[:2] for pair in found] == [pair[:2] for pair in wanted]
    assert np.allclose([pair[2] for pair in found], [pair[2] for pair in wanted])


def test_the_threshold_is_strict_and_exact():
    train = np.zeros((1, 3072), np.uint8)
    test = np.full((2, 3072), 15, np.uint8)
    test[1, 0] = 14
    assert [i for i, _, _ in audit.nearest_below(train, test, 15)] == [1]
    assert audit.nearest_below(train, train, 0) == []
    assert audit.nearest_below(train, train, 0.001) == [(0, 0, 0.0)]
    white = np.full((1, 3072), 255, np.uint8)
    assert audit.nearest_below(white, white - 1, 1.001) == [(0, 0, 1.0)]


def test_only_images_of_one_class_are_near():
    train = [example(noise(0), 0), example(noise(1), 1)]
    nudged = (noise(0) // 2 * 2).astype(np.uint8)  # every value at most one off
    (pair,) = audit.near_duplicates(train, [example(nudged, 0), example(noise(0), 1), example(noise(5), 2)], 15)
    assert pair.first is train[0]
    assert 0.5 < pair.rmse < 1


def test_neighbours_are_the_same_however_few_are_decoded_at_a_time(monkeypatch):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    pixels[7] = pixels[2]  # of two equally near ones the first counts
    nudged = np.clip(pixels[[2, 8, 0, 5]].astype(int) + rng.integers(-9, 10, (4, 8, 8, 3)), 0, 255).astype(np.uint8)
    train, test = ([example(each) for each in part] for part in (pixels, nudged))
    wanted = [(train[j], test[i]) for i, j in enumerate((2, 8, 0, 5))]
    apart = slow_nearest(pixels.reshape(9, -1), nudged.reshape(4, -1), 15)
    for at_a_time in (2000, 2, 1):
        monkeypatch.setattr(audit, "_BLOCK", at_a_time)
        found = audit.near_duplicates(train, test, 15)
        assert [(pair.first, pair.second) for pair in found] == wanted
        assert np.allclose([pair.rmse for pair in found], [distance for _, _, distance in apart])


def test_large_images_are_compared_small():
    big = noise(0, 64)
    faint = big.copy()
    faint[::2, ::2] ^= 1
    (pair,) = audit.near_duplicates([example(big)], [example(faint)], 15)
    assert pair.rmse < 1


@pytest.mark.parametrize(
    ("how", "form"),
    [
        ({"format": "JPEG", "quality": 75}, "JPEG quality 75 4:2:0"),
        ({"format": "JPEG", "quality": 90, "subsampling": "4:4:4"}, "JPEG quality 90 4:4:4"),
        ({"format": "JPEG", "quality": 30, "subsampling": "4:2:2"}, "JPEG quality 30 4:2:2"),
        ({"format": "JPEG", "qtables": [[7] * 64, [9] * 64]}, "JPEG own tables 4:2:0"),
        ({"format": "PNG"}, "PNG"),
        ({"format": "WEBP"}, "WEBP"),
    ],
)
def test_the_form_of_a_file(how, form):
    stream = io.BytesIO()
    Image.fromarray(noise(0)).save(stream, **how)
    with Image.open(stream) as image:
        assert audit.form_of(image) == form


def slow_threshold(first, second):
    """Every threshold, either way round."""
    best = 0.5
    for threshold in range(max(*first, *second) + 2):
        share = 0.5 * (np.mean(np.array(first) < threshold) + np.mean(np.array(second) >= threshold))
        best = max(best, share, 1 - share)
    return best


@pytest.mark.parametrize("seed", range(4))
def test_threshold_accuracy_agrees_with_a_slow_reference(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 90, 50).tolist(), rng.integers(20, 100, 31).tolist()
    assert audit.threshold_accuracy(first, second) == pytest.approx(slow_threshold(first, second))


def test_threshold_accuracy_at_its_ends():
    assert audit.threshold_accuracy([1, 2, 3], [4, 5]) == 1
    assert audit.threshold_accuracy([4, 5], [1, 2, 3]) == 1
    assert audit.threshold_accuracy([7, 8], [7, 8, 7, 8]) == 0.5


def published_pool(seeds, num_bytes, form, is_stored=True):
    return [example(noise(s), published=Published(form, num_bytes, is_stored)) for s in seeds]


def test_the_report_tells_what_was_planted():
    train = published_pool([1, 2, 2], 900, "JPEG quality 75 4:2:0")
    fakes = published_pool([5, 6, 7], 950, "JPEG quality 90 4:2:0", is_stored=False)
    test = pool(1, 8)
    parts = {"real/train": train, "fake/train": fakes, "real/test": test}
    facts, picture = audit.examine(parts, {"real": (train, test)}, 15)
    assert facts == {
        "as_published": {
            "real/train": {
                "images": 3,
                "file_bytes": {"min": 900, "mean": 900.0, "max": 900},
                "form": {"JPEG quality 75 4:2:0": 3},
                "stored_unchanged": 3,
            },
            "fake/train": {
                "images": 3,
                "file_bytes": {"min": 950, "mean": 950.0, "max": 950},
                "form": {"JPEG quality 90 4:2:0": 3},
                "stored_unchanged": 0,
            },
            "real/test": {"images": 2},
        },
        "exact_duplicates": {"total": 2, "real/train": 1, "real/train + real/test": 1},
        "near_duplicates": {"rmse_below": 15, "real": 1},
        "file_size_tells_fakes": 1.0,
    }
    json.dumps(facts)
    assert picture == audit.examine(parts, {"real": (train, test)}, 15)[1]


def test_nothing_is_looked_for_that_was_not_asked_for():
    facts, picture = audit.examine({"real": pool(1, 2)}, {}, None)
    assert facts == {"as_published": {"real": {"images": 2}}, "exact_duplicates": {"total": 0}}
    assert Image.open(io.BytesIO(picture)).size[0] > 100


def test_the_picture_shows_both_images_of_a_pair():
    left, right = np.full((32, 32, 3), (255, 0, 0), np.uint8), np.full((32, 32, 3), (0, 0, 255), np.uint8)
    pair = audit.Pair(example(left), example(right), 99.0)
    drawn = np.asarray(Image.open(io.BytesIO(audit.draw_pairs({"none": [], "planted": [pair]}))))
    reds, blues = ((drawn == colour).all(2).sum() for colour in ((255, 0, 0), (0, 0, 255)))
    assert reds == blues == (32 * 3) ** 2
