"""MAE (He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022): paint what is hidden.

One view of an image per batch, no pairs and no negatives, so any split into micro-batches gives the same gradients.
"""

import numpy as np
import torch
from torch import nn

from stages.training.runtime import derive_seed

EPSILON = 1e-6
"""Added to a patch's variance, as in the release."""


def mask_noise(seed: int, step: int, positions: range, num_patches: int) -> torch.Tensor:
    """Random numbers that order an image's patches, (len(positions), num_patches), float32.

    A function of seed, step and position in the global batch alone: however a batch is split, each image gets the
    same mask.
    """
    stream = np.random.default_rng(derive_seed(seed, "mask", step))
    return torch.from_numpy(stream.random((positions.stop, num_patches), np.float32)[positions.start :])


def reconstruction_loss(
    predictions: torch.Tensor, patches: torch.Tensor, mask: torch.Tensor, normalize_patches: bool
) -> torch.Tensor:
    """Mean squared error over hidden patches.

    Args:
        predictions: (B, patches, D).
        patches: (B, patches, D), what the image holds there.
        mask: bool (B, patches), True where hidden; equally many in each image.
        normalize_patches: compare with each patch less its mean, over its deviation (`norm_pix_loss`).
    """
    if normalize_patches:
        variance, mean = torch.var_mean(patches, dim=2, keepdim=True)
        patches = (patches - mean) / (variance + EPSILON).sqrt()
    errors = (predictions - patches).square().mean(dim=2)
    return errors[mask].mean()


class MaeObjective:
    """An objective for `fit`: batches hold `images` (B, 3, H, W) and `noise` (B, patches)."""

    def __init__(self, normalize_patches: bool) -> None:
        self.normalize_patches = normalize_patches

    def __call__(self, network: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Takes a network that gives predictions, patches and mask, such as `MaskedAutoencoder`."""
        predictions, patches, mask = network(batch["images"], batch["noise"])
        dtype = torch.promote_types(predictions.dtype, torch.float32)
        return {"loss": reconstruction_loss(predictions.to(dtype), patches.to(dtype), mask, self.normalize_patches)}
