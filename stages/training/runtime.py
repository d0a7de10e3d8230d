"""Device, precision, threads, processes and seeds: the only place that names them.

All of these are detected, never settings: they must not make DVC rerun a stage on another machine.
"""

import contextlib
import ctypes
import hashlib
import os
from collections.abc import Iterator
from typing import Any, Final, Literal

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs  # noqa: TID251 - the owner of processes
from threadpoolctl import threadpool_limits
from torch import distributed, nn
from torch.autograd.function import FunctionCtx

from stages.sections import Precision

HOST: Final = torch.device("cpu")
INTRA_OP_THREADS: Final = 1
"""Threads spin for each other when a core is taken away, and their number changes sums; parallelism is processes."""
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_MAX: Final = -4


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2**63) that is a function of all `parts`: (seed, step), (seed, "order", epoch), ..."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def compute_dtype(precision: Precision | Literal["float16"]) -> torch.dtype:
    """What matrix products run in: half precision falls back to float32 where the device computes it in software only.

    float16 is for inference alone: training would need its loss scaled.
    """
    if precision == "float32":
        return torch.float32
    if precision == "float16":
        return torch.float16 if torch.cuda.is_available() else torch.float32
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


class Runtime:
    """One process of one or several that train together.

    Started by `python -m`, by `accelerate launch -m` (on several GPUs), or by `torchrun` (also on a CPU, where
    `accelerate launch` starts one process alone).
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        # Buffers are the same on every process by construction, so DDP need not send them before each forward pass.
        kwargs = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
        self._accelerator = Accelerator(
            cpu=not torch.cuda.is_available(), mixed_precision="no", kwargs_handlers=[kwargs]
        )
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.num_processes: int = self._accelerator.num_processes
        self.is_main: bool = self._accelerator.is_main_process

    def prepare(self, network: nn.Module) -> nn.Module:
        """Moves a network to the device and, with several processes, wraps it so that gradients are averaged.

        The wrapper shares the network's weights: keep using the network itself to evaluate and to save.
        """
        prepared: nn.Module = self._accelerator.prepare(network)
        return prepared

    def autocast(self, precision: Precision) -> contextlib.AbstractContextManager[Any]:
        """A context in which matrix products and convolutions run in `compute_dtype(precision)`."""
        dtype = compute_dtype(precision)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32)

    @contextlib.contextmanager
    def accumulate(self, prepared: nn.Module, is_last: bool) -> Iterator[None]:
        """A micro-batch: gradients are averaged over processes in the last one of a step alone."""
        with contextlib.nullcontext() if is_last else self._accelerator.no_sync(prepared):
            yield

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """All processes' `tensor` (n, ...) as one (num_processes x n, ...), in the order of ranks; differentiable.

        The backward pass sums over processes. As DDP then divides by their number, a loss that each process means
        over its own rows gets exactly the gradient of the mean over all rows (StableRep's released
        `MultiPosConLoss` does the same).
        """
        return tensor if self.num_processes == 1 else _Gather.apply(tensor)

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """The mean of `tensor` over processes, the same on each; not differentiable."""
        total = tensor.detach().clone()
        if self.num_processes > 1:
            distributed.all_reduce(total)
        return total / self.num_processes

    def seed_step(self, step: int) -> None:
        """Seeds torch for a step (dropout): what a step draws never depends on the steps before it."""
        torch.manual_seed(derive_seed(self._seed, "step", step, self.rank))

    def num_workers(self) -> int:
        """How many processes a stage that spreads over CPU cores by itself may fork: 1 on a GPU or among ranks."""
        alone = self.num_processes == 1 and self.device.type == "cpu"
        return len(os.sched_getaffinity(0)) if alone else 1

    def barrier(self) -> None:
        """Waits for every process."""
        self._accelerator.wait_for_everyone()


class _Gather(torch.autograd.Function):
    """All-gather along the first dimension whose backward pass sums the gradients of all processes."""

    @staticmethod
    def forward(ctx: FunctionCtx, tensor: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total.chunk(distributed.get_world_size())[distributed.get_rank()]


def open_runtime(seed: int) -> Runtime:
    """Opens the runtime: threads, allocator, deterministic kernels, seeds, device and process group.

    Initial weights follow from `seed` on every process alike: build networks after this call.
    """
    torch.set_num_threads(INTRA_OP_THREADS)
    threadpool_limits(INTRA_OP_THREADS)  # those of numpy's and scikit-learn's matrix products
    _keep_freed_memory()
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats its sums only with a fixed one
        torch.use_deterministic_algorithms(True, warn_only=True)
        # A debugging aid of the line above that costs a write per tensor.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = False
    torch.manual_seed(seed)
    return Runtime(seed)


def _keep_freed_memory() -> None:
    """Tells glibc to keep freed activations for the next step: handing them back costs 15,000 page faults a step."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
