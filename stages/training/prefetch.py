"""Batches made while the device still computes: what hides the reading and decoding of images from disk."""

from concurrent.futures import Future, ThreadPoolExecutor

import torch

from stages.training.loop import Batch, Batches


class ReadAhead:
    """The same batches, each made one step before it is asked for, in a thread of its own.

    A process asks for the same rows of the global batch in every step. So when it takes those of a step, the thread
    goes on to those of the next; at any time about one step's rows are ready or in the making.
    """

    def __init__(self, batches: Batches, num_steps: int) -> None:
        """Takes batches that are a pure function of step and rows, which must not use torch's global generator."""
        self._batches, self._num_steps = batches, num_steps
        self._thread = ThreadPoolExecutor(1, "read ahead")
        self._coming: dict[tuple[int, range], Future[Batch]] = {}

    def __call__(self, step: int, rows: range) -> Batch:
        """The rows of the step's batch."""
        ready = self._coming.pop((step, rows), None)
        if step + 1 < self._num_steps:
            self._coming[step + 1, rows] = self._thread.submit(self._batches, step + 1, rows)
        return self._batches(step, rows) if ready is None else ready.result()


def read_ahead(batches: Batches, images: object, num_steps: int) -> Batches:
    """`batches` as they are for images in memory, which take no time to get; read ahead for others."""
    return batches if isinstance(images, torch.Tensor) else ReadAhead(batches, num_steps)
