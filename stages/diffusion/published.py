"""Which files of a published Stable Diffusion pipeline are taken, and what is refused. Never imports torch.

What is taken holds weights and settings only: no pickle, no code, no second copy in another precision.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from stages.artifacts import BadInput

INDEX = "model_index.json"
PIPELINE_CLASS = "StableDiffusionPipeline"
CLASSES = {
    "vae": {"AutoencoderKL"},
    "text_encoder": {"CLIPTextModel"},
    "tokenizer": {"CLIPTokenizer", "CLIPTokenizerFast"},
    "unet": {"UNet2DConditionModel"},
    "scheduler": None,  # any: the sampler takes its noise schedule and brings its own solver
    "safety_checker": {"StableDiffusionSafetyChecker"},
    "feature_extractor": {"CLIPImageProcessor", "CLIPFeatureExtractor"},
    "image_encoder": set[str](),
}
OPTIONAL = ("safety_checker", "feature_extractor", "image_encoder")
LIBRARIES = ("diffusers", "transformers", "stable_diffusion")  # the last is diffusers' own name for its module
WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "safety_checker": "model",
}
SETTINGS = (
    INDEX,
    "scheduler/scheduler_config.json",
    "feature_extractor/preprocessor_config.json",
    "tokenizer/*.json",
    "tokenizer/merges.txt",
    *(f"{part}/config.json" for part in WEIGHTS),
)


def patterns(variant: str | None) -> list[str]:
    """Globs of all files that are taken."""
    return [*SETTINGS, *(_weights(part, variant) for part in WEIGHTS)]


def check(folder: Path, name: str, variant: str | None) -> None:
    """Holds a folder to what the sampler takes for granted.

    Args:
        folder: as published.
        name: what to call it in complaints, after the setting that names it.
        variant: of the weights.

    Raises:
        BadInput: it is no Stable Diffusion pipeline, wants to run code of its own, or has no safetensors.
    """
    index = _read(folder / INDEX)
    if not isinstance(index, dict) or "_class_name" not in index:
        raise BadInput(f"{name} is not a diffusers pipeline (no {INDEX}); name one")
    kind = index["_class_name"]
    if not isinstance(kind, str):
        raise BadInput(f"{name} wants to run code of its own ({kind[0]}), which is never trusted; name another")
    if kind != PIPELINE_CLASS:
        raise BadInput(f"{name} is a {kind}, not a {PIPELINE_CLASS}; name one of that kind")
    parts = {part: value for part, value in index.items() if isinstance(value, list)}
    for part in [part for part in CLASSES if part not in OPTIONAL and part not in parts]:
        raise BadInput(f"{name} has no {part} in its {INDEX}; name a whole pipeline")
    for part, (library, component) in parts.items():
        _check_component(name, part, library, component)
    for part in WEIGHTS:
        if parts.get(part, [None])[0] is not None:
            _check_weights(folder, part, name, variant)


def copy(source: Path, target: Path, variant: str | None) -> None:
    """Copies what is taken; weights of a variant lose its name, so that every reader finds them without being told."""
    for pattern in SETTINGS:
        for file in source.glob(pattern):
            _copy(file, target / file.relative_to(source))
    for part in WEIGHTS:
        file = source / _weights(part, variant)
        if file.exists():
            _copy(file, target / _weights(part, None))


def _check_component(name: str, part: str, library: str | None, component: str | None) -> None:
    if library is None and part in OPTIONAL:
        return
    if part not in CLASSES or library not in LIBRARIES:
        raise BadInput(f"{name} wants to run code of its own ({part}: {library}.{component}), which is never trusted")
    allowed = CLASSES[part]
    if allowed is not None and component not in allowed:
        known = " or ".join(sorted(allowed)) or "none"
        raise BadInput(f"{name} has {component} as its {part}, which must be {known}; name another pipeline")


def _check_weights(folder: Path, part: str, name: str, variant: str | None) -> None:
    content = _read(folder / part / "config.json")
    if content is None:
        raise BadInput(f"{name} has no {part}/config.json; name a whole pipeline")
    if "auto_map" in content:
        raise BadInput(f"{name} wants to run code of its own (auto_map of its {part}), which is never trusted")
    file = folder / _weights(part, variant)
    if not file.exists():
        there = ", ".join(_weight_files(folder / part)) or "no weights"
        raise BadInput(
            f"{name} has no {_weights(part, variant)} (there: {there}); pickles are never loaded: name a revision with "
            "safetensors, or another variant"
        )
    try:
        with safe_open(file, "numpy"):
            pass
    except (SafetensorError, OSError):
        raise BadInput(f"{name} has a damaged {_weights(part, variant)}; fetch it again") from None


def _weight_files(folder: Path) -> Iterator[str]:
    return (file.name for file in sorted(folder.iterdir()) if file.suffix != ".json")


def _weights(part: str, variant: str | None) -> str:
    return f"{part}/{WEIGHTS[part]}{f'.{variant}' if variant else ''}.safetensors"


def _read(file: Path) -> Any:
    """A file's JSON, or None where there is none."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None


def _copy(file: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, place)
