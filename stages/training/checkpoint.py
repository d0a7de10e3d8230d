"""Resumable state: one file in a stage's scratch folder, either wholly there or not at all."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages.training.runtime import HOST

NAME = "checkpoint.pt"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Replaces the checkpoint of `folder`; a kill at any moment leaves the old one or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{NAME}.partial"
    torch.save(state, partial)
    os.replace(partial, folder / NAME)  # noqa: PTH105 - named for what it is: the atomic step


def load(folder: Path) -> dict[str, Any] | None:
    """The checkpoint of `folder` on the CPU, or None where there is none yet."""
    path = folder / NAME
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location=HOST, weights_only=True)
    return state


def copy_to_cpu(network: nn.Module) -> dict[str, torch.Tensor]:
    """A real copy of a network's weights: `state_dict` alone returns references that training goes on changing."""
    return {name: tensor.detach().to(HOST, copy=True) for name, tensor in network.state_dict().items()}
