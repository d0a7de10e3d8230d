"""Two gloo processes on this machine, with what `accelerate launch` would tell each of them."""

import os
import socket

import torch


def run_in_two(function, *arguments, start_method="spawn"):
    """Calls `function(rank, *arguments)` in both, and returns when both have ended well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(_take_part, (function, port, arguments), nprocs=2, start_method=start_method)


def _take_part(rank, function, port, arguments):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    function(rank, *arguments)
    torch.distributed.destroy_process_group()
