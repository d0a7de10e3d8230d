"""Two gloo processes learn what one does, in float64."""

import pytest
import torch
from torch import nn

from stages.networks.batchnorm import GroupBatchNorm2d, track
from stages.training import checkpoint
from stages.training.batches import EpochOrder, LabelledBatches
from stages.training.loop import Plan, fit
from stages.training.objectives import cross_entropy
from stages.training.optimizer import adamw, parameter_groups
from stages.training.runtime import open_runtime
from stages.training.schedule import warmup_cosine
from tests.two_processes import run_in_two

STEPS, BATCH, GROUP = 6, 16, 4


def train(folder, micro_batch_size, state):
    """Trains a small network; saves loss curve, weights, and the last step's gradients (DDP's means)."""
    runtime = open_runtime(0)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), GroupBatchNorm2d(4, GROUP), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ).double()
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (24, 3, 6, 6), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 3, (24,), generator=generator)
    order = EpochOrder(len(labels), BATCH, 0)
    batches = LabelledBatches(images, labels, order, lambda images, step, positions: images.double() / 255)
    optimizer = adamw(parameter_groups(network, 0.1), 0.9)
    track(network, optimizer)
    schedule = warmup_cosine(0.01, 0.0, 1, STEPS)
    plan = Plan(STEPS, BATCH, micro_batch_size, schedule, 2, "float32", 1.0, 0.0, ("score",))
    result = fit(network, cross_entropy(0.1), batches, optimizer, plan, runtime, state, lambda n, s: {"score": s})
    gradients = {name: p.grad for name, p in network.named_parameters()}
    kept = {"history": result.history, "weights": network.state_dict(), "gradients": gradients}
    torch.save(kept, folder / f"trained-{runtime.rank}-of-{runtime.num_processes}.pt")


def gather(folder):
    """The gradient of sum over ranks of mean_i sum_j <x_i, x_j>^2 / ranks, rows i this rank's, j everybody's."""
    runtime = open_runtime(0)
    rows = torch.arange(12, dtype=torch.float64).reshape(6, 2).sin().chunk(runtime.num_processes)[runtime.rank]
    rows = rows.clone().requires_grad_()
    loss = ((rows @ runtime.gather(rows).T) ** 2).sum(1).mean()
    loss.backward()
    kept = {"loss": runtime.mean(loss), "gradient": rows.grad / runtime.num_processes}
    torch.save(kept, folder / f"gathered-{runtime.rank}-of-{runtime.num_processes}.pt")


def learn(folder, micro_batch_size):
    train(folder, micro_batch_size, folder / "state")
    gather(folder)


def child(rank, folder):
    learn(folder, GROUP)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What one process and two leave behind: one takes whole batches, two take theirs in two micro-batches each."""
    folder, alone = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")
    run_in_two(child, folder)
    learn(alone, BATCH)
    for file in alone.glob("*.pt"):
        file.rename(folder / file.name)
    return folder


def test_two_processes_learn_what_one_does(folder):
    first, second, alone = (torch.load(folder / f"trained-{name}.pt") for name in ("0-of-2", "1-of-2", "0-of-1"))
    assert first["history"] == second["history"]
    torch.testing.assert_close(first["weights"], second["weights"], rtol=0, atol=0)
    for result in (first, second):
        losses, expected = ([row["loss"] for row in r["history"]] for r in (result, alone))
        assert losses == pytest.approx(expected, abs=1e-12)
        torch.testing.assert_close(result["gradients"], alone["gradients"], rtol=0, atol=1e-12)
        torch.testing.assert_close(result["weights"], alone["weights"], rtol=0, atol=1e-12)
    assert checkpoint.load(folder / "state")["step"] == STEPS


def test_gather_has_the_gradient_of_the_mean_global_loss(folder):
    first, second, alone = (torch.load(folder / f"gathered-{name}.pt") for name in ("0-of-2", "1-of-2", "0-of-1"))
    for part in (first, second):
        torch.testing.assert_close(part["loss"], alone["loss"], rtol=0, atol=1e-12)
    gradient = torch.cat([first["gradient"], second["gradient"]])
    torch.testing.assert_close(gradient, alone["gradient"], rtol=0, atol=1e-12)
    assert alone["gradient"].abs().min() > 1e-3
