import numpy as np
import pytest
import torch

from stages.artifacts import BadInput
from stages.evaluation.frechet import frechet_distance
from stages.evaluation.prdc import nearest, prdc
from stages.evaluation.set_quality import Judged, compare, diversity, draw_equally, per_class_rows, recognizability
from stages.evaluation.vendi import vendi_score


def judged(*counts, seed=0, dimensions=4):
    """Features around another place for each class; every third image is taken for class 0."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    features = rng.normal(size=(len(labels), dimensions)) + 3 * labels[:, None]
    predicted = np.where(np.arange(len(labels)) % 3 == 0, 0, labels)
    return Judged(*(torch.from_numpy(values) for values in (features.astype(np.float32), predicted, labels)))


def test_every_set_gives_as_many_of_a_class():
    sets = {"a": judged(30, 9, 12), "b": judged(14, 30, 30, seed=1)}
    drawn = draw_equally(sets, 3, 10, seed=0)
    for name, positions in drawn.items():
        assert sets[name].labels[positions].bincount().tolist() == [10, 9, 10]
        assert len(set(positions.tolist())) == len(positions)
    again, other = draw_equally(sets, 3, 10, seed=0), draw_equally(sets, 3, 10, seed=1)
    assert all(torch.equal(drawn[name], again[name]) for name in sets)
    assert not any(torch.equal(drawn[name], other[name]) for name in sets)


def test_more_images_per_class_keep_those_of_fewer():
    sets = {"a": judged(30, 30)}
    few, many = (set(draw_equally(sets, 2, count, seed=0)["a"].tolist()) for count in (5, 20))
    assert few < many


def test_recognizability_is_accuracy_and_diversity_leaves_classes_apart():
    own = judged(30, 20)
    assert recognizability(own) == pytest.approx((own.predicted == own.labels).double().mean().item())
    expected = np.mean([own.features[own.labels == c].numpy().std(axis=0).mean() for c in (0, 1)])
    assert diversity(own) == pytest.approx(expected, rel=1e-5)
    moved = Judged(own.features + 100 * own.labels[:, None], own.predicted, own.labels)
    assert diversity(moved) == pytest.approx(diversity(own), rel=1e-4)
    assert diversity(own[torch.tensor([0])]) == 0


def test_the_figures_of_a_set_are_those_of_its_features():
    reference, candidates, train = judged(20, 20), judged(20, 20, seed=1), judged(50, 50, seed=2)
    near, _ = nearest(candidates.features, train.features)
    found = compare(reference, candidates, near, 5)
    for key, value in prdc(reference.features, candidates.features, 5).items():
        assert found[key] == value
    assert found["frechet_distance"] == frechet_distance(reference.features, candidates.features)
    assert found["vendi"] == vendi_score(candidates.features)
    own = [vendi_score(candidates.features[candidates.labels == c]) for c in (0, 1)]
    assert found["vendi_per_class"] == pytest.approx(np.mean(own))
    assert found["distance_to_nearest_train"] == pytest.approx(
        {"minimum": near.min().item(), "percentile_5": np.quantile(near, 0.05), "median": np.median(near)}
    )


def test_too_many_neighbours_are_bad_input():
    few = judged(3, 2)
    with pytest.raises(BadInput, match=r"audit_synthetic.num_neighbors: 5 neighbours need more than 5 images a set"):
        compare(few, few, torch.zeros(5), 5)


def test_the_table_has_every_sets_figures_per_class():
    whole = {"synthetic": judged(30, 20), "real_test": judged(15, 25, seed=1)}
    parts = {name: own[draw_equally(whole, 2, 10, 0)[name]] for name, own in whole.items()}
    rows = per_class_rows(whole, parts, ("cat", "dog"))
    assert [row["class"] for row in rows] == ["cat", "dog"]
    own = whole["real_test"]
    assert rows[1]["real_test_recognizability"] == recognizability(own[own.labels == 1])
    part = parts["synthetic"]
    assert rows[0]["synthetic_vendi"] == vendi_score(part.features[part.labels == 0])
    assert np.mean([row["synthetic_diversity"] for row in rows]) == pytest.approx(diversity(part))
