"""Vision transformers from `transformers`: encoders, classifiers, and their standard folders.

Every module here takes images (B, 3, H, W) in [-1, 1] and carries its own image processing, so published weights that
were trained at another size or normalisation are used the same way as our own. The folders hold `config.json`,
`model.safetensors` and `preprocessor_config.json`: `transformers` opens them without this project.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.vit.configuration_vit import ViTConfig
from transformers.models.vit.modeling_vit import ViTForImageClassification, ViTModel
from transformers.utils import logging

from stages.artifacts import BadInput, read_json
from stages.encoder_sections import Backbone

PROCESSOR = "preprocessor_config.json"
MLP_RATIO = 4
"""Hidden width of a layer's MLP over its width (Dosovitskiy et al. 2021, table 1)."""
MAX_TOKENS_EAGER = 128
"""Up to so many tokens plain attention is used: on a CPU the fused kernel takes twice its time at 17 and 65 tokens."""
_LOADING: dict[str, Any] = {
    "dtype": torch.float32,
    "local_files_only": True,
    "use_safetensors": True,
    "output_loading_info": True,
}
_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # PIL's numbers, which transformers writes


class ImageProcessing(nn.Module):
    """What a model was trained to see: images (B, 3, H, W) in [-1, 1] are resized and normalised to it."""

    def __init__(self, size: int, mean: list[float], std: list[float], resample: int) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {"size": size, "mean": mean, "std": std, "resample": resample}
        self.size = size
        self.mode = _RESAMPLE[resample]
        # In [-1, 1], a channel's mean is 2 mean - 1 and its deviation 2 std.
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1) * 2 - 1, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1) * 2, persistent=False)
        self.is_centred = mean == std == [0.5] * 3

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps (B, 3, H, W) in [-1, 1] to what the network expects, (B, 3, size, size)."""
        if images.shape[-2:] != (self.size, self.size):
            images = F.interpolate(images, (self.size, self.size), mode=self.mode, antialias=True)
        return self.standardize(images)

    def standardize(self, images: torch.Tensor) -> torch.Tensor:
        """Maps (B, 3, H, W) in [-1, 1] to the channels' scale that the network expects, whatever the size."""
        return images if self.is_centred else (images - self.mean) / self.std

    def to_json(self) -> str:
        """The settings as `transformers.ViTImageProcessor` reads them."""
        size = {"height": self.size, "width": self.size}
        content = {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": True,
            "size": size,
            "resample": self.settings["resample"],
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": self.settings["mean"],
            "image_std": self.settings["std"],
        }
        return json.dumps(content, indent=2, sort_keys=True) + "\n"


class ViTEncoder(nn.Module):
    """Images to the CLS token of the last layer, after its norm."""

    def __init__(self, network: ViTModel, processing: ImageProcessing) -> None:
        super().__init__()
        _choose_attention(network)
        self.network = network
        self.processing = processing

    def forward(self, images: torch.Tensor, interpolate: bool = False) -> torch.Tensor:
        """Maps images to features (B, width).

        Args:
            images: (B, 3, H, W) in [-1, 1].
            interpolate: leave the images at their size, which may be less than the network's (local crops), and
                interpolate its position embeddings instead.
        """
        pixels = self.processing.standardize(images) if interpolate else self.processing(images)
        hidden = self.network(pixel_values=pixels, interpolate_pos_encoding=interpolate).last_hidden_state
        features: torch.Tensor = hidden[:, 0]
        return features


class ViTClassifier(nn.Module):
    """Images to logits: a linear head on the CLS token."""

    def __init__(self, network: ViTForImageClassification, processing: ImageProcessing) -> None:
        super().__init__()
        _choose_attention(network)
        self.network = network
        self.processing = processing

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps images (B, 3, H, W) in [-1, 1] to logits (B, classes)."""
        logits: torch.Tensor = self.network(pixel_values=self.processing(images)).logits
        return logits

    def checkpoint_activations(self) -> None:
        """Recomputes activations in the backward pass: less memory, a third more work."""
        self.network.activation_checkpointing_enable({"use_reentrant": False})


# -------------------------------------------------------------------------------------------------------- making


def build_encoder(settings: Backbone, image_size: int, seed: int) -> ViTEncoder:
    """A freshly initialised ViT; equal seeds give equal weights, whatever was drawn before.

    Raises:
        BadInput: patches don't tile the image, or heads don't divide the width.
    """
    if image_size % settings.patch_size:
        raise BadInput(
            f"patch_size: {settings.patch_size} does not divide the images' {image_size} pixels; choose a divisor"
        )
    if settings.hidden_size % settings.num_heads:
        raise BadInput(
            f"num_heads: {settings.num_heads} does not divide hidden_size {settings.hidden_size}; choose a divisor"
        )
    config = ViTConfig(
        image_size=image_size,
        patch_size=settings.patch_size,
        hidden_size=settings.hidden_size,
        intermediate_size=MLP_RATIO * settings.hidden_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        initializer_range=settings.initializer_range,
    )
    with _seeded(seed):
        network = ViTModel(config, add_pooling_layer=False)
    return ViTEncoder(network, ImageProcessing(image_size, [0.5] * 3, [0.5] * 3, resample=2))


def build_classifier(init: Path, class_names: tuple[str, ...], seed: int) -> ViTClassifier:
    """The encoder in folder `init` under a fresh linear head; equal seeds give equal heads.

    Raises:
        BadInput: the folder holds no ViT.
    """
    encoder = load_encoder(init)
    config = ViTConfig.from_dict(encoder.network.config.to_dict())
    config.id2label = dict(enumerate(class_names))
    config.label2id = {name: index for index, name in enumerate(class_names)}
    with _seeded(seed):
        network = ViTForImageClassification(config)
    network.vit.load_state_dict(encoder.network.state_dict())
    return ViTClassifier(network, encoder.processing)


def layer_rate_scale(classifier: ViTClassifier, decay: float) -> Callable[[str], float]:
    """Layer-wise learning rates: each layer learns `decay` times as fast as the one above it (MAE, `lr_decay.py`).

    Returns:
        A function from a parameter's name to its factor: 1 for head and last norm, decay for the last layer, down to
        decay**(layers + 1) for the embeddings.
    """
    num_layers = classifier.network.config.num_hidden_layers

    def scale(name: str) -> float:
        return float(decay ** (num_layers + 1 - layer_id(name, num_layers)))

    return scale


def layer_id(name: str, num_layers: int) -> int:
    """The depth of a parameter: 0 for embeddings, i + 1 for layer i, num_layers + 1 for last norm and head."""
    parts = name.split(".")
    if "embeddings" in parts:
        return 0
    if "layers" in parts:
        return int(parts[parts.index("layers") + 1]) + 1
    return num_layers + 1


def check_classes(classifier: ViTClassifier, class_names: tuple[str, ...], folder: Path) -> None:
    """Holds a classifier to the data's classes.

    Raises:
        BadInput: it was trained on others.
    """
    known = tuple(name for _, name in sorted(classifier.network.config.id2label.items()))
    if known != class_names:
        raise BadInput(f"{folder}: knows the classes {[*known]}, the data has {[*class_names]}; train it again")


# ------------------------------------------------------------------------------------------------ standard folders


def save(module: ViTEncoder | ViTClassifier, folder: Path) -> None:
    """Writes a standard `transformers` folder: config, safetensors and image processor."""
    with quiet():
        module.network.save_pretrained(folder)
    (folder / PROCESSOR).write_text(module.processing.to_json())


def load_encoder(folder: Path) -> ViTEncoder:
    """Reads a ViT from a standard folder, without the head or the pooler that it may have.

    Raises:
        BadInput: the folder holds no ViT.
    """
    _check_folder(folder)
    with quiet():
        network, report = ViTModel.from_pretrained(folder, add_pooling_layer=False, **_LOADING)
    _check_report(folder, report)
    return ViTEncoder(network, _read_processing(folder)).eval()


def load_classifier(folder: Path) -> ViTClassifier:
    """Reads a fine-tuned ViT from a standard folder.

    Raises:
        BadInput: the folder holds no ViT with a head.
    """
    _check_folder(folder)
    with quiet():
        network, report = ViTForImageClassification.from_pretrained(folder, **_LOADING)
    _check_report(folder, report)
    return ViTClassifier(network, _read_processing(folder)).eval()


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").exists() or not any(folder.glob("*.safetensors")):
        raise BadInput(f"{folder}: holds no weights; name an encoder that has some (not pixels, not an empty hub)")
    kind = read_json(folder / "config.json").get("model_type")
    if kind != "vit":
        raise BadInput(f"{folder}: is a {kind} model; name one whose config.json says vit")


def _check_report(folder: Path, report: dict[str, Any]) -> None:
    """What a folder lacks would be drawn at random, in silence."""
    lacking = [*report["missing_keys"], *report["mismatched_keys"]]
    if lacking:
        raise BadInput(f"{folder}: its weights lack {lacking[0]} and {len(lacking) - 1} more; fetch or train it again")


def _read_processing(folder: Path) -> ImageProcessing:
    content = read_json(folder / PROCESSOR)
    size = content["size"]
    side = size if isinstance(size, int) else size["height"]
    resample = content.get("resample", 2)
    if resample not in _RESAMPLE or not content.get("do_normalize", True):
        raise BadInput(f"{folder / PROCESSOR}: asks for a resampling or scale other than ViT's; choose other weights")
    return ImageProcessing(side, content["image_mean"], content["image_std"], resample)


def _choose_attention(network: ViTModel | ViTForImageClassification) -> None:
    config = network.config
    tokens = (config.image_size // config.patch_size) ** 2 + 1
    network.set_attn_implementation("eager" if tokens <= MAX_TOKENS_EAGER else "sdpa")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Spares a stage's user the library's progress bars, and its report of a head or pooler left out on purpose."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draws from a seed inside the block and leaves the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
