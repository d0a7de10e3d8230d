"""What every pretraining method owes: the same weights after a stop, in parts, and from two processes."""

import subprocess
import sys

import pytest
import torch

from stages.training.runtime import open_runtime
from tests.closure import ROOT
from tests.rivals import CASES, METHODS, NUM_STEPS, SHARED, make_source, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rivals")
    make_source(folder / "source")
    return folder


@pytest.fixture(scope="module")
def alone(folder):
    """Every case in one process, in float64."""
    trained = {}
    for case in CASES:
        torch.manual_seed(0)
        state = folder / f"{case} alone"
        state.mkdir()
        trained[case] = train(case, folder / "source", open_runtime(0), state, double=True)
    return trained


@pytest.mark.parametrize("case", [*METHODS, "stablerep with options", "dino with options", "stablerep+ in parts"])
def test_a_stop_at_any_step_changes_no_bit(case, folder, tmp_path):
    def run(name, stop_at=None, seed=0):
        torch.manual_seed(seed)
        (tmp_path / name).mkdir(exist_ok=True)
        return train(case, folder / "source", open_runtime(seed), tmp_path / name, stop_at)

    expected = run("whole")
    assert len(set(expected.losses)) == NUM_STEPS
    for stop_at in range(1, NUM_STEPS):
        with pytest.raises(KeyboardInterrupt):
            run(f"stopped-{stop_at}", stop_at)
        again = run(f"stopped-{stop_at}", seed=1)  # other initial heads: all must come from the checkpoint
        assert again.losses == expected.losses
        assert again.weights.keys() == expected.weights.keys()
        assert all(torch.equal(again.weights[name], tensor) for name, tensor in expected.weights.items())


def assert_same(found, expected, case):
    assert found["losses"][0] == pytest.approx(expected.losses[0], abs=1e-12)
    # Later steps: what has no gradient but rounding (a bias before a batch norm) Adam blows up.
    assert found["losses"] == pytest.approx(expected.losses, abs=1e-6)
    assert found["gradients"].keys() == expected.gradients.keys()
    for name, gradient in expected.gradients.items():
        # Gradients reach 30 here: their last bits depend on the order of summation.
        assert torch.allclose(found["gradients"][name], gradient, rtol=1e-10, atol=1e-12), f"{case}: {name}"


@pytest.mark.parametrize("method", METHODS)
def test_parts_have_the_loss_and_the_gradients_of_the_whole(method, alone):
    whole = alone[method]
    assert sum(float(gradient.abs().sum()) for gradient in whole.gradients.values()) > 1e-2
    assert_same(vars(alone[f"{method} in parts"]), whole, method)


def test_two_processes_have_the_loss_and_the_gradients_of_one(folder, alone):
    command = [sys.executable, "-m", "tests.rivals", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    for case in SHARED:
        expected = alone[case]
        assert sum(float(gradient.abs().sum()) for gradient in expected.gradients.values()) > 1e-2
        one, other = (torch.load(folder / f"{case} {rank}.pt") for rank in range(2))
        assert_same(one, expected, case)
        assert one["losses"] == other["losses"]
        # Targets, centers and averages too.
        assert all(torch.equal(one["weights"][name], other["weights"][name]) for name in one["weights"])
