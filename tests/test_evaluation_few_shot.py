import math

import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid

from stages.artifacts import BadInput
from stages.evaluation.few_shot import draw_episodes, few_shot_accuracy
from stages.probe_sections import FewShot

SETTINGS = FewShot(num_ways=3, num_shots=2, num_queries=4, num_episodes=120)


def features_of(labels, spread=1.5):
    """Clouds around one centre per class."""
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(labels.max() + 1, 8))
    return (centres[labels] + spread * rng.normal(size=(len(labels), 8))).astype(np.float32)


LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(6), [6, 7, 5, 20, 9, 30]))


def test_episodes_hold_distinct_images_of_distinct_classes():
    episodes = draw_episodes(LABELS, SETTINGS, seed=0)
    assert episodes.shape == (120, 3, 6)
    for episode in episodes:
        assert len(np.unique(episode)) == 18
        classes = LABELS[episode]
        assert (classes == classes[:, :1]).all()
        assert len(set(classes[:, 0])) == 3
    assert set(LABELS[episodes].ravel()) == {0, 1, 3, 4, 5}  # class 2 has five images, too few


def test_classes_and_images_are_drawn_evenly():
    labels = np.repeat(np.arange(4), 8)
    settings = FewShot(num_ways=2, num_shots=1, num_queries=1, num_episodes=4000)
    episodes = draw_episodes(labels, settings, seed=0)
    drawn = np.bincount(episodes[:, :, 0].ravel(), minlength=32)  # 8,000 supports over 32 images: 250 +- 16
    assert drawn.min() > 180
    assert drawn.max() < 320


def test_scikit_learns_nearest_centroid_episode_by_episode():
    features = features_of(LABELS)
    hits = []
    for episode in draw_episodes(LABELS, SETTINGS, seed=3):
        support, queries = episode[:, :2], episode[:, 2:]
        reference = NearestCentroid().fit(features[support.ravel()].astype(np.float64), np.repeat(np.arange(3), 2))
        hits.append(np.mean(reference.predict(features[queries.ravel()]) == np.repeat(np.arange(3), 4)))
    accuracy = few_shot_accuracy(features, LABELS, SETTINGS, seed=3)
    assert 0.5 < accuracy.mean < 0.95
    assert accuracy.mean == pytest.approx(np.mean(hits), abs=1e-12)
    assert accuracy.half_width == pytest.approx(1.96 * np.std(hits) / math.sqrt(120), abs=1e-12)


def test_seed_and_limits():
    features = features_of(LABELS)
    assert few_shot_accuracy(features, LABELS, SETTINGS, 0) == few_shot_accuracy(features, LABELS, SETTINGS, 0)
    assert few_shot_accuracy(features, LABELS, SETTINGS, 0) != few_shot_accuracy(features, LABELS, SETTINGS, 1)
    perfect = few_shot_accuracy(features_of(LABELS, spread=0), LABELS, SETTINGS, 0)
    assert (perfect.mean, perfect.half_width) == (1, 0)
    noise = few_shot_accuracy(np.random.default_rng(0).normal(size=(len(LABELS), 8)), LABELS, SETTINGS, 0)
    assert abs(noise.mean - 1 / 3) < 2 * noise.half_width


def test_too_few_images_are_told():
    with pytest.raises(BadInput, match="takes 3 classes of 6 images each, but only 0 of 2 classes"):
        draw_episodes(np.array([0, 0, 1, 1]), SETTINGS, seed=0)
