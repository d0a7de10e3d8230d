"""MoCo v3 (Chen, Xie and He, "An Empirical Study of Training Self-Supervised Vision Transformers", ICCV 2021)."""

import torch
from torch import nn

from stages.training.blockwise import ANCHORS_AT_A_TIME, matching_loss
from stages.training.contrastive import Gather


def mocov3_loss(queries: torch.Tensor, keys: torch.Tensor, positions: torch.Tensor, temperature: float) -> torch.Tensor:
    """InfoNCE of queries against the target's keys of the other view, both directions, times 2 tau (algorithm 1).

    An image's own other view is the positive, all other images' other views are the negatives.

    Args:
        queries: (B, D), this process's predictions.
        keys: (N, D) without gradient, all processes' rows in view-major order, two views per image.
        positions: int64 (B,), where the queries' images stand among the N.
        temperature: tau.
    """
    num_images = len(keys) // 2
    images = torch.arange(num_images, device=keys.device)
    losses = []
    for view, others in enumerate(keys.chunk(2)[::-1]):
        # A query of the other view matches none of `others` and so adds nothing to this direction.
        own = torch.where(positions // num_images == view, positions % num_images, -1)
        losses.append(matching_loss(queries, own, others, images, 1 / temperature, ANCHORS_AT_A_TIME))
    return 2 * 2 * temperature * torch.stack(losses).sum()


class MocoV3Objective:
    """An objective for `fit`: batches hold `images` (B, 3, H, W), two crops of each image, view-major."""

    def __init__(self, temperature: float, gather: Gather, rank: int) -> None:
        self.temperature = temperature
        self.gather = gather
        self.rank = rank

    def __call__(self, network: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Takes a network that gives queries and keys (B, D), such as `MomentumPair`."""
        queries, keys = network(batch["images"])
        with torch.autocast(queries.device.type, enabled=False):
            dtype = torch.promote_types(queries.dtype, torch.float32)
            rows = torch.arange(len(queries), device=queries.device) + self.rank * len(queries)
            return {"loss": mocov3_loss(queries.to(dtype), self.gather(keys.to(dtype)), rows, self.temperature)}
