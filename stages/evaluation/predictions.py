"""What a classifier said of every test image, on disk: label and logits per image, with the class names.

Kept so that any comparison can be made later without the models. Never imports torch.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stages.artifacts import BadInput


@dataclass(frozen=True)
class Predictions:
    """One classifier on one split."""

    labels: NDArray[np.int64]
    """(images,), class indices."""
    logits: NDArray[np.float32]
    """(images, classes)."""
    class_names: tuple[str, ...]
    """Of the columns of `logits`."""


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Writes Parquet with Hugging Face features; equal predictions give equal bytes.

    Raises:
        ValueError: shapes do not fit, or a logit is not finite.
    """
    labels, logits = predictions.labels, predictions.logits
    count, classes = logits.shape
    if labels.shape != (count,) or classes != len(predictions.class_names):
        raise ValueError(f"{labels.shape} labels, {logits.shape} logits, {len(predictions.class_names)} classes")
    if not np.isfinite(logits).all():
        raise ValueError(f"{path}: a logit is not finite; the training diverged")
    features = {
        "label": {"names": list(predictions.class_names), "_type": "ClassLabel"},
        "logits": {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "List"},
    }
    schema = pa.schema(
        {"label": pa.int64(), "logits": pa.list_(pa.float32())},
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    offsets = np.arange(0, count * classes + 1, classes, dtype=np.int32)
    rows = pa.ListArray.from_arrays(offsets, np.ascontiguousarray(logits, np.float32).ravel())
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table([pa.array(labels, pa.int64()), rows], schema=schema), path, compression="zstd")


def read_predictions(path: Path) -> Predictions:
    """Reads what `write_predictions` wrote.

    Raises:
        BadInput: the file is missing, is no Parquet, or does not hold labels and logits of named classes.
    """
    if not path.is_file():
        raise BadInput(f"{path}: not there; run the stage that makes it (`dvc repro`) or `dvc pull` it")
    try:
        table = pq.read_table(path)
        names = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
        labels = table["label"].to_numpy().astype(np.int64)
        values = table["logits"].combine_chunks().flatten().to_numpy()
        logits = values.astype(np.float32).reshape(len(labels), len(names))
        if not len(labels) or labels.min() < 0 or labels.max() >= len(names) or not np.isfinite(logits).all():
            raise ValueError("no rows, a label outside the classes, or a logit that is not finite")
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"{path}: holds no predictions ({reason}); delete it and run `dvc repro` again") from None
    return Predictions(labels, logits, tuple(names))
