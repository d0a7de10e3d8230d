"""What a reader gives: the images of a data set, encoded as they will be stored, before duplicates and splits.

Their files wait on disk, so that memory holds under a kilobyte of each, whatever their size. Never imports torch.
"""

import dataclasses
import hashlib
import os
import tempfile
import threading

from PIL import Image

from stages.dataset import codec
from stages.sections import Codec


class Spool:
    """Encoded files one after the other in an unnamed file, which vanishes with the process however that ends.

    It lies in the working directory, since a folder for temporary files may itself be in memory.
    """

    def __init__(self) -> None:
        self._stream = tempfile.TemporaryFile(dir=".")  # noqa: SIM115 - it closes with the process
        self._end = 0
        self._lock = threading.Lock()

    def keep(self, content: bytes) -> "Stored":
        """Appends a file."""
        with self._lock:
            start, self._end = self._end, self._end + len(content)
            self._stream.write(content)
        return Stored(self, start, len(content))

    def read(self, start: int, size: int) -> bytes:
        """What was kept there."""
        with self._lock:
            self._stream.flush()
        return os.pread(self._stream.fileno(), size, start)


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Stored:
    """A file in a spool; compared and sorted by its bytes, which are read for that."""

    spool: Spool
    start: int
    size: int

    def read(self) -> bytes:
        """Its bytes."""
        return self.spool.read(self.start, self.size)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stored) and self.size == other.size and self.read() == other.read()

    def __lt__(self, other: "Stored") -> bool:
        return self.read() < other.read()

    def __hash__(self) -> int:
        return hash(self.read())


@dataclasses.dataclass(frozen=True, slots=True)
class Published:
    """How a data set itself stores an image; what differs between sources here gives them away."""

    form: str
    """Format, quality and chroma subsampling, such as `JPEG quality 75 4:2:0`."""
    num_bytes: int
    """Size of its file."""
    is_stored: bool
    """Whether that very file is what the study stores."""


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """One labelled image."""

    stored: Stored
    """The file, as it will be in the shards."""
    label: int
    """Index into the class names."""
    content: str
    """SHA-256 of its decoded pixels: what makes two images duplicates."""
    published: Published | None = None
    """Its file in the data set, where the reader has looked at that."""

    @property
    def image(self) -> bytes:
        """The file's bytes, read anew each time."""
        return self.stored.read()


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


def from_image(
    spool: Spool, image: Image.Image, label: int, size: int, form: Codec, published: Published | None = None
) -> Example:
    """An example from an RGB image: resized, encoded, and identified by what its file decodes to."""
    content = codec.encode(codec.resize(image, size), form)
    return from_file(spool, content, codec.decode(content), label, published)


def from_file(
    spool: Spool, content: bytes, pixels: Image.Image, label: int, published: Published | None = None
) -> Example:
    """An example from a file that is stored as it is, and the RGB image that it decodes to."""
    identity = hashlib.sha256(b"%d %d " % pixels.size + pixels.tobytes()).hexdigest()
    return Example(spool.keep(content), label, identity, published)
