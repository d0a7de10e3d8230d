"""Scores of a detector against counting by hand."""

import numpy as np
import pytest

from stages.evaluation import detection
from stages.evaluation.intervals import Resampling, mcnemar_p

RESAMPLING = Resampling(200, 0, 0.95)


@pytest.fixture
def judged():
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 2, 60)
    odds = (rng.normal(0, 1.5, 60) + kinds).round(1)
    return kinds, np.stack([np.zeros(60), odds], 1).astype(np.float32), rng.integers(0, 3, 60)


def test_scores_are_what_counting_gives(judged):
    kinds, logits, _ = judged
    odds = logits[:, 1]
    facts = detection.judge(kinds, logits, 10, RESAMPLING)
    called = [int(o > 0) for o in odds]  # of equal logits the first wins: real
    hits = sum(c and k for c, k in zip(called, kinds, strict=True))
    assert facts["accuracy"] == pytest.approx(np.mean([c == k for c, k in zip(called, kinds, strict=True)]))
    assert facts["precision"] == pytest.approx(hits / sum(called))
    assert facts["recall"] == pytest.approx(hits / kinds.sum())
    assert facts["f1"] == pytest.approx(2 * hits / (sum(called) + kinds.sum()))
    pairs = [(f > r) + (f == r) / 2 for f in odds[kinds == 1] for r in odds[kinds == 0]]
    assert facts["roc_auc"] == pytest.approx(np.mean(pairs))
    assert facts["accuracy_interval"]["low"] < facts["accuracy"] < facts["accuracy_interval"]["high"]


def test_a_reversed_detector_is_as_wrong_as_it_was_right(judged):
    kinds, logits, _ = judged
    forward, backward = (detection.judge(kinds, sign * logits, 10, RESAMPLING) for sign in (1, -1))
    assert backward["roc_auc"] == pytest.approx(1 - forward["roc_auc"])


def test_two_detectors_are_paired_image_by_image(judged):
    kinds, logits, _ = judged
    other = logits[::-1].copy()
    facts = detection.against(kinds, logits, other, RESAMPLING)
    ours, theirs = ((each[:, 1] > 0) == kinds for each in (logits, other))
    assert facts["gap"] == pytest.approx(ours.mean() - theirs.mean())
    assert facts["mcnemar_p"] == mcnemar_p(ours, theirs)
    assert facts["gap_interval"]["low"] < facts["gap"] < facts["gap_interval"]["high"]
    assert detection.against(kinds, logits, logits, RESAMPLING)["mcnemar_p"] == 1


def test_classes_are_what_is_shown_not_what_is_told(judged):
    kinds, logits, labels = judged
    names = ("cat", "none", "dog", "horse")
    labels = np.where(labels == 1, 3, labels)
    rows = detection.per_class_rows(kinds, labels, logits, names)
    assert [row["class"] for row in rows] == ["cat", "dog", "horse"]
    right = (logits[:, 1] > 0) == kinds
    for row in rows:
        own = labels == names.index(row["class"])
        assert row["accuracy"] == pytest.approx(right[own].mean())
        assert row["real"] == pytest.approx(right[own & (kinds == 0)].mean())
        assert row["generated"] == pytest.approx(right[own & (kinds == 1)].mean())


def test_leaks_are_held_against_others_of_their_classes():
    kinds = np.array([0, 0, 1, 1, 1, 1, 1, 1])  # two real images, four fakes of class 0, two of class 1
    labels = np.array([0, 1, 0, 0, 0, 0, 1, 1])
    odds = np.array([-1, 1, 1, 1, -1, 1, -1, -1])
    logits = np.stack([np.zeros(8), odds], 1).astype(np.float32)
    leaked = np.array([0, 0, 1, 1, 0, 0, 0, 0], bool)
    facts = detection.leaks(kinds, labels, logits, leaked)
    assert facts == {
        "images": 2,
        "accuracy_without": pytest.approx(2 / 6),
        "found": 1.0,
        "found_of_others": 0.5,
    }
    assert detection.leaks(kinds, labels, logits, np.zeros(8, bool)) == {"images": 0}
