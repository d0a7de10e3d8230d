"""Transfer to another data set, and the features' memory, against scikit-learn and each other."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from stages.evaluation.feature_cache import recall
from stages.evaluation.few_shot import few_shot_accuracy
from stages.evaluation.probe import Labelled, choose_head, join
from stages.evaluation.transfer import judge_transfer
from tests.test_evaluation_probe import SETTINGS, TRANSFER, split


def unequal(seed):
    """Classes of 10, 20, ... images."""
    whole = split(seed, count=400, noise=5)
    rank = np.arange(400) // 4
    kept = rank < 25 * (whole.labels + 1)
    return Labelled(whole.features[kept], whole.labels[kept])


def test_figures_are_scikit_learns():
    train, val, test = unequal(0), unequal(1), unequal(4)
    facts = judge_transfer(train, val, test, 4, SETTINGS)
    both = join(train, val)
    scaler = StandardScaler().fit(both.features.astype(np.float64))
    reference = LogisticRegression(C=facts["inverse_strength"], max_iter=5000, tol=1e-8)
    reference.fit(scaler.transform(both.features), both.labels)
    predicted = reference.predict(scaler.transform(test.features))
    assert facts["top1"] == pytest.approx((predicted == test.labels).mean(), abs=1 / len(test.labels))
    assert facts["mean_class_accuracy"] == pytest.approx(balanced_accuracy_score(test.labels, predicted), abs=0.02)
    assert abs(facts["mean_class_accuracy"] - facts["top1"]) > 0.02, "classes are unequal"
    nearest = KNeighborsClassifier(20, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
    expected = nearest.fit(train.features, train.labels).score(test.features, test.labels)
    assert facts["neighbors_top1"] == pytest.approx(expected)
    few = few_shot_accuracy(test.features, test.labels, SETTINGS.few_shot, SETTINGS.bootstrap_seed)
    assert (facts["few_shot_top1"], facts["few_shot_top1_half_width"]) == (few.mean, few.half_width)
    assert facts["val_top1"] == choose_head(train, val, 4, TRANSFER).val_top1
    assert (facts["num_classes"], facts["num_images"]) == (4, 250)


def test_a_set_too_small_for_episodes_has_all_other_figures():
    train, val, test = (split(seed, count=40) for seed in (0, 1, 4))  # 10 images a class, episodes want 20
    facts = judge_transfer(train, val, test, 4, SETTINGS)
    assert facts["top1"] > 0.5
    assert "few_shot_top1" not in facts


def test_test_images_choose_nothing():
    train, val, test = split(0, count=60, noise=6), split(1, noise=6), split(4, noise=6)
    before = judge_transfer(train, val, test, 4, SETTINGS)
    after = judge_transfer(train, val, Labelled(test.features, (test.labels + 1) % 4), 4, SETTINGS)
    assert [after[key] for key in ("inverse_strength", "val_top1")] == [
        before[key] for key in ("inverse_strength", "val_top1")
    ]
    assert after["top1"] < before["top1"]


def test_features_are_made_once_per_key(tmp_path):
    made = []

    def make():
        made.append(1)
        return split(len(made))

    path = tmp_path / "encoder" / "real-train.safetensors"
    first, again = recall(path, "one", make), recall(path, "one", make)
    assert len(made) == 1
    np.testing.assert_array_equal(first.features, again.features)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert (again.features.dtype, again.labels.dtype) == (np.float32, np.int64)
    other = recall(path, "two", make)
    assert (other.features != first.features).any()
    recall(path, "one", make)
    assert len(made) == 3, "one set is kept, of the last key"
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
