"""Small crops of small parts of images (multi-crop: SwAV, Caron et al., NeurIPS 2020, section 3.3; DINO; SynCLR)."""

import torch
import torch.nn.functional as F

from stages.dataset.augment import CROP_LOG_RATIO, augment, draw
from stages.encoder_sections import LocalCrops
from stages.sections import Augmentation


def local_crops(
    images: torch.Tensor,
    settings: LocalCrops,
    augmentation: Augmentation,
    seed: int,
    step: int,
    indices: torch.Tensor,
    batch_size: int,
) -> torch.Tensor:
    """Several local crops of each image, augmented like the images themselves but for their own crop.

    Args:
        images: uint8 (B, 3, S, S).
        settings: how many, how large, of which part.
        augmentation: flip, colour and blur, of the crops themselves.
        seed: of the training run.
        step: optimizer step.
        indices: int64 (B,), each image's position in the step's global batch.
        batch_size: of the global batch; crops draw from what lies beyond its positions.

    Returns:
        float32 (k * B, 3, s, s) in [-1, 1]: a first crop of each image, a second of each, ...
    """
    rest = augmentation.model_copy(update={"crop_scale_min": 1})
    crops = []
    for number in range(1, settings.num_crops + 1):
        own = indices + number * batch_size
        crops.append(augment(_crop(images, settings, seed, step, own), rest, seed, step, own))
    return torch.cat(crops)


def _crop(images: torch.Tensor, settings: LocalCrops, seed: int, step: int, indices: torch.Tensor) -> torch.Tensor:
    """One crop of each image, resized bilinearly, uint8 (B, 3, s, s)."""
    u = draw(seed, step, indices, images.device)
    area = settings.scale_min + (settings.scale_max - settings.scale_min) * u["crop_area"]
    ratio = torch.exp((2 * u["crop_ratio"] - 1) * (-area.log()).clamp(max=CROP_LOG_RATIO))  # both sides fit
    across, down = ((area * r).sqrt()[:, None] for r in (ratio, 1 / ratio))
    centres = (torch.arange(settings.size, device=images.device) + 0.5) * (2 / settings.size) - 1
    columns = (2 * u["crop_x"][:, None] - 1) * (1 - across) + across * centres  # (B, s)
    rows = (2 * u["crop_y"][:, None] - 1) * (1 - down) + down * centres
    grid = torch.stack(
        [columns[:, None].expand(-1, settings.size, -1), rows[:, :, None].expand(-1, -1, settings.size)], 3
    )
    pixels = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return pixels.round_().clamp_(0, 255).to(torch.uint8)
