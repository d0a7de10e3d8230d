"""BYOL (Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020): predict the target's view of the other crop."""

import torch
import torch.nn.functional as F
from torch import nn

from stages.training.contrastive import Gather
from stages.training.momentum import other_view


def byol_loss(predictions: torch.Tensor, targets: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Squared distance of unit vectors, 2 - 2 cos, summed over both directions, mean over images (equations 2 and 3).

    Args:
        predictions: (B, D), this process's rows.
        targets: (N, D) without gradient, all processes' rows in view-major order, two views per image.
        positions: int64 (B,), where the predictions' images stand among the N.
    """
    cosine = F.cosine_similarity(predictions, targets[other_view(positions, len(targets))], dim=1)
    return 2 * (2 - 2 * cosine).mean()


class ByolObjective:
    """An objective for `fit`: batches hold `images` (B, 3, H, W), two crops of each image, view-major."""

    def __init__(self, gather: Gather, rank: int) -> None:
        self.gather = gather
        self.rank = rank

    def __call__(self, network: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Takes a network that gives predictions and targets (B, D), such as `MomentumPair`."""
        predictions, targets = network(batch["images"])
        dtype = torch.promote_types(predictions.dtype, torch.float32)
        rows = torch.arange(len(predictions), device=predictions.device) + self.rank * len(predictions)
        return {"loss": byol_loss(predictions.to(dtype), self.gather(targets.to(dtype)), rows)}
