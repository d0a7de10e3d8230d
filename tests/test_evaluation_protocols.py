"""The protocols together, on clusters whose answer is known."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from stages.evaluation.protocols import judge_otherwise
from tests.test_evaluation_probe import SETTINGS, split


def judge(train, val, test):
    return judge_otherwise(train, val, test, 4, SETTINGS)


def test_figures_are_those_of_each_protocol():
    train, val, test = split(0), split(1), split(4)
    facts = judge(train, val, test)
    reference = KNeighborsClassifier(20, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
    expected = reference.fit(train.features, train.labels).score(test.features, test.labels)
    assert facts["neighbors_top1"] == pytest.approx(expected)
    assert 0.5 < facts["few_shot_top1"] - facts["few_shot_top1_half_width"] < 1
    assert facts["sgd_head_top1"] > 0.6
    assert facts["sgd_head_base_learning_rate"] in SETTINGS.linear_heads.base_learning_rates
    assert {"sparsity", "intra_class_distance", "redundancy", "coding_length"} <= facts.keys()
    assert judge(train, val, test) == facts


def test_shuffled_train_labels_leave_chance_where_labels_are_learned_from():
    test = split(4)
    figures = []
    for seed in range(8):
        train = split(0)
        np.random.default_rng(seed).shuffle(train.labels)
        figures.append(judge(train, train, test))
    for name in ("neighbors_top1", "sgd_head_top1"):
        assert np.mean([facts[name] for facts in figures]) == pytest.approx(0.25, abs=0.08), name


def test_test_labels_choose_nothing():
    train, val, test = split(0), split(1), split(4)
    before = judge(train, val, test)
    test.labels[:] = (test.labels + 1) % 4
    after = judge(train, val, test)
    assert after["sgd_head_base_learning_rate"] == before["sgd_head_base_learning_rate"]
    assert after["sgd_head_top1"] < 0.3
    assert after["few_shot_top1"] == pytest.approx(before["few_shot_top1"], abs=0.05)  # it has its labels from test
