"""`audit_synthetic` on a tiny study whose CNN was never trained."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from torchmetrics.image.fid import FrechetInceptionDistance

from stages import audit_synthetic
from stages.artifacts import BadInput, digest
from stages.dataset.augment import normalize
from stages.dataset.shards import read_class_names, read_rows, write_shards
from stages.dataset.tensors import load_split
from stages.evaluation.set_quality import draw_equally
from stages.networks import cnn
from stages.sections import Cnn
from tests.tiny import CLASSES
from tests.tiny_arms import SIZE, change, make_study, rows
from tests.tiny_inception import save_inception

NETWORK = Cnn(name="apai3010", width=8, norm_group=6)
SMALL = ("diversity", "vendi", "vendi_per_class", "frechet_distance", "recognizability", "precision", "coverage")


@pytest.fixture
def study(tmp_path, monkeypatch):
    make_study(tmp_path)
    write_shards(tmp_path / "data" / "test", "test", rows(np.random.default_rng(5), 10, 1, False), CLASSES)
    model = tmp_path / "models" / "cnn" / "real"
    model.mkdir(parents=True)
    torch.manual_seed(0)
    cnn.save(model, NETWORK, CLASSES, SIZE, {"model.safetensors": cnn.build(NETWORK, 3, SIZE).state_dict()})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def audit(study):
    audit_synthetic.main([])
    return json.loads((study / "metrics" / "audit_synthetic.json").read_text())


def test_fid_is_torchmetrics_and_taken_only_with_weights(study):
    weights = save_inception(study / "inception.safetensors")
    assert "fid" not in audit(study)["synthetic"]
    params = yaml.safe_load((study / "params.yaml").read_text())
    (study / "params.yaml").write_text(yaml.safe_dump({**params, "inception_path": "inception.safetensors"}))
    change(study, "audit_synthetic", images_per_class=2)
    found = audit(study)
    assert found["inception_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()

    splits = audit_synthetic.load_splits()
    chosen = draw_equally({name: split.labels for name, split in splits.items()}, len(CLASSES), 2, 0)
    for name in ("synthetic", "real_test"):
        metric = FrechetInceptionDistance(
            2048, feature_extractor_weights_path=str(weights.with_suffix(".pth")), antialias=False
        )
        metric.update(splits["real"].images[chosen["real"]], real=True)
        metric.update(splits[name].images[chosen[name]], real=False)
        assert found[name]["fid"] == pytest.approx(metric.compute().item(), rel=1e-3)


def put(study, origin, split, place, name):
    """Images of one folder in the place of another's."""
    source = study / "data" / origin
    content = list(read_rows(source, split))
    shutil.rmtree(study / "data" / place)
    write_shards(study / "data" / place, name, content, read_class_names(source, split))


def test_both_sets_are_judged_by_the_real_arms_cnn(study):
    found = audit(study)
    network = cnn.load(study / "models" / "cnn" / "real", "model.safetensors", CLASSES, SIZE)
    for name, (place, split) in {"synthetic": ("synthetic", "train"), "real_test": ("test", "test")}.items():
        images = load_split(study / "data" / place, split)
        with torch.no_grad():
            share = (network(normalize(images.images)).argmax(1) == images.labels).double().mean().item()
        assert found[name]["recognizability"] == pytest.approx(share)
        assert set(SMALL) < set(found[name])
    assert (found["images_per_set"], found["num_features"]) == (30, 128), "the test split has the fewest"
    assert found["synthetic"] != found["real_test"]
    plots = study / "plots" / "audit_synthetic"
    assert sorted(p.name for p in plots.iterdir()) == ["confusion.csv", "nearest.png", "per_class.csv"]
    assert len((plots / "confusion.csv").read_text().splitlines()) == 1 + 60


def test_a_second_run_writes_the_same(study):
    audit(study)
    before = digest(study / "metrics"), digest(study / "plots")
    audit(study)
    assert (digest(study / "metrics"), digest(study / "plots")) == before


def test_synthetic_images_as_good_as_new_real_ones_reach_the_floor(study):
    put(study, "test", "test", "synthetic", "train")
    found = audit(study)
    assert found["synthetic"] == found["real_test"]


def test_copies_of_the_train_images_are_found_out(study):
    put(study, "real", "train", "synthetic", "train")
    found = audit(study)
    assert found["synthetic"]["distance_to_nearest_train"]["median"] < 1e-4
    assert found["real_test"]["distance_to_nearest_train"]["median"] > 1e-2
    assert found["synthetic"]["frechet_distance"] == pytest.approx(0, abs=1e-6)
    assert found["synthetic"]["recall"] == found["synthetic"]["coverage"] == 1


def test_settings_reach_the_figures(study):
    before = audit(study)
    change(study, "audit_synthetic", batch_size=7)
    for name in ("synthetic", "real_test"):
        assert audit(study)[name]["diversity"] == pytest.approx(before[name]["diversity"], rel=1e-4)
    change(study, "audit_synthetic", num_neighbors=2)
    assert audit(study)["synthetic"]["density"] != before["synthetic"]["density"]
    change(study, "audit_synthetic", images_per_class=4)
    few = audit(study)
    assert few["images_per_set"] == 12
    assert few["synthetic"]["recognizability"] == before["synthetic"]["recognizability"], "that takes all images"
    change(study, "audit_synthetic", subsample_seed=1)
    assert audit(study)["synthetic"]["vendi"] != few["synthetic"]["vendi"]


def test_bad_input_is_one_line_and_writes_nothing(study):
    def refused(words, argv=()):
        with pytest.raises(BadInput, match=words) as caught:
            audit_synthetic.main(list(argv))
        assert "\n" not in str(caught.value)
        assert not (study / "metrics").exists()
        assert not (study / "plots").exists()

    refused("takes no argument", ["real"])
    change(study, "audit_synthetic", num_neighbors=30)
    refused("num_neighbors: 30 neighbours need more than 30 images")
    (study / "models" / "cnn" / "real" / "model.safetensors").unlink()
    refused("models/cnn/real/model.safetensors: holds no weights")
    test = study / "data" / "test"
    content = list(read_rows(test, "test"))
    for kept, names, words in (
        ([row for row in content if row.label != 1], CLASSES, "data/test: holds no image of class cross"),
        (content, ("a", "b", "c"), "data/test: its classes or image size differ"),
    ):
        shutil.rmtree(test)
        write_shards(test, "test", kept, names)
        refused(words)
