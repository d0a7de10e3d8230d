"""Which images each optimizer step sees."""

import functools
from collections.abc import Callable
from typing import Protocol

import torch

from stages.training.runtime import derive_seed


class Images(Protocol):
    """Images uint8 (N, 3, H, W): a tensor, or what reads them from disk."""

    def __getitem__(self, key: torch.Tensor | slice, /) -> torch.Tensor:
        """Those at rows int64 (B,), or at a slice of all, on the device."""


Transform = Callable[[torch.Tensor, int, torch.Tensor], torch.Tensor]


class EpochOrder:
    """Every image once per epoch, in a fresh order each; a pure function of the step, so nothing needs to be saved.

    Batches run on over the end of an epoch: each has the full size, whatever the number of images.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int) -> None:
        self._num_images = num_images
        self._batch_size = batch_size
        self._seed = seed
        self._permutation = functools.lru_cache(maxsize=2)(self._permute)

    def _permute(self, epoch: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "order", epoch))
        return torch.randperm(self._num_images, generator=generator)

    def __call__(self, step: int, rows: range) -> torch.Tensor:
        """Indices of the images, int64 (len(rows),), at positions `rows` of the global batch of `step`."""
        position, end = step * self._batch_size + rows.start, step * self._batch_size + rows.stop
        parts = []
        while position < end:
            epoch, offset = divmod(position, self._num_images)
            part = self._permutation(epoch)[offset : offset + end - position]
            parts.append(part)
            position += len(part)
        return torch.cat(parts)


class LabelledBatches:
    """Batches of a classifier from its training set."""

    def __init__(self, images: Images, labels: torch.Tensor, order: EpochOrder, transform: Transform) -> None:
        """Takes images uint8 (N, 3, H, W), which come on the device, and labels int64 (N,) there.

        `transform(images, step, positions)` augments a micro-batch, whose rows stand at `positions` (int64, CPU) in
        the global batch, into the network's input.
        """
        self._images = images
        self._labels = labels
        self._order = order
        self._transform = transform

    def __call__(self, step: int, rows: range) -> dict[str, torch.Tensor]:
        """{"images": the network's input, "labels": int64}, one row per position in `rows`."""
        chosen = self._order(step, rows)
        positions = torch.arange(rows.start, rows.stop)
        return {"images": self._transform(self._images[chosen], step, positions), "labels": self._labels[chosen]}
