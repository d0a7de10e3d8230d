"""The scores as local modules of Hugging Face's `evaluate`: nothing is fetched from a hub at run time.

`evaluate.load("accuracy")` downloads and runs a script; these classes are used directly and combine with its
`evaluate.combine` and `Evaluator` as any other metric does. Importing `evaluate` imports torch and transformers:
`summarize`, which must not, calls `scores` itself.
"""

import tempfile
from typing import Any

import datasets
import evaluate
import numpy as np

from stages.evaluation import scores

LABELS = {"references": datasets.Value("int64")}
CLASSES = {**LABELS, "predictions": datasets.Value("int64")}
LOGITS = {**LABELS, "predictions": datasets.List(datasets.Value("float32"))}


def _info(description: str, features: dict[str, Any], citation: str = "") -> evaluate.MetricInfo:
    return evaluate.MetricInfo(
        description=description,
        citation=citation,
        inputs_description="references: class indices; predictions: class indices, or logits for calibration.",
        features=datasets.Features(features),
        format=None if features is LOGITS else "numpy",  # evaluate's numpy format takes flat features only
    )


class Top1(evaluate.Metric):  # type: ignore[misc]
    """Top-1 accuracy of predicted class indices."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("Share of images whose predicted class is the label's.", CLASSES)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"top1": scores.top1(references, predictions)}


class MacroF1(evaluate.Metric):  # type: ignore[misc]
    """Unweighted mean of the classes' F1."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("Unweighted mean over all classes of F1.", CLASSES)

    def _compute(self, predictions: Any, references: Any, num_classes: int) -> dict[str, float]:
        return {"macro_f1": scores.macro_f1(references, predictions, num_classes)}


class PerClassAccuracy(evaluate.Metric):  # type: ignore[misc]
    """Accuracy within each class."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("Share of each class's images that are classified rightly.", CLASSES)

    def _compute(self, predictions: Any, references: Any, class_names: tuple[str, ...]) -> dict[str, Any]:
        shares = scores.per_class_accuracy(references, predictions, len(class_names))
        return {"per_class": dict(zip(class_names, shares, strict=True))}


class Confusion(evaluate.Metric):  # type: ignore[misc]
    """The confusion matrix."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("Counts of (actual class, predicted class).", CLASSES)

    def _compute(self, predictions: Any, references: Any, num_classes: int) -> dict[str, Any]:
        return {"confusion": scores.confusion(references, predictions, num_classes).tolist()}


class ExpectedCalibrationError(evaluate.Metric):  # type: ignore[misc]
    """Expected calibration error of logits."""

    def _info(self) -> evaluate.MetricInfo:
        return _info(
            "Mean over images of |accuracy - confidence| of their equal-width bin of the largest probability.",
            LOGITS,
            citation="Guo et al., On Calibration of Modern Neural Networks, ICML 2017",
        )

    def _compute(self, predictions: Any, references: Any, num_bins: int) -> dict[str, float]:
        labels, logits = np.asarray(references, np.int64), np.asarray(predictions, np.float32)
        return {"ece": scores.expected_calibration_error(labels, logits, num_bins)}


def score(labels: scores.Labels, logits: scores.Logits, class_names: tuple[str, ...], num_bins: int) -> dict[str, Any]:
    """All scores of one classifier.

    Args:
        labels: (images,) class indices.
        logits: (images, classes).
        class_names: of the columns of `logits`.
        num_bins: of the calibration error.

    Returns:
        `top1`, `macro_f1`, `ece` in [0, 1]; `per_class`, a share per class name; `confusion`, counts as rows.
    """
    classes, count = scores.predicted(logits), len(class_names)
    with tempfile.TemporaryDirectory() as folder:  # the default lies in the home folder, which may be read-only
        place = {"cache_dir": folder, "keep_in_memory": True}
        asked: list[tuple[evaluate.Metric, Any, dict[str, Any]]] = [
            (Top1(**place), classes, {}),
            (MacroF1(**place), classes, {"num_classes": count}),
            (PerClassAccuracy(**place), classes, {"class_names": class_names}),
            (Confusion(**place), classes, {"num_classes": count}),
            (ExpectedCalibrationError(**place), logits, {"num_bins": num_bins}),
        ]
        found: dict[str, Any] = {}
        for metric, predictions, settings in asked:
            found |= metric.compute(references=labels, predictions=predictions, **settings)
    return found
