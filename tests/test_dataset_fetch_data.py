import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from stages import config, fetch_data, mix_sources
from stages.artifacts import BadInput, digest, fresh_dir, read_json, read_manifest, write_manifest
from stages.dataset import codec, shards
from tests.closure import ROOT
from tests.tiny import CLASSES, draw_pictures, tiny_profile


def write_settings(profile=None, **study):
    """JSON is YAML."""
    Path("profiles").mkdir(exist_ok=True)
    Path("profiles/tiny.yaml").write_text(json.dumps(profile or tiny_profile()))
    shipped = yaml.safe_load((ROOT / "params.yaml").read_text())
    Path("params.yaml").write_text(json.dumps({**shipped, "profile": "tiny", "dataset_path": "pictures", **study}))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """24 distinct pictures for each of three classes; per class 4 go to val and 6 to test."""
    monkeypatch.chdir(tmp_path)
    draw_pictures(tmp_path / "pictures")
    write_settings()
    return tmp_path


def contents(folder, name):
    return [row.image for row in shards.read_rows(Path("data") / folder, name)]


def test_every_image_stands_in_one_split(project):
    fetch_data.main([])
    found = {(f, n): contents(f, n) for f, n in (("real", "train"), ("val", "val"), ("test", "test"))}
    assert [len(images) for images in found.values()] == [42, 12, 18]
    stored = {np.asarray(codec.decode(image)).tobytes() for images in found.values() for image in images}
    given = {np.asarray(Image.open(path)).tobytes() for path in (project / "pictures").rglob("*.png")}
    assert stored == given
    assert len(given) == 72
    row = next(shards.read_rows(Path("data/val"), "val"))
    assert (row.caption, row.caption_id, row.seed, row.settings) == (None, -1, None, {})
    assert shards.read_class_names(Path("data/test"), "test") == CLASSES
    for row in shards.read_rows(Path("data/real"), "train"):  # the label is the folder's
        source = next(p for p in (project / "pictures").rglob("*.png") if codec_equal(p, row.image))
        assert source.parent.name == CLASSES[row.label] == row.path.split("/")[0]


def codec_equal(path, content):
    return np.array_equal(np.asarray(Image.open(path)), np.asarray(codec.decode(content)))


def test_folders_manifests_and_metrics(project):
    fetch_data.main([])
    assert contents("fake", "train") == contents("fake", "val") == []
    for folder in ("real", "val", "test", "fake"):
        manifest = read_manifest(Path("data") / folder)
        assert manifest["class_names"] == list(CLASSES)
        assert manifest["image_size"] == 16
        assert manifest["codec"] == {"format": "png", "quality": None}
        assert set(manifest["files"]) == {p.name for p in (Path("data") / folder).glob("*.parquet")}
    metrics = read_json(Path("metrics/fetch_data.json"))
    assert metrics["images"]["train"] == {"total": 42, "per_class": {"circle": 14, "cross": 14, "square": 14}}
    assert metrics["images"]["fake_train"]["total"] == 0
    assert metrics["image_size"] == 16
    assert metrics["codec"] == {"format": "png"}
    assert sorted(p.name for p in (project / "data").iterdir()) == ["fake", "real", "test", "val"]


def test_names_and_order_of_files_do_not_matter(project):
    """Other names and more copies of the same pictures: the same bytes."""
    fetch_data.main([])
    before = digest(project / "data")
    pictures = sorted((project / "pictures").rglob("*.png"))
    for path, name in zip(pictures, random.Random(0).sample(range(1000), len(pictures)), strict=True):
        path.rename(path.with_name(f"{name}.png"))
    for path in random.Random(1).sample(sorted((project / "pictures").rglob("*.png")), 9):
        Image.open(path).save(path.with_suffix(".webp"), lossless=True)
    fetch_data.main([])
    assert digest(project / "data") == before
    dropped = read_json(Path("metrics/fetch_data.json"))["duplicates_dropped"]
    assert dropped == {"inside_class": 9, "across_pools": 0, "across_classes": 0}


def test_an_image_under_two_labels_is_dropped_wholly(project):
    path = sorted((project / "pictures" / "cross").iterdir())[0]
    shutil.copy(path, project / "pictures" / "circle" / "copy.png")
    fetch_data.main([])
    metrics = read_json(Path("metrics/fetch_data.json"))
    assert metrics["duplicates_dropped"]["across_classes"] == 2
    assert metrics["images"]["train"]["per_class"] == {"circle": 14, "cross": 13, "square": 14}


def test_the_codec_of_the_profile_is_used(project):
    profile = tiny_profile()
    profile["fetch_data"].update(codec={"format": "jpeg", "quality": 75}, image_size=12)
    write_settings(profile)
    fetch_data.main([])
    row = next(shards.read_rows(Path("data/real"), "train"))
    assert row.image[:3] == b"\xff\xd8\xff"
    assert row.path.endswith(".jpg")
    assert codec.decode(row.image).size == (12, 12)


def test_digits_need_no_network_and_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    profile = tiny_profile()
    shipped = {"dataset": "digits", "image_size": 32, "val_per_class": 50, "test_per_class": 100}
    profile["fetch_data"].update(shipped)
    write_settings(profile, dataset_path="someone/elses/folder")
    fetch_data.main([])
    images = read_json(Path("metrics/fetch_data.json"))["images"]
    assert [images[name]["total"] for name in ("train", "val", "test")] == [3500, 500, 1000]
    assert set(images["train"]["per_class"].values()) == {350}


def test_bad_input_leaves_what_was_there(project):
    fetch_data.main([])
    before = digest(project / "data"), (project / "metrics" / "fetch_data.json").read_bytes()
    (project / "pictures" / "circle" / "000.png").write_bytes(b"no image")
    with pytest.raises(BadInput, match=r"circle/000\.png"):
        fetch_data.main([])
    (project / "pictures" / "circle" / "000.png").unlink()
    for path in sorted((project / "pictures" / "square").iterdir())[10:]:
        path.unlink()
    with pytest.raises(BadInput, match="class square has 10 distinct images"):
        fetch_data.main([])
    write_settings(dataset_path="profiles/tiny.yaml")
    with pytest.raises(BadInput, match="dataset_path"):
        fetch_data.main([])
    with pytest.raises(BadInput, match="no argument"):
        fetch_data.main(["real"])
    assert (digest(project / "data"), (project / "metrics" / "fetch_data.json").read_bytes()) == before


# ------------------------------------------------------------------------------------------------- mix_sources


def write_synthetic(per_class=14, class_names=CLASSES):
    """Drawn images in the place of generated ones; 14 train images per class are as many as the real arm has."""
    rng = np.random.default_rng(1)
    form = config.load_profile("tiny").fetch_data.codec
    with fresh_dir(Path("data/synthetic")) as folder:
        for name, count in (("train", per_class), ("val", 4)):
            rows = [
                shards.Row(
                    codec.encode(Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)), form),
                    f"{i}.png",
                    i % 3,
                    "a caption",
                    i,
                    i,
                    {"guidance": 2.0, "num_inference_steps": 5, "sample_index": 0},
                )
                for i in range(3 * count)
            ]
            shards.write_shards(folder, name, rows, class_names)
        write_manifest(folder, class_names=class_names, image_size=16)


@pytest.mark.parametrize(("fraction", "real"), [(0.5, (7, 2)), (0.25, (4, 1)), (0, (0, 0)), (1, (14, 4))])
def test_mixed_has_the_real_arms_numbers(project, fraction, real):
    profile = tiny_profile()
    profile["mix_sources"]["real_fraction"] = fraction
    write_settings(profile)
    fetch_data.main([])
    write_synthetic()
    mix_sources.main([])
    for name, folder, per_class, from_real in (("train", "real", 14, real[0]), ("val", "val", 4, real[1])):
        rows = list(shards.read_rows(Path("data/mixed"), name))
        mine = set(contents(folder, name))
        for label in range(3):
            here = [row for row in rows if row.label == label]
            assert len(here) == per_class
            assert sum(row.image in mine for row in here) == from_real
        for row in rows:
            assert (row.caption_id == -1) == (row.image in mine) == (row.settings == {})
    assert read_manifest(Path("data/mixed"))["class_names"] == list(CLASSES)


@pytest.mark.parametrize(("per_real", "train", "val"), [(1, 14, 2), (1 / 3, 5, 1)])
def test_addition_puts_synthetic_images_on_top_of_all_real_ones(project, per_real, train, val):
    profile = tiny_profile()
    profile["mix_sources"] = {"mode": "add", "data_seed": 0, "real_fraction": 1, "synthetic_per_real": per_real}
    write_settings(profile)
    fetch_data.main([])
    write_synthetic()
    made = mix_sources.main([])["made"]
    assert f"{3 * (14 + train)} train and {3 * 4} val" in made  # val keeps its size, in the proportions of train
    assert set(contents("real", "train")) < set(contents("mixed", "train"))
    for name, added in (("train", train), ("val", val)):
        rows = list(shards.read_rows(Path("data/mixed"), name))
        for label in range(3):
            assert sum(row.label == label and row.caption_id != -1 for row in rows) == added
    profile["mix_sources"]["synthetic_per_real"] = 2
    write_settings(profile)
    before = digest(project / "data" / "mixed")
    with pytest.raises(
        BadInput, match=r"needs 28 synthetic images of class circle, there are 14; .*synthetic_per_real"
    ):
        mix_sources.main([])
    assert digest(project / "data" / "mixed") == before


def test_mixing_twice_gives_the_same_bytes(project):
    fetch_data.main([])
    write_synthetic()
    mix_sources.main([])
    before = digest(project / "data" / "mixed")
    mix_sources.main([])
    assert digest(project / "data" / "mixed") == before
    profile = tiny_profile()
    profile["mix_sources"]["data_seed"] = 1
    write_settings(profile)
    mix_sources.main([])
    assert digest(project / "data" / "mixed") != before


def test_mixing_refuses_what_does_not_fit(project):
    fetch_data.main([])
    write_synthetic(per_class=6)
    with pytest.raises(BadInput, match="needs 7 synthetic images of class circle, there are 6"):
        mix_sources.main([])
    assert not (project / "data" / "mixed").exists()
    write_synthetic(class_names=("a", "b", "c"))
    with pytest.raises(BadInput, match="classes or image size differ"):
        mix_sources.main([])
