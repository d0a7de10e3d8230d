import math

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from stages.evaluation import feature_analysis


def random_features(count=40, dimensions=6):
    return np.random.default_rng(0).normal(size=(count, dimensions)) @ np.random.default_rng(1).normal(
        size=(dimensions, dimensions)
    )


def unit(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def test_sparsity_counts_what_is_switched_off():
    assert feature_analysis.sparsity(np.array([[0.0, 2e-5, -1], [9e-6, -9e-6, 3]])) == 0.5


def test_intra_class_distance_against_scipy():
    features, labels = unit(random_features()), np.arange(40) % 3
    expected = np.mean([pdist(features[labels == name]).mean() for name in range(3)])
    assert feature_analysis.intra_class_distance(features, labels) == pytest.approx(expected, rel=1e-10)


def test_intra_class_distance_by_hand():
    square = np.array([[1.0, 0], [0, 1], [-1, 0], [1, 0], [1, 0], [0, 1]])
    labels = np.array([0, 0, 0, 1, 1, 2])  # 0: pairs at sqrt 2, sqrt 2 and 2; 1: a pair at 0; 2: no pair
    assert feature_analysis.intra_class_distance(square, labels) == pytest.approx((2 * math.sqrt(2) + 2) / 3 / 2)
    assert feature_analysis.intra_class_distance(square[:1], labels[:1]) == 0


def test_redundancy_is_the_mean_absolute_correlation():
    features = random_features()
    assert feature_analysis.redundancy(features) == pytest.approx(np.abs(np.corrcoef(features.T)).mean(), rel=1e-10)
    copies = np.repeat(features[:, :1], 4, axis=1) * [1, -2, 3, 1] + 5
    assert feature_analysis.redundancy(copies) == pytest.approx(1)
    independent = np.eye(8)[np.random.default_rng(0).integers(8, size=2000)][:, :1] * np.array([1.0, 0])
    assert feature_analysis.redundancy(independent) == pytest.approx(1 / 4)  # a constant dimension has no correlation


@pytest.mark.parametrize("shape", [(40, 6), (6, 40)])
def test_coding_length_is_the_log_determinant(shape):
    features = unit(np.random.default_rng(0).normal(size=shape))
    count, dimensions = shape
    matrix = np.eye(dimensions) + dimensions / (count * 0.25) * sum(np.outer(row, row) for row in features)
    expected = np.log(np.linalg.eigvalsh(matrix)).sum() / 2
    assert feature_analysis.coding_length(features) == pytest.approx(expected, rel=1e-10)


def test_coding_length_is_largest_where_directions_are_used_evenly():
    even = np.tile(np.eye(4), (5, 1))
    collapsed = np.tile(np.eye(4)[:1], (20, 1))
    assert feature_analysis.coding_length(even) == pytest.approx(4 / 2 * math.log(1 + 1 / 0.25))
    assert feature_analysis.coding_length(collapsed) == pytest.approx(math.log(1 + 4 / 0.25) / 2)


def test_order_of_images_and_rotation_of_lengths_do_not_matter():
    features, labels = random_features(), np.arange(40) % 3
    order = np.random.default_rng(3).permutation(40)
    expected = feature_analysis.analyze(features, labels)
    again = feature_analysis.analyze(features[order], labels[order])
    assert again == pytest.approx(expected)
    scaled = feature_analysis.analyze(features * 100, labels)
    assert scaled == pytest.approx(expected)
    assert set(expected) == {"sparsity", "intra_class_distance", "redundancy", "coding_length"}
