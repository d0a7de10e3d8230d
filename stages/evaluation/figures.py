"""Tables that DVC draws (`plots:` in dvc.yaml): one CSV per figure, so that revisions and arms overlay."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stages.artifacts import write_bytes


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes rows of equal keys, with the first one's as the header.

    Raises:
        ValueError: there are no rows, or they differ in their keys.
    """
    rows = list(rows)
    if not rows:
        raise ValueError(f"{path}: a figure needs at least one row")
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def confusion_rows(counts: list[list[int]], class_names: tuple[str, ...]) -> list[dict[str, str]]:
    """One row per test image, which is what DVC's `confusion` template counts: its `actual` and `predicted` class."""
    return [
        {"actual": actual, "predicted": predicted}
        for actual, row in zip(class_names, counts, strict=True)
        for predicted, count in zip(class_names, row, strict=True)
        for _ in range(count)
    ]
