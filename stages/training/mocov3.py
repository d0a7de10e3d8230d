"""MoCo v3 (Chen, Xie and He, "An Empirical Study of Training Self-Supervised Vision Transformers", ICCV 2021)."""

import torch
import torch.nn.functional as F
from torch import nn

from stages.training.contrastive import Gather
from stages.training.momentum import other_view


def mocov3_loss(queries: torch.Tensor, keys: torch.Tensor, positions: torch.Tensor, temperature: float) -> torch.Tensor:
    """InfoNCE of queries against the target's keys of the other view, both directions, times 2 tau (algorithm 1).

    An image's own other view is the positive, all other images' other views are the negatives.

    Args:
        queries: (B, D), this process's predictions.
        keys: (N, D) without gradient, all processes' rows in view-major order, two views per image.
        positions: int64 (B,), where the queries' images stand among the N.
        temperature: tau.
    """
    count = len(keys)
    logits = F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T / temperature
    view = torch.arange(count, device=keys.device) >= count // 2
    same_view = view[positions, None] == view[None, :]
    logits = logits.masked_fill(same_view, torch.finfo(logits.dtype).min)
    return 2 * 2 * temperature * F.cross_entropy(logits, other_view(positions, count))


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
