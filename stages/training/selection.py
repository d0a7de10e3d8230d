"""How an arm's weights are selected: on the validation split of its own source, with the real one's choice beside it.

Somebody who trains on synthetic images alone has no real ones to select on; the oracle shows what that costs.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from stages.training.batches import Images
from stages.training.loop import Evaluate, FitResult, Plan
from stages.training.runtime import Runtime

OWN, REAL = "val_top1", "real_val_top1"
Labelled = tuple[Images, torch.Tensor]
"""Images uint8 (N, 3, H, W) and labels int64 (N,), on the device."""


def scorer(
    validation: Mapping[str, Labelled], prepare: Callable[[torch.Tensor], torch.Tensor], plan: Plan, runtime: Runtime
) -> Evaluate:
    """Top-1 on each entry of `validation`, in parts of about the size of a micro-batch.

    `prepare` makes the network's input of images uint8 (B, 3, H, W).
    """

    def evaluate(network: nn.Module, step: int) -> dict[str, float]:
        scores = {}
        for key, (images, labels) in validation.items():
            size = -(-len(labels) // -(-len(labels) // plan.micro_batch_size))
            with runtime.autocast(plan.precision):
                parts = (prepare(images[start : start + size]) for start in range(0, len(labels), size))
                predicted = torch.cat([network(part).argmax(1) for part in parts])
            scores[key] = (predicted == labels).double().mean().item()
        return scores

    return evaluate


def figures(result: FitResult) -> dict[str, Any]:
    """The metrics of an arm's training; every score is of validation images."""
    scores = {row["step"]: row for row in result.history if OWN in row}
    chosen, oracle = (scores[result.best[key].step] for key in (OWN, REAL))
    last = result.history[-1]
    return {
        "best_step": chosen["step"],
        OWN: chosen[OWN],
        REAL: chosen[REAL],
        "oracle": {"best_step": oracle["step"], OWN: oracle[OWN], REAL: oracle[REAL]},
        "final_train_loss": last["loss"],
        "num_steps": last["step"],
    }
