"""The linear probe, against scikit-learn's own pipeline and slow definitions."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stages.evaluation import probe
from stages.evaluation.probe import Labelled, Splits
from stages.probe_sections import FewShot, LinearHeads, LinearProbe, Neighbors, ProbeEncoder, ZeroShot

TRANSFER = LinearProbe(
    log10_lambda_min=-6, log10_lambda_max=5, num_lambdas=45, refit_with_val=True, max_iterations=2000, tolerance=1e-6
)
SETTINGS = ProbeEncoder(
    batch_size=10,
    precision="float32",
    logistic_regression=LinearProbe(
        log10_lambda_min=-1,
        log10_lambda_max=3,
        num_lambdas=3,
        refit_with_val=False,
        max_iterations=2000,
        tolerance=1e-6,
    ),
    num_permutations=20,
    neighbors=Neighbors(num_neighbors=20, temperature=0.07),
    few_shot=FewShot(num_ways=4, num_shots=5, num_queries=15, num_episodes=50),
    linear_heads=LinearHeads(base_learning_rates=[0.01, 0.1, 1], num_epochs=30, batch_size=64, batch_norm=True),
    zero_shot=ZeroShot(templates="clip", class_names={"a": ["a"]}),
    transfer=TRANSFER,
    num_resamples=500,
    bootstrap_seed=0,
    confidence=0.95,
)


PROBE = SETTINGS.logistic_regression


def at(c, **changes):
    """One strength alone."""
    exponent = -np.log10(c)
    alone = {"log10_lambda_min": exponent, "log10_lambda_max": exponent, "num_lambdas": 1}
    return PROBE.model_copy(update=alone | changes)


def split(seed, count=400, classes=4, dimensions=12, noise=2.0):
    """Gaussian clusters of unequal scale, far from the origin; labels cycle."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((classes, dimensions)) * 2
    labels = np.arange(count, dtype=np.int64) % classes
    features = centres[labels] + noise * rng.standard_normal((count, dimensions))
    scales = 10.0 ** np.linspace(-1, 2, dimensions)
    return Labelled((features * scales + 5 * scales).astype(np.float32), labels)


def accuracy(head, data):
    return (head.logits(data.features).argmax(1) == data.labels).mean()


@pytest.mark.parametrize("c", [0.001, 0.1, 10])
@pytest.mark.parametrize("classes", [2, 4])
def test_a_head_is_scikit_learns_pipeline(c, classes):
    train, test = split(0, classes=classes), split(1, classes=classes)
    head = probe.choose_head(train, test, classes, at(c))
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=5000, tol=1e-8))
    expected = pipeline.fit(train.features.astype(np.float64), train.labels).predict_proba(test.features)
    logits = head.logits(test.features).astype(np.float64)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(shares / shares.sum(1, keepdims=True), expected, atol=2e-3)
    assert head.converged
    assert accuracy(head, test) > 0.6


def test_equal_and_constant_columns_change_no_prediction():
    """A grey image on three channels: the merged problem is the full one, also where test columns differ."""
    train, test = split(0), split(1)
    rng = np.random.default_rng(3)

    def widen(data, differ):
        constant = np.full((len(data.labels), 2), 7, np.float32)
        copies = [data.features + differ * rng.standard_normal(data.features.shape).astype(np.float32) for _ in "ab"]
        return Labelled(np.concatenate([data.features, constant, *copies], axis=1), data.labels)

    wide_train, wide_test = widen(train, 0), widen(test, 1)
    assert len(probe.fit_projection(wide_train.features).groups) == 12
    head = probe.choose_head(wide_train, wide_test, 4, at(0.1))
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=5000, tol=1e-8))
    expected = pipeline.fit(wide_train.features.astype(np.float64), train.labels).decision_function(wide_test.features)
    np.testing.assert_allclose(head.logits(wide_test.features), expected, atol=0.02)


def test_the_strength_is_chosen_on_val_and_the_strongest_penalty_wins_a_tie():
    train, val = split(0, count=60, noise=6), split(1, noise=6)
    alone = {c: accuracy(probe.choose_head(train, val, 4, at(c)), val) for c in probe.inverse_strengths(PROBE)}
    assert len(set(alone.values())) > 1
    chosen = probe.choose_head(train, val, 4, PROBE)
    assert accuracy(chosen, val) == chosen.val_top1 == max(alone.values())
    easy = Labelled(np.repeat(np.eye(4, dtype=np.float32), 10, 0) * 9, np.repeat(np.arange(4), 10))
    assert probe.choose_head(easy, easy, 4, PROBE).inverse_strength == 0.001


def test_the_transfer_protocol_is_scikit_learns_search_over_45_penalties():
    """Chosen as if every penalty had been fitted from zero, then fitted on both splits: the reference knows no path."""
    strengths = probe.inverse_strengths(TRANSFER)
    np.testing.assert_allclose(strengths, 1 / np.logspace(-6, 5, 45)[::-1])
    train, val, test = split(0, count=60, noise=6), split(1, noise=6), split(4, noise=6)
    features = StandardScaler().fit(train.features.astype(np.float64))

    def reference(c, scaler, fitted):
        return LogisticRegression(C=c, max_iter=5000, tol=1e-6).fit(scaler.transform(fitted.features), fitted.labels)

    scores = [reference(c, features, train).score(features.transform(val.features), val.labels) for c in strengths]
    head = probe.choose_head(train, val, 4, TRANSFER)
    assert head.inverse_strength == strengths[int(np.argmax(scores))]
    assert head.val_top1 == max(scores) > min(scores)
    both = Labelled(np.concatenate([train.features, val.features]), np.concatenate([train.labels, val.labels]))
    features = StandardScaler().fit(both.features.astype(np.float64))
    expected = reference(head.inverse_strength, features, both).decision_function(features.transform(test.features))
    np.testing.assert_allclose(head.logits(test.features), expected, atol=2e-3)
    facts, _ = probe.judge_encoder(
        Splits(train, val, train, val, test), 4, SETTINGS.model_copy(update={"logistic_regression": TRANSFER})
    )
    assert facts["fitted_on"] == "train and val"
    assert facts["val_top1"] == head.val_top1


def test_the_head_does_not_depend_on_the_path_to_it():
    train, val = split(0, count=60, noise=6), split(1, noise=6)
    chosen = probe.choose_head(train, val, 4, PROBE)
    alone = probe.choose_head(train, val, 4, at(chosen.inverse_strength))
    np.testing.assert_array_equal(chosen.logits(val.features), alone.logits(val.features))


def test_shuffled_labels_are_at_chance_and_a_leak_would_show():
    train, test = split(0), split(1)
    head = probe.choose_head(train, test, 4, PROBE)
    shares = probe.permuted_top1(train, test, head, SETTINGS)
    assert len(set(shares)) > 5
    assert np.mean(shares) == pytest.approx(0.25, abs=4 * np.std(shares) / np.sqrt(len(shares)))
    assert accuracy(head, test) > 0.6


def test_a_class_that_no_train_image_has_is_never_predicted():
    train, test = split(0, classes=4), split(1, classes=4)
    some = train.labels != 2
    part = Labelled(train.features[some], train.labels[some])
    head = probe.choose_head(part, test, 4, PROBE)
    logits = head.logits(test.features)
    assert logits.shape == (400, 4)
    assert np.isfinite(logits).all()
    assert not (logits.argmax(1) == 2).any()


def test_too_few_iterations_are_reported():
    assert not probe.choose_head(split(0), split(1), 4, at(10, max_iterations=2)).converged


def test_each_head_is_chosen_on_a_val_of_its_own_source():
    """The strength that synthetic val asks for is neither real val's nor the test split's here."""
    train, val = split(3, count=60, noise=6), split(23, noise=6)
    best = [probe.choose_head(train, other, 4, PROBE).inverse_strength for other in (val, split(1), split(4))]
    assert len(set(best)) == 3
    facts, _ = probe.judge_encoder(Splits(train, split(1), train, val, split(4)), 4, SETTINGS)
    assert facts["synthetic_head_inverse_strength"] == best[0]
    assert facts["inverse_strength"] == best[1]


def test_synthetic_features_never_reach_the_real_head():
    splits = Splits(split(0), split(1), split(2, noise=4), split(3, noise=4), split(4))
    facts, logits = probe.judge_encoder(splits, 4, SETTINGS)
    other = Splits(split(0), split(1), split(7), split(8), split(4))
    changed, same_logits = probe.judge_encoder(other, 4, SETTINGS)
    np.testing.assert_array_equal(logits, same_logits)
    assert facts["top1"] == changed["top1"] == (logits.argmax(1) == splits.test.labels).mean()
    assert facts["synthetic_head_top1"] != changed["synthetic_head_top1"]
    head = probe.choose_head(splits.synthetic_train, splits.synthetic_val, 4, PROBE)
    assert facts["synthetic_head_top1"] == accuracy(head, splits.test)
    assert facts["top1_interval"]["low"] <= facts["top1"] <= facts["top1_interval"]["high"]
    assert probe.judge_encoder(splits, 4, SETTINGS)[0] == facts
