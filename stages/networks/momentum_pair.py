"""Two copies of a network, one that learns and one that follows it."""

import copy

import torch
from torch import nn


class MomentumPair(nn.Module):
    """An online network under a predictor, and its target, which gets no gradient (BYOL, MoCo v3, DINO).

    Both are in one module, so that one checkpoint holds them. The target starts as a copy and is moved by
    `training.momentum.follow`.
    """

    def __init__(self, online: nn.Module, predictor: nn.Module) -> None:
        super().__init__()
        self.online = online
        self.predictor = predictor
        self.target = copy.deepcopy(online).requires_grad_(False)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps images (B, 3, H, W) to the online network's predictions and the target's outputs, both (B, D)."""
        predictions = self.predictor(self.online(images))
        with torch.no_grad():
            targets = self.target(images)
        return predictions, targets
