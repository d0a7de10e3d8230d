"""Splits in memory: every image decoded once into one uint8 tensor."""

import dataclasses
from pathlib import Path

import numpy as np
import torch

from stages.artifacts import BadInput
from stages.dataset import codec, shards


@dataclasses.dataclass(frozen=True)
class Split:
    """A split in memory."""

    images: torch.Tensor
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
    """Reads the shards of a split (`train`, `val` or `test`) and decodes every image.

    Raises:
        BadInput: the split is missing, or its images differ in size.
    """
    class_names = shards.read_class_names(folder, name)
    count = shards.num_rows(folder, name)
    labels = np.empty(count, np.int64)
    caption_ids = np.empty(count, np.int64)
    images = np.empty((count, 3, 0, 0), np.uint8)
    for i, row in enumerate(shards.read_rows(folder, name)):
        pixels = np.asarray(codec.decode(row.image)).transpose(2, 0, 1)
        if i == 0:
            images = np.empty((count, *pixels.shape), np.uint8)
        if pixels.shape != images.shape[1:]:
            raise BadInput(
                f"{folder}: {name} image {row.path} is {pixels.shape[2]}x{pixels.shape[1]}, the first is "
                f"{images.shape[3]}x{images.shape[2]}; run the stage that makes the folder again"
            )
        images[i], labels[i], caption_ids[i] = pixels, row.label, row.caption_id
    return Split(torch.from_numpy(images), torch.from_numpy(labels), torch.from_numpy(caption_ids), class_names)


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


def count_distinct(images: torch.Tensor) -> int:
    """Of uint8 images (N, 3, H, W), how many differ from all before them."""
    return len({image.tobytes() for image in images.numpy()})
