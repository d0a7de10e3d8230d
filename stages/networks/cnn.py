"""The CNNs that are trained from scratch."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import assert_never

import torch
import torch.nn.functional as F
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from stages.artifacts import BadInput, read_json, write_json
from stages.networks.batchnorm import GroupBatchNorm2d
from stages.networks.resnet import ResNet9
from stages.sections import Cnn

DENSE_WIDTHS = (256, 128)


class Apai3010(nn.Module):
    """The CNN of the apai3010 study: 3 x [convolution, ReLU, max pooling, batch norm], then three dense layers.

    185,098 parameters at 32 channels, 32 pixels and 10 classes, as in its released weights.
    """

    def __init__(self, width: int, norm_group: int, num_classes: int, image_size: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(inputs, width, 3, padding=1) for inputs in (3, width, width))
        self.norms = nn.ModuleList(GroupBatchNorm2d(width, norm_group) for _ in range(3))
        widths = (width * (image_size // 8) ** 2, *DENSE_WIDTHS, num_classes)
        self.dense = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(widths))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [-1, 1] to the penultimate layer (B, 128)."""
        maps = images
        for conv, norm in zip(self.convs, self.norms, strict=True):
            maps = norm(F.relu(F.max_pool2d(conv(maps), 2)))  # the same as pooling last, at a quarter of the cost
        features = maps.flatten(1)
        for layer in list(self.dense)[:-1]:
            features = F.relu(layer(features))
        return features

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """What `features` gives to logits (B, classes)."""
        logits: torch.Tensor = self.dense[-1](features)
        return logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [-1, 1] to logits (B, classes)."""
        return self.classify(self.features(images))


def build(settings: Cnn, num_classes: int, image_size: int) -> Apai3010 | ResNet9:
    """A freshly initialised CNN from images (B, 3, image_size, image_size) in [-1, 1] to logits (B, num_classes).

    Its memory format is channels last, in which convolutions cost half on CPUs and on GPUs with tensor cores.

    Args:
        settings: which network, its width, and the images per batch-norm group.
        num_classes: outputs.
        image_size: side in pixels, a multiple of 8: both networks halve it three times.

    Raises:
        ValueError: `image_size` is no multiple of 8.
    """
    if image_size % 8:
        raise ValueError(f"image_size: {image_size} is no multiple of 8")
    network: Apai3010 | ResNet9
    match settings.name:
        case "apai3010":
            network = Apai3010(settings.width, settings.norm_group, num_classes, image_size)
        case "resnet":
            network = ResNet9(settings.width, settings.norm_group, num_classes)
        case _:
            assert_never(settings.name)
    return network.to(memory_format=torch.channels_last)


def save(
    folder: Path,
    settings: Cnn,
    class_names: Sequence[str],
    image_size: int,
    weights: Mapping[str, Mapping[str, torch.Tensor]],
) -> None:
    """Writes what `load` needs: config.json, and per file name of `weights` a state dict as safetensors."""
    config = {"network": settings.model_dump(), "class_names": list(class_names), "image_size": image_size}
    write_json(folder / "config.json", config)
    for name, state_dict in weights.items():
        # Channels-last tensors are not contiguous, which safetensors asks for.
        save_file({key: tensor.contiguous() for key, tensor in state_dict.items()}, folder / name)


def load(folder: Path, name: str, class_names: Sequence[str], image_size: int) -> Apai3010 | ResNet9:
    """Rebuilds a CNN with the weights of file `name`, in evaluation mode.

    Raises:
        BadInput: the folder is no CNN's, or it was trained on other classes or another image size.
    """
    config = read_json(folder / "config.json")
    trained_for = (config.get("class_names"), config.get("image_size"))
    if trained_for != (list(class_names), image_size):
        raise BadInput(f"{folder}: was trained for other classes or another image size; run `dvc repro` again")
    try:
        settings = Cnn.model_validate(config.get("network"))
        network = build(settings, len(class_names), image_size)
        network.load_state_dict(load_file(folder / name))
    except (OSError, RuntimeError, SafetensorError, ValidationError) as error:
        raise BadInput(f"{folder / name}: holds no weights of this CNN ({str(error).splitlines()[0]})") from None
    return network.eval()
