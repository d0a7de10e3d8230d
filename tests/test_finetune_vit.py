"""`finetune_vit` on a tiny study."""

import itertools
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import ViTConfig, ViTForImageClassification, ViTModel

from stages import pretrain_encoder
from stages.artifacts import BadInput, digest, write_manifest
from stages.dataset.augment import normalize
from stages.dataset.shards import read_rows, write_shards
from stages.dataset.tensors import load_split
from stages.finetune_vit import main
from stages.networks import vit
from tests.closure import ROOT
from tests.tiny import CLASSES
from tests.tiny_arms import change, make_study

STEPS = 24


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study with the encoders `random`, `pixels` and a published one of another size and normalisation."""
    folder = tmp_path / "study"
    make_study(folder)
    change(
        folder,
        "finetune_vit",
        optimization={"num_steps": STEPS, "evaluate_every_steps": 6, "learning_rate": 5e-3},
        layer_decay=1.0,
    )
    monkeypatch.chdir(folder)
    pretrain_encoder.main(["random"])
    pretrain_encoder.main(["pixels"])
    hub = folder / "models" / "encoder" / "hub"
    config = ViTConfig(
        image_size=24, patch_size=8, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    ViTModel(config).save_pretrained(hub)
    processor = {"size": {"height": 24, "width": 24}, "image_mean": [0.3] * 3, "image_std": [0.2] * 3, "resample": 2}
    (hub / "preprocessor_config.json").write_text(json.dumps(processor))
    write_manifest(hub, method="hub", model=None)
    return folder


def metrics(folder, item):
    return json.loads((folder / "metrics" / "finetune_vit" / f"{item}.json").read_text())


def top1(classifier, split):
    with torch.no_grad():
        return float((classifier(normalize(split.images)).argmax(1) == split.labels).double().mean())


@pytest.mark.parametrize(("source", "init"), [("real", "hub"), ("synthetic", "random")])
def test_the_saved_weights_are_the_selected_ones(study, source, init):
    change(study, "finetune_vit", optimization={"precision": "float32"})
    main([source, init])
    item = f"{source}-{init}"
    figures = metrics(study, item)
    own = load_split(study / "data" / ("val" if source == "real" else source), "val")
    real = load_split(study / "data" / "val", "val")
    model = study / "models" / "vit" / item
    selected, oracle = vit.load_classifier(model), vit.load_classifier(model / "oracle")
    assert top1(selected, own) == pytest.approx(figures["val_top1"])
    assert top1(selected, real) == pytest.approx(figures["real_val_top1"])
    assert top1(oracle, real) == pytest.approx(figures["oracle"]["real_val_top1"])
    assert figures["oracle"]["real_val_top1"] >= figures["real_val_top1"]
    if init == "hub":
        assert figures["val_top1"] > 0.6, "a bright bar is easily told"
    assert figures["num_steps"] == STEPS
    opened = ViTForImageClassification.from_pretrained(model)
    assert opened.config.id2label == dict(enumerate(CLASSES))
    manifest = json.loads((model / "manifest.json").read_text())
    assert (manifest["source"], manifest["init"], manifest["best_step"]) == (source, init, figures["best_step"])
    assert {"model.safetensors", "oracle/model.safetensors"} <= set(manifest["files"])
    assert (study / "plots" / "finetune_vit" / item / "plots" / "metrics" / "val_top1.tsv").exists()


def test_arms_take_the_same_steps(study):
    """An arm of half the images trains as long, at the same rates, and is looked at as often."""
    rows = itertools.islice(read_rows(study / "data" / "synthetic", "train"), 30)
    write_shards(study / "data" / "synthetic", "train", list(rows), CLASSES)
    curves = []
    for source in ("real", "synthetic"):
        main([source, "random"])
        plots = study / "plots" / "finetune_vit" / f"{source}-random" / "plots" / "metrics"
        curves.append(
            [
                (plots / "lr.tsv").read_text(),
                steps_of(plots / "val_top1.tsv"),
                metrics(study, f"{source}-random")["num_steps"],
            ]
        )
    assert curves[0] == curves[1]
    assert curves[0][1:] == [["6", "12", "18", "24"], STEPS]


def steps_of(curve):
    return [line.split("\t")[0] for line in curve.read_text().splitlines()[1:]]


def test_the_init_keeps_its_processing(study):
    main(["real", "hub"])
    saved = vit.load_classifier(study / "models" / "vit" / "real-hub").processing.settings
    assert saved == {"size": 24, "mean": [0.3] * 3, "std": [0.2] * 3, "resample": 2}


def test_equal_settings_give_equal_bytes(study):
    places = [study / place / "real-random" for place in ("models/vit", "plots/finetune_vit")]
    main(["real", "random"])
    first = [digest(place) for place in places]
    main(["real", "random"])
    assert [digest(place) for place in places] == first


def test_recomputed_activations_change_no_figure(study):
    figures = []
    for recompute in (False, True):
        change(study, "finetune_vit", gradient_checkpointing=recompute, optimization={"num_steps": 6})
        main(["real", "random"])
        figures.append(metrics(study, "real-random"))
    assert figures[0]["final_train_loss"] == pytest.approx(figures[1]["final_train_loss"], rel=1e-6)


def test_two_processes_reach_the_figures_of_one(study):
    change(study, "finetune_vit", optimization={"precision": "float32"})
    main(["real", "random"])
    alone = metrics(study, "real-random")
    start = weights(study / "models" / "encoder" / "random")
    one = weights(study / "models" / "vit" / "real-random")
    # On CPUs `accelerate launch` starts one process alone (or MPI); torchrun starts as many as it is told.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launch, "-m", "stages.finetune_vit", "real", "random"]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert json.loads((study / "runs" / "finetune_vit-real-random.json").read_text())["num_processes"] == 2
    together = metrics(study, "real-random")
    assert together["final_train_loss"] == pytest.approx(alone["final_train_loss"], rel=1e-3)
    assert together["val_top1"] == pytest.approx(alone["val_top1"], abs=0.06)
    two = weights(study / "models" / "vit" / "real-random")
    moved = max(float((one[f"vit.{name}"] - start[name]).abs().max()) for name in start)
    apart = max(float((one[name] - two[name]).abs().max()) for name in one)
    assert apart < 0.1 * moved


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "takes a source and an init"),
        (["real", "nobody"], "models/encoder/nobody: holds no weights"),
        (["real", "pixels"], "models/encoder/pixels: holds no weights"),
        (["fake", "random"], "data/fake"),
    ],
)
def test_what_can_not_be_done_is_said(study, arguments, complaint):
    with pytest.raises(BadInput, match=complaint):
        main(arguments)
    assert not (study / "models" / "vit").exists()
