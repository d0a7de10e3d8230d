"""A linear head on frozen features: L2-regularised multinomial logistic regression, solved by L-BFGS.

The protocol of Kornblith et al., "Do Better ImageNet Models Transfer Better?", 2019, section A.1, with one change:
the strength is chosen on the validation split and the head stays the one fitted on the train split alone, so that no
head ever sees more labels than another.
"""

import hashlib
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from stages.encoder_sections import ProbeEncoder
from stages.evaluation import scores
from stages.evaluation.intervals import Resampling, top1_interval

Features = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Labelled:
    """Features of one split."""

    features: Features
    """(images, dimensions)."""
    labels: Labels
    """(images,), class indices."""


@dataclass(frozen=True)
class Projection:
    """Standardisation by train statistics with equal columns merged: features (n, d) to (n, d' <= d)."""

    mean: NDArray[np.float64]
    """(d,)."""
    deviation: NDArray[np.float64]
    """(d,), all positive."""
    groups: list[list[int]]
    """For each of the d' new columns, the old columns that it stands for."""

    def __call__(self, features: Features) -> Features:
        """Standardises and merges."""
        standard = ((features - self.mean) / self.deviation).astype(np.float32)
        if len(self.groups) == standard.shape[1]:
            return standard
        return np.stack([standard[:, group].sum(axis=1) / np.sqrt(np.float32(len(group))) for group in self.groups], 1)


def fit_projection(train: Features) -> Projection:
    """Mean and deviation of every train column, and which columns are equal or constant.

    The ridge solution gives m equal columns equal weights, which is the solution on their sum over sqrt(m), and a
    constant column the weight 0; so merging changes no prediction, and a grey image's 3,072 values cost a quarter.
    """
    groups: dict[bytes, list[int]] = {}
    varies = np.ptp(train, axis=0) > 0
    for column in np.flatnonzero(varies):
        groups.setdefault(hashlib.sha256(train[:, column].tobytes()).digest(), []).append(int(column))
    deviation = np.where(varies, train.std(axis=0, dtype=np.float64), 1.0)
    return Projection(train.mean(axis=0, dtype=np.float64), deviation, list(groups.values()))


@dataclass(frozen=True)
class Head:
    """A fitted linear head."""

    projection: Projection
    classifier: LogisticRegression
    num_classes: int

    @property
    def inverse_strength(self) -> float:
        """C, one over the weight of the squared L2 norm of the weights."""
        return float(self.classifier.C)

    @property
    def converged(self) -> bool:
        """Whether L-BFGS ended by its tolerance and not by its number of iterations."""
        return bool(self.classifier.n_iter_.max() < self.classifier.max_iter)

    def logits(self, features: Features) -> NDArray[np.float32]:
        """(images, classes), up to a constant per image; a class without train images gets the lowest float."""
        scores = self.classifier.decision_function(self.projection(features))
        if scores.ndim == 1:  # two classes: scikit-learn gives the second one's log-odds
            scores = np.stack([np.zeros_like(scores), scores], axis=1)
        logits = np.full((len(features), self.num_classes), np.finfo(np.float32).min, np.float32)
        logits[:, self.classifier.classes_] = scores
        return logits


def choose_head(train: Labelled, val: Labelled, num_classes: int, settings: ProbeEncoder) -> Head:
    """Fits a head per strength on `train` and returns the most accurate on `val`, the strongest penalty of equals.

    Args:
        train: what to fit; its own statistics standardise every split.
        val: what to choose on.
        num_classes: columns of the logits.
        settings: strengths, iterations, tolerance.
    """
    projection = fit_projection(train.features)
    projected = Labelled(projection(train.features), train.labels)
    heads = [Head(projection, _fit(projected, c, settings), num_classes) for c in sorted(settings.inverse_strengths)]
    return max(heads, key=lambda head: np.mean(head.logits(val.features).argmax(axis=1) == val.labels))


def permuted_top1(train: Labelled, test: Labelled, chosen: Head, settings: ProbeEncoder) -> list[float]:
    """Top-1 on real test labels of the chosen head refitted on shuffled train labels, per shuffle.

    At chance on average, unless something leaks. One shuffle is not enough: it gives a whole cluster of images one
    random class, so single figures scatter more than test images alone would make them.
    """
    projected, shares = chosen.projection(train.features), []
    for index in range(settings.num_permutations):
        order = np.random.default_rng([settings.bootstrap_seed, index]).permutation(len(train.labels))
        classifier = _fit(Labelled(projected, train.labels[order]), chosen.inverse_strength, settings)
        head = Head(chosen.projection, classifier, chosen.num_classes)
        shares.append(float(scores.correct(test.labels, head.logits(test.features)).mean()))
    return shares


@dataclass(frozen=True)
class Splits:
    """What a frozen encoder is judged on."""

    real_train: Labelled
    real_val: Labelled
    synthetic_train: Labelled
    synthetic_val: Labelled
    test: Labelled
    """Real images; looked at once by each head."""


def judge_encoder(
    splits: Splits, num_classes: int, settings: ProbeEncoder
) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """Judges features by three heads on the same real test images.

    The probe is fitted on real train features; its control on the same with shuffled labels; the third head on
    synthetic features alone, its strength chosen on synthetic validation features.

    Returns:
        The figures, shares in [0, 1], and the probe's test logits (images, classes).
    """
    head = choose_head(splits.real_train, splits.real_val, num_classes, settings)
    other = choose_head(splits.synthetic_train, splits.synthetic_val, num_classes, settings)
    permuted = permuted_top1(splits.real_train, splits.test, head, settings)
    logits = head.logits(splits.test.features)
    correct = scores.correct(splits.test.labels, logits)
    other_correct = scores.correct(splits.test.labels, other.logits(splits.test.features))
    resampling = Resampling(settings.num_resamples, settings.bootstrap_seed, settings.confidence)
    facts = {
        "top1": float(correct.mean()),
        "top1_interval": top1_interval(correct, resampling).as_json(),
        "macro_f1": scores.macro_f1(splits.test.labels, scores.predicted(logits), num_classes),
        "inverse_strength": head.inverse_strength,
        "converged": head.converged,
        "fitted_on": "train",
        "num_features": splits.test.features.shape[1],
        "permuted_top1": float(np.mean(permuted)),
        "permuted_top1_deviation": float(np.std(permuted)),
        "synthetic_head_top1": float(other_correct.mean()),
        "synthetic_head_top1_interval": top1_interval(other_correct, resampling).as_json(),
        "synthetic_head_inverse_strength": other.inverse_strength,
    }
    return facts, logits


def _fit(projected: Labelled, inverse_strength: float, settings: ProbeEncoder) -> LogisticRegression:
    classifier = LogisticRegression(C=inverse_strength, max_iter=settings.max_iterations, tol=settings.tolerance)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # reported as `converged`
        return classifier.fit(projected.features, projected.labels)
