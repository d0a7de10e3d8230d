"""Twenty-nine low-level statistics of an image: what is left to tell kinds of images apart when nobody looks at them.

Frequencies, brightness, colour and clipping, nothing of what an image shows or where. Never imports torch.
"""

from collections.abc import Iterable
from functools import cache

import numpy as np
from numpy.typing import NDArray

NUM_RINGS = 16
CHANNELS = ("red", "green", "blue")
SPECTRUM = tuple(f"log_power_{ring}" for ring in range(1, NUM_RINGS + 1))
NAMES = (
    *SPECTRUM,
    *(f"mean_{channel}" for channel in CHANNELS),
    *(f"deviation_{channel}" for channel in CHANNELS),
    "mean_cb", "mean_cr", "deviation_cb", "deviation_cr", "mean_chroma",
    "clipped_dark", "clipped_bright",
)  # fmt: skip
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
BLUE_TO_CB, RED_TO_CR = 0.564, 0.713
"""JPEG's colour difference signals (ITU-R BT.601): Cb = 0.564 (B - Y), Cr = 0.713 (R - Y)."""
TINY_POWER = 1e-8
"""Keeps the logarithm of a flat image finite; far below one grey level."""


def statistics(blocks: Iterable[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """The statistics of `NAMES` for each image.

    With values scaled to [0, 1], R, G and B the channels and Y their luma:

    - log_power_k, k = 1..16: log10 of the mean of |F(u, v)|^2 / (H W) over the frequencies whose distance from zero
      rounds to k, in 32nds of a cycle per pixel; F is the discrete Fourier transform of Y. 16 is the Nyquist frequency
      of rows and columns; the corners beyond are left out. A ring that has no frequency in a smaller image gives 0.
    - mean and deviation of R, G, B, and of Cb and Cr: over all pixels (standard deviation, divisor H W).
    - mean_chroma: the mean over pixels of max(R, G, B) - min(R, G, B).
    - clipped_dark and clipped_bright: the shares of the 3 H W values that are 0 and 255.

    Args:
        blocks: images (n, 3, H, W), RGB, a block at a time; at least one block.

    Returns:
        (N, 29), of the images of all blocks.
    """
    return np.concatenate([_of_block(images) for images in blocks])


def _of_block(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    rings = _ring_means(*images.shape[2:])
    pixels = images.astype(np.float32) / 255
    luma = np.einsum("nchw,c->nhw", pixels, LUMA)
    transformed = np.fft.fft2(luma)
    power = (transformed.real**2 + transformed.imag**2) / luma[0].size
    in_ring = rings.sum(axis=0) > 0
    spectrum = np.where(in_ring, np.log10(power.reshape(len(images), -1) @ rings + TINY_POWER), 0)
    chroma = [BLUE_TO_CB * (pixels[:, 2] - luma), RED_TO_CR * (pixels[:, 0] - luma)]
    columns = [
        spectrum,
        pixels.mean(axis=(2, 3)),
        pixels.std(axis=(2, 3)),
        *(plane.mean(axis=(1, 2))[:, None] for plane in chroma),
        *(plane.std(axis=(1, 2))[:, None] for plane in chroma),
        (pixels.max(axis=1) - pixels.min(axis=1)).mean(axis=(1, 2))[:, None],
        *((images == value).mean(axis=(1, 2, 3))[:, None] for value in (0, 255)),
    ]
    table: NDArray[np.float32] = np.concatenate(columns, axis=1).astype(np.float32)
    return table


@cache
def _ring_means(height: int, width: int) -> NDArray[np.float32]:
    """(H W, 16): the weights that take a flat spectrum to its means over rings."""
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]
    ring = np.rint(2 * NUM_RINGS * np.hypot(rows, columns)).astype(int).ravel()
    members: NDArray[np.float32] = (ring[:, None] == np.arange(1, NUM_RINGS + 1)).astype(np.float32)
    means: NDArray[np.float32] = members / np.maximum(members.sum(axis=0, dtype=np.float32), np.float32(1))
    return means
