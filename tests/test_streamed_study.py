"""The whole tiny study with every image read from disk as it is needed: the bytes of the study in memory."""

import importlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from stages.artifacts import digest, read_json
from stages.dataset import tensors
from stages.dataset.streaming import StreamedImages
from tests.tiny import CLASSES, commands, make_repository

RESULTS = ("data", "models", "metrics", "predictions", "plots")
READERS = {
    "audit_synthetic",
    "build_generator",
    "evaluate",
    "evaluate_vit",
    "finetune_vit",
    "generate_synthetic",
    "pretrain_encoder",
    "probe_encoder",
    "train_cnn",
}
"""The stages that decode images."""


def run_all(planned: list[list[str]]) -> None:
    for module, *argv in planned:
        importlib.import_module(module).main(argv)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("understudy") / "repository"
    make_repository(folder)
    return folder


def test_every_stage_gives_the_same_bytes_from_disk(repository, tmp_path, monkeypatch):
    planned = [command for command, _ in commands(repository)]
    modules = {module.removeprefix("stages.") for module, *_ in planned}
    assert modules >= READERS
    shutil.copytree(repository, tmp_path / "streamed")
    monkeypatch.chdir(repository)
    run_all(planned)
    monkeypatch.chdir(tmp_path / "streamed")
    monkeypatch.setattr(tensors, "MEMORY_BYTES", 0)
    run_all(planned)
    assert isinstance(tensors.load_split(Path("data/real"), "train").images, StreamedImages)
    files = {p.relative_to(repository) for name in RESULTS for p in (repository / name).rglob("*") if p.is_file()}
    assert len(files) > 60
    assert [str(file) for file in sorted(files) if digest(file) != digest(repository / file)] == []


def test_photographs_of_any_size_at_224_pixels(tmp_path, monkeypatch):
    """A user's folder of large images: cropped and resized as they are fetched, and a ViT trained on them from disk."""
    make_repository(tmp_path / "study")
    monkeypatch.chdir(tmp_path / "study")
    shutil.rmtree("pictures")
    rng, sides = np.random.default_rng(0), [(500, 375), (224, 224), (300, 640), (100, 90), (225, 224)]
    for label, name in enumerate(CLASSES):
        (Path("pictures") / name).mkdir(parents=True)
        for i in range(14):
            spots = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
            spots.resize(sides[i % 5]).save(Path("pictures") / name / f"{label}-{i}.jpg", quality=90)
    profile = yaml.safe_load(Path("profiles/tiny.yaml").read_text())
    profile["fetch_data"].update(image_size=224, codec={"format": "jpeg", "quality": 90})
    profile["pretrain_encoder"]["backbone"]["patch_size"] = 16
    Path("profiles/tiny.yaml").write_text(yaml.safe_dump(profile))
    monkeypatch.setattr(tensors, "MEMORY_BYTES", 0)
    run_all(
        [
            ["stages.fetch_data"],
            ["stages.pretrain_encoder", "random"],
            ["stages.finetune_vit", "real", "random"],
            ["stages.evaluate_vit", "real", "random"],
        ]
    )
    split = tensors.load_split(Path("data/real"), "train")
    assert split.images.shape == (3 * (14 - 4 - 6), 3, 224, 224)
    assert isinstance(split.images, StreamedImages)
    assert read_json(Path("metrics/evaluate_vit/real-random.json"))["num_images"] == 18
