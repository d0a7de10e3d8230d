"""Uncertainty of a top-1 accuracy and of the gap between two models judged on the same test images.

Conventions: `correct` is a boolean array (seeds, images) or (images,); a gap is `first - second`, so it is negative
where the first model is worse; every interval is the percentile interval of a bootstrap (Efron and Tibshirani, "An
Introduction to the Bootstrap", 1993, section 13.3).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SINGLE_SEED_SCOPE = "these two trained models"
"""What an interval over test images alone speaks of: one training run per arm says nothing of the next run."""
MANY_SEEDS_SCOPE = "these two training procedures"


@dataclass(frozen=True)
class Resampling:
    """How intervals are drawn."""

    num_resamples: int
    seed: int
    confidence: float


@dataclass(frozen=True)
class Interval:
    """A percentile interval."""

    low: float
    high: float

    def as_json(self) -> dict[str, float]:
        """Two named numbers: DVC's tables drop lists."""
        return {"low": self.low, "high": self.high}


def _resampled_means(values: NDArray[np.float64], resampling: Resampling) -> NDArray[np.float64]:
    """Means over (seeds, images) of resampled seeds and, crossed with them, resampled images: (num_resamples,).

    Images whose values agree in every seed are interchangeable, so a resample is fully told by how often it draws
    each distinct column: one multinomial draw instead of `images` indices.
    """
    seeds, images = values.shape
    columns, counts = np.unique(values, axis=1, return_counts=True)
    rng = np.random.default_rng(resampling.seed)
    image_shares = rng.multinomial(images, counts / images, size=resampling.num_resamples) / images
    seed_shares = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resampling.num_resamples) / seeds
    means: NDArray[np.float64] = np.sum((seed_shares @ columns) * image_shares, axis=1)
    return means


def _interval(values: NDArray[np.float64], resampling: Resampling) -> Interval:
    tail = (1 - resampling.confidence) / 2
    low, high = np.quantile(_resampled_means(np.atleast_2d(values), resampling), [tail, 1 - tail])
    return Interval(float(low), float(high))


def top1_interval(correct: NDArray[np.bool_], resampling: Resampling) -> Interval:
    """Interval of the top-1 accuracy (a share in [0, 1]) over test images, and over seeds where there are several."""
    return _interval(correct.astype(np.float64), resampling)


def gap_interval(first: NDArray[np.bool_], second: NDArray[np.bool_], resampling: Resampling) -> Interval:
    """Interval of the gap in top-1, both arms judged on the same resampled images.

    With several seeds, a hierarchical bootstrap: seeds are drawn in pairs (row s of both arms was trained with seed
    s), then images, the same ones for both arms and all seeds. With one seed only images are drawn, and the interval
    speaks of `SINGLE_SEED_SCOPE`.

    Args:
        first: (seeds, images) or (images,).
        second: the same shape.
        resampling: how to draw.

    Raises:
        ValueError: the shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"predictions of {first.shape} and {second.shape} (seeds, images) cannot be paired")
    return _interval(first.astype(np.float64) - second.astype(np.float64), resampling)


def paired_p(first: NDArray[np.bool_], second: NDArray[np.bool_], resampling: Resampling) -> float:
    """Two-sided p-value that two arms judged on the same images are right equally often.

    For several seeds by inverting `gap_interval` (Efron and Tibshirani 1993, section 15.4): twice the share of
    resampled gaps on the rarer side of zero, so it is below 5 % where the 95 % interval leaves zero out, and never
    less than one resample could tell. For one seed McNemar's exact test.

    Args:
        first: (seeds, images) or (images,).
        second: the same shape.
        resampling: how to draw.
    """
    if np.atleast_2d(first).shape[0] == 1:
        return mcnemar_p(np.ravel(first), np.ravel(second))
    gaps = _resampled_means(first.astype(np.float64) - second.astype(np.float64), resampling)
    rarer = min(np.sum(gaps <= 0), np.sum(gaps >= 0))
    return min(1.0, float(2 * (rarer + 1) / (len(gaps) + 1)))


def scope(num_seeds: int) -> str:
    """What a comparison with so many seeds per arm speaks of; below three, only of the models at hand."""
    return MANY_SEEDS_SCOPE if num_seeds >= 3 else SINGLE_SEED_SCOPE


def mcnemar_p(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Two-sided exact McNemar test that two models are right equally often on the same images (images,).

    Under the null hypothesis each image on which exactly one is right is a fair coin (McNemar 1947; exact form:
    Agresti, "Categorical Data Analysis", section 10.1.1). Computed in integers; 1 where the models never differ.
    """
    only_first = int(np.sum(first & ~second))
    only_second = int(np.sum(second & ~first))
    discordant = only_first + only_second
    term, tail = 1, 0
    for successes in range(min(only_first, only_second) + 1):
        tail += term
        term = term * (discordant - successes) // (successes + 1)
    return min(1.0, math.ldexp(tail / (1 << discordant), 1)) if discordant else 1.0


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """Holm's step-down correction of a family of tests (Holm 1979): adjusted p-values under the same names."""
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: (p_values[name], name))):
        largest = max(largest, min(1.0, p_values[name] * (len(p_values) - rank)))
        adjusted[name] = largest
    return adjusted
