"""Multi-positive contrastive losses over many candidates, in memory that grows with N x block and not with N x N."""

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

ANCHORS_AT_A_TIME = 512
"""The `block` that trainers use: of 32 to 1,024 the fastest at N = 8,192 and D = 256, though all lie within a fifth."""


def multi_positive_loss(
    anchors: torch.Tensor,
    candidates: torch.Tensor,
    candidate_keys: torch.Tensor,
    anchor_index: torch.Tensor,
    temperature: float,
    block: int,
) -> dict[str, torch.Tensor]:
    """Cross-entropy of each anchor's similarities against a uniform target over its positives, mean over anchors.

    StableRep (arXiv 2306.00984), equations 1 to 3. Positives of an anchor are the candidates of its key, without
    itself; itself is no negative either. With two views of an image per key this is SimCLR's loss, with classes as
    keys SupCon's (L_out). An anchor without positives adds nothing and still counts in the mean, as in the released
    `MultiPosConLoss`. Written as

        mean over anchors a of  log sum_{j != a} exp(a.b_j / tau)  -  a.(sum_{j in P(a)} b_j) / (|P(a)| tau)

    where the second term needs one sum per key and the first is `_WeightedLogSumExp`, a block of anchors at a time.

    Args:
        anchors: (B, D), not necessarily normalised; with several processes, this process's rows.
        candidates: (N, D), all processes' rows in the order of rank; gathered so that gradients flow back.
        candidate_keys: int64 (N,).
        anchor_index: int64 (B,), where each anchor stands among the candidates.
        temperature: tau > 0.
        block: anchors whose similarities to all candidates are held at a time; it changes speed and memory alone.

    Returns:
        `loss`, and `divergence`, KL(p || q) = loss - H(p): the loss is never below H(p), the log of the number of
        positives, so only the divergence compares between numbers of images per key. Both are scalars of at least
        float32, whatever the autocast region around.
    """
    with torch.autocast(anchors.device.type, enabled=False):
        dtype = torch.promote_types(anchors.dtype, torch.float32)
        anchors, candidates = (F.normalize(x.to(dtype), dim=1) for x in (anchors, candidates))
        keys, key_index, key_counts = torch.unique(candidate_keys, return_inverse=True, return_counts=True)
        sums = candidates.new_zeros(len(keys), candidates.shape[1]).index_add(0, key_index, candidates)
        own_key = key_index[anchor_index]
        num_positives = (key_counts[own_key] - 1).to(dtype)
        positives = (sums[own_key] - candidates[anchor_index]) / num_positives.clamp(min=1)[:, None]
        weights = (num_positives > 0).to(dtype) / len(anchors)
        attraction = ((anchors * positives).sum(1) * weights).sum() / temperature
        spread = _WeightedLogSumExp.apply(anchors, candidates, anchor_index, weights, temperature, block)
        loss = spread - attraction
        return {"loss": loss, "divergence": (loss - num_positives.clamp(min=1).log().mean()).detach()}


def matching_loss(
    anchors: torch.Tensor,
    anchor_keys: torch.Tensor,
    candidates: torch.Tensor,
    candidate_keys: torch.Tensor,
    scale: torch.Tensor | float,
    block: int,
) -> torch.Tensor:
    """The same cross-entropy between two kinds of things: anchors are no candidates, and none is left out.

    The target is uniform over the candidates of the anchor's key: for texts that are matched with m images each it is
    1/m on these, for images it is their one text (StableRep+; with m = 1 CLIP's loss in one direction). An anchor
    without a candidate of its key adds nothing and still counts in the mean.

    Args:
        anchors: (B, D), not necessarily normalised; with several processes, this process's rows.
        anchor_keys: int64 (B,).
        candidates: (N, D), all processes' rows; gathered so that gradients flow back.
        candidate_keys: int64 (N,).
        scale: 1 / tau, a number or a scalar that is learned.
        block: see `multi_positive_loss`.

    Returns:
        A scalar of at least float32: the mean over anchors.
    """
    with torch.autocast(anchors.device.type, enabled=False):
        dtype = torch.promote_types(anchors.dtype, torch.float32)
        anchors, candidates = (F.normalize(x.to(dtype), dim=1) for x in (anchors, candidates))
        anchors = anchors * scale
        keys, indices = torch.unique(torch.cat([candidate_keys, anchor_keys]), return_inverse=True)
        key_index, own_key = indices.split([len(candidates), len(anchors)])
        sums = candidates.new_zeros(len(keys), candidates.shape[1]).index_add(0, key_index, candidates)
        num_positives = key_index.bincount(minlength=len(keys))[own_key].to(dtype)
        positives = sums[own_key] / num_positives.clamp(min=1)[:, None]
        weights = (num_positives > 0).to(dtype) / len(anchors)
        attraction = ((anchors * positives).sum(1) * weights).sum()
        spread = _WeightedLogSumExp.apply(anchors, candidates, None, weights, 1.0, block)
        loss: torch.Tensor = spread - attraction
        return loss


class _WeightedLogSumExp(torch.autograd.Function):
    """sum_a w_a log sum_{j != a} exp(a.b_j / tau), a block of anchors at a time; without an index, over all j.

    The gradient of a scalar is known up to one factor as soon as its value is. So each block leaves its share of the
    gradient behind, (B, D) and (N, D) in all, and nothing is computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any,
        anchors: torch.Tensor,
        candidates: torch.Tensor,
        anchor_index: torch.Tensor | None,
        weights: torch.Tensor,
        temperature: float,
        block: int,
    ) -> torch.Tensor:
        """Value and gradients; the similarities of a block are overwritten in place by their exponentials."""
        needs_gradient = any(ctx.needs_input_grad)
        anchor_gradient, candidate_gradient = torch.empty_like(anchors), torch.zeros_like(candidates)
        total = weights.new_zeros(())
        scaled = anchors / temperature
        for start in range(0, len(anchors), block):
            part = slice(start, start + block)
            similarities = scaled[part] @ candidates.T
            if anchor_index is not None:
                similarities.scatter_(1, anchor_index[part, None], torch.finfo(similarities.dtype).min)
            largest = similarities.amax(1, keepdim=True)
            exponentials = similarities.sub_(largest).exp_()
            sums = exponentials.sum(1, keepdim=True)
            total += (weights[part, None] * (largest + sums.log())).sum()
            if needs_gradient:
                factors = weights[part, None] / sums / temperature
                anchor_gradient[part] = (exponentials @ candidates) * factors
                candidate_gradient.addmm_(exponentials.T, anchors[part] * factors)
        if needs_gradient:
            ctx.save_for_backward(anchor_gradient, candidate_gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradients that forward left, times the factor."""
        anchor_gradient, candidate_gradient = ctx.saved_tensors
        return anchor_gradient * gradient, candidate_gradient * gradient, None, None, None, None
