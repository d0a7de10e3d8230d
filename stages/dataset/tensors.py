"""Splits as tensors: small images decoded once into memory, large ones read from the shards as they are needed."""

import dataclasses
import hashlib
from pathlib import Path

import torch

from stages.artifacts import BadInput
from stages.dataset import shards
from stages.dataset.streaming import StreamedImages

MEMORY_BYTES = 2**30
"""Decoded images of a split beyond which they stay on disk. It changes no image and so no result."""
_BLOCK = 256

Images = torch.Tensor | StreamedImages
"""uint8 (N, 3, H, W), RGB in 0..255: has `len`, `shape`, `device` and `to`; rows by int64 (B,) or by a slice."""


@dataclasses.dataclass(frozen=True)
class Split:
    """A split: its labels and captions in memory, its images there or on disk."""

    images: Images
    """uint8 (N, 3, H, W), RGB in 0..255."""
    labels: torch.Tensor
    """int64 (N,), indices into `class_names`."""
    caption_ids: torch.Tensor
    """int64 (N,), -1 where an image was not made from a caption."""
    class_names: tuple[str, ...]
    """The data set's classes."""

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels)


def load_split(folder: Path, name: str) -> Split:
    """Opens a split (`train`, `val` or `test`), and decodes every image if they fit into `MEMORY_BYTES`.

    Raises:
        BadInput: the split is missing, or (as soon as one is decoded) its images differ in size.
    """
    streamed = StreamedImages(folder, name)
    columns = shards.read_integers(folder, name, ("label", "caption_id"))
    labels, caption_ids = (torch.from_numpy(values) for values in columns)
    images = streamed if streamed.shape.numel() > MEMORY_BYTES else streamed[:]
    return Split(images, labels, caption_ids, shards.read_class_names(folder, name))


def check_arm(source: str, train: Split, validation: dict[str, Split]) -> None:
    """Holds the splits of an arm to one another.

    Raises:
        BadInput: a split is empty, or classes or image sizes differ.
    """
    for key, other in {"train": train, **validation}.items():
        if not len(other):
            raise BadInput(f"data/{source}: {key} has no images, so there is nothing to train on or select by")
        if (other.class_names, other.images.shape[1:]) != (train.class_names, train.images.shape[1:]):
            raise BadInput(f"data/{source}: {key} has other classes or another image size; run `dvc repro` again")


def count_distinct(images: Images) -> int:
    """How many of the images differ from all before them."""
    digests: set[bytes] = set()
    for start in range(0, len(images), _BLOCK):
        block = images[start : start + _BLOCK].cpu().numpy()
        digests |= {hashlib.sha256(image.tobytes()).digest() for image in block}
    return len(digests)
