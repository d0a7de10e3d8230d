import random

import pytest

from stages.artifacts import BadInput
from stages.dataset import mixing
from stages.dataset.shards import Row
from stages.generator_sections import MixByAddition, MixByFraction

NAMES = ("cat", "dog")


def rows(origin, *counts):
    return [Row(f"{origin} {label} {i}".encode(), "", label) for label, n in enumerate(counts) for i in range(n)]


def by_fraction(fraction):
    return MixByFraction(mode="fraction", data_seed=0, real_fraction=fraction)


def drawn(real, fraction, seed=0):
    items = mixing.drawables(real, seed)
    counts, rest = mixing.quotas(items, by_fraction(fraction), "train")
    chosen = list(mixing.select(real, mixing.draw(items, counts, NAMES, "real")))
    return chosen, rest


@pytest.mark.parametrize("fraction", [0, 0.25, 0.5, 0.9, 1])
def test_quotas_fill_up_to_the_real_arms_numbers(fraction):
    real, rest = mixing.quotas(mixing.drawables(rows("real", 40, 7), 0), by_fraction(fraction), "val")
    assert [real[i] + rest[i] for i in (0, 1)] == [40, 7]
    assert [real[i] for i in (0, 1)] == [round(fraction * 40), round(fraction * 7)]


@pytest.mark.parametrize("fraction", [0, 0.25, 1])
@pytest.mark.parametrize("per_real", [0.5, 1, 2])
def test_addition_has_a_budget_for_each(fraction, per_real):
    section = MixByAddition(mode="add", data_seed=0, real_fraction=fraction, synthetic_per_real=per_real)
    items = mixing.drawables(rows("real", 40, 8), 0)
    real, rest = mixing.quotas(items, section, "train")
    assert real == {0: 40 * fraction, 1: 8 * fraction}
    assert rest == {0: 40 * per_real, 1: 8 * per_real}


@pytest.mark.parametrize(("fraction", "per_real", "real"), [(1, 1, 20), (1, 3, 10), (0, 2, 0), (0.5, 0, 40)])
def test_addition_selects_on_as_many_images_in_the_same_proportions(fraction, per_real, real):
    section = MixByAddition(mode="add", data_seed=0, real_fraction=fraction, synthetic_per_real=per_real)
    counts = mixing.quotas(mixing.drawables(rows("real", 40), 0), section, "val")
    assert counts == ({0: real}, {0: 40 - real})


def test_the_draw_depends_on_seed_and_content_only():
    real = rows("real", 40, 20)
    first, _ = drawn(real, 0.5)
    assert [sum(row.label == label for row in first) for label in (0, 1)] == [20, 10]
    for seed in range(3):
        shuffled = random.Random(seed).sample(real, len(real))
        assert {row.image for row in drawn(shuffled, 0.5)[0]} == {row.image for row in first}
    assert {row.image for row in drawn(real, 0.5, seed=1)[0]} != {row.image for row in first}


def test_a_larger_fraction_adds_images_and_keeps_the_others():
    real = rows("real", 40, 20)
    kept = [{row.image for row in drawn(real, fraction)[0]} for fraction in (0.25, 0.5, 1)]
    assert kept[0] < kept[1] < kept[2]


def test_too_few_images_are_named():
    items = mixing.drawables(rows("synthetic", 10, 3), 0)
    with pytest.raises(BadInput, match="needs 5 synthetic images of class dog, there are 3"):
        mixing.draw(items, {0: 5, 1: 5}, NAMES, "synthetic")
