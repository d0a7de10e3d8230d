"""Temperature scaling finds the temperature that was planted, and the minimum that a search finds."""

import numpy as np
import pytest

from stages.evaluation import scores
from stages.evaluation.calibration import fit_temperature


def drawn(temperature, count=20_000, seed=0):
    """Logits, and labels drawn from the softmax of logits / temperature."""
    rng = np.random.default_rng(seed)
    logits = np.stack([np.zeros(count), rng.normal(0, 4, count)], 1).astype(np.float32)
    sure = 1 / (1 + np.exp(-logits[:, 1].astype(np.float64) / temperature))
    return (rng.random(count) < sure).astype(np.int64), logits


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_planted_temperature_is_found(temperature):
    labels, logits = drawn(temperature)
    found = fit_temperature(labels, logits)
    assert found == pytest.approx(temperature, rel=0.04)
    before = scores.expected_calibration_error(labels, logits, 15)
    after = scores.expected_calibration_error(labels, (logits / found).astype(np.float32), 15)
    assert after < 0.015
    assert after < before or temperature == 1.0


def test_no_temperature_of_a_grid_is_likelier():
    labels, logits = drawn(2.0, count=300)

    def loss(temperature):
        odds = logits[:, 1] / temperature * np.where(labels == 1, 1, -1)
        return np.logaddexp(0, -odds.astype(np.float64)).mean()

    found = fit_temperature(labels, logits)
    assert loss(found) <= min(loss(t) for t in np.geomspace(0.05, 20, 2000)) + 1e-9


def test_it_never_runs_away():
    labels, _ = drawn(1.0, count=50)
    right = np.where(labels == 1, 5, -5).astype(np.float32)
    perfect = np.stack([np.zeros(50), right], 1).astype(np.float32)
    assert 0.05 <= fit_temperature(labels, perfect) < 0.2
    assert 10 < fit_temperature(labels, -perfect) <= 20
