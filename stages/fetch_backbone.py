"""Fetches a published ViT at a pinned revision, or leaves an empty manifest where the profile names none.

    python -m stages.fetch_backbone

Writes `models/encoder/hub`: config, safetensors and image processor, nothing that holds code. Needs the network only
if the profile names a model that the hub cache (`HF_HOME`) lacks; afterwards the weights are versioned here, even if
the hub drops them. `google/vit-base-patch16-224-in21k`: 346 MB.
"""

import shutil
from pathlib import Path
from typing import Any

from stages import config
from stages.artifacts import MODELS, BadInput, fresh_dir, read_json, run_stage, write_manifest
from stages.dataset import hub

FILES = ("config.json", "model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
PROCESSOR = "preprocessor_config.json"


def check(folder: Path, name: str) -> None:
    """Holds a folder to what every later stage takes for granted.

    Raises:
        BadInput: it is no ViT, has no safetensors, no image processor, or wants to run code of its own.
    """
    if not (folder / "config.json").exists():
        raise BadInput(f"fetch_backbone.model: {name} has no config.json; name a transformers model")
    content = read_json(folder / "config.json")
    if content.get("model_type") != "vit":
        raise BadInput(f"fetch_backbone.model: {name} is a {content.get('model_type')} model; name a vit")
    if "auto_map" in content:
        raise BadInput(
            f"fetch_backbone.model: {name} wants to run code of its own, which is never trusted; name another"
        )
    if not any(folder.glob("*.safetensors")):
        raise BadInput(f"fetch_backbone.model: {name} has no safetensors at this revision; pick one that has")
    if not (folder / PROCESSOR).exists():
        raise BadInput(
            f"fetch_backbone.model: {name} has no {PROCESSOR}, so its normalisation is unknown; name another"
        )


def main(argv: list[str]) -> dict[str, Any]:
    """Makes models/encoder/hub."""
    if argv:
        raise BadInput("fetch_backbone: takes no argument; name the model in the profile's fetch_backbone")
    study = config.load_study()
    profile = config.load_profile(study.profile)
    model, target = profile.fetch_backbone.model, MODELS / "encoder" / "hub"
    facts: dict[str, Any] = {"method": "hub", "model": None}
    if model is None:
        with fresh_dir(target) as fresh:
            write_manifest(fresh, **facts)
        return {"made": f"{target}, empty: the profile names no model"}
    source = hub.fetch(model, [*FILES, PROCESSOR], "fetch_backbone.model")
    check(source, model.repo_id)
    with fresh_dir(target) as fresh:
        for pattern in (*FILES, PROCESSOR):
            for file in source.glob(pattern):
                shutil.copyfile(file, fresh / file.name)
        write_manifest(fresh, **{**facts, "model": model.model_dump()})
    return {"made": f"{target}, {model.repo_id} at {model.revision[:12]}"}


if __name__ == "__main__":
    run_stage(main)
