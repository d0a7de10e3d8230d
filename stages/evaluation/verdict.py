"""The headline arm against the real one, from their predictions alone. Never imports torch."""

from typing import Any

from stages.artifacts import BadInput
from stages.evaluation import scores
from stages.evaluation.intervals import (
    Resampling,
    gap_interval,
    holm,
    mcnemar_p,
    scope,
    top1_interval,
)
from stages.evaluation.predictions import Predictions


def compare(headline: Predictions, real: Predictions, num_bins: int, resampling: Resampling) -> dict[str, Any]:
    """Figures of the headline arm's model and of its gap to the real arm's, on the same test images.

    Returns:
        `top1`, `macro_f1`, `ece` of the headline arm; `real_top1`; `gap` (headline - real) with its interval and
        McNemar's p; `scope`, what the interval speaks of.

    Raises:
        BadInput: the two were not judged on the same test images.
    """
    if headline.class_names != real.class_names or not (
        headline.labels.shape == real.labels.shape and (headline.labels == real.labels).all()
    ):
        raise BadInput("predictions: the real and the headline arm were judged on different test images; `dvc repro`")
    first, second = (scores.correct(arm.labels, arm.logits) for arm in (headline, real))
    classes, num_classes = scores.predicted(headline.logits), len(headline.class_names)
    return {
        "top1": float(first.mean()),
        "top1_interval": top1_interval(first, resampling).as_json(),
        "macro_f1": scores.macro_f1(headline.labels, classes, num_classes),
        "ece": scores.expected_calibration_error(headline.labels, headline.logits, num_bins),
        "real_top1": float(second.mean()),
        "gap": (int(first.sum()) - int(second.sum())) / len(first),
        "gap_interval": gap_interval(first, second, resampling).as_json(),
        "mcnemar_p": mcnemar_p(first, second),
        "scope": scope(num_seeds=1),
    }


def summarize(
    pairs: dict[str, tuple[Predictions, Predictions]], num_bins: int, resampling: Resampling
) -> dict[str, dict[str, Any]]:
    """Compares each network's (headline, real) pair; the tests of the whole family are Holm-corrected."""
    verdicts = {network: compare(*pair, num_bins, resampling) for network, pair in pairs.items()}
    adjusted = holm({network: verdict["mcnemar_p"] for network, verdict in verdicts.items()})
    return {network: {**verdict, "mcnemar_p_holm": adjusted[network]} for network, verdict in verdicts.items()}


def per_class_rows(headline: Predictions, real: Predictions) -> list[dict[str, Any]]:
    """Accuracy within each class that has test images, of both arms, and the gap (headline - real)."""
    first, second = (
        scores.per_class_accuracy(arm.labels, scores.predicted(arm.logits), len(arm.class_names))
        for arm in (headline, real)
    )
    return [
        {"class": name, "headline": ours, "real": theirs, "gap": ours - theirs}
        for name, ours, theirs in zip(headline.class_names, first, second, strict=True)
        if ours is not None and theirs is not None
    ]
