"""What the tables of a study read from DVC's experiments, and how they word it."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from dvc.api import DVCFileSystem
from numpy.typing import NDArray

from stages import config
from stages.evaluation.intervals import Interval, Resampling

Correct = NDArray[np.bool_]
"""Whether a model was right, per test image."""


def correct_of(files: DVCFileSystem, predictions: str) -> Correct:
    """Whether a classifier was right, per test image, from its predictions in a revision."""
    content = files.read_bytes(f"{predictions}/test.parquet")
    # On this thread and from a buffer: Arrow's own threads may still hold a Python file while the interpreter ends,
    # which aborts it (apache/arrow#33975).
    table: Any = pq.read_table(pa.BufferReader(content), use_threads=False)
    logits = np.stack(table["logits"].to_numpy())
    right: Correct = logits.argmax(1) == table["label"].to_numpy()
    return right


def resampling_of(profile: str) -> Resampling:
    """How a profile's intervals between arms are drawn."""
    settings = config.load_profile(profile).summarize
    return Resampling(settings.num_resamples, settings.bootstrap_seed, settings.confidence)


def shown(mean: float, interval: Interval, sign: str = "") -> str:
    """A share or a difference of shares in per cent with its interval; `sign` is "+" for a difference."""
    low, high = (format(100 * value, f"{sign}.1f") for value in (interval.low, interval.high))
    return f"{100 * mean:{sign}.1f} ({low} to {high})"
