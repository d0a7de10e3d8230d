"""Images that stay in the shards until they are asked for: those of a split that is too large for memory.

Shards have row groups so small (`shards.GROUP_BYTES`) that reading a row costs less than decoding it. Arrow files,
which `datasets` would make of the shards, are quicker to index, but they are a second copy of all images on disk.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from stages.artifacts import BadInput
from stages.dataset import codec, shards


class StreamedImages:
    """Images of a split, uint8 (N, 3, H, W), RGB in 0..255: indexed like a tensor, and never in memory as a whole.

    Rows are read when they are indexed, and decoded by as many threads as there are cores. Between two calls nothing
    is held but the shards' footers, and no thread or file, so that a process may fork.
    """

    def __init__(self, folder: Path, name: str) -> None:
        """Opens the split `name` of `folder`, and decodes its first image for the size.

        Raises:
            BadInput: the folder has no such split.
        """
        self._place = f"{folder}: {name}"
        files = [(path, pq.read_metadata(path)) for path in shards.shard_paths(folder, name)]
        self._groups = [(path, facts, i) for path, facts in files for i in range(facts.num_row_groups)]
        counts = [facts.row_group(i).num_rows for _, facts, i in self._groups]
        self._ends = np.cumsum(counts, dtype=np.int64)
        width, height = codec.decode(self._column(0, "image.bytes")[0].as_py()).size if counts else (0, 0)
        self.shape = torch.Size((sum(counts), 3, height, width))
        """(N, 3, H, W)."""
        self.device = torch.empty(0).device
        """Where indexing puts images."""

    def __len__(self) -> int:
        """The number of images."""
        return self.shape[0]

    def to(self, device: torch.device) -> Self:
        """The same images, put on `device` as they are indexed."""
        moved = object.__new__(type(self))
        vars(moved).update(vars(self), device=device)
        return moved

    def __getitem__(self, key: torch.Tensor | slice) -> torch.Tensor:
        """Reads images; each once, however often `key` names it.

        Args:
            key: int64 (B,), rows in any order, on any device; or a slice.

        Returns:
            uint8 (B, 3, H, W) on the device, through pinned memory if that is a GPU.

        Raises:
            BadInput: an image differs in size from the first.
            IndexError: there is no such row.
        """
        chosen = np.arange(len(self))[key] if isinstance(key, slice) else key.cpu().numpy()
        rows, places = np.unique(chosen, return_inverse=True)
        if len(rows) and not 0 <= rows[0] <= rows[-1] < len(self):
            raise IndexError(f"{self._place} has {len(self)} images, asked for rows {rows[0]} to {rows[-1]}")
        is_pinned = torch.empty(0, device=self.device).is_cuda
        images = torch.empty((len(rows), *self.shape[1:]), dtype=torch.uint8, pin_memory=is_pinned)
        self._read(rows, images.numpy())
        images = images.to(self.device, non_blocking=True)
        return images if np.array_equal(rows, chosen) else images[torch.from_numpy(places).to(self.device)]

    def _read(self, rows: NDArray[np.int64], pixels: NDArray[np.uint8]) -> None:
        """Decodes the images of ascending `rows` into `pixels`, row group by row group."""
        groups = np.searchsorted(self._ends, rows, side="right")
        starts = np.flatnonzero(np.diff(groups, prepend=-1))

        def read_group(start: int, stop: int) -> None:
            group = int(groups[start])
            encoded = self._column(group, "image.bytes")
            first = int(self._ends[group]) - len(encoded)
            for row, target in zip(rows[start:stop].tolist(), pixels[start:stop], strict=True):
                image = np.asarray(codec.decode(encoded[row - first].as_py())).transpose(2, 0, 1)
                if image.shape != target.shape:
                    raise self._wrong_size(self._column(group, "image.path")[row - first].as_py(), image.shape)
                target[:] = image

        cores = len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(max(1, min(cores, len(starts)))) as threads:
            list(threads.map(read_group, starts, [*starts[1:], len(rows)]))

    def _column(self, group: int, field: str) -> Any:
        """A field of the images of a row group, as an Arrow array."""
        path, facts, index = self._groups[group]
        with pq.ParquetFile(path, metadata=facts, pre_buffer=False) as shard:
            table = shard.read_row_group(index, columns=[field], use_threads=False)
        return table.column(0).combine_chunks().field(0)

    def _wrong_size(self, name: str, shape: tuple[int, ...]) -> BadInput:
        return BadInput(
            f"{self._place} image {name} is {shape[2]}x{shape[1]}, the first is {self.shape[3]}x{self.shape[2]}; "
            "run the stage that makes the folder again"
        )
