"""What a classifier minimises."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn


def cross_entropy(label_smoothing: float) -> Callable[[nn.Module, dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """Cross-entropy with label smoothing (Szegedy et al. 2016, section 7), averaged over a batch's rows.

    Args:
        label_smoothing: share of each target spread evenly over all classes.

    Returns:
        An objective for `fit`: a network that maps batch["images"] to logits (B, classes), and labels int64 (B,) in
        batch["labels"]. Logits are taken to float32 at least, since bfloat16 keeps three digits.
    """

    def objective(network: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        logits = network(batch["images"])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = F.cross_entropy(logits, batch["labels"], label_smoothing=label_smoothing)
        return {"loss": loss, "train_top1": (logits.argmax(1) == batch["labels"]).to(logits.dtype).mean()}

    return objective
