"""What is kept of a detector's training images beside its weights: enough to fit the floor and to find leaks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from stages.artifacts import BadInput

FILE = "training_images.safetensors"


@dataclass(frozen=True)
class TrainingImages:
    """A row per image. Classifiers of statistics are fitted anew from it: no pickle has to be trusted."""

    statistics: NDArray[np.float32]
    """(N, statistics)."""
    kinds: NDArray[np.int64]
    """(N,), 0 for real and 1 for generated."""
    digests: NDArray[np.int64]
    """(N,), equal for equal pixels."""

    def save(self, folder: Path) -> None:
        """Writes the file that `load` reads."""
        save_file(vars(self), folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads it.

        Raises:
            BadInput: the folder has none, or it is damaged.
        """
        try:
            return cls(**load_file(folder / FILE))
        except (OSError, SafetensorError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise BadInput(f"{folder / FILE}: can't be read ({reason}); run `dvc repro` again") from None
