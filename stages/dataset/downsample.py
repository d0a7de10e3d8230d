"""Some images made coarse on purpose, for transfer to data of low resolution (StableRep's `--downsample`)."""

import numpy as np
import torch
import torch.nn.functional as F

from stages.encoder_sections import Downsample

_STREAM = np.array([0, 0, 1, 0], np.uint64)
"""A counter of its own: what augmentation draws for the same step stays as it is."""


def downsample(images: torch.Tensor, settings: Downsample, seed: int, step: int, indices: torch.Tensor) -> torch.Tensor:
    """Resizes a share of the images to one of several smaller sides, equally likely, and back, bilinearly.

    Args:
        images: uint8 (B, 3, S, S).
        settings: the share and the sides.
        seed: of the training run.
        step: optimizer step.
        indices: int64 (B,), each image's position in the step's global batch: any split of it gives the same pixels.

    Returns:
        uint8 (B, 3, S, S); the images given are left as they are.
    """
    positions = indices.cpu().numpy()
    stream = np.random.Generator(np.random.Philox(key=np.array([seed, step], np.uint64), counter=_STREAM))
    chance, choice = stream.random((int(positions.max(initial=-1)) + 1, 2), np.float32)[positions].T
    sides = np.where(chance < settings.probability, np.floor(choice * len(settings.sizes)), -1).astype(np.int64)
    coarse = images.clone()
    for place, size in enumerate(settings.sizes):
        chosen = torch.from_numpy(np.flatnonzero(sides == place)).to(images.device)
        if len(chosen):
            small = _resize(images[chosen].float(), size)
            coarse[chosen] = _resize(small, images.shape[-1]).to(torch.uint8)
    return coarse


def _resize(images: torch.Tensor, side: int) -> torch.Tensor:
    """As PIL does: bilinear, antialiased where it shrinks, rounded to whole grey levels."""
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True).round().clamp(0, 255)
