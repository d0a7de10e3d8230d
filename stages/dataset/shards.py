"""Splits on disk: Parquet shards with Hugging Face features, readable by `datasets`, pandas, Ray and Spark.

Loose image files cost DVC 12 to 50 times more to add, push and pull. Never imports torch.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stages.artifacts import BadInput

NO_CAPTION = -1
"""The `caption_id` of an image that was not made from a caption."""
SHARD_BYTES = 256 * 10**6
GROUP_BYTES = 500_000
"""Of the images of a row group, which is read as a whole for any of its rows: 37 images of 224 pixels as JPEG."""
GROUP_ROWS = 1000
_SETTINGS = {"guidance": pa.float64(), "num_inference_steps": pa.int32(), "sample_index": pa.int32()}
_COLUMNS: dict[str, pa.DataType] = {
    "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
    "label": pa.int64(),
    "caption": pa.string(),
    "caption_id": pa.int64(),
    "seed": pa.int64(),
    **_SETTINGS,
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One image of a split."""

    image: bytes
    """The encoded file."""
    path: str
    """A name for it, such as `7/0123456789abcdef.png`."""
    label: int
    """Index into the class names."""
    caption: str | None = None
    """The prompt that it was made from."""
    caption_id: int = NO_CAPTION
    """Shared by the images of one caption."""
    seed: int | None = None
    """Of its noise."""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """How it was made: any of `guidance`, `num_inference_steps`, `sample_index`; empty for a real image."""


def write_shards(folder: Path, name: str, rows: Iterable[Row], class_names: Iterable[str]) -> int:
    """Writes a split as `<name>-00000-of-00001.parquet`, ...; equal rows give equal bytes.

    Holds one row group in memory, so `rows` may be a generator over any number of images. A split
    of no rows is one valid, empty shard.

    Returns:
        The number of rows.

    Raises:
        ValueError: a row has a label without a class name, or an unknown key in `settings`.
    """
    names = list(class_names)
    schema = _schema(names)
    folder.mkdir(parents=True, exist_ok=True)
    pending: list[Path] = []
    writer, count, shard_size = None, 0, 0
    try:
        for group in _groups(rows):
            size = sum(len(row.image) for row in group)
            if writer is not None and shard_size + size > SHARD_BYTES:
                writer.close()
                writer = None
            if writer is None:
                pending.append(folder / f".{name}-{len(pending):05d}.partial")
                writer, shard_size = pq.ParquetWriter(pending[-1], schema, compression="zstd"), 0
            writer.write_table(_table(group, schema, len(names)))
            count, shard_size = count + len(group), shard_size + size
        if not pending:
            pending.append(folder / f".{name}-00000.partial")
            writer = pq.ParquetWriter(pending[-1], schema, compression="zstd")
    finally:
        if writer is not None:
            writer.close()
    for index, partial in enumerate(pending):
        partial.replace(folder / f"{name}-{index:05d}-of-{len(pending):05d}.parquet")
    return count


def read_rows(folder: Path, name: str) -> Iterator[Row]:
    """The rows of a split in their order on disk, one row group in memory at a time.

    Raises:
        BadInput: the folder has no such split.
    """
    for path in shard_paths(folder, name):
        with pq.ParquetFile(path) as shard:
            for group in range(shard.num_row_groups):
                for values in shard.read_row_group(group).to_pylist():
                    image = values.pop("image")
                    made = {key: values.pop(key) for key in _SETTINGS}
                    settings = {key: value for key, value in made.items() if value is not None}
                    yield Row(image=image["bytes"], path=image["path"], settings=settings, **values)


def read_integers(folder: Path, name: str, columns: Sequence[str]) -> list[NDArray[np.int64]]:
    """Whole columns of a split, int64 (N,) each, without its images.

    Raises:
        BadInput: the folder has no such split.
    """
    parts = [pq.read_table(path, columns=list(columns), use_threads=False) for path in shard_paths(folder, name)]
    table = pa.concat_tables(parts)
    return [table.column(column).to_numpy().copy() for column in columns]


def read_class_names(folder: Path, name: str) -> tuple[str, ...]:
    """The class names of a split, in the order of its labels.

    Raises:
        BadInput: the folder has no such split, or it was not written by `write_shards`.
    """
    path = shard_paths(folder, name)[0]
    metadata = pq.read_schema(path).metadata or {}
    try:
        return tuple(json.loads(metadata[b"huggingface"])["info"]["features"]["label"]["names"])
    except (KeyError, ValueError):
        raise BadInput(f"{path}: has no Hugging Face class names; delete it and run `dvc repro` again") from None


def num_rows(folder: Path, name: str) -> int:
    """How many rows a split has, from the shards' footers alone."""
    return sum(pq.read_metadata(path).num_rows for path in shard_paths(folder, name))


def shard_paths(folder: Path, name: str) -> list[Path]:
    """The files of a split, in order.

    Raises:
        BadInput: there are none, or one is missing.
    """
    paths = sorted(folder.glob(f"{name}-[0-9]*-of-[0-9]*.parquet"))
    if not paths:
        raise BadInput(f"{folder}: has no {name} split; run the stage that makes it (`dvc repro`) or `dvc pull` it")
    if any(path.name != f"{name}-{i:05d}-of-{len(paths):05d}.parquet" for i, path in enumerate(paths)):
        raise BadInput(f"{folder}: shards of the {name} split are missing; `dvc checkout` or `dvc pull` the folder")
    return paths


def _schema(class_names: list[str]) -> pa.Schema:
    """Columns, with the metadata from which `datasets` rebuilds the Image and ClassLabel features."""
    features: dict[str, Any] = {key: {"dtype": _dtype(kind), "_type": "Value"} for key, kind in _COLUMNS.items()}
    features["image"] = {"_type": "Image"}
    features["label"] = {"names": class_names, "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(list(_COLUMNS.items()), metadata=metadata)


def _dtype(kind: pa.DataType) -> str:
    """The name that `datasets` has for an Arrow type."""
    return {"double": "float64"}.get(str(kind), str(kind))


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Row groups of bounded size, cut by the rows alone."""
    group: list[Row] = []
    size = 0
    for row in rows:
        group.append(row)
        size += len(row.image)
        if len(group) == GROUP_ROWS or size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _table(group: list[Row], schema: pa.Schema, num_classes: int) -> pa.Table:
    """A row group as an Arrow table."""
    records = []
    for row in group:
        if not 0 <= row.label < num_classes:
            raise ValueError(f"label {row.label} of {row.path} has no class name: there are {num_classes}")
        if unknown := set(row.settings) - set(_SETTINGS):
            raise ValueError(f"settings of {row.path}: unknown {sorted(unknown)}; there is a column for {[*_SETTINGS]}")
        records.append(
            {
                "image": {"bytes": row.image, "path": row.path},
                "label": row.label,
                "caption": row.caption,
                "caption_id": row.caption_id,
                "seed": row.seed,
                **row.settings,
            }
        )
    return pa.Table.from_pylist(records, schema=schema)
