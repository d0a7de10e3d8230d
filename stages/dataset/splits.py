"""Which images are trained on, selected on and judged on: a function of the images' content alone.

Neither the order nor the names of files matter. Duplicates go first: one that lies on both sides of a split is a
leak. Never imports torch.
"""

import collections
import dataclasses
from collections.abc import Iterable

from stages.artifacts import BadInput
from stages.dataset.examples import Collection, Example, Stored


@dataclasses.dataclass(frozen=True)
class Duplicates:
    """How many images were dropped as exact copies, and why."""

    inside_class: int
    """Copies of an image with the same label, in the same pool; one is kept."""
    across_pools: int
    """Images that a pool named earlier (real, its published test, fakes, theirs) also has."""
    across_classes: int
    """Images that stand under two labels; none is kept, since no one can say which label is right."""


@dataclasses.dataclass(frozen=True)
class Splits:
    """Every split, each sorted by content, so that classes are interleaved."""

    train: list[Example]
    val: list[Example]
    test: list[Example]
    fake_train: list[Example]
    fake_val: list[Example]
    fake_test: list[Example]
    duplicates: Duplicates


def split(
    found: Collection, val_per_class: int, test_per_class: int, deduplicate: bool, train_per_class: int | None = None
) -> Splits:
    """Splits a data set; a test split that it publishes is kept as it is (less duplicates).

    Fakes get a validation split of their own, and no more training images of a class than the real arm has: arms are
    compared at equal numbers. Budgets are nested: a smaller `train_per_class` takes the first images of a larger one.

    Raises:
        BadInput: a class has too few distinct images to fill its splits and leave `train_per_class` to train on.
    """
    pools, duplicates = [found.real, found.real_test, found.fake, found.fake_test], Duplicates(0, 0, 0)
    if deduplicate:
        pools, duplicates = drop_duplicates(pools)
    real, published, fake, fake_test = (sorted(pool, key=_by_content) for pool in pools)
    names = found.class_names
    held_out = {"val_per_class": val_per_class} | ({} if found.real_test else {"test_per_class": test_per_class})
    val, *tests, train = cut(real, names, held_out, train_per_class)
    fake_val, fake_train = [], []
    if found.fake:
        fake_val, fake_train = cut(fake, names, {"val_per_class": val_per_class}, train_per_class)
        fake_train = limit(fake_train, per_class(train, len(names)))
    return Splits(train, val, tests[0] if tests else published, fake_train, fake_val, fake_test, duplicates)


def drop_duplicates(pools: list[list[Example]]) -> tuple[list[list[Example]], Duplicates]:
    """Keeps one of each group of equal images: in the first pool that has it, or none if its labels differ."""
    labels: dict[str, set[int]] = collections.defaultdict(set)
    for example in (example for pool in pools for example in pool):
        labels[example.content].add(example.label)
    kept: list[list[Example]] = []
    owner: dict[str, int] = {}
    counts = collections.Counter[str]()
    for index, pool in enumerate(pools):
        kept.append([])
        for example in sorted(pool, key=_by_content):
            if len(labels[example.content]) > 1:
                counts["across_classes"] += 1
            elif example.content not in owner:
                owner[example.content] = index
                kept[-1].append(example)
            else:
                counts["inside_class" if owner[example.content] == index else "across_pools"] += 1
    return kept, Duplicates(counts["inside_class"], counts["across_pools"], counts["across_classes"])


def cut(
    pool: list[Example], class_names: tuple[str, ...], sizes: dict[str, int], train_per_class: int | None = None
) -> list[list[Example]]:
    """Cuts a pool, class by class in the order of content, into parts of `sizes` images per class and a train part.

    The train part has `train_per_class` images of each class, or all that are left for None.

    Raises:
        BadInput: a class has too few left; the line names the class and the settings (keys of `sizes`).
    """
    parts: list[list[Example]] = [[] for _ in range(len(sizes) + 1)]
    by_label: dict[int, list[Example]] = collections.defaultdict(list)
    for example in sorted(pool, key=_by_content):
        by_label[example.label].append(example)
    for label, name in enumerate(class_names):
        examples = by_label[label]
        if len(examples) < sum(sizes.values()) + (train_per_class or 1):
            asked = " + ".join(f"{count} ({key})" for key, count in sizes.items())
            wanted = f"{train_per_class} (train_per_class)" if train_per_class else "at least 1"
            raise BadInput(
                f"fetch_data: class {name} has {len(examples)} distinct images, but {asked} + {wanted} to train on "
                "are asked for; add images or lower the settings"
            )
        start = 0
        for part, count in zip(parts, [*sizes.values(), train_per_class or len(examples)], strict=True):
            part += examples[start : start + count]
            start += count
    return [sorted(part, key=_by_content) for part in parts]


def limit(examples: list[Example], counts: list[int]) -> list[Example]:
    """The first `counts[label]` examples of each label."""
    left = list(counts)
    taken = []
    for example in examples:
        if left[example.label] > 0:
            left[example.label] -= 1
            taken.append(example)
    return taken


def per_class(examples: Iterable[Example], num_classes: int) -> list[int]:
    """The number of examples of each label."""
    counts = collections.Counter(example.label for example in examples)
    return [counts[label] for label in range(num_classes)]


def _by_content(example: Example) -> tuple[str, int, Stored]:
    """A sort key that depends on nothing but the image and its label."""
    return example.content, example.label, example.stored
