"""Two gloo processes learn what one does, in float64."""

import os
import socket
from pathlib import Path

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
    result = fit(network, cross_entropy(0.1), batches, optimizer, plan, runtime, Path(state), lambda n, s: {"score": s})
    gradients = {name: p.grad for name, p in network.named_parameters()}
    kept = {"history": result.history, "weights": network.state_dict(), "gradients": gradients}
    torch.save(kept, Path(folder) / f"{runtime.rank}-of-{runtime.num_processes}.pt")


def gather(folder):
    """The gradient of sum over ranks of mean_i sum_j <x_i, x_j>^2 / ranks, rows i this rank's, j everybody's."""
    runtime = open_runtime(0)
    rows = torch.arange(12, dtype=torch.float64).reshape(6, 2).sin().chunk(runtime.num_processes)[runtime.rank]
    rows = rows.clone().requires_grad_()
    loss = ((rows @ runtime.gather(rows).T) ** 2).sum(1).mean()
    loss.backward()
    kept = {"loss": runtime.mean(loss), "gradient": rows.grad / runtime.num_processes}
    torch.save(kept, Path(folder) / f"{runtime.rank}-of-{runtime.num_processes}.pt")


def child(rank, port, function, arguments):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    function(*arguments)
    torch.distributed.destroy_process_group()


def on_two_processes(function, *arguments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(child, (port, function, arguments), nprocs=2)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    train(folder, BATCH, folder / "state")
    return torch.load(folder / "0-of-1.pt")


@pytest.mark.parametrize("micro_batch_size", [BATCH, GROUP])
def test_two_processes_learn_what_one_does(tmp_path, alone, micro_batch_size):
    on_two_processes(train, tmp_path, micro_batch_size, tmp_path / "state")
    first, second = (torch.load(tmp_path / f"{rank}-of-2.pt") for rank in (0, 1))
    assert first["history"] == second["history"]
    torch.testing.assert_close(first["weights"], second["weights"], rtol=0, atol=0)
    for result in (first, second):
        losses, expected = ([row["loss"] for row in r["history"]] for r in (result, alone))
        assert losses == pytest.approx(expected, abs=1e-12)
        torch.testing.assert_close(result["gradients"], alone["gradients"], rtol=0, atol=1e-12)
        torch.testing.assert_close(result["weights"], alone["weights"], rtol=0, atol=1e-12)
    assert checkpoint.load(tmp_path / "state")["step"] == STEPS


def test_gather_has_the_gradient_of_the_mean_global_loss(tmp_path):
    gather(tmp_path)
    on_two_processes(gather, tmp_path)
    one = torch.load(tmp_path / "0-of-1.pt")
    parts = [torch.load(tmp_path / f"{rank}-of-2.pt") for rank in (0, 1)]
    for part in parts:
        torch.testing.assert_close(part["loss"], one["loss"], rtol=0, atol=1e-12)
    gradient = torch.cat([part["gradient"] for part in parts])
    torch.testing.assert_close(gradient, one["gradient"], rtol=0, atol=1e-12)
    assert one["gradient"].abs().min() > 1e-3
