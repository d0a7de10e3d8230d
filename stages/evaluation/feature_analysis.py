"""What a feature space looks like, beside what it is good for.

The four analyses that ImageNet-SD (Sariyildiz et al., "Fake it till you make it", arXiv 2212.08420) names and applies
to encoders trained on real and on synthetic images. Their formulas are written from memory of the works they come
from, not checked against that paper's code, so compare encoders here and not with its figures. All are taken on
features of real test images, which no encoder has seen.
"""

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]

NEAR_ZERO = 1e-5
"""Below it a feature counts as switched off."""
DISTORTION = 0.5
"""The epsilon of the rate-distortion function, as in MCR^2, for features of unit length."""


def analyze(features: Features, labels: NDArray[np.int64]) -> dict[str, float]:
    """All four analyses.

    Args:
        features: (images, D).
        labels: (images,), class indices.

    Returns:
        `sparsity`, `intra_class_distance`, `redundancy` and `coding_length`.
    """
    wide = features.astype(np.float64)
    unit = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return {
        "sparsity": sparsity(wide),
        "intra_class_distance": intra_class_distance(unit, labels),
        "redundancy": redundancy(wide),
        "coding_length": coding_length(unit),
    }


def sparsity(features: NDArray[np.float64]) -> float:
    """Share of values nearer to zero than 1e-5, in [0, 1]."""
    return float((np.abs(features) < NEAR_ZERO).mean())


def intra_class_distance(unit: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Euclidean distance between two images of a class, mean over pairs, then over classes; in [0, 2].

    Args:
        unit: (images, D), rows of unit length.
        labels: (images,); a class of one image has no pairs and is left out; 0 where no class has a pair.
    """
    means = []
    for name, count in zip(*np.unique(labels, return_counts=True), strict=True):
        if count < 2:
            continue
        own = unit[labels == name]
        distances = np.sqrt(np.maximum(2 - 2 * own @ own.T, 0))
        np.fill_diagonal(distances, 0)
        means.append(distances.sum() / (count * (count - 1)))
    return float(np.mean(means)) if means else 0.0


def redundancy(features: NDArray[np.float64]) -> float:
    """Absolute Pearson correlation, mean over all D x D pairs of dimensions, in [0, 1]; a constant one has none."""
    centred = features - features.mean(axis=0)
    norms = np.linalg.norm(centred, axis=0)
    scaled = centred / np.where(np.ptp(features, axis=0) > 0, norms, np.inf)
    return float(np.abs(scaled.T @ scaled).mean())


def coding_length(unit: NDArray[np.float64]) -> float:
    """1/2 log det(I + D / (N eps^2) Z^T Z), the nats that code the features up to eps (MCR^2, Yu et al. 2020).

    Args:
        unit: (N, D), rows of unit length, as MCR^2 has them; else the figure would measure their scale.
    """
    count, dimensions = unit.shape
    gram = unit.T @ unit if dimensions <= count else unit @ unit.T  # equal determinants (Sylvester)
    _, log_determinant = np.linalg.slogdet(np.eye(len(gram)) + dimensions / (count * DISTORTION**2) * gram)
    return float(log_determinant / 2)
