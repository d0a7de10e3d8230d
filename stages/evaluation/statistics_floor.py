"""The floor of a detector: what low-level statistics alone tell apart. Never imports torch."""

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stages.artifacts import BadInput
from stages.detector_sections import StatisticsFloor
from stages.evaluation.image_statistics import NAMES, SPECTRUM
from stages.evaluation.training_images import TrainingImages

STRONGEST = "gradient_boosting"


def judge_by_statistics(
    train: TrainingImages, statistics: NDArray[np.float32], settings: StatisticsFloor
) -> dict[str, NDArray[np.float32]]:
    """Fits the floor's classifiers to the detector's own training images and lets them judge others.

    Args:
        train: statistics as of `NAMES`.
        statistics: (images, 29), of those to judge.
        settings: of the classifiers.

    Returns:
        Logits (images, 2), zero for real and the log-odds of generated, of `gradient_boosting` and
        `logistic_regression` on all statistics, and of `spectrum`, logistic regression on the spectrum alone.

    Raises:
        BadInput: the statistics were taken by other code.
    """
    if train.statistics.shape[1] != len(NAMES):
        raise BadInput("models/detector: holds other statistics than these; run `dvc repro` again")
    boosting = HistGradientBoostingClassifier(
        max_iter=settings.num_trees,
        learning_rate=settings.learning_rate,
        max_leaf_nodes=settings.max_leaves,
        early_stopping=False,
    )

    def regression() -> LogisticRegression:
        linear = LogisticRegression(C=settings.inverse_strength, max_iter=settings.max_iterations)
        return make_pipeline(StandardScaler(), linear)

    everything, spectrum = slice(None), [NAMES.index(name) for name in SPECTRUM]
    found = {}
    for name, classifier, columns in (
        (STRONGEST, boosting, everything),
        ("logistic_regression", regression(), everything),
        ("spectrum", regression(), spectrum),
    ):
        classifier.fit(train.statistics[:, columns], train.kinds)
        log_odds = classifier.decision_function(statistics[:, columns])
        found[name] = np.stack([np.zeros_like(log_odds), log_odds], axis=1).astype(np.float32)
    return found
