"""Features of a frozen encoder, kept from one run of a judge to the next, where only its own settings changed."""

from collections.abc import Callable
from pathlib import Path

from safetensors import safe_open
from safetensors.numpy import save

from stages.artifacts import write_bytes
from stages.evaluation.probe import Labelled


def recall(path: Path, key: str, make: Callable[[], Labelled]) -> Labelled:
    """What `path` holds if it was made under this very key, else what `make` gives, kept there from now on.

    One file per encoder and split, so that nothing piles up; it is no result and can be deleted at any time.

    Args:
        path: where to.
        key: a digest of everything that the features depend on.
        make: computes them.
    """
    if path.exists():
        with safe_open(path, "numpy") as stored:
            if stored.metadata() == {"key": key}:
                return Labelled(stored.get_tensor("features"), stored.get_tensor("labels"))
    made = make()
    write_bytes(path, save({"features": made.features, "labels": made.labels}, {"key": key}))
    return made
