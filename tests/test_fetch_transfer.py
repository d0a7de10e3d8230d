"""`fetch_transfer` on drawn folders."""

import shutil

import pytest
import yaml

from stages import fetch_transfer
from stages.artifacts import BadInput, digest, read_manifest
from stages.dataset.shards import read_class_names, read_rows
from tests.closure import ROOT
from tests.tiny import CLASSES, draw_pictures, tiny_profile


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study whose `others/` holds two data sets."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "tiny.yaml").write_text(yaml.safe_dump(tiny_profile()))
    name(tmp_path, "others")
    draw_pictures(tmp_path / "others" / "small", per_class=12, size=24, seed=1)
    draw_pictures(tmp_path / "others" / "shapes", per_class=20, seed=2)
    (tmp_path / "others" / "README").write_text("not a set")
    return tmp_path


def name(folder, transfer_path):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    (folder / "params.yaml").write_text(yaml.safe_dump({**params, "profile": "tiny", "transfer_path": transfer_path}))


def contents(folder):
    return {split: [row.image for row in read_rows(folder, split)] for split in ("train", "val", "test")}


def test_each_set_is_split_as_a_folder_of_images_is(study):
    fetch_transfer.main([])
    target = study / "data" / "transfer"
    assert read_manifest(target)["sets"] == ["shapes", "small"]
    for place, sizes in (("small", (9, 9, 18)), ("shapes", (33, 9, 18))):
        found = contents(target / place)
        assert tuple(map(len, found.values())) == sizes
        assert len({image for part in found.values() for image in part}) == sum(sizes), "no image is in two splits"
        assert read_class_names(target / place, "test") == CLASSES
    before = digest(target)
    (study / "others" / "shapes" / "circle" / "000.png").rename(study / "others" / "shapes" / "circle" / "zzz.png")
    fetch_transfer.main([])
    assert digest(target) == before, "names of files are nothing"


def test_no_sets_is_an_empty_folder(study):
    name(study, "profiles/no_transfer_sets")
    fetch_transfer.main([])
    assert read_manifest(study / "data" / "transfer")["sets"] == []


def test_mistakes_are_one_line_and_leave_nothing(study):
    for transfer_path, words in (
        ("nowhere", "is not there"),
        ("others/README", "is a file"),
        ("others/small/circle", "no folder"),
    ):
        name(study, transfer_path)
        with pytest.raises(BadInput, match=rf"^transfer_path: {transfer_path} .*{words}"):
            fetch_transfer.main([])
    name(study, "others")
    shutil.rmtree(study / "others" / "small" / "cross")
    (study / "others" / "small" / "square").rename(study / "others" / "small" / ".square")
    with pytest.raises(BadInput, match=r"^fetch_transfer, set small: .*one class folder"):
        fetch_transfer.main([])
    shutil.rmtree(study / "others" / "small")
    draw_pictures(study / "others" / "tiny", per_class=9)
    with pytest.raises(BadInput, match=r"^fetch_transfer, set tiny: class circle has 9 .*3 \(val_per_class\)"):
        fetch_transfer.main([])
    (study / "others" / "tiny").rename(study / "others" / "My Set")
    with pytest.raises(BadInput, match=r"^transfer_path: My Set: is no name"):
        fetch_transfer.main([])
    with pytest.raises(BadInput, match="takes no argument"):
        fetch_transfer.main(["small"])
    assert not list((study / "data").glob("*transfer*"))
