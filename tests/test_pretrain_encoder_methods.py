"""What every pretraining method owes: the same weights after a stop, and from two processes."""

import subprocess
import sys

import pytest
import torch

from stages.training.runtime import open_runtime
from tests.closure import ROOT
from tests.rivals import METHODS, NUM_STEPS, train


@pytest.mark.parametrize("method", METHODS)
def test_a_stop_at_any_step_changes_no_bit(method, tmp_path):
    def run(name, stop_at=None, seed=0):
        torch.manual_seed(seed)
        (tmp_path / name).mkdir(exist_ok=True)
        return train(method, open_runtime(seed), tmp_path / name, stop_at)

    expected, losses, _ = run("whole")
    assert len(set(losses)) == NUM_STEPS
    for stop_at in range(1, NUM_STEPS):
        with pytest.raises(KeyboardInterrupt):
            run(f"stopped-{stop_at}", stop_at)
        weights, again, _ = run(f"stopped-{stop_at}", seed=1)  # other initial heads: all must come from the checkpoint
        assert again == losses
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


def test_two_processes_have_the_loss_and_the_gradients_of_one(tmp_path):
    command = [sys.executable, "-m", "tests.rivals", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    for method in METHODS:
        torch.manual_seed(0)
        state = tmp_path / f"{method}-alone"
        state.mkdir()
        _, losses, gradients = train(method, open_runtime(0), state, double=True)
        assert sum(float(gradient.abs().sum()) for gradient in gradients.values()) > 1e-2
        (one, *_), (other, *_) = shares = [torch.load(tmp_path / f"{method}-{rank}.pt") for rank in range(2)]
        for _, shared_losses, shared_gradients in shares:
            assert shared_losses[0] == pytest.approx(losses[0], abs=1e-12)
            # Later steps: what has no gradient but rounding (a bias before a batch norm) Adam blows up.
            assert shared_losses == pytest.approx(losses, abs=1e-6)
            assert shared_gradients.keys() == gradients.keys()
            for name, gradient in gradients.items():
                # Gradients reach 30 here: their last bits depend on the order of summation.
                assert torch.allclose(shared_gradients[name], gradient, rtol=1e-10, atol=1e-12), f"{method}: {name}"
        assert all(torch.equal(one[name], other[name]) for name in one)  # targets and centers too
