"""Independent pieces of work over forked processes."""

import ctypes
import multiprocessing
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from tqdm import tqdm

_PR_SET_PDEATHSIG = 1
_task: Callable[[int], None] | None = None


def run_each(task: Callable[[int], None], indices: Sequence[int], num_workers: int, title: str) -> None:
    """Runs `task(index)` for every index, in this process or in `num_workers` forked ones.

    Forked processes share what was loaded and compiled before at no cost, and their exceptions arrive here. They need
    a parent without threads of its own (one intra-op thread) and without CUDA.
    """
    with tqdm(total=len(indices), desc=title, disable=None) as progress:
        if num_workers <= 1 or len(indices) <= 1:
            for index in indices:
                task(index)
                progress.update()
            return
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(num_workers, context, initializer=_begin, initargs=(task,)) as pool:
            futures = [pool.submit(_run, index) for index in indices]
            try:
                for future in as_completed(futures):
                    future.result()
                    progress.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _begin(task: Callable[[int], None]) -> None:
    """Takes the task over by inheritance, since it can't be pickled, and dies with the parent (on Linux)."""
    global _task
    _task = task
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _run(index: int) -> None:
    assert _task is not None
    _task(index)
