"""The multi-positive contrastive loss of StableRep, of which SimCLR and SupCon are special cases."""

from collections.abc import Callable

import torch
from torch import nn

from stages.training import blockwise

Gather = Callable[[torch.Tensor], torch.Tensor]
"""Concatenates a tensor's shares from all processes in rank order; differentiable; the identity for one process."""


def multi_positive_loss(
    features: torch.Tensor, keys: torch.Tensor, temperature: float, gather: Gather, rank: int
) -> dict[str, torch.Tensor]:
    """Cross-entropy between the positives p and the softmax over similarities q (StableRep, eq. 1-3).

    For anchor a and every other image b of the global batch, q(b) = exp(a.b / tau) / sum_b' exp(a.b' / tau) with
    L2-normalised features, and p is uniform over those b whose key equals a's; the anchor itself is in neither. An
    anchor without a positive counts with loss 0, as in the released code.

    Keys decide the method: one per image with two crops of each is SimCLR (NT-Xent), the class is SupCon (L_out), the
    caption is StableRep. The mean over this process's anchors is returned: summed by the gather's backward and averaged
    over processes by DDP, its gradient is that of the mean over the global batch.

    Args:
        features: float (B, D), this process's share; any scale.
        keys: int64 (B,); equal keys are positives.
        temperature: tau.
        gather: see `Gather`; shares must be of equal size.
        rank: this process's place in the gathered batch.

    Returns:
        `loss`, a scalar, and `divergence`, KL(p || q) = loss - H(p): the loss is never below H(p), the log of the
        number of positives, so only the divergence compares between numbers of images per caption.
    """
    candidates, candidate_keys = gather(features), gather(keys)
    places = torch.arange(len(features), device=features.device) + rank * len(features)
    return blockwise.multi_positive_loss(
        features, candidates, candidate_keys, places, temperature, blockwise.ANCHORS_AT_A_TIME
    )


def with_local_crops(
    features: torch.Tensor, keys: torch.Tensor, temperature: float, gather: Gather, rank: int
) -> dict[str, torch.Tensor]:
    """`multi_positive_loss` with local crops, which are anchors but no candidates (multi-crop, as in DINO and SynCLR).

    A crop's positives are all views of its key, those of its own image among them.

    Args:
        features: float (B + k * B, D), this process's share of the views, then k crops of each in the same order.
        keys: int64 (B,), of the views.
        temperature: tau.
        gather: see `Gather`.
        rank: this process's place in the gathered batch.

    Returns:
        As `multi_positive_loss`: `loss` is the mean over all anchors, `divergence` that of the views.
    """
    views, crops = features[: len(keys)], features[len(keys) :]
    values = multi_positive_loss(views, keys, temperature, gather, rank)
    if not len(crops):
        return values
    num_crops = len(crops) // len(views)
    candidates, candidate_keys, own_keys = gather(views), gather(keys), keys.repeat(num_crops)
    block = blockwise.ANCHORS_AT_A_TIME
    local = blockwise.matching_loss(crops, own_keys, candidates, candidate_keys, 1 / temperature, block)
    return {**values, "loss": (values["loss"] + num_crops * local) / (1 + num_crops)}


def contrastive_objective(
    temperature: float, gather: Gather, rank: int
) -> Callable[[nn.Module, dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """An objective for `fit`: the network maps a batch's images to features.

    Batches hold `images` (B, 3, H, W), `keys` (B,), and `crops` (k * B, 3, h, w) where there are local ones. The loss
    is taken outside autocast, in float32 at least: bfloat16 would round away what exp(a.b / tau) compares.
    """

    def objective(network: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        features: torch.Tensor = network(*(batch[name] for name in ("images", "crops") if name in batch))
        with torch.autocast(features.device.type, enabled=False):
            features = features if features.dtype == torch.float64 else features.float()
            return with_local_crops(features, batch["keys"], temperature, gather, rank)

    return objective
