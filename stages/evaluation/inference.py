"""A network's outputs for every image of a split."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


class Images(Protocol):
    """Images uint8 (N, 3, H, W): a tensor, or what reads them from disk."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, key: slice, /) -> torch.Tensor:
        """Those of a slice."""


def infer(
    network: nn.Module, images: Images, batch_size: int, prepare: Callable[[torch.Tensor], torch.Tensor]
) -> NDArray[np.float32]:
    """Runs a network over images in batches, in evaluation mode and without gradients.

    Args:
        network: maps what `prepare` gives to (B, outputs).
        images: uint8 (N, 3, H, W), N >= 1.
        batch_size: images per forward pass.
        prepare: a batch of `images` to the network's input, on its device.

    Returns:
        float32 (N, outputs).
    """
    network.eval()
    with torch.inference_mode():
        batches = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
        parts = [network(prepare(batch)).float().cpu().numpy() for batch in batches]
    return np.concatenate(parts)
