"""Scores and their evaluate.Metric modules, against torchmetrics, scikit-learn and hand examples."""

import socket

import evaluate
import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torchmetrics.classification import MulticlassCalibrationError

from stages.evaluation import metrics, scores

NAMES = tuple("abcdefg")


@pytest.fixture(scope="module")
def judged():
    """A mediocre, overconfident classifier of unbalanced classes."""
    rng = np.random.default_rng(0)
    labels = rng.choice(7, size=1500, p=[0.4, 0.2, 0.1, 0.1, 0.1, 0.06, 0.04]).astype(np.int64)
    logits = 2 * rng.standard_normal((1500, 7)).astype(np.float32)
    logits[np.arange(1500), labels] += 3
    return labels, logits


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_calibration_error_is_torchmetrics(judged, num_bins):
    labels, logits = judged
    theirs = MulticlassCalibrationError(num_classes=7, n_bins=num_bins, norm="l1")
    expected = theirs(torch.from_numpy(logits).double(), torch.from_numpy(labels)).item()
    assert expected > 0.02
    assert scores.expected_calibration_error(labels, logits, num_bins) == pytest.approx(expected, abs=1e-6)


def test_calibration_error_by_hand():
    """Two bins: confidences 0.6 and 1.0 share (0.5, 1], one of three is wrong; 0.5 lies in (0, 0.5]."""
    logits = np.log(np.array([[0.6, 0.4], [1.0, 1e-30], [1e-30, 1.0], [0.5, 0.5]])).astype(np.float32)
    labels = np.array([1, 0, 1, 0])
    confidence = (0.6 + 1 + 1) / 3
    expected = 3 / 4 * abs(2 / 3 - confidence) + 1 / 4 * abs(1 - 0.5)
    assert scores.expected_calibration_error(labels, logits, 2) == pytest.approx(expected, abs=1e-6)
    assert [row["count"] for row in scores.reliability(labels, logits, 2)] == [1, 3]


def test_a_calibrated_classifier_has_almost_no_error():
    rng = np.random.default_rng(1)
    logits = 2 * rng.standard_normal((50_000, 4)).astype(np.float32)
    shares = scores.probabilities(logits)
    labels = (shares.cumsum(axis=1) > rng.random((50_000, 1))).argmax(axis=1)
    assert scores.expected_calibration_error(labels, logits, 15) < 0.01
    assert scores.expected_calibration_error(labels, 3 * logits, 15) > 0.1


def test_probabilities_survive_large_logits():
    shares = scores.probabilities(np.array([[1e4, 0, -1e4], [-1e30, -1e30, -1e30]], np.float32))
    np.testing.assert_allclose(shares, [[1, 0, 0], [1 / 3] * 3])


def test_a_class_without_images_or_predictions():
    labels, classes = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    assert scores.per_class_accuracy(labels, classes, 3) == [0.5, 1.0, None]
    assert scores.macro_f1(labels, classes, 3) == pytest.approx((2 / 3 + 0.8 + 0) / 3)
    assert scores.confusion(labels, classes, 3).tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]


def test_scores_agree_with_each_other(judged):
    labels, logits = judged
    classes = scores.predicted(logits)
    counts = scores.confusion(labels, classes, 7)
    assert scores.top1(labels, classes) == counts.trace() / counts.sum() == scores.correct(labels, logits).mean()
    recalls = sklearn_metrics.recall_score(labels, classes, average=None)
    assert scores.per_class_accuracy(labels, classes, 7) == pytest.approx(list(recalls))


def test_the_modules_report_everything_without_network(judged, monkeypatch):
    labels, logits = judged

    def refuse(*args):
        raise AssertionError("asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    found = metrics.score(labels, logits, NAMES, 15)
    classes = logits.argmax(1)
    assert found["top1"] == (classes == labels).mean()
    assert found["macro_f1"] == pytest.approx(sklearn_metrics.f1_score(labels, classes, average="macro"))
    assert found["ece"] == scores.expected_calibration_error(labels, logits, 15)
    assert list(found["per_class"]) == list(NAMES)
    assert np.array(found["confusion"]).sum() == 1500


def test_the_modules_are_metrics_of_evaluate(tmp_path):
    """They take batches and combine as any other metric does."""
    top1 = metrics.Top1(cache_dir=tmp_path)
    assert isinstance(top1, evaluate.Metric)
    top1.add_batch(references=[0, 1], predictions=[0, 0])
    top1.add_batch(references=[2, 2], predictions=[2, 2])
    assert top1.compute() == {"top1": 0.75}
    both = evaluate.combine([metrics.Top1(cache_dir=tmp_path), metrics.Confusion(cache_dir=tmp_path)])
    assert len(both.evaluation_modules) == 2


def test_the_home_folder_may_be_read_only(judged, monkeypatch):
    """`evaluate` caches below HF_HOME by default; in a container with a read-only root that would fail."""
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", "/proc/none")
    assert metrics.score(*judged, NAMES, 15)["top1"] > 0.5
