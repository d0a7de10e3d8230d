"""A linear head on frozen features: L2-regularised multinomial logistic regression, solved by L-BFGS.

The protocol of Kornblith et al., "Do Better ImageNet Models Transfer Better?", 2019, section A.1, as StableRep's
transfer results use it: features standardised by the statistics of the images that the head is fitted on, the penalty
chosen on the validation split, then, where the settings say so, a fit on both splits together.
"""

import dataclasses
import hashlib
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from stages.evaluation import scores
from stages.evaluation.intervals import Resampling, top1_interval
from stages.probe_sections import LinearProbe, ProbeEncoder

Features = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Labelled:
    """Features of one split."""

    features: Features
    """(images, dimensions)."""
    labels: Labels
    """(images,), class indices."""


def join(first: Labelled, second: Labelled) -> Labelled:
    """The images of both splits."""
    features = np.concatenate([first.features, second.features])
    return Labelled(features, np.concatenate([first.labels, second.labels]))


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
    val_top1: float
    """On the split that chose the penalty, of the fit on the train split alone."""

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


def inverse_strengths(settings: LinearProbe) -> list[float]:
    """The values of C = 1 / lambda, the strongest penalty first."""
    lambdas = np.logspace(settings.log10_lambda_min, settings.log10_lambda_max, settings.num_lambdas)
    return [1 / float(strength) for strength in lambdas[::-1]]


def choose_head(train: Labelled, val: Labelled, num_classes: int, settings: LinearProbe) -> Head:
    """Chooses the penalty that is the most accurate on `val`, the strongest of equals, and fits a head with it.

    Along the penalties each fit starts from the last one's weights, which costs a fraction of starting from zero. The
    head that is returned does start from zero: it is scikit-learn's at its penalty, whatever else was tried.

    Args:
        train: what to fit; its own statistics standardise every split.
        val: what to choose on.
        num_classes: columns of the logits.
        settings: penalties, iterations, tolerance.
    """
    projection = fit_projection(train.features)
    projected = Labelled(projection(train.features), train.labels)
    held_out = projection(val.features)
    path = LogisticRegression(max_iter=settings.max_iterations, tol=settings.tolerance, warm_start=True)
    chosen, val_top1 = np.nan, -1.0
    for inverse_strength in inverse_strengths(settings):
        accuracy = float(_fit(path.set_params(C=inverse_strength), projected).score(held_out, val.labels))
        if accuracy > val_top1:
            chosen, val_top1 = inverse_strength, accuracy
    if settings.refit_with_val:
        train = join(train, val)
        projection = fit_projection(train.features)
        projected = Labelled(projection(train.features), train.labels)
    return Head(projection, _fit(_classifier(chosen, settings), projected), num_classes, val_top1)


def permuted_top1(train: Labelled, test: Labelled, chosen: Head, settings: ProbeEncoder) -> list[float]:
    """Top-1 on real test labels of the chosen head refitted on shuffled train labels, per shuffle.

    At chance on average, unless something leaks. One shuffle is not enough: it gives a whole cluster of images one
    random class, so single figures scatter more than test images alone would make them.
    """
    projected, shares = chosen.projection(train.features), []
    for index in range(settings.num_permutations):
        order = np.random.default_rng([settings.bootstrap_seed, index]).permutation(len(train.labels))
        classifier = _classifier(chosen.inverse_strength, settings.logistic_regression)
        _fit(classifier, Labelled(projected, train.labels[order]))
        head = dataclasses.replace(chosen, classifier=classifier)
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
    protocol = settings.logistic_regression
    head = choose_head(splits.real_train, splits.real_val, num_classes, protocol)
    other = choose_head(splits.synthetic_train, splits.synthetic_val, num_classes, protocol)
    permuted = permuted_top1(splits.real_train, splits.test, head, settings)
    logits = head.logits(splits.test.features)
    correct = scores.correct(splits.test.labels, logits)
    other_correct = scores.correct(splits.test.labels, other.logits(splits.test.features))
    resampling = Resampling(settings.num_resamples, settings.bootstrap_seed, settings.confidence)
    facts = {
        "top1": float(correct.mean()),
        "top1_interval": top1_interval(correct, resampling).as_json(),
        "val_top1": head.val_top1,
        "macro_f1": scores.macro_f1(splits.test.labels, scores.predicted(logits), num_classes),
        "inverse_strength": head.inverse_strength,
        "converged": head.converged,
        "fitted_on": "train and val" if protocol.refit_with_val else "train",
        "num_features": splits.test.features.shape[1],
        "permuted_top1": float(np.mean(permuted)),
        "permuted_top1_deviation": float(np.std(permuted)),
        "synthetic_head_top1": float(other_correct.mean()),
        "synthetic_head_top1_interval": top1_interval(other_correct, resampling).as_json(),
        "synthetic_head_inverse_strength": other.inverse_strength,
    }
    return facts, logits


def _classifier(inverse_strength: float, settings: LinearProbe) -> LogisticRegression:
    return LogisticRegression(C=inverse_strength, max_iter=settings.max_iterations, tol=settings.tolerance)


def _fit(classifier: LogisticRegression, projected: Labelled) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # reported as `converged`
        return classifier.fit(projected.features, projected.labels)
