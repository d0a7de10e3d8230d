import numpy as np
import pytest
import torch

from stages.artifacts import BadInput
from stages.evaluation.frechet import frechet_distance
from stages.evaluation.prdc import nearest, prdc
from stages.evaluation.scores import confusion
from stages.evaluation.set_quality import (
    Drawn,
    Embedded,
    compare,
    diversity,
    draw_equally,
    per_class_rows,
    recognizability,
)
from stages.evaluation.vendi import vendi_score


def labelled(*counts, seed=0):
    """So many images of each class, in any order."""
    return torch.from_numpy(np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts)))


def embedded(*counts, seed=0):
    """Features around another place for each class."""
    labels = labelled(*counts, seed=seed)
    return Embedded(
        torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(seed)) + 3 * labels[:, None], labels
    )


def classified(*counts, seed=0):
    """Labels, and classes that they are taken for: every third image for class 0."""
    labels = labelled(*counts, seed=seed).numpy()
    return labels, np.where(np.arange(len(labels)) % 3 == 0, 0, labels)


def test_every_set_gives_as_many_of_a_class():
    sets = {"a": labelled(30, 9, 12), "b": labelled(14, 30, 30, seed=1)}
    drawn = draw_equally(sets, 3, 10, seed=0)
    for name, positions in drawn.items():
        assert sets[name][positions].bincount().tolist() == [10, 9, 10]
        assert len(set(positions.tolist())) == len(positions)
    again, other = draw_equally(sets, 3, 10, seed=0), draw_equally(sets, 3, 10, seed=1)
    assert all(torch.equal(drawn[name], again[name]) for name in sets)
    assert not any(torch.equal(drawn[name], other[name]) for name in sets)


def test_more_images_per_class_keep_those_of_fewer():
    sets = {"a": labelled(30, 30)}
    few, many = (set(draw_equally(sets, 2, count, seed=0)["a"].tolist()) for count in (5, 20))
    assert few < many


def test_recognizability_is_accuracy_and_diversity_leaves_classes_apart():
    (labels, predicted), own = classified(30, 20), embedded(30, 20)
    share = recognizability(confusion(labels, predicted, 2))
    assert share == pytest.approx((predicted == labels).mean())
    assert 0 < share < recognizability(confusion(labels[labels == 0], predicted[labels == 0], 2)) == 1
    expected = np.mean([own.features[own.labels == c].numpy().std(axis=0).mean() for c in (0, 1)])
    assert diversity(own) == pytest.approx(expected, rel=1e-5)
    moved = Embedded(own.features + 100 * own.labels[:, None], own.labels)
    assert diversity(moved) == pytest.approx(diversity(own), rel=1e-4)
    assert diversity(Embedded(own.features[:1], own.labels[:1])) == 0


@pytest.mark.parametrize("batch_size", [1, 7, 50])
def test_what_was_drawn_is_kept_of_what_passes(batch_size):
    features = torch.arange(100.0).view(50, 2)
    rows = torch.tensor([49, 0, 13, 14, 6, 7])
    drawn = Drawn(rows)
    passed = list(drawn.passing(features.split(batch_size)))
    assert torch.equal(torch.cat(passed), features)
    assert torch.equal(drawn.features(), features[rows])


def test_the_figures_of_a_set_are_those_of_its_features():
    reference, candidates, train = embedded(20, 20), embedded(20, 20, seed=1), embedded(50, 50, seed=2)
    near, _ = nearest(candidates.features, [train.features])
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
    few = embedded(3, 2)
    with pytest.raises(BadInput, match=r"audit_synthetic.num_neighbors: 5 neighbours need more than 5 images a set"):
        compare(few, few, torch.zeros(5), 5)


def test_the_table_has_every_sets_figures_per_class():
    taken = {"synthetic": classified(30, 20), "real_test": classified(15, 25, seed=1)}
    whole = {name: confusion(*both, 2) for name, both in taken.items()}
    parts = {"synthetic": embedded(10, 10), "real_test": embedded(10, 10, seed=1)}
    rows = per_class_rows(whole, parts, ("cat", "dog"))
    assert [row["class"] for row in rows] == ["cat", "dog"]
    labels, predicted = taken["real_test"]
    assert rows[1]["real_test_recognizability"] == (predicted == labels)[labels == 1].mean()
    part = parts["synthetic"]
    assert rows[0]["synthetic_vendi"] == vendi_score(part.features[part.labels == 0])
    assert np.mean([row["synthetic_diversity"] for row in rows]) == pytest.approx(diversity(part))
