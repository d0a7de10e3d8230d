"""Files that prompts are made from: tables of captions or of words, and lists of scenes. Never imports torch."""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stages.artifacts import BadInput


def read_table(path: Path, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """The given columns of a .tsv, .csv or .parquet file, as text with single spaces between words.

    Raises:
        BadInput: the file is missing, of another kind, lacks a column or has an empty cell.
    """
    try:
        found = _read_parquet(path, columns) if path.suffix == ".parquet" else _read_delimited(path, columns)
    except FileNotFoundError:
        raise BadInput(f"{path}: not there; put the file that prompts names into {path.parent}") from None
    except (UnicodeDecodeError, csv.Error, pa.ArrowInvalid) as error:
        raise BadInput(f"{path}: can't be read ({str(error).splitlines()[0]}); mend it") from None
    rows = [tuple(" ".join(str(cell or "").split()) for cell in row) for row in found]
    for number, row in enumerate(rows, 1):
        if not all(row):
            raise BadInput(f"{path}: row {number} has no {columns[row.index('')]}; fill it in or delete the row")
    return rows


def read_glossary(path: Path) -> dict[str, tuple[str, str]]:
    """Hypernym and definition of each class in a table with the columns class, hypernym and definition.

    Raises:
        BadInput: as for `read_table`, or a class stands twice.
    """
    rows = read_table(path, ("class", "hypernym", "definition"))
    name, uses = Counter(row[0] for row in rows).most_common(1)[0] if rows else ("", 0)
    if uses > 1:
        raise BadInput(f"{path}: the class {name!r} stands {uses} times; keep one row")
    return {row[0]: (row[1], row[2]) for row in rows}


def read_scenes(path: Path) -> list[str]:
    """The scenes of a list, one a line; empty lines and lines after # are left out.

    Raises:
        BadInput: the file is missing or no text, or a scene stands twice.
    """
    try:
        lines = [" ".join(line.split()) for line in path.read_text().splitlines()]
    except FileNotFoundError:
        raise BadInput(f"{path}: not there; put the file that prompts names into {path.parent}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path}: is no UTF-8 text; write a scene a line") from None
    scenes = [line for line in lines if line and not line.startswith("#")]
    scene, uses = Counter(scenes).most_common(1)[0] if scenes else ("", 0)
    if uses > 1:
        raise BadInput(f"{path}: the scene {scene!r} stands {uses} times; keep one")
    return scenes


def _read_delimited(path: Path, columns: Sequence[str]) -> list[list[str | None]]:
    if path.suffix not in (".tsv", ".csv"):
        raise BadInput(f"{path}: is no .tsv, .csv or .parquet; write one of those")
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = (
            csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)  # a quotation mark is one
            if path.suffix == ".tsv"
            else csv.DictReader(stream, strict=True)
        )
        _check_columns(path, columns, reader.fieldnames or [])
        return [[row[column] for column in columns] for row in reader]


def _read_parquet(path: Path, columns: Sequence[str]) -> list[list[str | None]]:
    if not path.exists():
        raise FileNotFoundError
    with pq.ParquetFile(path) as table:
        _check_columns(path, columns, table.schema_arrow.names)
        return [[row[column] for column in columns] for row in table.read(list(columns)).to_pylist()]


def _check_columns(path: Path, columns: Sequence[str], present: Sequence[str]) -> None:
    for column in columns:
        if column not in present:
            raise BadInput(f"{path}: has no column {column} (it has {[*present]}); it needs {', '.join(columns)}")
