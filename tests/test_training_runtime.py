import os
import subprocess
import sys

import numpy  # noqa: F401 - its BLAS must be there to be counted
import pytest
import threadpoolctl
import torch
from torch import nn

from stages.training.runtime import compute_dtype, derive_seed, open_runtime


def test_one_process_alone():
    runtime = open_runtime(0)
    assert (runtime.rank, runtime.num_processes, runtime.is_main) == (0, 1, True)
    assert torch.get_num_threads() == 1
    values = torch.tensor([1.0, 2.0])
    assert runtime.gather(values) is values
    assert runtime.mean(values).tolist() == [1.0, 2.0]
    network = nn.Linear(2, 2)
    assert runtime.prepare(network) is network


def test_no_library_multiplies_matrices_on_more_threads():
    """Two of them spinning for each other took a linear probe from 14 to 57 CPU seconds on a busy machine."""
    open_runtime(0)
    pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] in ("blas", "openmp")]
    assert pools
    assert {pool["num_threads"] for pool in pools} == {1}


def test_derived_seeds_differ_in_every_part_and_never_change():
    assert derive_seed(0, "order", 0) == 2094333682667709378
    seeds = {derive_seed(seed, name, step) for seed in range(9) for name in ("order", "step") for step in range(99)}
    assert len(seeds) == 9 * 2 * 99
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_what_a_step_draws_depends_on_seed_and_step_alone():
    runtime = open_runtime(5)
    runtime.seed_step(3)
    first = torch.rand(4)
    runtime.seed_step(4)
    assert not torch.equal(torch.rand(4), first)
    again = open_runtime(5)
    again.seed_step(3)
    assert torch.equal(torch.rand(4), first)
    other = open_runtime(6)
    other.seed_step(3)
    assert not torch.equal(torch.rand(4), first)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_autocast_runs_matrix_products_in_the_dtype_it_names(precision):
    runtime = open_runtime(0)
    weight = torch.ones(4, 4, device=runtime.device)
    with runtime.autocast(precision):
        assert (weight @ weight).dtype == compute_dtype(precision)
    assert (weight @ weight).dtype == torch.float32
    assert compute_dtype("float32") == torch.float32
    assert compute_dtype("float16") == (torch.float16 if torch.cuda.is_available() else torch.float32)


def test_precision_is_the_setting_whatever_the_launcher_says():
    """`accelerate launch --mixed_precision` must not change results behind the settings' back."""
    program = (
        "import torch; from stages.training.runtime import open_runtime; "
        "n = open_runtime(0).prepare(torch.nn.Linear(2, 2)); d = next(n.parameters()).device; "
        "assert n(torch.ones(1, 2, device=d)).dtype == torch.float32"
    )
    environment = {**os.environ, "ACCELERATE_MIXED_PRECISION": "bf16"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_kernels_on_cuda_are_deterministic():
    runtime = open_runtime(0)
    assert runtime.device.type == "cuda"
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
