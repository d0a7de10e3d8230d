"""Parameter groups and AdamW."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

BETA1 = 0.9


def _same_rate(name: str) -> float:
    return 1.0


def parameter_groups(
    network: nn.Module, weight_decay: float, rate_scale: Callable[[str], float] = _same_rate
) -> list[dict[str, Any]]:
    """Groups of trainable parameters with equal weight decay and equal share of the learning rate.

    Matrices and convolution kernels decay; biases, norms and other vectors don't (MAE, `util/lr_decay.py`).

    Args:
        network: whose parameters.
        weight_decay: of those with two dimensions or more.
        rate_scale: for a parameter's name, its factor on the learning rate (layer decay); the loop multiplies each
            step's rate by the group's `rate_scale`.
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decay, scale = (weight_decay if parameter.ndim >= 2 else 0.0), rate_scale(name)
            group = groups.setdefault(
                (decay, scale), {"params": [], "weight_decay": decay, "rate_scale": scale, "lr": 0.0}
            )
            group["params"].append(parameter)
    return list(groups.values())


def adamw(groups: list[dict[str, Any]], beta2: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) over parameter groups; the loop writes the learning rates."""
    return torch.optim.AdamW(groups, lr=0.0, betas=(BETA1, beta2), fused=True)
