"""The draw behind the mixed arm: how many and which images of two sources. Never imports torch."""

import collections
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import assert_never

from stages.artifacts import BadInput
from stages.dataset.shards import Row
from stages.generator_sections import MixByAddition, MixByFraction, MixSources


@dataclasses.dataclass(frozen=True)
class Drawable:
    """One image that may be drawn."""

    label: int
    key: bytes
    """Where it stands in the draw: SHA-256 of seed and image."""


def drawables(rows: Iterable[Row], seed: int) -> list[Drawable]:
    """What can be drawn from a split; holds hashes, not images."""
    return [Drawable(row.label, hashlib.sha256(b"%d " % seed + row.image).digest()) for row in rows]


def quotas(real: Sequence[Drawable], section: MixSources, name: str) -> tuple[dict[int, int], dict[int, int]]:
    """How many real and how many synthetic images of each label a split has.

    By fraction they are together as many as there are real ones; by addition each has its own budget. What is
    selected on (`val`) has the proportions of what is trained on, and always as many images as the real one: more of
    them would be a better judge.
    """
    totals = collections.Counter(item.label for item in real)
    match section:
        case MixByFraction():
            share = section.real_fraction
        case MixByAddition() if name == "train":
            return (
                {label: round(section.real_fraction * total) for label, total in totals.items()},
                {label: round(section.synthetic_per_real * total) for label, total in totals.items()},
            )
        case MixByAddition():
            share = section.real_fraction / (section.real_fraction + section.synthetic_per_real)
        case _:
            assert_never(section)
    from_real = {label: round(share * total) for label, total in totals.items()}
    return from_real, {label: total - from_real[label] for label, total in totals.items()}


def draw(items: Sequence[Drawable], counts: dict[int, int], class_names: Sequence[str], origin: str) -> set[int]:
    """Positions of `counts[label]` items of each label, those with the smallest keys: the order of rows is nothing.

    Raises:
        BadInput: a label has too few items.
    """
    by_label: dict[int, list[tuple[bytes, int]]] = collections.defaultdict(list)
    for position, item in enumerate(items):
        by_label[item.label].append((item.key, position))
    chosen: set[int] = set()
    for label, count in counts.items():
        available = by_label[label]
        if len(available) < count:
            raise BadInput(
                f"mix_sources: needs {count} {origin} images of class {class_names[label]}, there are "
                f"{len(available)}; make more of them (generate_synthetic.extra_images_per_real), or change "
                "real_fraction or synthetic_per_real"
            )
        chosen |= {position for _, position in sorted(available)[:count]}
    return chosen


def select(rows: Iterable[Row], chosen: set[int]) -> Iterator[Row]:
    """The rows at the chosen positions, in their order."""
    return (row for position, row in enumerate(rows) if position in chosen)
