import io

import numpy as np
import pytest
from PIL import Image

from stages.dataset import codec
from stages.sections import Codec

PNG = Codec(format="png", quality=None)


def picture(seed, size=8):
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    return Image.fromarray(pixels)


def test_png_keeps_pixels_and_equal_pixels_give_equal_bytes():
    content = codec.encode(picture(0), PNG)
    assert np.array_equal(np.asarray(codec.decode(content)), np.asarray(picture(0)))
    assert codec.encode(codec.decode(content), PNG) == content


def test_jpeg_has_the_quality_and_the_chroma_of_cifake():
    content = codec.encode(picture(0, 32), Codec(format="jpeg", quality=75))
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "JPEG"
        assert [component[1:3] for component in image.layer] == [(2, 2), (1, 1), (1, 1)]  # 4:2:0
        assert image.quantization[0][0] == 8  # 16 of the standard's table, halved at quality 75
    assert codec.encode(picture(0, 32), Codec(format="jpeg", quality=75)) == content
    assert len(codec.encode(picture(0, 32), Codec(format="jpeg", quality=95))) > len(content)


def test_decode_gives_rgb():
    stream = io.BytesIO()
    Image.new("L", (3, 2), 7).save(stream, "PNG")
    image = codec.decode(stream.getvalue())
    assert image.mode == "RGB"
    assert image.getpixel((0, 0)) == (7, 7, 7)
    with pytest.raises(OSError, match="cannot identify"):
        codec.decode(b"no image")


def test_resize_keeps_an_image_of_that_size_and_centres_the_others():
    assert np.array_equal(np.asarray(codec.resize(picture(0), 8)), np.asarray(picture(0)))
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    assert abs(np.asarray(codec.resize(Image.fromarray(wide), 5)).astype(int) - 200).max() < 20
    assert codec.resize(picture(0, 9), 4).size == (4, 4)
    checker = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    small = np.asarray(codec.resize(Image.fromarray(np.dstack([checker] * 3)), 8))
    assert abs(small.astype(int) - 127).max() < 16  # antialiased: fine detail averages out, nothing is picked
