"""How an arm's weights are selected: on the validation split of its own source, with the real one's choice beside it.

Somebody who trains on synthetic images alone has no real ones to select on; the oracle shows what that costs.
"""

from typing import Any

import torch
from torch import nn

from stages.training.loop import Evaluate, FitResult, Plan
from stages.training.runtime import Runtime

OWN, REAL = "val_top1", "real_val_top1"
Labelled = tuple[torch.Tensor, torch.Tensor]
"""A network's input (N, 3, H, W) and labels int64 (N,), on the device."""


def scorer(validation: dict[str, Labelled], plan: Plan, runtime: Runtime) -> Evaluate:
    """Top-1 on each entry of `validation`, in parts of about the size of a micro-batch."""
    prepared = {
        key: (images.chunk(-(-len(labels) // plan.micro_batch_size)), labels)
        for key, (images, labels) in validation.items()
    }

    def evaluate(network: nn.Module, step: int) -> dict[str, float]:
        scores = {}
        for key, (parts, labels) in prepared.items():
            with runtime.autocast(plan.precision):
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
