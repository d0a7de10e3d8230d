"""The captions of a study, in a file that says which text has which number. Never imports torch."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, cast

from stages.artifacts import BadInput, write_bytes

EMPTY = ""
"""The caption of the unconditional estimate."""
HEADER = ("caption_id", "split", "label", "caption")


@dataclasses.dataclass(frozen=True, slots=True)
class Caption:
    """One text that images are made from."""

    caption_id: int
    """Position among all captions of the study."""
    text: str
    """What the generator reads."""
    label: int
    """Index of the class that it names."""
    split: Literal["train", "val"]
    """Held-out captions make the synthetic arm's own validation split."""


def write_captions(path: Path, captions: Iterable[Caption], class_names: Sequence[str]) -> None:
    """Writes a table with one caption a line; texts have neither tabs nor line breaks."""
    rows = [HEADER, *((str(c.caption_id), c.split, class_names[c.label], c.text) for c in captions)]
    write_bytes(path, "".join("\t".join(row) + "\n" for row in rows).encode())


def read_captions(path: Path, class_names: Sequence[str]) -> tuple[Caption, ...]:
    """Reads what `write_captions` wrote.

    Raises:
        BadInput: the file is missing or damaged, or names classes that the data does not have.
    """
    try:
        header, *rows = (line.split("\t") for line in path.read_text().removesuffix("\n").split("\n"))
        labels = {name: label for label, name in enumerate(class_names)}
        captions = tuple(
            Caption(int(number), text, labels[name], cast(Literal["train", "val"], split))
            for number, split, name, text in rows
        )
    except FileNotFoundError:
        raise BadInput(f"{path}: not there; run `dvc repro write_captions`") from None
    except (ValueError, KeyError):
        raise BadInput(f"{path}: is no table of captions of {[*class_names]}; run `dvc repro write_captions`") from None
    if tuple(header) != HEADER or [caption.caption_id for caption in captions] != list(range(len(captions))):
        raise BadInput(f"{path}: was not written by write_captions; run `dvc repro write_captions`")
    return captions
