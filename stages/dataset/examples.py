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
class Published:
    """How a data set itself stores an image; what differs between sources here gives them away."""

    form: str
    """Format, quality and chroma subsampling, such as `JPEG quality 75 4:2:0`."""
    num_bytes: int
    """Size of its file."""
    is_stored: bool
    """Whether that very file is what the study stores."""


@dataclasses.dataclass(frozen=True)
class Example:
    """One labelled image."""

    image: bytes
    """The file, as it will be stored."""
    label: int
    """Index into the class names."""
    content: str
    """SHA-256 of its decoded pixels: what makes two images duplicates."""
    published: Published | None = None
    """Its file in the data set, where the reader has looked at that."""


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
    fake_test: list[Example] = dataclasses.field(default_factory=list)
    """The test split of those fakes, if it publishes one."""
    published_sha256: str | None = None
    """Of the whole set as published, where the reader has looked at that."""
    num_ignored: int = 0
    """Files that are no images by their names."""

    def pools(self) -> dict[str, list[Example]]:
        """The images as published, by source and split; those that the data set has."""
        named = {
            "real/train": self.real,
            "fake/train": self.fake,
            "real/test": self.real_test,
            "fake/test": self.fake_test,
        }
        return {name: pool for name, pool in named.items() if pool}


def from_image(image: Image.Image, label: int, size: int, form: Codec, published: Published | None = None) -> Example:
    """An example from an RGB image: resized, encoded, and identified by what its file decodes to."""
    return from_file(codec.encode(codec.resize(image, size), form), label, published)


def from_file(content: bytes, label: int, published: Published | None = None) -> Example:
    """An example from a file that is stored as it is.

    Raises:
        OSError: it is no image.
    """
    pixels = codec.decode(content)
    return Example(content, label, hashlib.sha256(b"%d %d " % pixels.size + pixels.tobytes()).hexdigest(), published)
