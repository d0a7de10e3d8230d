import math

import pytest

from stages.training.schedule import warmup_cosine


def test_values():
    rate = warmup_cosine(peak=1.0, minimum=0.1, warmup_steps=4, num_steps=15)
    assert [rate(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rate(9) == pytest.approx(0.55)  # half way between peak and minimum, half way through the decay
    assert rate(14) == pytest.approx(0.1)
    for step in range(4, 15):
        assert rate(step) == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * (step - 4) / 10)))


def test_without_warmup_it_starts_at_the_peak():
    assert warmup_cosine(2.0, 0.0, 0, 10)(0) == 2.0


@pytest.mark.parametrize(("warmup_steps", "num_steps"), [(0, 1), (1, 2), (9, 10), (50, 300)])
def test_rises_then_falls_within_its_bounds(warmup_steps, num_steps):
    rate = warmup_cosine(3.0, 0.5, warmup_steps, num_steps)
    rates = [rate(step) for step in range(num_steps)]
    assert rates[:warmup_steps] == sorted(rates[:warmup_steps])
    assert rates[warmup_steps:] == sorted(rates[warmup_steps:], reverse=True)
    assert max(rates) == 3.0
    assert all(r > 0 for r in rates)
