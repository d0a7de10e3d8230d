"""The one codec and the one resize filter of the study, for real and synthetic images alike.

A data set stored as JPEG against one stored as PNG, or resized by another filter, differs in ways that a classifier
sees and that have nothing to do with where its images come from.
"""

import io
from typing import assert_never

from PIL import Image, ImageOps

from stages.sections import Codec


def encode(image: Image.Image, codec: Codec) -> bytes:
    """An RGB image as file bytes; equal pixels give equal bytes (with one version of Pillow's libraries).

    JPEG is stored with 4:2:0 chroma, as CIFAKE is.
    """
    stream = io.BytesIO()
    match codec.format:
        case "png":
            image.save(stream, "PNG", compress_level=6)
        case "jpeg":
            image.save(stream, "JPEG", quality=codec.quality, subsampling="4:2:0")
        case _ as never:
            assert_never(never)
    return stream.getvalue()


def decode(content: bytes) -> Image.Image:
    """File bytes as an RGB image.

    Raises:
        OSError: the bytes are no image that Pillow reads (`PIL.UnidentifiedImageError`), or are cut short.
    """
    with Image.open(io.BytesIO(content)) as image:
        return image.convert("RGB")


def resize(image: Image.Image, size: int) -> Image.Image:
    """A square image of `size` pixels a side: the centred square of the image, resized by antialiased bicubic.

    An image that has the size already keeps its pixels exactly.
    """
    if image.size == (size, size):
        return image
    return ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
