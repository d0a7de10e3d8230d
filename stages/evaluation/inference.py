"""A network's outputs for every image of a split."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


def infer(
    network: nn.Module, images: torch.Tensor, batch_size: int, prepare: Callable[[torch.Tensor], torch.Tensor]
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
        parts = [network(prepare(batch)).float().cpu().numpy() for batch in torch.split(images, batch_size)]
    return np.concatenate(parts)
