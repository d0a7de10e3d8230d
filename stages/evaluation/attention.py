"""Where a detector looks, by Grad-CAM, and how much of that is the border of the image."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from numpy.typing import NDArray
from torch import nn

FRAME = 8
"""The border is a frame as wide as this part of the side: 4 pixels of 32, 44 % of the area."""
HEAT = (255.0, 30.0, 0.0)
"""Colour of attention in pictures."""
OPACITY = 0.75


def heat_maps(
    network: nn.Module,
    layer: nn.Module,
    images: torch.Tensor,
    kinds: torch.Tensor,
    batch_size: int,
    prepare: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Grad-CAM (Selvaraju et al. 2017, equations 1 and 2) of the evidence that an image is of its kind.

    Channels of the layer are weighted by the mean of the logit's gradient over the map, summed, cut off below zero,
    scaled up bilinearly to the image, and divided by their sum. The evidence for real is the negative logit.

    Args:
        network: in evaluation mode, to logits (B, 2).
        layer: of the network; passes maps (B, C, h, w).
        images: uint8 (N, 3, H, W).
        kinds: int64 (N,), 0 for real and 1 for generated.
        batch_size: images per pass.
        prepare: images to the network's input, on its device.

    Returns:
        float32 (N, H, W) on the CPU, each summing to 1, or to 0 where nothing speaks for the kind.
    """

    def evidence(inputs: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = network(inputs)
        return (logits[:, 1] - logits[:, 0]) * signs

    explainer = LayerGradCam(evidence, layer)
    parts = []
    for start in range(0, len(images), batch_size):
        inputs = prepare(images[start : start + batch_size])
        signs = (2 * kinds[start : start + batch_size] - 1).to(inputs)
        maps = explainer.attribute(inputs, additional_forward_args=(signs,), relu_attributions=True)
        large = F.interpolate(maps.detach().float(), images.shape[2:], mode="bilinear", align_corners=False)[:, 0].cpu()
        total = large.sum(dim=(1, 2), keepdim=True)
        parts.append(large / total.where(total > 0, torch.ones_like(total)))
    return torch.cat(parts)


def density_by_ring(maps: torch.Tensor) -> NDArray[np.float64]:
    """Attention at each distance from the border, as a multiple of what an even spread would give.

    Args:
        maps: (N, S, S) as of `heat_maps`; those that sum to 0 are left out.

    Returns:
        (ceil(S / 2),), mean over maps, from the outermost ring of pixels to the innermost; zeros if there is no map.
    """
    ring = _rings(maps.shape[-1])
    seen = maps[maps.sum(dim=(1, 2)) > 0]
    if not len(seen):
        return np.zeros(int(ring.max()) + 1)
    mean = seen.double().mean(0).numpy()
    return np.bincount(ring.ravel(), mean.ravel()) / np.bincount(ring.ravel()) * ring.size


def border_density(maps: torch.Tensor) -> float:
    """Attention to the outer frame, an eighth of the side wide, as a multiple of what an even spread would give it.

    1 means that the border counts as any other part of the image, 0 that nothing of it counts.
    """
    side = maps.shape[-1]
    pixels = np.bincount(_rings(side).ravel())
    frame = max(1, side // FRAME)
    return float(np.average(density_by_ring(maps)[:frame], weights=pixels[:frame]))


def overlay(images: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Images uint8 (N, 3, H, W), the redder the more attention (N, H, W) lies there; each map by its own maximum."""
    peak = maps.amax(dim=(1, 2), keepdim=True)
    heat = (OPACITY * maps / peak.where(peak > 0, torch.ones_like(peak)))[:, None]
    gray = images.float().mean(dim=1, keepdim=True)
    shown: torch.Tensor = (gray * (1 - heat) + torch.tensor(HEAT)[:, None, None] * heat).round()
    return shown.to(torch.uint8)


def _rings(side: int) -> NDArray[np.int64]:
    """(S, S): how many pixels each one is away from the border."""
    steps = np.minimum(np.arange(side), np.arange(side)[::-1])
    return np.minimum(steps[:, None], steps[None, :])
