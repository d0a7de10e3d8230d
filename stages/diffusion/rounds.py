"""Making every planned image: batches on disk as they are finished, and another try for each image that is no good."""

import dataclasses
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from stages.artifacts import BadInput, write_bytes
from stages.diffusion.plan import Shot, cut, replacements

MAX_ROUNDS: Final = 20
"""Tries after which a generator counts as one that can't make the image."""
VERDICTS: Final = ("accepted", "blank", "unsafe")

Render = Callable[[Sequence[Shot]], list[tuple[Image.Image, bool]]]
"""A batch of shots to images, each with whether it is unsafe."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """A finished batch, as it lies in the scratch folder."""

    images: list[bytes]
    """Encoded files."""
    verdicts: list[int]
    """Indices into `VERDICTS`."""

    def save(self, path: Path) -> None:
        """Writes the batch, wholly or not at all."""
        stream = io.BytesIO()
        ends = np.cumsum([len(image) for image in self.images])
        content = np.frombuffer(b"".join(self.images), np.uint8)
        np.savez(stream, content=content, ends=ends, verdicts=np.array(self.verdicts))
        write_bytes(path, stream.getvalue())

    @staticmethod
    def read_verdicts(path: Path) -> list[int]:
        """The verdicts of a batch that `save` wrote, without its images."""
        with np.load(path, allow_pickle=False) as arrays:
            verdicts: list[int] = arrays["verdicts"].tolist()
            return verdicts

    @classmethod
    def load(cls, path: Path) -> "Batch":
        """Reads a batch that `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            parts = np.split(arrays["content"], arrays["ends"][:-1])
            return cls([part.tobytes() for part in parts], arrays["verdicts"].tolist())


def develop(
    shots: Sequence[Shot], render: Render, encode: Callable[[Image.Image], bytes], blank_below_std: float
) -> Batch:
    """Renders and encodes a batch and judges each image."""
    images, verdicts = [], []
    for image, unsafe in render(shots):
        is_blank = float(np.asarray(image).std()) < blank_below_std
        verdicts.append(VERDICTS.index("unsafe" if unsafe else "blank" if is_blank else "accepted"))
        images.append(encode(image))
    return Batch(images, verdicts)


@dataclasses.dataclass(frozen=True)
class Result:
    """Every image of a plan, on disk."""

    accepted: dict[Shot, tuple[Path, int]]
    """Where each good image lies: the file of its batch, and its place in it."""
    rejected: dict[Shot, str]
    """The others, and why."""

    def images(self, shots: Sequence[Shot]) -> Iterator[tuple[Shot, bytes]]:
        """The encoded images of accepted shots; holds one batch in memory."""
        loaded, batch = None, Batch([], [])
        for shot in shots:
            path, position = self.accepted[shot]
            if path != loaded:
                loaded, batch = path, Batch.load(path)
            yield shot, batch.images[position]


def make_all(
    shots: Sequence[Shot],
    batch_size: int,
    data_seed: int,
    state: Path,
    make: Callable[[list[tuple[Path, tuple[Shot, ...]]]], None],
) -> Result:
    """Makes every image of the plan, and for each rejected one the next sample of its caption, until all are good.

    Args:
        shots: the plan.
        batch_size: images per batch, cut by position in the plan.
        data_seed: of the plan.
        state: folder of the finished batches; those that an earlier run left are not made again.
        make: makes and saves the given batches, and returns when every process has.

    Raises:
        BadInput: the generator's images of a caption are no good time after time.
    """
    accepted: dict[Shot, tuple[Path, int]] = {}
    rejected: dict[Shot, str] = {}
    pending = list(shots)
    for turn in range(MAX_ROUNDS):
        batches = [(state / f"{turn:02}-{i:06}.npz", batch) for i, batch in enumerate(cut(pending, batch_size))]
        make(batches)
        again = []
        for path, batch in batches:
            if not path.exists():
                raise BadInput(
                    f"{path}: was made by a process whose disk this one does not see; processes on several machines "
                    "need the repository on a disk that they share"
                )
            for position, (shot, verdict) in enumerate(zip(batch, Batch.read_verdicts(path), strict=True)):
                if VERDICTS[verdict] == "accepted":
                    accepted[shot] = (path, position)
                else:
                    rejected[shot] = VERDICTS[verdict]
                    again.append(shot)
        if not again:
            return Result(accepted, rejected)
        pending = replacements([*accepted, *rejected], again, data_seed)
    worst = pending[0].caption.text
    raise BadInput(
        f"generate_synthetic: {MAX_ROUNDS} images of the caption {worst!r} in a row were {rejected[again[0]]}; "
        "train the generator longer, lower blank_below_std, or reword the prompt"
    )
