"""A picture of samples: real above synthetic, class by class."""

import io
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw

MARGIN = 120
"""Pixels for the words at the left."""
TILE = 64
"""Least side of an image in the picture."""


def sample_grid(rows: Sequence[tuple[str, torch.Tensor]]) -> bytes:
    """A PNG with a titled row of images per entry; equal images give equal bytes.

    Args:
        rows: title and images uint8 (N, 3, H, W); all images have one size.
    """
    side = rows[0][1].shape[-1]
    scale = max(1, TILE // side)
    tile = side * scale
    columns = max(len(images) for _, images in rows)
    picture = Image.new("RGB", (MARGIN + columns * (tile + 2), len(rows) * (tile + 2)), "white")
    pen = ImageDraw.Draw(picture)
    for i, (title, images) in enumerate(rows):
        top = i * (tile + 2)
        pen.text((4, top + tile // 2 - 6), title, fill="black")
        for j, image in enumerate(images):
            pixels = Image.fromarray(image.permute(1, 2, 0).numpy())
            picture.paste(pixels.resize((tile, tile), Image.Resampling.NEAREST), (MARGIN + j * (tile + 2), top))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def evenly(rows: torch.Tensor, number: int) -> torch.Tensor:
    """At most `number` of the rows (N, ...), evenly spaced."""
    positions = torch.arange(min(number, len(rows))) * len(rows) // max(1, min(number, len(rows)))
    return rows[positions]
