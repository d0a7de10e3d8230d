import numpy as np
import pytest
import torch
from scipy import linalg
from scipy.stats import entropy

from stages.evaluation.vendi import vendi_score


def draw(count, dimensions, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32))


@pytest.mark.parametrize(("count", "dimensions"), [(30, 5), (5, 30), (12, 12)])
def test_equals_the_entropy_of_the_kernels_spectrum(count, dimensions):
    """On K of n x n always, so that the dual form is held to it."""
    features = draw(count, dimensions)
    unit = features.double().numpy() / np.linalg.norm(features.double().numpy(), axis=1, keepdims=True)
    eigenvalues = linalg.eigvals(unit @ unit.T / count).real
    expected = np.exp(entropy(np.clip(eigenvalues, 0, None)))
    assert 1 < expected < min(count, dimensions)
    assert vendi_score(features) == pytest.approx(expected)


def test_counts_what_is_unlike():
    three = torch.eye(3)
    assert vendi_score(three) == pytest.approx(3)
    assert vendi_score(three.repeat(4, 2)) == pytest.approx(3), "four times each, in more dimensions"
    assert vendi_score(torch.ones(7, 2)) == pytest.approx(1)
    assert vendi_score(draw(1, 9)) == pytest.approx(1)
    uneven = torch.eye(2)[[0, 0, 0, 1]]
    assert vendi_score(uneven) == pytest.approx(np.exp(entropy([0.75, 0.25])))


def test_only_directions_count():
    features = draw(20, 6)
    lengths = torch.linspace(0.1, 50, 20)[:, None]
    assert vendi_score(features * lengths) == pytest.approx(vendi_score(features), rel=1e-5)
    rotation = torch.linalg.qr(draw(6, 6, seed=1)).Q
    assert vendi_score(features @ rotation) == pytest.approx(vendi_score(features), rel=1e-5)
    assert vendi_score(features[torch.randperm(20)]) == pytest.approx(vendi_score(features))


def test_a_row_of_zeros_is_no_nan():
    assert np.isfinite(vendi_score(torch.cat([torch.zeros(1, 4), draw(5, 4)])))
    assert np.isfinite(vendi_score(torch.zeros(3, 4)))
