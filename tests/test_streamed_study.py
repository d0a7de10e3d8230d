"""The whole tiny study with every image read from disk as it is needed: the bytes of the study in memory."""

import importlib
import shutil
from pathlib import Path

import pytest

from stages.artifacts import digest
from stages.dataset import tensors
from stages.dataset.streaming import StreamedImages
from tests.tiny import commands, make_repository

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
    planned = commands(repository)
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
