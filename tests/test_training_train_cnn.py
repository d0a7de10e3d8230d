"""The stage `train_cnn` on drawn shapes: equal budgets, honest selection, and a kill that leaves no trace."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stages import config, train_cnn
from stages.artifacts import BadInput, digest, read_json
from stages.dataset.augment import normalize
from stages.dataset.codec import encode
from stages.dataset.shards import Row, write_shards
from stages.dataset.tensors import load_split
from stages.networks import cnn
from stages.sections import Codec
from stages.training.runtime import open_runtime
from tests.closure import ROOT
from tests.test_dataset_fetch_data import write_settings
from tests.tiny import CLASSES, draw_pictures, tiny_profile

OUTS = ("models/cnn/real", "metrics/train_cnn/real.json", "plots/train_cnn/real")


def pictures(folder):
    codec = Codec(format="png", quality=None)
    for label, name in enumerate(CLASSES):
        for file in sorted((folder / name).iterdir()):
            yield Row(encode(Image.open(file), codec), file.name, label)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """`real` with 42 train images, `synthetic` with 30 of other pixels, of which one is there twice."""
    monkeypatch.chdir(tmp_path)
    draw_pictures(tmp_path / "pictures")
    rows = list(pictures(tmp_path / "pictures"))
    odd, even = rows[1::2], rows[::2]
    write_shards(Path("data/real"), "train", [*even, *odd[:6]], CLASSES)
    write_shards(Path("data/val"), "val", odd[6:24], CLASSES)
    write_shards(Path("data/synthetic"), "train", [*odd[6:], odd[6]], CLASSES)
    write_shards(Path("data/synthetic"), "val", odd[:6], CLASSES)
    profile = tiny_profile()
    profile["train_cnn"]["optimization"].update(num_steps=10, evaluate_every_steps=2, learning_rate=0.02)
    write_settings(profile)
    return tmp_path


def curve(source, name):
    lines = Path(f"plots/train_cnn/{source}/plots/metrics/{name}.tsv").read_text().splitlines()[1:]
    return {int(step): float(value) for step, value in (line.split("\t") for line in lines)}


def test_arms_have_equal_budgets_and_their_own_selection(project):
    facts = {source: train_cnn.main([source]) for source in ("real", "synthetic")}
    figures = {source: read_json(Path(f"metrics/train_cnn/{source}.json")) for source in facts}
    assert figures["real"]["num_steps"] == figures["synthetic"]["num_steps"] == 10
    assert curve("real", "lr") == curve("synthetic", "lr")
    for source in facts:
        own, real = curve(source, "val_top1"), curve(source, "real_val_top1")
        assert list(own) == list(real) == [2, 4, 6, 8, 10]
        chosen, oracle = figures[source], figures[source]["oracle"]
        first_best = {
            name: min(s for s, v in c.items() if v == max(c.values())) for name, c in (("o", own), ("r", real))
        }
        assert (chosen["best_step"], oracle["best_step"]) == (first_best["o"], first_best["r"])
        assert chosen["val_top1"] == pytest.approx(own[chosen["best_step"]])
        assert oracle["real_val_top1"] == pytest.approx(max(real.values()))
    assert curve("real", "val_top1") == curve("real", "real_val_top1")
    assert curve("synthetic", "val_top1") != curve("synthetic", "real_val_top1")
    assert (figures["real"]["num_images"], figures["real"]["num_distinct_images"]) == (42, 42)
    assert (figures["synthetic"]["num_images"], figures["synthetic"]["num_distinct_images"]) == (31, 30)
    assert not list(Path(".scratch").glob("train_cnn-*/"))


def test_the_saved_weights_are_the_best_ones(project):
    train_cnn.main(["synthetic"])
    figures = read_json(Path("metrics/train_cnn/synthetic.json"))
    splits = {
        "val_top1": load_split(Path("data/synthetic"), "val"),
        "real_val_top1": load_split(Path("data/val"), "val"),
    }
    for name, expected in (("model", figures), ("model_oracle", figures["oracle"])):
        network = cnn.load(Path("models/cnn/synthetic"), f"{name}.safetensors", CLASSES, 16)
        for key, split in splits.items():
            with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
                predicted = network(normalize(split.images)).argmax(1)
            assert float((predicted == split.labels).double().mean()) == pytest.approx(expected[key])


def test_a_seed_fixes_weights_order_and_augmentation_whatever_was_drawn_before(project):
    section = config.load_profile("tiny").train_cnn
    split = load_split(Path("data/real"), "train")
    results = []
    for draws, seed in enumerate((0, 0, 1)):
        runtime = draw_and_open(seed, draws)
        state = project / f"state-{draws}"
        results.append(train_cnn.train(section, split, {"val_top1": split}, runtime, seed, state))
    first, again, other = results
    assert first.history == again.history
    assert other.history != first.history


def draw_and_open(seed, draws):
    """A runtime after `draws` draws from every global generator that there is."""
    for _ in range(draws):
        torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002
    return open_runtime(seed)


def test_killed_for_real_and_started_again_it_leaves_the_same_bytes(project):
    profile = json.loads(Path("profiles/tiny.yaml").read_text())
    profile["train_cnn"]["optimization"]["num_steps"] = 60
    write_settings(profile)
    train_cnn.main(["real"])
    expected = {out: digest(Path(out)) for out in OUTS}
    for folder in ("models", "metrics", "plots"):
        shutil.rmtree(folder)
    command = [sys.executable, "-m", "stages.train_cnn", "real"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment)
    while process.poll() is None and not list(Path(".scratch").glob("train_cnn-real-*/checkpoint.pt")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not any(Path(out).exists() for out in OUTS)
    subprocess.run(command, check=True, env=environment)
    assert {out: digest(Path(out)) for out in OUTS} == expected


def test_two_launched_processes_train_the_same_arm(project):
    profile = json.loads(Path("profiles/tiny.yaml").read_text())
    profile["train_cnn"]["optimization"]["precision"] = "float32"
    write_settings(profile)
    train_cnn.main(["real"])
    losses = curve("real", "loss")
    # On CPUs `accelerate launch` starts one process alone (or MPI); torchrun starts as many as it is told.
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [sys.executable, *launch, "-m", "stages.train_cnn", "real"]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert read_json(Path("runs/train_cnn-real.json"))["num_processes"] == 2
    shared = curve("real", "loss")
    assert list(shared) == list(losses)
    assert list(shared.values())[:4] == pytest.approx(list(losses.values())[:4], rel=1e-3)


@pytest.mark.parametrize(
    ("argv", "message"),
    [([], "takes one source"), (["real", "fake"], "takes one source"), (["fake"], "data/fake")],
)
def test_bad_input_is_one_line_and_writes_nothing(project, argv, message):
    with pytest.raises(BadInput, match=message):
        train_cnn.main(argv)
    assert not Path("models").exists()


def test_an_arm_without_validation_images_is_refused(project):
    write_shards(Path("data/synthetic"), "val", [], CLASSES)
    with pytest.raises(BadInput, match=r"data/synthetic.*no images"):
        train_cnn.main(["synthetic"])
    assert not Path("models").exists()
