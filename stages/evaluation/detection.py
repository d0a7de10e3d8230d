"""Scores of a detector: real images are class 0, generated ones class 1, which is the one to find."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

from stages.evaluation import scores
from stages.evaluation.intervals import Resampling, gap_interval, mcnemar_p, scope, top1_interval

Kinds = NDArray[np.int64]
Logits = NDArray[np.float32]


def judge(kinds: Kinds, logits: Logits, num_bins: int, resampling: Resampling) -> dict[str, Any]:
    """What is said of one detector.

    Args:
        kinds: (images,), both kinds there.
        logits: (images, 2).
        num_bins: of the calibration error.
        resampling: of the interval.

    Returns:
        `accuracy` with its interval, `roc_auc`, `precision`, `recall` and `f1` of generated images, and `ece`.
    """
    found, right = scores.predicted(logits), scores.correct(kinds, logits)
    log_odds = logits[:, 1].astype(np.float64) - logits[:, 0]
    return {
        "accuracy": float(right.mean()),
        "accuracy_interval": top1_interval(right, resampling).as_json(),
        "roc_auc": float(metrics.roc_auc_score(kinds, log_odds)),
        "precision": float(metrics.precision_score(kinds, found, zero_division=0.0)),
        "recall": float(metrics.recall_score(kinds, found)),
        "f1": float(metrics.f1_score(kinds, found)),
        "ece": scores.expected_calibration_error(kinds, logits, num_bins),
    }


def against(kinds: Kinds, first: Logits, second: Logits, resampling: Resampling) -> dict[str, Any]:
    """The first detector against the second on the same images: the gap in accuracy, its interval, McNemar's p."""
    ours, theirs = (scores.correct(kinds, logits) for logits in (first, second))
    return {
        "gap": (int(ours.sum()) - int(theirs.sum())) / len(kinds),
        "gap_interval": gap_interval(ours, theirs, resampling).as_json(),
        "mcnemar_p": mcnemar_p(ours, theirs),
        "scope": scope(num_seeds=1),
    }


def per_class_rows(
    kinds: Kinds, labels: NDArray[np.int64], logits: Logits, class_names: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Per class of what the images show, the shares that are told rightly: of both kinds, of real, of generated.

    Classes without images are left out.
    """
    right = scores.correct(kinds, logits)
    return [
        {
            "class": name,
            "accuracy": float(right[labels == label].mean()),
            "real": float(right[(labels == label) & (kinds == 0)].mean()),
            "generated": float(right[(labels == label) & (kinds == 1)].mean()),
        }
        for label, name in enumerate(class_names)
        if (labels == label).any()
    ]


def leaks(kinds: Kinds, labels: NDArray[np.int64], logits: Logits, leaked: NDArray[np.bool_]) -> dict[str, Any]:
    """What the test images that were trained on do to the figures.

    Args:
        kinds: (images,).
        labels: (images,), what they show.
        logits: (images, 2).
        leaked: (images,), the pixels were among the training images.

    Returns:
        `images`, how many leaked. Where any did: `accuracy_without` them; `found`, the share of the leaked generated
        images that the detector finds, and `found_of_others`, that of the others of the same classes.
    """
    right = scores.correct(kinds, logits)
    facts: dict[str, Any] = {"images": int(leaked.sum())}
    own = leaked & (kinds == 1)
    others = ~leaked & (kinds == 1) & np.isin(labels, labels[own])
    if leaked.any() and not leaked.all():
        facts["accuracy_without"] = float(right[~leaked].mean())
    if own.any() and others.any():
        facts |= {"found": float(right[own].mean()), "found_of_others": float(right[others].mean())}
    return facts
