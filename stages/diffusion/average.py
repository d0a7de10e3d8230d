"""Exponential moving average of weights, kept in the optimizer's state so that it is checkpointed with it."""

from typing import Any

import torch
from torch import nn

KEY = "average"


def track_average(optimizer: torch.optim.Optimizer, decay: float) -> None:
    """Averages every parameter after each optimizer step.

    The decay rises as (1 + t) / (10 + t) to `decay`, so that the initial weights are soon forgotten (as in diffusers'
    `EMAModel`).
    """

    def update(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p in optimizer.state]
        step = int(optimizer.state[parameters[0]]["step"])
        if step == 1:
            for parameter in parameters:
                optimizer.state[parameter][KEY] = parameter.detach().clone()
        averages = [optimizer.state[parameter][KEY] for parameter in parameters]
        weight = 1 - min(decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(averages, [parameter.detach() for parameter in parameters], weight)

    optimizer.register_step_post_hook(update)


@torch.no_grad()
def load_average(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Puts the averaged weights into the network; a parameter that was never trained keeps its own."""
    for parameter in network.parameters():
        if KEY in optimizer.state.get(parameter, {}):
            parameter.copy_(optimizer.state[parameter][KEY])
