"""Random augmentation of whole batches, on whatever device they are.

Every image has random numbers of its own, drawn for (seed, step, position in the global batch): any split of a batch
over processes and micro-batches gives the same pixels. All of them are drawn whatever the settings, so switching one
transform on does not change another.
"""

import itertools
import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F

from stages.sections import Augmentation

CROP_LOG_RATIO = math.log(4 / 3)
"""Crops have aspect ratios from 3/4 to 4/3, log-uniformly (Szegedy et al. 2015; torchvision's default)."""
BLUR_SIGMA_PX = (0.1, 2.0)
"""Range of the blur's standard deviation (SimCLR, appendix A)."""
LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in a gray value (ITU-R 601-2, as torchvision has them)."""
DRAWS = (
    "crop_area", "crop_ratio", "crop_x", "crop_y", "rotate", "translate_x", "translate_y", "flip",
    "jitter", "brightness", "contrast", "saturation", "hue", "grayscale", "blur", "sigma",
)  # fmt: skip
JITTER_ORDERS = tuple(itertools.permutations(("brightness", "contrast", "saturation", "hue")))

Draws = Mapping[str, torch.Tensor]


def normalize(images: torch.Tensor) -> torch.Tensor:
    """uint8 0..255 to float32 in [-1, 1]."""
    return images.float().mul_(2 / 255).sub_(1)


def augment(images: torch.Tensor, settings: Augmentation, seed: int, step: int, indices: torch.Tensor) -> torch.Tensor:
    """Augments a batch: crop, rotation, shift and flip as one bilinear resampling, then colour, gray and blur.

    Every transform is torchvision's; two things differ. Crops are not rounded to whole pixels, and the order of the
    four parts of colour jitter is drawn once per step, not per image. Pixels from outside the image are black.

    Args:
        images: uint8 (B, 3, S, S), RGB.
        settings: probabilities and strengths; what has probability or strength 0 costs nothing.
        seed: of the training run.
        step: optimizer step.
        indices: int64 (B,), each image's position in the step's global batch; best on the CPU.

    Returns:
        float32 (B, 3, S, S) in [-1, 1].
    """
    u = draw(seed, step, indices, images.device)
    pixels = images.float().div_(255)
    if settings.crop_scale_min < 1 or settings.rotate_degrees or settings.translate or settings.flip:
        pixels = resample(pixels, affine(u, settings, images.shape[-1]))
    if settings.jitter:
        pixels = jitter(pixels, u, settings, jitter_order(seed, step))
    if settings.grayscale:
        pixels = torch.where(_per_image(u["grayscale"] < settings.grayscale), gray(pixels), pixels)
    if settings.blur:
        chosen = torch.nonzero(u["blur"] < settings.blur).flatten()
        low, high = BLUR_SIGMA_PX
        pixels[chosen] = blur(pixels[chosen], low + (high - low) * u["sigma"][chosen])
    return pixels.mul_(2).sub_(1)


def draw(seed: int, step: int, indices: torch.Tensor, device: torch.device) -> Draws:
    """Uniform float32 numbers in [0, 1), each (B,), a function of seed, step and position alone (Philox)."""
    positions = indices.cpu().numpy()
    stream = np.random.Generator(np.random.Philox(key=np.array([seed, step], np.uint64)))
    rows = stream.random((int(positions.max(initial=-1)) + 1, len(DRAWS)), np.float32)[positions]
    columns = torch.from_numpy(np.ascontiguousarray(rows.T)).to(device)
    return dict(zip(DRAWS, columns, strict=True))


def jitter_order(seed: int, step: int) -> tuple[str, ...]:
    """The order of the parts of colour jitter in a step."""
    own_counter = np.array([0, 0, 0, 1], np.uint64)  # far beyond what the positions of a batch use up
    stream = np.random.Generator(np.random.Philox(key=np.array([seed, step], np.uint64), counter=own_counter))
    return JITTER_ORDERS[stream.integers(len(JITTER_ORDERS))]


# -------------------------------------------------------------------------------------------------- geometry


def affine(u: Draws, settings: Augmentation, side: int) -> torch.Tensor:
    """Where each output pixel comes from: (B, 2, 3), in coordinates from -1 to 1 over the image.

    The image is cropped and resized to its old side, rotated clockwise about its centre, shifted by whole pixels
    (torchvision's RandomAffine), and flipped; this is the inverse of all that.
    """
    area = 1 - (1 - settings.crop_scale_min) * u["crop_area"]
    # Limits the ratio so that both sides fit; torchvision instead draws again, up to ten times.
    ratio = torch.exp((2 * u["crop_ratio"] - 1) * (-area.log()).clamp(max=CROP_LOG_RATIO))
    width, height = (area * ratio).sqrt(), (area / ratio).sqrt()
    left, top = (2 * u["crop_x"] - 1) * (1 - width), (2 * u["crop_y"] - 1) * (1 - height)
    angle = (2 * u["rotate"] - 1) * math.radians(settings.rotate_degrees)
    cos, sin = angle.cos(), angle.sin()
    reach = settings.translate * side
    shift_x, shift_y = ((2 * u[key] - 1).mul(reach).round() * (2 / side) for key in ("translate_x", "translate_y"))
    mirror = torch.where(u["flip"] < settings.flip, -1.0, 1.0)
    return torch.stack(
        [
            torch.stack([width * cos * mirror, width * sin, left - width * (cos * shift_x + sin * shift_y)], 1),
            torch.stack([-height * sin * mirror, height * cos, top - height * (cos * shift_y - sin * shift_x)], 1),
        ],
        1,
    )


def resample(pixels: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Bilinear samples of (B, C, S, S) at the places that (B, 2, 3) matrices name; black outside.

    `affine_grid` gives the same grid and takes three times as long on a CPU.
    """
    side = pixels.shape[-1]
    centres = (torch.arange(side, device=pixels.device) + 0.5) * (2 / side) - 1
    across, down, offset = (matrices[:, :, i, None, None] for i in range(3))
    grid = across * centres + (down * centres[:, None] + offset)  # (B, 2, S, S)
    return F.grid_sample(pixels, grid.permute(0, 2, 3, 1), mode="bilinear", align_corners=False)


# ---------------------------------------------------------------------------------------------------- colour


def jitter(pixels: torch.Tensor, u: Draws, settings: Augmentation, order: tuple[str, ...]) -> torch.Tensor:
    """Colour jitter of (B, 3, S, S) in [0, 1], each part as torchvision defines it; may work in place."""
    chosen = u["jitter"] < settings.jitter
    strengths = {name: getattr(settings, name) for name in order}
    for name in order:
        if not strengths[name]:
            continue
        change = (2 * u[name] - 1) * strengths[name] * chosen
        match name:
            case "brightness":
                pixels = blend(pixels, None, 1 + change)
            case "contrast":
                pixels = blend(pixels, gray(pixels).mean((1, 2, 3), keepdim=True), 1 + change)
            case "saturation":
                pixels = blend(pixels, gray(pixels), 1 + change)
            case "hue":
                pixels = rotate_hue(pixels, change)
    return pixels


def blend(pixels: torch.Tensor, other: torch.Tensor | None, factors: torch.Tensor) -> torch.Tensor:
    """Moves (B, C, S, S) in place away from `other` (None for black) by (B,) factors; 1 leaves them as they are."""
    ratio = _per_image(factors)
    pixels.mul_(ratio)
    if other is not None:
        pixels.add_(other * (1 - ratio))
    return pixels.clamp_(0, 1)


def gray(pixels: torch.Tensor) -> torch.Tensor:
    """Gray values (B, 1, S, S) of (B, 3, S, S)."""
    red, green, blue = pixels.chunk(3, dim=1)
    return red.mul(LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def rotate_hue(pixels: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Turns the hue of (B, 3, S, S) in [0, 1] by (B,) turns of the colour wheel, through HSV.

    Without branches, `torch.where` and remainders, which take twice the time on a CPU.
    """
    red, green, blue = pixels.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    inverse = 1 / chroma.clamp(min=1e-12)
    is_red, is_green = (red == value).float(), (green == value).float()
    sixths = torch.lerp(4 + (red - green) * inverse, 2 + (blue - red) * inverse, is_green)
    sixths = torch.lerp(sixths, (green - blue) * inverse, is_red) + 6 * turns[:, None, None]
    # A channel is `value` less the chroma times a trapezoid of the hue that starts at 5, 3 or 1 sixths.
    k = sixths[:, None] + torch.tensor([5.0, 3.0, 1.0], device=pixels.device)[:, None, None]
    k.sub_((k / 6).floor_(), alpha=6)
    trapezoid = k.sub_(2).abs_().neg_().add_(2).clamp_(0, 1)
    return torch.addcmul(value[:, None], chroma[:, None], trapezoid, value=-1)


def blur(pixels: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """Gaussian blur of (B, C, S, S) with (B,) standard deviations in pixels, edges mirrored.

    The kernel spans a tenth of the side, as in SimCLR's released code: 3 taps at 32 pixels, 23 at 224. So what a
    sigma of 2 does shrinks with the image.
    """
    side = pixels.shape[-1]
    radius = max(1, side // 10 // 2)
    taps = torch.arange(-radius, radius + 1, device=pixels.device)
    kernel = torch.exp(-0.5 * (taps / sigmas[:, None]) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    padded = F.pad(pixels, (radius,) * 4, mode="reflect")
    for dim in (2, 3):
        total = padded.narrow(dim, 0, side) * _per_image(kernel[:, 0])
        for i in range(1, 2 * radius + 1):
            total.addcmul_(padded.narrow(dim, i, side), _per_image(kernel[:, i]))
        padded = total
    return padded


def _per_image(values: torch.Tensor) -> torch.Tensor:
    """(B,) to (B, 1, 1, 1)."""
    return values[:, None, None, None]
