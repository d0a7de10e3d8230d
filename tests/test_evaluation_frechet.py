import numpy as np
import pytest
import torch
from scipy import linalg
from torchmetrics.image.fid import FrechetInceptionDistance

from stages.evaluation.frechet import frechet_distance


def draw(count, dimensions, seed):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(dimensions, dimensions))
    return torch.from_numpy(rng.normal(size=(count, dimensions)) @ mixing + rng.normal(size=dimensions))


def by_scipy(first, second):
    """The formula as Heusel et al. 2017 have it, with scipy's matrix square root."""
    first, second = first.numpy(), second.numpy()
    covariances = [np.cov(features, rowvar=False) for features in (first, second)]
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    apart = np.square(first.mean(0) - second.mean(0)).sum()
    return apart + np.trace(covariances[0] + covariances[1] - 2 * root)


@pytest.mark.parametrize(("count", "other", "dimensions"), [(50, 80, 4), (200, 30, 12)])
def test_equals_the_formula_and_torchmetrics(count, other, dimensions):
    first, second = draw(count, dimensions, 0), draw(other, dimensions, 1)
    assert frechet_distance(first, second) == pytest.approx(by_scipy(first, second))
    features = torch.nn.Identity()
    features.num_features = dimensions
    metric = FrechetInceptionDistance(feature=features).set_dtype(torch.float64)
    metric.update(first, real=True)
    metric.update(second, real=False)
    assert frechet_distance(first, second) == pytest.approx(metric.compute().item())


def test_the_closed_form_on_a_line():
    """Of N(m, s^2): (m1 - m2)^2 + (s1 - s2)^2."""
    first, second = torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0], [11.0]])
    deviations = np.sqrt(2), np.sqrt(18)
    assert frechet_distance(first, second) == pytest.approx(49 + (deviations[0] - deviations[1]) ** 2)


def test_invariances():
    first, second = draw(60, 5, 0), draw(40, 5, 1)
    expected = frechet_distance(first, second)
    rotation = torch.linalg.qr(draw(5, 5, 2)).Q
    assert frechet_distance(second, first) == pytest.approx(expected)
    assert frechet_distance(first @ rotation + 3, second @ rotation + 3) == pytest.approx(expected)
    assert frechet_distance(3 * first, 3 * second) == pytest.approx(9 * expected)
    assert frechet_distance(first, first + 2) == pytest.approx(5 * 2**2)


def test_fewer_images_than_dimensions_and_constant_features():
    """Where the covariances are singular and scipy's root of their product is none."""
    first, second = draw(6, 20, 0), draw(9, 20, 1)
    first[:, 3], second[:, 3] = 1, 4
    roots = []
    for features in (first, second):
        values, vectors = np.linalg.eigh(np.cov(features.numpy(), rowvar=False))
        roots.append(vectors @ np.diag(np.sqrt(np.clip(values, 0, None))) @ vectors.T)
    shared = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum()
    apart = (first.mean(0) - second.mean(0)).square().sum().item()
    expected = apart + sum(np.square(root).sum() for root in roots) - 2 * shared
    assert frechet_distance(first, second) == pytest.approx(expected)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(first.float(), first.float()) >= 0
