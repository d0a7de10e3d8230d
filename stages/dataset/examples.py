"""What a reader gives: the images of a data set, encoded as they will be stored, before duplicates and splits.

Held in memory as encoded files: 100,000 images of 224 pixels as JPEG are about 2 GB, and their decoded tensor, which
every trainer holds, is 15. Never imports torch.
"""

import dataclasses
import hashlib

from PIL import Image

from stages.dataset import codec
from stages.sections import Codec


@dataclasses.dataclass(frozen=True)
class Example:
    """One labelled image."""

    image: bytes
    """The file, as it will be stored."""
    label: int
    """Index into the class names."""
    content: str
    """SHA-256 of its decoded pixels: what makes two images duplicates."""


@dataclasses.dataclass(frozen=True)
class Collection:
    """All images of a data set."""

    class_names: tuple[str, ...]
    """Its classes, in the order of the labels."""
    real: list[Example]
    """Real images to split."""
    real_test: list[Example] = dataclasses.field(default_factory=list)
    """The test split that the data set itself publishes; empty where it has none."""
    fake: list[Example] = dataclasses.field(default_factory=list)
    """The fakes that the data set itself publishes, to split; empty where it has none."""
    num_ignored: int = 0
    """Files that are no images by their names."""


def from_image(image: Image.Image, label: int, size: int, form: Codec) -> Example:
    """An example from an RGB image: resized, encoded, and identified by what its file decodes to."""
    return from_file(codec.encode(codec.resize(image, size), form), label)


def from_file(content: bytes, label: int) -> Example:
    """An example from a file that is stored as it is.

    Raises:
        OSError: it is no image.
    """
    pixels = codec.decode(content)
    return Example(content, label, hashlib.sha256(b"%d %d " % pixels.size + pixels.tobytes()).hexdigest())
