"""A tiny copy of the project: the real stages, dvc.yaml and code on a few drawn shapes, a few steps each."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from PIL import Image, ImageDraw

from tests.closure import ROOT

CLASSES = ("circle", "cross", "square")
SMALL = {
    "num_steps": 4,
    "warmup_steps": 1,
    "evaluate_every_steps": 2,
    "batch_size": 12,
    "micro_batch_size": 12,
}


def draw_pictures(folder: Path, per_class: int = 24, size: int = 16, seed: int = 0) -> None:
    """A `class/image.png` tree of shapes at random places; every image differs."""
    rng = np.random.default_rng(seed)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for index in range(per_class):
            image = Image.fromarray(rng.integers(0, 60, (size, size, 3), dtype=np.uint8))
            left, top = rng.integers(1, 6, 2).tolist()
            right, bottom = left + 8, top + 8
            pen = ImageDraw.Draw(image)
            colour = tuple(rng.integers(150, 256, 3).tolist())
            if name == "circle":
                pen.ellipse((left, top, right, bottom), outline=colour, width=2)
            elif name == "square":
                pen.rectangle((left, top, right, bottom), outline=colour, width=2)
            else:
                pen.line((left, top, right, bottom), fill=colour, width=2)
                pen.line((left, bottom, right, top), fill=colour, width=2)
            image.save(folder / name / f"{index:03}.png")


def tiny_profile() -> dict:
    """The shipped digits profile with every size made small, so that it can't drift from it."""
    profile = yaml.safe_load((ROOT / "profiles" / "digits.yaml").read_text())
    profile["fetch_data"].update(dataset="folder", image_size=16, val_per_class=4, test_per_class=6)
    profile["prompts"].update(
        templates=["{name}", "a {name}", "one {name}", "the {name}"],
        class_names={name: [name] for name in CLASSES},
        val_captions_per_class=1,
    )
    build = profile["build_generator"]
    build["autoencoder"].update(block_channels=[8, 8])
    build["autoencoder"]["optimization"].update(SMALL)
    build["text_encoder"].update(hidden_size=16, num_layers=1, num_heads=2)
    build["denoiser"].update(block_channels=[16, 16], num_heads=2)
    build["denoiser"]["optimization"].update(SMALL)
    profile["generate_synthetic"].update(
        images_per_caption=5,
        val_images_per_caption=2,
        num_inference_steps=2,
        blank_below_std=0,
        batch_size=8,
        image_size=16,
        compile=False,
    )
    profile["train_cnn"]["network"].update(name="resnet", width=8, norm_group=6)
    profile["pretrain_encoder"]["backbone"].update(hidden_size=16, num_layers=2, num_heads=2)
    profile["pretrain_encoder"]["projection"].update(hidden_size=16, output_size=8)
    profile["pretrain_encoder"]["images_per_caption"] = 3
    for section in ("train_cnn", "pretrain_encoder", "finetune_vit"):
        profile[section]["optimization"].update(SMALL)
    profile["train_detector"]["optimization"].update(SMALL)
    profile["train_detector"]["network"].update(num_filters=4, hidden_size=8)
    profile["detect_fakes"]["floor"].update(num_trees=3)
    profile["detect_fakes"]["attention"].update(images_per_class=2, pictures_per_class=1)
    profile["probe_encoder"]["logistic_regression"].update(log10_lambda_max=1, num_lambdas=2, max_iterations=50)
    profile["probe_encoder"]["zero_shot"]["class_names"] = {name: [name] for name in CLASSES}
    profile["probe_encoder"]["transfer"].update(num_lambdas=3, max_iterations=50)
    profile["fetch_transfer"] = {"val_per_class": 3, "test_per_class": 6}
    profile["probe_encoder"]["few_shot"].update(num_ways=2, num_shots=2, num_queries=3, num_episodes=20)
    profile["probe_encoder"]["linear_heads"].update(num_epochs=2, batch_size=16)
    return profile


def make_repository(folder: Path) -> None:
    """The project's own files in a new Git repository with tiny settings, committed; nothing has run yet."""
    folder.mkdir(parents=True)
    for name in ("dvc.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("stages", ".dvc", "tools"):
        keep_out = shutil.ignore_patterns("__pycache__", "cache", "tmp", "config.local")
        shutil.copytree(ROOT / name, folder / name, ignore=keep_out)
    draw_pictures(folder / "pictures")
    draw_pictures(folder / "others" / "shapes", per_class=20, seed=1)
    for name in ("prompts", "templates"):
        shutil.copytree(ROOT / "profiles" / name, folder / "profiles" / name)
    for placeholder in (ROOT / "profiles").glob("no_*"):
        shutil.copy(placeholder, folder / "profiles")
    (folder / "profiles" / "tiny.yaml").write_text(yaml.safe_dump(tiny_profile(), sort_keys=False))
    study = yaml.safe_load((ROOT / "params.yaml").read_text())
    study.update(profile="tiny", dataset_path="pictures", transfer_path="others", sources=["real", "synthetic"])
    study["encoders"] = {name: study["encoders"][name] for name in ("random", "stablerep-synthetic")}
    (folder / "params.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    for command in ("init -q -b main", "add -A", "commit -q -m start"):
        run(folder, "git", *command.split())


def commands(repository: Path) -> list[tuple[list[str], list[str]]]:
    """Every stage's module with arguments, and its outs, in an order in which they can run."""
    import networkx  # here, since most who use this file ask DVC nothing
    from dvc.repo import Repo

    graph = Repo(str(repository)).index.graph
    order = reversed(list(networkx.lexicographical_topological_sort(graph, key=lambda stage: stage.addressing)))
    return [(shlex.split(stage.cmd)[2:], [out.def_path for out in stage.outs]) for stage in order]


def run(folder: Path, *command: str, code: int | None = 0) -> str:
    """Runs a command in `folder` as a user would; returns stdout and stderr together, asserts its exit code."""
    if command[0] in ("dvc", "python"):
        command = (sys.executable, "-m", "dvc", *command[1:]) if command[0] == "dvc" else (sys.executable, *command[1:])
    author = {f"GIT_{who}_{what}": "tiny@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **author, "PATH": path, "DVC_NO_ANALYTICS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert code is None or done.returncode == code, (
        f"{' '.join(command)} gave {done.returncode}:\n{done.stdout[-4000:]}"
    )
    return done.stdout
