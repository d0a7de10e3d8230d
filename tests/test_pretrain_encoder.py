"""`pretrain_encoder` on a tiny study."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from transformers import ViTModel

from stages.artifacts import BadInput, digest
from stages.pretrain_encoder import main
from tests.tiny_arms import change, make_study

ENCODERS = {
    "random": {"method": "random", "source": "real"},
    "pixels": {"method": "pixels", "source": "real"},
    "stablerep-synthetic": {"method": "stablerep", "source": "synthetic"},
    "stablerep-real": {"method": "stablerep", "source": "real"},
    "simclr-real": {"method": "simclr", "source": "real"},
    "supcon-synthetic": {"method": "supcon", "source": "synthetic"},
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
    ],
)
def test_an_encoder_learns_from_the_weights_of_random(inside, name, positive_key, labels_seen):
    change(inside, "pretrain_encoder", positive_key=positive_key, optimization={"num_steps": 30, "learning_rate": 2e-3})
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


def test_equal_settings_give_equal_bytes_and_seeds_differ(inside):
    digests = []
    for seed in (0, 0, 1):
        settings = yaml.safe_load((inside / "params.yaml").read_text())
        (inside / "params.yaml").write_text(yaml.safe_dump(settings | {"seed": seed}))
        main(["stablerep-synthetic"])
        digests.append(
            [digest(inside / place / "stablerep-synthetic") for place in ("models/encoder", "plots/pretrain_encoder")]
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
    ],
)
def test_what_can_not_be_done_is_said(inside, name, changes, complaint):
    change(inside, "pretrain_encoder", **changes)
    with pytest.raises(BadInput, match=complaint):
        main([name])
    assert not (inside / "models").exists()
