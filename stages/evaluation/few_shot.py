"""Few-shot classification on frozen features: how far a handful of labels goes."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.artifacts import BadInput
from stages.probe_sections import FewShot

EPISODES_AT_A_TIME = 50
"""Bounds memory; changes nothing else."""
NORMAL_QUANTILE = 1.96
"""Of a two-sided 95 % interval."""


@dataclass(frozen=True)
class Accuracy:
    """Mean accuracy over episodes."""

    mean: float
    """In [0, 1]."""
    half_width: float
    """Of its 95 % interval over episodes: 1.96 standard deviations over the root of their number."""


def draw_episodes(labels: NDArray[np.int64], settings: FewShot, seed: int) -> NDArray[np.int64]:
    """Draws classes, and of each class images, without replacement inside an episode.

    Returns:
        (episodes, ways, shots + queries), positions in `labels`; the first `num_shots` of a class support it.

    Raises:
        BadInput: there are too few classes of enough images.
    """
    rng = np.random.default_rng(seed)
    size = settings.num_shots + settings.num_queries
    classes, counts = np.unique(labels, return_counts=True)
    eligible = classes[counts >= size]
    if len(eligible) < settings.num_ways:
        raise BadInput(
            f"few_shot: takes {settings.num_ways} classes of {size} images each, but only {len(eligible)} of "
            f"{len(classes)} classes have so many; lower num_ways, num_shots or num_queries"
        )
    ways = rng.permuted(np.tile(eligible, (settings.num_episodes, 1)), axis=1)[:, : settings.num_ways]
    episodes = np.empty((*ways.shape, size), np.int64)
    for name in eligible:
        (positions,) = np.nonzero(labels == name)
        drawn = np.nonzero(ways == name)
        order = np.argsort(rng.random((len(drawn[0]), len(positions))), axis=1)[:, :size]
        episodes[drawn] = positions[order]
    return episodes


def few_shot_accuracy(
    features: NDArray[np.float32], labels: NDArray[np.int64], settings: FewShot, seed: int
) -> Accuracy:
    """Accuracy of nearest class means in episodes of few ways and shots.

    The protocol of Snell et al., "Prototypical Networks for Few-shot Learning", 2017, on frozen features, as in the
    ssl-transfer code that StableRep's transfer protocol descends from: a prototype is the mean of its class's support
    features, a query goes to the nearest by squared Euclidean distance. Which classifier StableRep itself used is
    not known.

    Args:
        features: (images, D), of images that the encoder has not seen.
        labels: (images,), class indices.
        settings: ways, shots, queries, episodes.
        seed: of the episodes; equal seeds give all encoders the same ones.

    Raises:
        BadInput: there are too few classes of enough images.
    """
    episodes = draw_episodes(labels, settings, seed)
    actual = np.arange(settings.num_ways)[:, None]
    accuracies = []
    for start in range(0, len(episodes), EPISODES_AT_A_TIME):
        drawn = features[episodes[start : start + EPISODES_AT_A_TIME]]  # (episodes, ways, shots + queries, D)
        prototypes = drawn[:, :, : settings.num_shots].mean(axis=2)  # (episodes, ways, D)
        queries = drawn[:, :, settings.num_shots :]  # (episodes, ways, queries, D)
        # |q - p|^2 less |q|^2, which is the same for all prototypes.
        distances = (prototypes**2).sum(2)[:, None, None] - 2 * queries @ prototypes.transpose(0, 2, 1)[:, None]
        accuracies.append((distances.argmin(axis=3) == actual).mean(axis=(1, 2)))
    accuracy = np.concatenate(accuracies)
    return Accuracy(float(accuracy.mean()), NORMAL_QUANTILE * float(accuracy.std()) / math.sqrt(len(accuracy)))
