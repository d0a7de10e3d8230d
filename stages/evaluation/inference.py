"""A network's outputs for every image of a split."""

import itertools
from collections.abc import Callable, Iterator
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


def infer_batches(
    network: nn.Module, images: Images, batch_size: int, prepare: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[torch.Tensor]:
    """Runs a network over images in batches, in evaluation mode and without gradients, and keeps none of its outputs.

    Args:
        network: maps what `prepare` gives to (B, outputs).
        images: uint8 (N, 3, H, W).
        batch_size: images per forward pass.
        prepare: a batch of `images` to the network's input, on its device.

    Yields:
        float32 (B, outputs) of each batch, on the network's device.
    """
    network.eval()
    for start in range(0, len(images), batch_size):
        with torch.inference_mode():  # entered anew, since a generator's contexts are its caller's too
            outputs: torch.Tensor = network(prepare(images[start : start + batch_size])).float()
        yield outputs


def infer(
    network: nn.Module, images: Images, batch_size: int, prepare: Callable[[torch.Tensor], torch.Tensor]
) -> NDArray[np.float32]:
    """What `infer_batches` gives, together: float32 (N, outputs) of N >= 1 images."""
    batches = infer_batches(network, images, batch_size, prepare)
    first = next(batches)
    together = np.empty((len(images), *first.shape[1:]), np.float32)  # parts and their whole would be twice as much
    end = 0
    for batch in itertools.chain([first], batches):
        start, end = end, end + len(batch)
        together[start:end] = batch.cpu().numpy()
    return together
