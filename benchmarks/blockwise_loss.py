"""The block-wise multi-positive loss against the same loss on the whole similarity matrix: values, time, memory.

    python -m benchmarks.blockwise_loss [rounds]

Each measurement is a process of its own: CPU seconds of one forward and backward pass (the median over `rounds`, 5 by
default), and the growth of its peak resident memory over what it held before the pass. About a minute.
Wanted: value and gradient within 1e-5, at most 1/4 of the memory, at most 1.3x the time.
"""

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from stages.training import blockwise

NUM_CANDIDATES = 8192
DIMENSIONS = 256
IMAGES_PER_CAPTION = 6
TEMPERATURE = 0.1


def whole_matrix(features, keys):
    """The loss as the equations and the released code have it, N x N at once."""
    features = F.normalize(features, dim=1)
    itself = torch.eye(len(features), dtype=torch.bool)
    positive = (keys[:, None] == keys[None, :]) & ~itself
    logits = (features @ features.T / TEMPERATURE).masked_fill(itself, -1e9)
    target = positive / positive.sum(1, keepdim=True).clamp(min=1)
    return -(target * F.log_softmax(logits, dim=1)).sum(1).mean()


def block_wise(features, keys):
    """The same, a block of anchors at a time."""
    everyone = torch.arange(len(features))
    block = blockwise.ANCHORS_AT_A_TIME
    return blockwise.multi_positive_loss(features, features, keys, everyone, TEMPERATURE, block)["loss"]


WAYS = {"whole_matrix": whole_matrix, "block_wise": block_wise}


def peak_mib():
    """This process's largest resident memory so far; `ru_maxrss` would count the parent's as well."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1)) / 1024


def measure(way, folder):
    """One forward and backward pass in this process; leaves loss and gradient in `folder`."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    features = torch.randn(NUM_CANDIDATES, DIMENSIONS, requires_grad=True)
    keys = torch.arange(NUM_CANDIDATES) % (NUM_CANDIDATES // IMAGES_PER_CAPTION)
    WAYS[way](features[:64], keys[:64]).backward()  # loads the kernels
    features.grad = None
    before, started = peak_mib(), time.process_time()
    loss = WAYS[way](features, keys)
    loss.backward()
    seconds, grown = time.process_time() - started, peak_mib() - before
    torch.save({"loss": loss.detach(), "gradient": features.grad}, Path(folder) / way)
    print(json.dumps({"seconds": seconds, "mib": grown}))


def main():
    """Measures both ways and prints the comparison."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    figures = {way: {"seconds": [], "mib": []} for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for way in WAYS:  # in turns, so that a busy machine burdens both alike
                command = [sys.executable, "-m", "benchmarks.blockwise_loss", way, folder]
                for name, value in json.loads(subprocess.check_output(command)).items():
                    figures[way][name].append(value)
        left = {way: torch.load(Path(folder) / way, weights_only=True) for way in WAYS}
    median = {way: {name: statistics.median(values) for name, values in figures[way].items()} for way in WAYS}
    for way in WAYS:
        print(f"{way:13} {median[way]['seconds']:6.2f} CPU-s {median[way]['mib']:8.1f} MiB")
    for name in ("seconds", "mib"):
        print(f"{name}: block-wise is {median['block_wise'][name] / median['whole_matrix'][name]:.3f} of the whole")
    gap = (left["block_wise"]["gradient"] - left["whole_matrix"]["gradient"]).abs().max()
    scale = left["whole_matrix"]["gradient"].abs().max()
    print(f"loss differs by {float((left['block_wise']['loss'] - left['whole_matrix']['loss']).abs()):.1e}")
    print(f"gradient differs by {float(gap):.1e}, {float(gap / scale):.1e} of its largest part")


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in WAYS:
        measure(*sys.argv[1:])
    else:
        main()
