"""Arms of a tiny study without the stages that make them: settings, and data in real shards."""

import io
import shutil
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from stages.artifacts import write_manifest
from stages.dataset.shards import NO_CAPTION, Row, write_shards
from tests.closure import ROOT
from tests.tiny import CLASSES, tiny_profile

SIZE = 16


def rows(rng, per_caption, captions_per_class, has_captions):
    """Noise with a bright bar whose place is the class: learnable in a few steps."""
    for label, name in enumerate(CLASSES):
        for caption in range(captions_per_class):
            for index in range(per_caption):
                pixels = rng.integers(0, 90, (SIZE, SIZE, 3), dtype=np.uint8)
                pixels[5 * label : 5 * label + 4] += 150
                content = io.BytesIO()
                Image.fromarray(pixels).save(content, "png")
                path = f"{name}/{caption}-{index}.png"
                caption_id = label * captions_per_class + caption if has_captions else NO_CAPTION
                yield Row(content.getvalue(), path, label, f"{name} {caption}" if has_captions else None, caption_id)


def make_study(folder: Path, **changes: object) -> None:
    """Settings and data of the arms `real` (no captions) and `synthetic` in `folder`; `changes` go into params.yaml."""
    rng = np.random.default_rng(0)
    shutil.copytree(ROOT / "profiles" / "templates", folder / "profiles" / "templates")
    (folder / "profiles" / "tiny.yaml").write_text(yaml.safe_dump(tiny_profile()))
    study = yaml.safe_load((ROOT / "params.yaml").read_text())
    study.update(profile="tiny", dataset_path="pictures", sources=["real", "synthetic"], **changes)
    (folder / "params.yaml").write_text(yaml.safe_dump(study))
    for place, name, per_caption, captions, has_captions in (
        ("real", "train", 20, 1, False),
        ("val", "val", 6, 1, False),
        ("synthetic", "train", 5, 4, True),
        ("synthetic", "val", 3, 2, True),
    ):
        write_shards(folder / "data" / place, name, rows(rng, per_caption, captions, has_captions), CLASSES)
    for place in ("real", "val", "synthetic"):
        write_manifest(folder / "data" / place)
    write_manifest(folder / "data" / "transfer", sets=[])


def change(folder: Path, section: str, **values: object) -> None:
    """Edits a section of the tiny profile; a dictionary is merged into the one that is there."""
    path = folder / "profiles" / "tiny.yaml"
    profile = yaml.safe_load(path.read_text())
    for key, value in values.items():
        if isinstance(value, dict) and profile[section][key] is not None:
            profile[section][key].update(value)
        else:
            profile[section][key] = value
    path.write_text(yaml.safe_dump(profile))
