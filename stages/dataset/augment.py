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
BLUR_SIGMA_MIN = 0.1
"""The blur's least standard deviation in pixels (SimCLR, appendix A), which leaves an image as it is."""
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

    Every transform is torchvision's, the blur PIL's; what differs: the order of the four parts of colour jitter is
    drawn once per step, not per image, and pixels are not rounded to bytes in between. Without shift and rotation a
    crop's edge goes on beyond it, as in torchvision; with them, what comes from outside the image is black.

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
        has_outside = bool(settings.rotate_degrees or settings.translate)
        pixels = resample(pixels, affine(u, settings, images.shape[-1]), has_outside)
    if settings.jitter:
        pixels = jitter(pixels, u, settings, jitter_order(seed, step))
    if settings.grayscale:
        pixels = torch.where(_per_image(u["grayscale"] < settings.grayscale), gray(pixels), pixels)
    if settings.blur:
        chosen = torch.nonzero(u["blur"] < settings.blur).flatten()
        high = settings.blur_sigma_max
        sigmas = BLUR_SIGMA_MIN + (high - BLUR_SIGMA_MIN) * u["sigma"][chosen]
        pixels[chosen] = blur(pixels[chosen], sigmas, high)
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
    width, height, left, top = crop(u, settings.crop_scale_min, side)
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


def crop(u: Draws, scale_min: float, side: int) -> tuple[torch.Tensor, ...]:
    """Widths, heights (1 is the image's) and places (0 is its centre, 1 its edge) of random crops, each (B,).

    As torchvision's RandomResizedCrop in whole pixels: uniform area, log-uniform ratio, drawn again until both sides
    fit. How often they do falls with the area, so here the area is drawn from what is left, by its inverse
    distribution function, and the ratio from those that fit it.
    """
    slack = 2 * math.log1p(0.5 / side)  # half a pixel too much is rounded away
    areas = torch.linspace(scale_min, 1, 1025, dtype=torch.float64)
    fits = (slack - areas.log()).clamp(max=CROP_LOG_RATIO)
    shares = F.pad((fits[1:] + fits[:-1]).cumsum(0), (1, 0))
    quantiles = np.interp(1 - u["crop_area"].cpu().double(), shares / shares[-1], areas)
    area = torch.from_numpy(quantiles).to(u["crop_area"])
    ratio = torch.exp((2 * u["crop_ratio"] - 1) * (slack - area.log()).clamp(max=CROP_LOG_RATIO))
    width, height = ((area * r).sqrt().mul(side).round().clamp(1, side) for r in (ratio, 1 / ratio))
    left = (u["crop_x"] * (side - width + 1)).floor()  # u < 1
    top = (u["crop_y"] * (side - height + 1)).floor()
    return width / side, height / side, (2 * left + width) / side - 1, (2 * top + height) / side - 1


def resample(pixels: torch.Tensor, matrices: torch.Tensor, has_outside: bool) -> torch.Tensor:
    """Bilinear samples of (B, C, S, S) at the places that (B, 2, 3) matrices name.

    Beyond the region that a matrix maps the output to goes on that region's edge, or, with `has_outside`, what lies
    there, and black outside the image. `affine_grid` gives the same grid and takes three times as long on a CPU.
    """
    side = pixels.shape[-1]
    centres = (torch.arange(side, device=pixels.device) + 0.5) * (2 / side) - 1
    across, down, offset = (matrices[:, :, i, None, None] for i in range(3))
    grid = across * centres + (down * centres[:, None] + offset)  # (B, 2, S, S)
    if not has_outside:
        reach = across.abs() + down.abs() - 1 / side
        grid = grid.clamp(offset - reach, offset + reach)
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


def blur(pixels: torch.Tensor, sigmas: torch.Tensor, sigma_max: float) -> torch.Tensor:
    """Gaussian blur of (B, C, S, S) with (B,) standard deviations of at most `sigma_max` pixels.

    As PIL's, which runs a box of that deviation three times: nothing is cut off below 3 sigma, and edges go on. One
    matrix per image, applied to its columns and to its rows, takes a fraction of the time of adding shifted images.
    """
    side = pixels.shape[-1]
    radius = math.ceil(3 * sigma_max)
    offsets = torch.arange(-radius, radius + 1, device=pixels.device)
    weights = torch.exp(-0.5 * (offsets / sigmas[:, None]) ** 2)
    weights = weights / weights.sum(1, keepdim=True)
    # In row i of an image's matrix column j has the tap of offset j - i; the edges have all beyond them as well.
    places = torch.arange(side, device=pixels.device)
    taps = places - places[:, None] + radius
    index = taps.clone()
    index[:, 0] += len(offsets)
    index[:, -1] += 2 * len(offsets)
    index[(taps < 0) | (taps >= len(offsets))] = -1
    table = [weights, weights.cumsum(1), weights.flip(1).cumsum(1).flip(1), torch.zeros_like(weights[:, :1])]
    kernels = torch.cat(table, 1)[:, index][:, None]  # (B, 1, S, S)
    with torch.autocast(pixels.device.type, enabled=False):
        return kernels @ pixels @ kernels.mT


def _per_image(values: torch.Tensor) -> torch.Tensor:
    """(B,) to (B, 1, 1, 1)."""
    return values[:, None, None, None]
