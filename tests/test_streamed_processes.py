"""Two gloo processes over one streamed split: each reads the rows of its own share of every batch, and no others."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from stages.dataset import codec, tensors
from stages.dataset.shards import Row, write_shards
from stages.sections import Codec
from stages.training.batches import EpochOrder, LabelledBatches
from stages.training.loop import Plan, fit, split_rows
from stages.training.objectives import cross_entropy
from stages.training.optimizer import adamw, parameter_groups
from stages.training.prefetch import ReadAhead, read_ahead
from stages.training.runtime import open_runtime
from stages.training.schedule import warmup_cosine
from tests.two_processes import run_in_two

COUNT, STEPS, BATCH = 40, 3, 8


def encoded(i):
    pixels = np.random.default_rng(i).integers(0, 256, (6, 6, 3), np.uint8)
    return codec.encode(Image.fromarray(pixels), Codec(format="png", quality=None))


def learn(folder, micro_batch_size):
    """Trains from disk; saves the loss curve, the rows that were decoded, and those of this process's share."""
    runtime, decoded, decode = open_runtime(0), [], codec.decode

    def noted(content):
        decoded.append(content)
        return decode(content)

    tensors.MEMORY_BYTES = 0
    split = tensors.load_split(folder, "train")
    codec.decode = noted
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, 3)).double()
    order = EpochOrder(COUNT, BATCH, 0)
    batches = LabelledBatches(split.images, split.labels, order, lambda images, step, positions: images.double() / 255)
    ahead = read_ahead(batches, split.images, STEPS)
    assert isinstance(ahead, ReadAhead)
    plan = Plan(STEPS, BATCH, micro_batch_size, warmup_cosine(0.01, 0.0, 1, STEPS), 1, "float32", None, 1e9, ())
    optimizer = adamw(parameter_groups(network, 0.1), 0.9)
    state = folder / f"state-of-{runtime.num_processes}"
    result = fit(network, cross_entropy(0.0), ahead, optimizer, plan, runtime, state, None)
    codec.decode = decode
    rows = {encoded(i): i for i in range(COUNT)}
    share = [int(i) for step in range(STEPS) for part in split_rows(plan, runtime) for i in order(step, part)]
    kept = {"rows": sorted(rows[c] for c in decoded), "share": sorted(share), "history": result.history}
    torch.save(kept, folder / f"{runtime.rank}-of-{runtime.num_processes}.pt")


def child(rank, folder):
    learn(folder, 2)


def test_a_process_decodes_its_own_rows_alone(tmp_path, monkeypatch):
    write_shards(tmp_path, "train", (Row(encoded(i), f"{i}.png", i % 3) for i in range(COUNT)), "abc")
    run_in_two(child, tmp_path)
    monkeypatch.setattr(tensors, "MEMORY_BYTES", tensors.MEMORY_BYTES)  # `learn` sets it
    learn(tmp_path, BATCH)
    alone, *both = (torch.load(tmp_path / f"{name}.pt") for name in ("0-of-1", "0-of-2", "1-of-2"))
    for result in (alone, *both):
        assert result["rows"] == result["share"]
        assert [row["loss"] for row in result["history"]] == pytest.approx(
            [row["loss"] for row in alone["history"]], abs=1e-12
        )
    assert not {*both[0]["rows"]} & {*both[1]["rows"]}
    assert sorted(both[0]["rows"] + both[1]["rows"]) == alone["rows"]
    assert len(alone["rows"]) == STEPS * BATCH
