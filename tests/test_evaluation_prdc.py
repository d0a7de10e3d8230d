import numpy as np
import pytest
import torch
from sklearn.metrics import pairwise_distances

from stages.evaluation import prdc as module
from stages.evaluation.prdc import distances, nearest, prdc, radii


def draw(count, dimensions=3, seed=0, shift=0.0):
    return torch.from_numpy(np.random.default_rng(seed).normal(shift, 1, (count, dimensions)).astype(np.float32))


def reference_implementation(real, fake, k):
    """The formulas as they stand in Naeem et al. 2020, on the full distance matrices of scikit-learn."""
    real, fake = real.double().numpy(), fake.double().numpy()
    real_radii = np.sort(pairwise_distances(real), axis=1)[:, k]
    fake_radii = np.sort(pairwise_distances(fake), axis=1)[:, k]
    across = pairwise_distances(real, fake)
    n, m = across.shape
    return {
        "precision": np.mean([any(across[i, j] < real_radii[i] for i in range(n)) for j in range(m)]),
        "recall": np.mean([any(across[i, j] < fake_radii[j] for j in range(m)) for i in range(n)]),
        "density": sum(across[i, j] < real_radii[i] for i in range(n) for j in range(m)) / (k * m),
        "coverage": np.mean([min(across[i]) < real_radii[i] for i in range(n)]),
    }


@pytest.mark.parametrize(("count", "other", "k", "shift"), [(40, 40, 5, 1.5), (25, 60, 3, 1), (60, 25, 1, 1)])
def test_equals_the_reference_implementation(monkeypatch, count, other, k, shift):
    real, fake = draw(count), draw(other, seed=1, shift=shift)
    expected = reference_implementation(real, fake, k)
    assert 0 < expected["precision"] < 1
    assert 0 < expected["recall"] < 1
    assert prdc(real, fake, k) == pytest.approx(expected)
    monkeypatch.setattr(module, "ROWS_AT_A_TIME", 7)
    assert prdc(real, fake, k) == pytest.approx(expected)


def test_values_worked_out_by_hand():
    """On a line, k = 1: real balls (-1, 1), (0, 2), (0, 8); candidates 0.5, 9, 20 have balls of 8.5, 8.5 and 11."""
    real, fake = (torch.tensor(values)[:, None] for values in ([0.0, 1.0, 4.0], [0.5, 9.0, 20.0]))
    assert radii(real, 1).tolist() == [1, 1, 3]
    assert radii(fake, 1).tolist() == [8.5, 8.5, 11]
    assert prdc(real, fake, 1) == pytest.approx({"precision": 1 / 3, "recall": 1, "density": 2 / 3, "coverage": 2 / 3})


def test_a_copy_of_the_set_is_perfect_and_a_far_one_worthless():
    real = draw(50)
    copied = prdc(real, real.clone(), 5)
    # Each ball holds its own centre and the four nearest others: the fifth lies on its edge, which is out.
    assert copied == pytest.approx({"precision": 1, "recall": 1, "density": 1, "coverage": 1})
    assert prdc(real, real + 100, 5) == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


def test_one_image_many_times_is_precise_and_covers_little():
    real = draw(50)
    found = prdc(real, real[:1] + torch.linspace(0, 1e-3, 50)[:, None], 5)
    assert (found["precision"], found["recall"]) == (1, 0.02)
    assert found["coverage"] < 0.3


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="5 neighbours in sets of 9 and 5 images"):
        prdc(draw(9), draw(5), 5)


def test_the_nearest_and_how_far_it_is(monkeypatch):
    queries, reference = draw(30), draw(50, seed=1)
    queries[4] = reference[17]
    monkeypatch.setattr(module, "ROWS_AT_A_TIME", 7)
    apart, where = nearest(queries, torch.split(reference, 11))
    expected = pairwise_distances(queries.double().numpy(), reference.double().numpy())
    np.testing.assert_allclose(apart, expected.min(1), atol=1e-7)
    np.testing.assert_array_equal(where, expected.argmin(1))
    assert (apart[4], where[4]) == (0, 17)
    assert nearest(torch.zeros(1, 2), [torch.ones(3, 2), torch.ones(1, 2)])[1].tolist() == [0]


def test_distances_are_exact_where_the_product_formula_is_not():
    far = torch.full((1, 4), 1e6)
    assert distances(far, far + 0.25).item() == 0.5
    assert distances(far, far).item() == 0
