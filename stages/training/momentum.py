"""Targets that follow what learns, as an exponential moving average of its weights."""

import math
from collections.abc import Callable

import torch
from torch import nn


def momentum_to_one(start: float, num_steps: int) -> Callable[[int], float]:
    """From `start` by half a cosine to 1 at the end of training (BYOL, section 3.3; MoCo v3 and DINO as well).

    Returns:
        The momentum of a step in [0, num_steps).
    """
    return lambda step: 1 - (1 - start) * (1 + math.cos(math.pi * step / num_steps)) / 2


def follow(
    target: nn.Module, online: nn.Module, optimizer: torch.optim.Optimizer, momentum: Callable[[int], float]
) -> None:
    """Has every step of `optimizer` end with target = m * target + (1 - m) * online, parameter by parameter.

    Buffers are left alone: batch norms of a target in training use their batch's statistics. The target's weights
    belong to the trained network's state, and the step is the optimizer's own count, so there is nothing else to save.
    """
    followers: list[torch.Tensor] = list(target.parameters())
    leaders: list[torch.Tensor] = list(online.parameters())

    @torch.no_grad()
    def update(optimizer: torch.optim.Optimizer, *_: object) -> None:
        torch._foreach_lerp_(followers, leaders, 1 - momentum(steps_done(optimizer) - 1))

    optimizer.register_step_post_hook(update)


def steps_done(optimizer: torch.optim.Optimizer) -> int:
    """How many steps an AdamW has taken, those before a checkpoint included; its first parameter must learn in all."""
    first = optimizer.state.get(optimizer.param_groups[0]["params"][0])
    return int(first["step"]) if first else 0


def other_view(positions: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Where the same image's other view stands in a view-major batch of two views; same shape as `positions`."""
    return (positions + batch_size // 2) % batch_size
