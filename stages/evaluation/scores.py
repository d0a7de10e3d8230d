"""Scores of a classifier from labels (images,) int64 and logits (images, classes) float32."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

Labels = NDArray[np.int64]
Logits = NDArray[np.float32]


def predicted(logits: Logits) -> Labels:
    """The class of the largest logit, the first of equals: (images,)."""
    classes: Labels = logits.argmax(axis=1).astype(np.int64)
    return classes


def probabilities(logits: Logits) -> NDArray[np.float64]:
    """Softmax in float64: (images, classes), rows sum to one."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    shares: NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return shares


def correct(labels: Labels, logits: Logits) -> NDArray[np.bool_]:
    """Whether each image is classified rightly: (images,)."""
    hits: NDArray[np.bool_] = predicted(logits) == labels
    return hits


def top1(labels: Labels, classes: Labels) -> float:
    """Share of images whose predicted class is the label's, in [0, 1]."""
    return float(metrics.accuracy_score(labels, classes))


def macro_f1(labels: Labels, classes: Labels, num_classes: int) -> float:
    """Unweighted mean over all classes of F1, in [0, 1]; a class without images or predictions counts 0."""
    every = np.arange(num_classes)
    return float(metrics.f1_score(labels, classes, labels=every, average="macro", zero_division=0.0))


def confusion(labels: Labels, classes: Labels, num_classes: int) -> NDArray[np.int64]:
    """Counts (actual class, predicted class)."""
    counts: NDArray[np.int64] = metrics.confusion_matrix(labels, classes, labels=np.arange(num_classes))
    return counts


def per_class_accuracy(labels: Labels, classes: Labels, num_classes: int) -> list[float | None]:
    """Share of each class's images that are classified rightly (its recall); None for a class without images."""
    counts = confusion(labels, classes, num_classes)
    totals = counts.sum(axis=1)
    return [float(counts[c, c] / totals[c]) if totals[c] else None for c in range(num_classes)]


def reliability(labels: Labels, logits: Logits, num_bins: int) -> list[dict[str, Any]]:
    """Confidence against accuracy in equal-width bins ((b-1)/B, b/B] of the largest probability.

    Guo et al., "On Calibration of Modern Neural Networks", 2017, section 2. Empty bins are left out.

    Returns:
        One row per bin: mean `confidence` and `accuracy` in [0, 1] and `count` of images.
    """
    confidence = probabilities(logits).max(axis=1)
    hits = correct(labels, logits)
    edges = np.linspace(0, 1, num_bins + 1)
    bins = np.clip(np.searchsorted(edges, confidence, side="left"), 1, num_bins)
    rows = []
    for b in np.unique(bins):
        inside = bins == b
        rows.append(
            {
                "confidence": float(confidence[inside].mean()),
                "accuracy": float(hits[inside].mean()),
                "count": int(inside.sum()),
            }
        )
    return rows


def expected_calibration_error(labels: Labels, logits: Logits, num_bins: int) -> float:
    """Mean over images of |accuracy - confidence| of their bin, in [0, 1] (Guo et al. 2017, equation 3)."""
    rows = reliability(labels, logits, num_bins)
    return float(sum(row["count"] * abs(row["accuracy"] - row["confidence"]) for row in rows) / len(labels))
