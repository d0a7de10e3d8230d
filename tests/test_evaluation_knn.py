import math

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from stages.evaluation import knn


def clouds(count=120, num_classes=4, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_classes, size=count)
    centres = np.random.default_rng(9).normal(size=(num_classes, 6))
    return (centres[labels] + rng.normal(size=(count, 6))).astype(np.float32), labels


@pytest.mark.parametrize("num_neighbors", [1, 5, 20])
def test_equal_weights_are_scikit_learns_classifier(num_neighbors):
    train, labels = clouds()
    queries, _ = clouds(count=3000, seed=1)  # more than one block
    reference = KNeighborsClassifier(num_neighbors, metric="cosine", algorithm="brute").fit(train, labels)
    votes = knn.class_votes(train, labels, queries, 4, num_neighbors, math.inf)
    assert (votes.argmax(1) == reference.predict(queries)).all()
    assert np.allclose(votes.sum(1), num_neighbors)


def test_weighted_votes_are_the_formula_of_the_paper():
    train, labels = clouds()
    queries, _ = clouds(count=40, seed=1)
    votes = knn.class_votes(train, labels, queries, 4, 20, 0.07)
    unit = [row / math.sqrt(sum(float(x) ** 2 for x in row)) for row in train]
    for query, given in zip(queries, votes, strict=True):
        query = query / np.linalg.norm(query)
        similarities = [float(query @ row) for row in unit]
        nearest = sorted(range(len(train)), key=lambda i: -similarities[i])[:20]
        expected = np.zeros(4)
        for i in nearest:
            expected[labels[i]] += math.exp(similarities[i] / 0.07)
        assert np.allclose(given / given.sum(), expected / expected.sum(), rtol=1e-4)


def test_scikit_learn_agrees_on_the_weighted_vote():
    train, labels = clouds()
    queries, _ = clouds(count=500, seed=1)
    reference = KNeighborsClassifier(
        20, metric="cosine", algorithm="brute", weights=lambda distances: np.exp((1 - distances) / 0.07)
    ).fit(train, labels)
    assert (knn.class_votes(train, labels, queries, 4, 20, 0.07).argmax(1) == reference.predict(queries)).all()


def test_length_does_not_matter_and_order_follows():
    train, labels = clouds()
    queries, _ = clouds(count=50, seed=1)
    votes = knn.class_votes(train, labels, queries, 4, 5, 0.07)
    order = np.random.default_rng(2).permutation(len(train))
    again = knn.class_votes(train[order] * 8, labels[order], queries[::-1] / 4, 4, 5, 0.07)
    assert np.allclose(again[::-1], votes, rtol=1e-5)


def test_an_image_finds_itself_however_cold_the_temperature():
    train, labels = clouds()
    votes = knn.class_votes(train, labels, train, 5, 20, 1e-4)
    assert (votes.argmax(1) == labels).all()
    assert np.isfinite(votes).all()
    assert not votes[:, 4].any()  # a class without train images


def test_fewer_train_images_than_neighbors_and_features_of_zeros():
    train = np.array([[1, 0], [0, 1], [0, 0]], np.float32)
    votes = knn.class_votes(train, np.array([0, 1, 1]), np.array([[2, 1], [0, 0]], np.float32), 2, 20, math.inf)
    assert votes.tolist() == [[1, 2], [1, 2]]


def test_the_number_of_queries_at_a_time_changes_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    train, queries = (rng.normal(size=(count, 5)).astype(np.float32) for count in (40, 23))
    labels = rng.integers(0, 3, 40)
    whole = knn.class_votes(train, labels, queries, 3, 4, 0.1)
    monkeypatch.setattr(knn, "PAIRS_AT_A_TIME", 200)
    np.testing.assert_allclose(knn.class_votes(train, labels, queries, 3, 4, 0.1), whole, rtol=1e-5)
