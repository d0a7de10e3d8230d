"""Real and generated images in one set, so that telling them apart can be learned, and judged, at even odds."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from stages.artifacts import DATA, BadInput, validation_of
from stages.dataset.tensors import Images, Split, load_split

KINDS = ("real", "generated")
"""What a detector tells apart; their places are its labels."""
_BLOCK = 256


@dataclasses.dataclass(frozen=True)
class Part:
    """Some images of a split."""

    split: Split
    """Where they stand."""
    rows: torch.Tensor
    """int64 (n,), which they are."""

    @property
    def labels(self) -> torch.Tensor:
        """int64 (n,), what they show."""
        return self.split.labels[self.rows]


class PairedImages:
    """Images of two splits, uint8 (N, 3, H, W), one after the other: indexed like a tensor, copied by no one."""

    def __init__(self, real: tuple[Images, torch.Tensor], generated: tuple[Images, torch.Tensor]) -> None:
        """Takes the images of each kind and int64 rows of them."""
        self._kinds = (real, generated)
        self._first = len(real[1])
        self.shape = torch.Size((self._first + len(generated[1]), *real[0].shape[1:]))
        """(N, 3, H, W)."""

    def __len__(self) -> int:
        """N."""
        return self.shape[0]

    def to(self, device: torch.device) -> Self:
        """The same images, put on `device` as they are indexed."""
        moved = object.__new__(type(self))
        moved.__dict__.update(vars(self), _kinds=tuple((images.to(device), rows) for images, rows in self._kinds))
        return moved

    def __getitem__(self, key: torch.Tensor | slice) -> torch.Tensor:
        """Those at rows int64 (B,), or at a slice of all, on the device."""
        chosen = torch.arange(len(self))[key.cpu() if isinstance(key, torch.Tensor) else key]
        is_generated = chosen >= self._first
        parts = [
            images[rows[chosen[is_generated == bool(kind)] - kind * self._first]]
            for kind, (images, rows) in enumerate(self._kinds)
        ]
        together = torch.cat(parts)
        order = is_generated.long().argsort(stable=True).argsort().to(together.device)
        return together[order]


@dataclasses.dataclass(frozen=True)
class Pairing:
    """Real and generated images, as many of each class and kind."""

    images: torch.Tensor | PairedImages
    """uint8 (N, 3, H, W), real ones first; in memory if those of both splits are."""
    kinds: torch.Tensor
    """int64 (N,), indices into `KINDS`."""
    labels: torch.Tensor
    """int64 (N,), what they show: indices into `class_names`."""
    class_names: tuple[str, ...]
    """The data set's classes."""

    def __len__(self) -> int:
        """The number of images."""
        return len(self.kinds)

    def blocks(self) -> Iterator[torch.Tensor]:
        """All images in order, uint8 (b, 3, H, W) at a time."""
        for start in range(0, len(self), _BLOCK):
            yield self.images[start : start + _BLOCK]


def pair(real: Part, generated: Part, seed: int) -> Pairing:
    """As many images of a class on either side as the poorer side has of it: the label says nothing of the kind.

    What is left out of the richer side is a function of the seed, the label and the number of its images.
    """
    sides, num_classes = (real, generated), len(real.split.class_names)
    fewest = torch.stack([side.labels.bincount(minlength=num_classes) for side in sides]).amin(0).tolist()
    kept = [Part(side.split, side.rows[draw_per_class(side.labels, fewest, seed)]) for side in sides]
    paired = PairedImages(*((part.split.images, part.rows) for part in kept))
    in_memory = all(isinstance(side.split.images, torch.Tensor) for side in sides)
    return Pairing(
        images=paired[:] if in_memory else paired,
        kinds=torch.cat([torch.full_like(part.rows, kind) for kind, part in enumerate(kept)]),
        labels=torch.cat([part.labels for part in kept]),
        class_names=real.split.class_names,
    )


def load_train_and_val(source: str, seed: int) -> tuple[Pairing, Pairing]:
    """What a detector of `source`'s images is trained on and selected on.

    Fakes come with a validation split of their own. Of synthetic images that one is kept for the test (its captions
    are held out), and what is selected on is drawn from the train split, as many of a class as real val has.

    Raises:
        BadInput: a split is missing or empty, or sizes or classes differ.
    """
    real, real_val = _whole(DATA / "real", "train"), _whole(validation_of("real"), "val")
    train = _whole(DATA / source, "train")
    if source == "synthetic":
        counts = real_val.labels.bincount(minlength=len(real_val.split.class_names)).tolist()
        train, val = carve(train, counts, seed)
    else:
        val = _whole(DATA / source, "val")
    return _checked(source, real, train, seed), _checked(source, real_val, val, seed)


def load_test(source: str, seed: int) -> Pairing:
    """What a detector is judged on: real test images, and those of `source` that no detector has seen.

    Raises:
        BadInput: as for `load_train_and_val`.
    """
    own = "val" if source == "synthetic" else "test"
    return _checked(source, _whole(DATA / "test", "test"), _whole(DATA / source, own), seed)


def carve(part: Part, counts: list[int], seed: int) -> tuple[Part, Part]:
    """Takes `counts[label]` images of each label away; returns what is left, and those.

    Raises:
        BadInput: that would leave none of a label.
    """
    available = part.labels.bincount(minlength=len(counts)).tolist()
    for name, count, there in zip(part.split.class_names, counts, available, strict=True):
        if 0 < there <= count:
            raise BadInput(
                f"train_detector: {there} synthetic images of class {name} can't give {count} to select on and leave "
                "any to train on; make more of them, or lower fetch_data.val_per_class"
            )
    taken = torch.zeros(len(part.rows), dtype=torch.bool)
    taken[draw_per_class(part.labels, counts, seed)] = True
    return Part(part.split, part.rows[~taken]), Part(part.split, part.rows[taken])


def digests(pairing: Pairing) -> NDArray[np.int64]:
    """What stands for the pixels of each image: 64 bits of BLAKE2b, equal for equal images; (N,)."""
    images = (image.tobytes() for block in pairing.blocks() for image in block.numpy())
    parts = [hashlib.blake2b(image, digest_size=8).digest() for image in images]
    return np.frombuffer(b"".join(parts), "<i8").astype(np.int64)


def draw_per_class(labels: torch.Tensor, counts: list[int], seed: int) -> torch.Tensor:
    """Positions, in order, of at most `counts[label]` of each label in `labels` (N,).

    What is drawn is a function of the seed, the label and the number of images that have it.
    """
    drawn = []
    for label, count in enumerate(counts):
        own = labels.eq(label).nonzero().flatten()
        order = np.random.default_rng([seed, label]).permutation(len(own))[:count]
        drawn.append(own[torch.from_numpy(order)])
    return torch.cat(drawn).sort().values


def _whole(folder: Path, name: str) -> Part:
    split = load_split(folder, name)
    return Part(split, torch.arange(len(split)))


def _checked(source: str, real: Part, generated: Part, seed: int) -> Pairing:
    folder, first, second = DATA / source, real.split, generated.split
    if not len(generated.rows):
        raise BadInput(f"{folder}: has no images to tell from real ones; take {source} out of detectors in params.yaml")
    if (second.class_names, second.images.shape[1:]) != (first.class_names, first.images.shape[1:]):
        raise BadInput(f"{folder}: its classes or image size differ from those of data/real; run `dvc repro` again")
    pairing = pair(real, generated, seed)
    if not len(pairing):
        raise BadInput(f"{folder}: shares no class with the real images; run `dvc repro` again")
    return pairing
