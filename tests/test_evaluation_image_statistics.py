"""The 29 statistics against a slow reference, and on images whose statistics are known."""

import cmath
import math

import numpy as np
import pytest

from stages.evaluation.image_statistics import NAMES, statistics


def slow(image):
    """Pixel by pixel and frequency by frequency."""
    channels, height, width = image.shape
    rgb = [[tuple(int(image[c, y, x]) / 255 for c in range(channels)) for x in range(width)] for y in range(height)]
    flat = [pixel for row in rgb for pixel in row]
    luma = [[0.299 * r + 0.587 * g + 0.114 * b for r, g, b in row] for row in rgb]
    rings = {k: [] for k in range(1, 17)}
    for v in range(height):
        for u in range(width):
            fv, fu = (v if v <= height / 2 else v - height) / height, (u if u <= width / 2 else u - width) / width
            ring = round(32 * math.sqrt(fu**2 + fv**2))
            if ring in rings:
                total = sum(
                    luma[y][x] * cmath.exp(-2j * math.pi * (u * x / width + v * y / height))
                    for y in range(height)
                    for x in range(width)
                )
                rings[ring].append(abs(total) ** 2 / (height * width))
    spectrum = [math.log10(sum(p) / len(p) + 1e-8) if p else 0.0 for p in rings.values()]

    def moments(values):
        mean = sum(values) / len(values)
        return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))

    colours = [moments([pixel[c] for pixel in flat]) for c in range(3)]
    lumas = [value for row in luma for value in row]
    cb = moments([0.564 * (pixel[2] - y) for pixel, y in zip(flat, lumas, strict=True)])
    cr = moments([0.713 * (pixel[0] - y) for pixel, y in zip(flat, lumas, strict=True)])
    chroma = moments([max(pixel) - min(pixel) for pixel in flat])[0]
    values = image.ravel().tolist()
    clipped = [values.count(0) / len(values), values.count(255) / len(values)]
    means, deviations = zip(*colours, strict=True)
    return [*spectrum, *means, *deviations, cb[0], cr[0], cb[1], cr[1], chroma, *clipped]


def noise(size, count=3):
    rng = np.random.default_rng(0)
    images = rng.integers(-40, 296, (count, 3, size, size)).clip(0, 255).astype(np.uint8)
    images[:, :, : size // 2] //= 2
    return images


@pytest.mark.parametrize("size", [8, 12])
def test_they_are_what_a_slow_reference_finds(size):
    images = noise(size)
    found = statistics([images[:2], images[2:]])
    assert found.shape == (3, 29) == (3, len(NAMES))
    np.testing.assert_allclose(found, [slow(image) for image in images], rtol=1e-4, atol=1e-5)


def test_a_wave_has_its_power_in_its_own_ring():
    for ring in (3, 11, 16):
        wave = 127.5 + 100 * np.cos(2 * np.pi * ring * np.arange(32) / 32)
        image = np.broadcast_to(wave.round().astype(np.uint8), (1, 3, 32, 32))
        spectrum = statistics([image])[0, :16]
        assert spectrum.argmax() == ring - 1
        assert np.sort(spectrum)[-2] < spectrum.max() - 3, "a thousand times less elsewhere"


def test_what_is_not_low_level_is_not_seen():
    """Mirrored and shifted around, images look different to a network, but not to these."""
    images = noise(32, 2)
    expected = statistics([images])
    for other in (images[..., ::-1], np.roll(images, (5, 9), (2, 3)), images.transpose(0, 1, 3, 2)):
        np.testing.assert_allclose(statistics([np.ascontiguousarray(other)]), expected, atol=1e-4)


def test_flat_images_are_finite():
    images = np.stack([np.zeros((3, 32, 32), np.uint8), np.full((3, 32, 32), 255, np.uint8)])
    found = dict(zip(NAMES, statistics([images]).T, strict=True))
    assert all(np.isfinite(values).all() for values in found.values())
    assert found["clipped_dark"].tolist() == [1, 0]
    assert found["clipped_bright"].tolist() == [0, 1]
    assert found["mean_red"].tolist() == [0, 1]
