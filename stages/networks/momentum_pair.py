"""Copies of networks that follow what learns."""

import copy
from typing import Any

import torch
from torch import nn

from stages.networks.projection import ProjectedEncoder


class MomentumPair(nn.Module):
    """An online network under a predictor, and its target, which gets no gradient (BYOL, MoCo v3, DINO).

    Both are in one module, so that one checkpoint holds them. The target starts as a copy and is moved by
    `training.momentum.follow`.
    """

    def __init__(self, online: ProjectedEncoder, predictor: nn.Module) -> None:
        super().__init__()
        self.online = online
        self.predictor = predictor
        self.target = copy.deepcopy(online).requires_grad_(False)

    def forward(self, images: torch.Tensor, crops: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps images to the online network's predictions and the target's outputs.

        Args:
            images: (B, 3, H, W) in [-1, 1].
            crops: (B * k, 3, h, w), local crops, which the target does not see.

        Returns:
            Predictions (B, D), with crops (B + B * k, D), and targets (B, D).
        """
        predictions = self.predictor(self.online(images, crops))
        with torch.no_grad():
            targets = self.target(images)
        return predictions, targets


class Averaged(nn.Module):
    """A network beside a copy of those of its parts that will be kept, which is to follow them (SynCLR's EMA)."""

    def __init__(self, network: nn.Module, kept: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.average = copy.deepcopy(kept).requires_grad_(False)

    def forward(self, *inputs: torch.Tensor) -> Any:
        """What the network gives."""
        return self.network(*inputs)
