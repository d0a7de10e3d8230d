"""The CNN that tells generated images from real ones."""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from stages.artifacts import BadInput, read_json, write_json
from stages.detector_sections import DetectorNetwork

WEIGHTS, CONFIG = "model.safetensors", "config.json"


class Detector(nn.Module):
    """The detector of CIFAKE (Bird and Lotfi, arXiv 2303.14126): 2 x [convolution, ReLU, max pooling], 64 ReLU, 1.

    141,345 parameters at 32 filters, 64 hidden units and 32 pixels. The one output is the logit of "generated" and
    stands beside a zero for "real": their softmax is its sigmoid, their cross-entropy its binary cross-entropy, so all
    that trains and judges classifiers takes it as one of two classes.
    """

    def __init__(self, num_filters: int, hidden_size: int, image_size: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(inputs, num_filters, 3, padding=1) for inputs in (3, num_filters))
        self.last_maps = nn.Identity()
        """Passed by what the last convolution sees, after ReLU and before pooling: Grad-CAM's layer."""
        self.hidden = nn.Linear(num_filters * (image_size // 4) ** 2, hidden_size)
        self.output = nn.Linear(hidden_size, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [-1, 1] to logits (B, 2): zero for real, and that of generated."""
        first, second = self.convs
        maps = F.relu(F.max_pool2d(first(images), 2))  # the same as pooling last, at a quarter of the cost
        maps = F.max_pool2d(self.last_maps(F.relu(second(maps))), 2)
        logit = self.output(F.relu(self.hidden(maps.flatten(1))))
        return torch.cat([torch.zeros_like(logit), logit], dim=1)


def build(settings: DetectorNetwork, image_size: int) -> Detector:
    """A freshly initialised detector in channels-last format.

    Args:
        settings: widths.
        image_size: side in pixels, a multiple of 4: it is halved twice.

    Raises:
        BadInput: it is none.
    """
    if image_size % 4:
        raise BadInput(f"fetch_data.image_size: {image_size} is no multiple of 4, as the detector needs it")
    network = Detector(settings.num_filters, settings.hidden_size, image_size)
    return network.to(memory_format=torch.channels_last)


def save(
    folder: Path,
    settings: DetectorNetwork,
    image_size: int,
    temperature: float,
    state_dict: Mapping[str, torch.Tensor],
) -> None:
    """Writes weights and what `load` needs; `temperature` divides the logits of a calibrated detector."""
    write_json(
        folder / CONFIG, {"network": settings.model_dump(), "image_size": image_size, "temperature": temperature}
    )
    # Channels-last tensors are not contiguous, which safetensors asks for.
    save_file({key: tensor.contiguous() for key, tensor in state_dict.items()}, folder / WEIGHTS)


def load(folder: Path, image_size: int) -> tuple[Detector, float]:
    """Rebuilds a detector in evaluation mode, and its temperature.

    Raises:
        BadInput: the folder is no detector's, or it was trained at another image size.
    """
    config = read_json(folder / CONFIG)
    if config.get("image_size") != image_size:
        raise BadInput(f"{folder}: was trained at {config.get('image_size')} pixels, not {image_size}; `dvc repro`")
    try:
        network = build(DetectorNetwork.model_validate(config.get("network")), image_size)
        network.load_state_dict(load_file(folder / WEIGHTS))
        temperature = float(config["temperature"])
    except (KeyError, OSError, RuntimeError, SafetensorError, TypeError, ValidationError) as error:
        raise BadInput(f"{folder}: holds no detector ({str(error).splitlines()[0]}); run `dvc repro` again") from None
    return network.eval(), temperature
