"""Bootstrap intervals, McNemar's test and Holm's correction, against slow or independent references."""

import time

import numpy as np
import pytest
from scipy import stats

from stages.evaluation.intervals import (
    Resampling,
    gap_interval,
    holm,
    mcnemar_p,
    paired_p,
    scope,
    top1_interval,
)

SETTINGS = Resampling(num_resamples=10_000, seed=0, confidence=0.95)


def flips(rng, share, *shape):
    return rng.random(shape) < share


def slow_gap_interval(first, second, resampling):
    """The definition: indices of seeds, indices of images, one mean per resample."""
    rng = np.random.default_rng(1)
    seeds, images = first.shape
    gaps = []
    for _ in range(resampling.num_resamples):
        rows, columns = rng.integers(0, seeds, seeds), rng.integers(0, images, images)
        chosen = np.ix_(rows, columns)
        gaps.append(first[chosen].mean() - second[chosen].mean())
    tail = (1 - resampling.confidence) / 2
    return np.quantile(gaps, [tail, 1 - tail])


@pytest.mark.parametrize("seeds", [1, 3, 5])
def test_gap_interval_is_the_slow_bootstraps(seeds):
    rng = np.random.default_rng(7)
    levels = np.linspace(0.85, 0.95, seeds)[:, None]
    first, second = flips(rng, levels, seeds, 400), flips(rng, 0.8, seeds, 400)
    found = gap_interval(first, second, Resampling(4000, 0, 0.9))
    expected = slow_gap_interval(first, second, Resampling(4000, 0, 0.9))
    width = expected[1] - expected[0]
    np.testing.assert_allclose([found.low, found.high], expected, atol=0.06 * width)


def test_top1_interval_is_scipys_percentile_bootstrap():
    correct = flips(np.random.default_rng(3), 0.9, 500)
    ours = top1_interval(correct, SETTINGS)
    theirs = stats.bootstrap(
        (correct.astype(float),), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.003)
    assert ours.high == pytest.approx(theirs.high, abs=0.003)


@pytest.mark.parametrize("share", [0.6, 0.9])
def test_top1_interval_covers_the_truth_as_often_as_it_says(share):
    rng = np.random.default_rng(11)
    resampling = Resampling(1000, 0, 0.9)
    covered = 0
    for _ in range(400):
        interval = top1_interval(flips(rng, share, 1000), resampling)
        covered += interval.low <= share <= interval.high
    assert 0.85 <= covered / 400 <= 0.95


def test_paired_gap_interval_covers_and_is_tighter_than_an_unpaired_one():
    """Two models that mostly err on the same images: pairing must use that."""
    rng = np.random.default_rng(5)
    resampling = Resampling(1000, 0, 0.9)
    covered, paired_width, unpaired_width = 0, 0.0, 0.0
    for _ in range(300):
        hard = flips(rng, 0.2, 1000)
        first = ~hard | flips(rng, 0.3, 1000)
        second = first & ~flips(rng, 0.02, 1000)
        truth = 0.02 * (0.8 + 0.2 * 0.3)
        interval = gap_interval(first, second, resampling)
        covered += interval.low <= truth <= interval.high
        paired_width += interval.high - interval.low
        unpaired = gap_interval(first, rng.permutation(second), resampling)
        unpaired_width += unpaired.high - unpaired.low
    assert 0.84 <= covered / 300 <= 0.96
    assert paired_width < 0.4 * unpaired_width


def test_seeds_that_differ_widen_the_interval():
    rng = np.random.default_rng(2)
    second = flips(rng, 0.8, 3, 2000)
    alike = flips(rng, 0.9, 3, 2000)
    apart = flips(rng, np.array([[0.85], [0.9], [0.95]]), 3, 2000)
    narrow, wide = (gap_interval(first, second, SETTINGS) for first in (alike, apart))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_a_model_against_itself():
    correct = flips(np.random.default_rng(0), 0.9, 300)
    interval = gap_interval(correct, correct, SETTINGS)
    assert (interval.low, interval.high) == (0, 0)
    assert mcnemar_p(correct, correct) == 1


def test_swapping_the_arms_mirrors_the_gap_and_keeps_the_p_value():
    rng = np.random.default_rng(4)
    first, second = flips(rng, 0.9, 1000), flips(rng, 0.85, 1000)
    one, other = gap_interval(first, second, SETTINGS), gap_interval(second, first, SETTINGS)
    assert one.low == pytest.approx(-other.high, abs=0.003)
    assert one.low < first.mean() - second.mean() < one.high
    assert mcnemar_p(first, second) == mcnemar_p(second, first)


def test_order_of_images_is_immaterial_and_the_seed_is_not():
    rng = np.random.default_rng(9)
    first, second = flips(rng, 0.9, 700), flips(rng, 0.85, 700)
    order = rng.permutation(700)
    assert gap_interval(first, second, SETTINGS) == gap_interval(first[order], second[order], SETTINGS)
    assert gap_interval(first, second, SETTINGS) != gap_interval(first, second, Resampling(10_000, 1, 0.95))


def test_different_test_images_cannot_be_paired():
    with pytest.raises(ValueError, match="cannot be paired"):
        gap_interval(np.ones(10, bool), np.ones(11, bool), SETTINGS)


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (0, 1), (3, 3), (12, 5), (5, 12), (0, 40), (900, 700)])
def test_mcnemar_is_scipys_exact_binomial_test(only_first, only_second):
    first = np.r_[np.ones(only_first, bool), np.zeros(only_second, bool), np.ones(50, bool), np.zeros(20, bool)]
    second = np.r_[np.zeros(only_first, bool), np.ones(only_second, bool), np.ones(50, bool), np.zeros(20, bool)]
    total = only_first + only_second
    expected = stats.binomtest(only_first, total).pvalue if total else 1.0
    assert mcnemar_p(first, second) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_keeps_its_size():
    """Under the null, p <= 0.05 in at most 5 % of cases: the exact test is conservative, never liberal."""
    rng = np.random.default_rng(8)
    rejected = 0
    for _ in range(2000):
        first = flips(rng, 0.9, 400)
        coin, differ = flips(rng, 0.5, 400), flips(rng, 0.1, 400)
        rejected += mcnemar_p(np.where(differ, coin, first), np.where(differ, ~coin, first)) <= 0.05
    assert 0.015 < rejected / 2000 < 0.055


def test_holm_by_hand():
    """0.01 x 3; 0.02 x 2 = 0.04; 0.03 x 1 = 0.03, raised to 0.04 so that the order stays."""
    assert holm({"b": 0.02, "c": 0.03, "a": 0.01}) == pytest.approx({"a": 0.03, "b": 0.04, "c": 0.04})
    assert holm({"x": 0.6, "y": 0.7}) == {"x": 1.0, "y": 1.0}
    assert holm({"only": 0.04}) == {"only": 0.04}


def test_scope_is_worded_by_the_number_of_seeds():
    assert scope(1) == scope(2) == "these two trained models"
    assert scope(3) == "these two training procedures"


def test_ten_thousand_resamples_take_no_second():
    rng = np.random.default_rng(0)
    first, second = flips(rng, 0.9, 5, 20_000), flips(rng, 0.85, 5, 20_000)
    started = time.process_time()
    gap_interval(first, second, SETTINGS)
    top1_interval(first, SETTINGS)
    mcnemar_p(first[0], second[0])
    assert time.process_time() - started < 1


def test_a_paired_test_agrees_with_the_interval_of_its_gap():
    """Over many comparisons of several seeds: p is below 5 % exactly where the interval leaves zero out."""
    rng = np.random.default_rng(11)
    verdicts = []
    for gap in np.linspace(0, 0.08, 40):
        first, second = flips(rng, 0.8 + gap, 3, 300), flips(rng, 0.8, 3, 300)
        interval, p = gap_interval(first, second, SETTINGS), paired_p(first, second, SETTINGS)
        if abs(p - 0.05) > 0.002:  # quantiles interpolate
            verdicts.append(p < 0.05)
            assert verdicts[-1] == (interval.low > 0 or interval.high < 0)
        assert p == pytest.approx(paired_p(second, first, SETTINGS), abs=0.05)  # columns are drawn in another order
    assert {True, False} == set(verdicts)


def test_a_paired_test_finds_no_difference_about_as_often_as_it_says():
    """Two equal arms on images of unequal difficulty, each training run with a luck of its own."""
    rng = np.random.default_rng(5)
    quick = Resampling(1000, 0, 0.95)

    def arm(difficulty):
        return rng.random((8, 400)) < difficulty + 0.03 * rng.standard_normal((8, 1))

    found = []
    for _ in range(200):
        difficulty = rng.choice([0.2, 0.97], 400, p=[0.2, 0.8])
        found.append(paired_p(arm(difficulty), arm(difficulty), quick) < 0.05)
    assert 0.01 < np.mean(found) < 0.11


def test_a_paired_test_of_one_seed_is_mcnemars_and_its_ends_are_known():
    rng, quick = np.random.default_rng(5), Resampling(2000, 0, 0.95)
    first, second = flips(rng, 0.8, 200), flips(rng, 0.7, 200)
    assert paired_p(first, second, quick) == paired_p(first[None], second[None], quick) == mcnemar_p(first, second)
    same = flips(rng, 0.8, 3, 200)
    assert paired_p(same, same, quick) == 1
    assert paired_p(np.ones((3, 50), bool), np.zeros((3, 50), bool), quick) == pytest.approx(2 / 2001)
