"""Nearest neighbours on frozen features: what an encoder separates without any training."""

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]
Labels = NDArray[np.int64]

QUERIES_AT_A_TIME, PAIRS_AT_A_TIME = 1024, 2**21
"""Bound memory at 25 MB, up to two million train images; change nothing else."""


def class_votes(
    train: Features, train_labels: Labels, queries: Features, num_classes: int, num_neighbors: int, temperature: float
) -> NDArray[np.float64]:
    """Votes of the most similar train images, each weighing exp(cosine similarity / temperature).

    The weighted k-NN of Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", 2018,
    section 3.4, which DINO and its successors report with k = 20 and temperature 0.07. A query's weights are relative
    to its nearest neighbour's, so that none overflows.

    Args:
        train: (train images, D), of any length but zero.
        train_labels: (train images,), class indices.
        queries: (queries, D).
        num_classes: columns of the votes.
        num_neighbors: k, capped at the number of train images.
        temperature: infinity lets every neighbour weigh the same, which is the plain majority vote.

    Returns:
        (queries, classes), non-negative; the predicted class is the first largest.
    """
    votes = np.zeros((len(queries), num_classes))
    train, queries = unit_length(train), unit_length(queries)
    num_neighbors = min(num_neighbors, len(train))
    at_a_time = max(1, min(QUERIES_AT_A_TIME, PAIRS_AT_A_TIME // len(train)))
    for start in range(0, len(queries), at_a_time):
        block = slice(start, start + at_a_time)
        similarities = queries[block] @ train.T
        nearest = np.argpartition(similarities, -num_neighbors, axis=1)[:, -num_neighbors:]
        closeness = np.take_along_axis(similarities, nearest, axis=1).astype(np.float64)
        weights = np.exp((closeness - closeness.max(axis=1, keepdims=True)) / temperature)
        rows = np.broadcast_to(np.arange(len(nearest))[:, None], nearest.shape)
        np.add.at(votes[block], (rows, train_labels[nearest]), weights)
    return votes


def unit_length(features: Features) -> Features:
    """Rows divided by their Euclidean norm; a row of zeros stays one."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    normalized: Features = features / np.maximum(norms, np.finfo(features.dtype).tiny)
    return normalized
