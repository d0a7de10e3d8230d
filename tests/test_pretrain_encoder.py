"""`pretrain_encoder` on a tiny study."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPTextModelWithProjection, ViTModel

from stages.artifacts import BadInput, digest
from stages.dataset.augment import normalize
from stages.dataset.shards import write_shards
from stages.dataset.tensors import load_split
from stages.pretrain_encoder import main
from tests.tiny import CLASSES
from tests.tiny_arms import change, make_study, rows

ENCODERS = {
    "random": {"method": "random", "source": "real"},
    "pixels": {"method": "pixels", "source": "real"},
    "stablerep-synthetic": {"method": "stablerep", "source": "synthetic"},
    "stablerep-real": {"method": "stablerep", "source": "real"},
    "simclr-real": {"method": "simclr", "source": "real"},
    "supcon-synthetic": {"method": "supcon", "source": "synthetic"},
    "stablerep+-synthetic": {"method": "stablerep+", "source": "synthetic"},
    "clip-synthetic": {"method": "clip", "source": "synthetic"},
    "clip-real": {"method": "clip", "source": "real"},
    "supervised-real": {"method": "supervised", "source": "real"},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "study"
    make_study(folder, encoders=ENCODERS, vit_inits=["random"])
    return folder


@pytest.fixture(autouse=True)
def inside(study, tmp_path, monkeypatch):
    """Each test has its own copy of the settings, over the same data."""
    shutil.copytree(study, tmp_path / "study")
    monkeypatch.chdir(tmp_path / "study")
    return tmp_path / "study"


def weights(name):
    return load_file(f"models/encoder/{name}/model.safetensors")


def manifest(name):
    return json.loads(Path(f"models/encoder/{name}/manifest.json").read_text())


def test_controls_are_untrained(inside):
    main(["random"])
    main(["pixels"])
    assert [path.name for path in (inside / "models/encoder/pixels").iterdir()] == ["manifest.json"]
    assert manifest("pixels")["labels_seen"] == manifest("random")["labels_seen"] == "none"
    ViTModel.from_pretrained(inside / "models/encoder/random", add_pooling_layer=False)
    for name in ("random", "pixels"):
        assert (inside / "plots/pretrain_encoder" / name).is_dir()


@pytest.mark.parametrize(
    ("name", "positive_key", "labels_seen"),
    [
        ("stablerep-synthetic", "slot", "captions"),
        ("stablerep-synthetic", "caption", "captions"),
        ("stablerep-synthetic", "class", "classes"),
        ("supcon-synthetic", "caption", "classes"),
        ("simclr-real", "caption", "none"),
        ("clip-synthetic", "class", "captions"),
        ("supervised-real", "slot", "classes"),
    ],
)
def test_an_encoder_learns_from_the_weights_of_random(inside, name, positive_key, labels_seen):
    change(inside, "pretrain_encoder", positive_key=positive_key, optimization={"num_steps": 30, "learning_rate": 2e-3})
    change(inside, "pretrain_encoder", clip={"learning_rate": 2e-3}, supervised={"learning_rate": 2e-3})
    main(["random"])
    main([name])
    assert manifest(name)["labels_seen"] == labels_seen
    start, end = weights("random"), weights(name)
    assert start.keys() == end.keys()
    moved = max(float((start[key] - end[key]).abs().max()) for key in start)
    assert 1e-4 < moved < 0.2
    curve = (inside / f"plots/pretrain_encoder/{name}/plots/metrics/loss.tsv").read_text().splitlines()[1:]
    losses = [float(line.split("\t")[-1]) for line in curve]
    assert len(losses) == 30
    if labels_seen == "classes":  # what else is there to learn from a bar among noise
        assert sum(losses[-5:]) < sum(losses[:5])


def test_what_an_encoder_reads_follows_from_its_name(inside):
    """SupCon is class positives whatever `positive_key` says."""
    losses = set()
    for key in ("slot", "caption", "class"):
        change(inside, "pretrain_encoder", positive_key=key)
        main(["supcon-synthetic"])
        losses.add(digest(inside / "models/encoder/supcon-synthetic/model.safetensors"))
    assert len(losses) == 1


@pytest.mark.parametrize("name", ["stablerep+-synthetic", "clip-synthetic"])
def test_language_methods_leave_what_zero_shot_classification_needs(inside, name):
    """Trained long enough on bars whose place is the class that the captions' features name it."""
    rates = {"learning_rate": 5e-3, "weight_decay": 0.0}
    change(inside, "pretrain_encoder", clip=rates, stablerep_plus=rates, optimization={"num_steps": 40})
    main([name])
    folder = inside / "models/encoder" / name
    assert manifest(name)["zero_shot"] is True
    encoder = ViTModel.from_pretrained(folder, add_pooling_layer=False)
    text = CLIPTextModelWithProjection.from_pretrained(folder / "text")
    tokenizer = AutoTokenizer.from_pretrained(folder / "text")
    texts = text(**tokenizer([f"{c} {i}" for c in CLASSES for i in range(4)], padding=True, return_tensors="pt"))
    weight = load_file(folder / "visual_projection.safetensors")["weight"]
    split = load_split(inside / "data/synthetic", "train")
    summary = encoder(pixel_values=normalize(split.images)).last_hidden_state[:, 0]
    similarity = F.normalize(summary @ weight.T, dim=1) @ F.normalize(texts.text_embeds, dim=1).T
    by_class = similarity.view(-1, len(CLASSES), 4).mean(2)
    assert float((by_class.argmax(1) == split.labels).float().mean()) > 0.8


def test_a_moving_average_is_what_is_kept_if_asked_for(inside):
    change(inside, "pretrain_encoder", ema_momentum=1.0)
    main(["random"])
    main(["stablerep-synthetic"])
    assert all(torch.equal(weights("random")[key], x) for key, x in weights("stablerep-synthetic").items())
    change(inside, "pretrain_encoder", ema_momentum=0.0)  # rises to 1 by half a cosine
    main(["stablerep-synthetic"])
    averaged = weights("stablerep-synthetic")
    change(inside, "pretrain_encoder", ema_momentum=None)
    main(["stablerep-synthetic"])
    last = weights("stablerep-synthetic")
    assert not all(torch.equal(averaged[key], x) for key, x in last.items())


def test_micro_batches_change_sums_alone(inside):
    losses = []
    for size in (12, 2):
        change(inside, "pretrain_encoder", optimization={"micro_batch_size": size, "precision": "float32"})
        main(["stablerep+-synthetic"])
        curve = (inside / "plots/pretrain_encoder/stablerep+-synthetic/plots/metrics/loss.tsv").read_text()
        losses.append([float(line.split("\t")[-1]) for line in curve.splitlines()[1:]])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_equal_settings_give_equal_bytes_and_seeds_differ(inside):
    digests = []
    for seed in (0, 0, 1):
        settings = yaml.safe_load((inside / "params.yaml").read_text())
        (inside / "params.yaml").write_text(yaml.safe_dump(settings | {"seed": seed}))
        main(["stablerep+-synthetic"])
        digests.append(
            [digest(inside / place / "stablerep+-synthetic") for place in ("models/encoder", "plots/pretrain_encoder")]
        )
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]
    assert not list((inside / ".scratch").glob("*-*/"))


@pytest.mark.parametrize(
    ("name", "changes", "complaint"),
    [
        ("nobody", {}, "takes one name among"),
        ("stablerep-real", {}, "made from no caption"),
        ("stablerep-synthetic", {"images_per_caption": 6}, "images_per_caption: 6, but caption 0 has only 5 images"),
        ("stablerep-synthetic", {"optimization": {"batch_size": 48, "micro_batch_size": 48}}, "needs 16 captions"),
        ("stablerep-synthetic", {"images_per_caption": 12}, "fills the batch with one caption"),
        ("simclr-real", {"optimization": {"batch_size": 132, "micro_batch_size": 132}}, "needs 66 images per batch"),
        ("simclr-real", {"backbone": {"patch_size": 5}}, "patch_size: 5 does not divide"),
        ("clip-real", {}, r"data/real: some train images were made from no caption"),
        ("clip-synthetic", {"optimization": {"batch_size": 24, "micro_batch_size": 24}}, "needs 24 captions per batch"),
        (
            "simclr-real",
            {"local_crops": {"num_crops": 2, "size": 9, "scale_min": 0.1, "scale_max": 0.4}},
            "no multiple",
        ),
    ],
)
def test_what_can_not_be_done_is_said(inside, name, changes, complaint):
    change(inside, "pretrain_encoder", **changes)
    with pytest.raises(BadInput, match=complaint):
        main([name])
    assert not (inside / "models").exists()


@pytest.mark.parametrize("name", ["supervised-real", "supcon-synthetic"])
def test_labels_that_are_missing_or_all_the_same_are_named(inside, name):
    source = name.split("-")[1]
    shards = inside / "data" / source
    kept = [*rows(np.random.default_rng(0), 5, 4, has_captions=source == "synthetic")]
    write_shards(shards, "train", [dataclasses.replace(row, label=0) for row in kept], CLASSES)
    with pytest.raises(BadInput, match="all training images have one label"):
        main([name])
    assert not (inside / "models").exists()
