"""CIFAKE's layout, checked member by member, from small archives of real JPEGs."""

import contextlib
import functools
import hashlib
import http.server
import io
import random
import tarfile
import threading
import zipfile

import numpy as np
import pytest
import yaml
from PIL import Image

from stages import fetch_data
from stages.artifacts import BadInput
from stages.dataset import cifake, codec, shards, splits
from stages.sections import Codec
from tests.closure import ROOT

JPEG = Codec(format="jpeg", quality=75)
FOLDERS = ("train/REAL", "train/FAKE", "test/REAL", "test/FAKE")


def jpeg(seed, size=(32, 32), mode="RGB", kind="JPEG", **how):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    stream = io.BytesIO()
    coarse.resize(size, Image.Resampling.BICUBIC).convert(mode).save(stream, kind, **({"quality": 75} | how))
    return stream.getvalue()


@functools.cache
def small_set():
    """Three train and two test images per class and source, none alike."""
    files = {"README.md": b"about"}
    for folder in FOLDERS:
        for number in range(3 if folder.startswith("train") else 2):
            for k in range(1, 11):
                name = f"{folder}/{number:04}{'' if k == 1 else f' ({k})'}.jpg"
                files[name] = jpeg(len(files))
    return files


def make_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make_tar(path, files):
    with tarfile.open(path, "w:xz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def make_folder(path, files):
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def read(tmp_path, files, form=JPEG, size=32):
    return cifake.read(make_zip(tmp_path / "set.zip", files), size, form)


def test_the_class_stands_in_the_file_name(tmp_path):
    found = read(tmp_path, small_set())
    assert found.class_names == (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    )
    for pool, folder in zip((found.real, found.fake, found.real_test, found.fake_test), FOLDERS, strict=True):
        wanted = {}
        for name, content in small_set().items():
            if name.startswith(folder):
                wanted[content] = int(name.split("(")[1].split(")")[0]) - 1 if "(" in name else 0
        assert {example.image: example.label for example in pool} == wanted
        assert splits.per_class(pool, 10) == [len(pool) // 10] * 10


@pytest.mark.parametrize("root", ["", "DATASET/", "CIFAKE-main/DATASET/"])
@pytest.mark.parametrize("make", [make_zip, make_tar, make_folder])
def test_container_order_root_and_suffix_make_no_difference(make, root, tmp_path):
    names = list(small_set())
    random.Random(1).shuffle(names)
    files = {root + name.replace(".jpg", ".jpeg" if root else ".jpg"): small_set()[name] for name in names}
    files["__MACOSX/train/REAL/._0000.jpg"] = files[f"{root}train/REAL/.DS_Store"] = b"litter"
    assert cifake.read(make(tmp_path / "other", files), 32, JPEG) == read(tmp_path, small_set())


def test_the_content_digest_sees_bytes_places_and_classes(tmp_path):
    digest = read(tmp_path, small_set()).published_sha256
    a, b = "train/REAL/0000.jpg", "train/REAL/0000 (2).jpg"
    swapped = small_set() | {a: small_set()[b], b: small_set()[a]}
    moved = small_set() | {a: small_set()["train/FAKE/0000.jpg"], "train/FAKE/0000.jpg": small_set()[a]}
    changed = small_set() | {a: jpeg(12345)}
    assert len({read(tmp_path, files).published_sha256 for files in (swapped, moved, changed)} | {digest}) == 4


def test_files_in_the_studys_codec_keep_their_published_bytes(tmp_path):
    found = read(tmp_path, small_set())
    assert {e.image for e in found.real} == {v for k, v in small_set().items() if k.startswith("train/REAL")}
    assert all(e.published.is_stored and e.published.form == "JPEG quality 75 4:2:0" for e in found.real)
    for example in found.real:
        pixels = np.asarray(Image.open(io.BytesIO(example.image)))
        assert example.content == hashlib.sha256(b"32 32 " + pixels.tobytes()).hexdigest()


@pytest.mark.parametrize(
    ("how", "form", "size"),
    [
        ({}, Codec(format="png", quality=None), 32),
        ({}, Codec(format="jpeg", quality=90), 32),
        ({}, JPEG, 16),
        ({"subsampling": "4:4:4"}, JPEG, 32),
        ({"quality": 95}, JPEG, 32),
    ],
)
def test_any_other_file_is_encoded_once(how, form, size, tmp_path):
    name = "train/REAL/0000.jpg"
    content = jpeg(700, **how)
    found = read(tmp_path, small_set() | {name: content}, form, size)
    wanted = codec.encode(codec.resize(codec.decode(content), size), form)
    (example,) = [e for e in found.real if e.image == wanted]
    assert not example.published.is_stored
    assert example.published.num_bytes == len(content)


BAD_NAMES = [
    "0000 (1).jpg",
    "0000 (11).jpg",
    "0000 (0).jpg",
    "cat.jpg",
    "0000 (2).png",
    "more/0000.jpg",
    "0000.jpg.exe",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_without_a_class_is_refused(name, tmp_path):
    with pytest.raises(BadInput, match="no class in its name") as caught:
        read(tmp_path, small_set() | {f"test/FAKE/{name}": jpeg(0)})
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("content", "flaw"),
    [
        (jpeg(0, size=(33, 32)), "33x32 RGB image, not 32x32 RGB"),
        (jpeg(0, size=(320, 320)), "320x320"),
        (jpeg(0, mode="L"), "32x32 L image"),
        (jpeg(0, kind="PNG"), "is no JPEG"),
        (jpeg(0, kind="WEBP"), "is no JPEG"),
        (b"<html>", "is no JPEG"),
        (b"", "is no JPEG"),
        (jpeg(0)[:-120], "is a damaged JPEG"),
        (jpeg(0)[:30], "is no JPEG|is a damaged JPEG"),
        (jpeg(0) + bytes(70_000), "70"),
    ],
)
def test_a_file_that_is_no_small_jpeg_is_refused_by_name(content, flaw, tmp_path):
    with pytest.raises(BadInput, match=flaw) as caught:
        read(tmp_path, small_set() | {"train/FAKE/0002 (7).jpg": content})
    assert "'train/FAKE/0002 (7).jpg'" in str(caught.value)


def without(*parts):
    return {name: content for name, content in small_set().items() if not any(part in name for part in parts)}


@pytest.mark.parametrize(
    ("files", "line"),
    [
        (without("train/FAKE/0001 (4)"), "train/FAKE has 2 images of cat, where other classes have 3"),
        (without("test/REAL/0000 (10)", "test/REAL/0001 (10)"), "test/REAL has 0 images of truck"),
        (without("train/FAKE"), "train/FAKE has 0 images of airplane"),
        (without("test/"), "no image in test/REAL or test/FAKE"),
        ({"cats/1.jpg": jpeg(0)}, "no image in train/REAL"),
        (small_set() | {f"copy/{name}": content for name, content in small_set().items()}, "holds the data set twice"),
    ],
)
def test_an_incomplete_set_is_refused_with_its_folder(files, line, tmp_path):
    with pytest.raises(BadInput, match=line):
        read(tmp_path, files)


def test_the_leak_free_set(tmp_path):
    """Of the fakes go: every test file with a twin in train, one of a pair inside test, one of a pair inside train."""
    files = dict(small_set())
    files["train/FAKE/0001.jpg"] = files["train/FAKE/0000.jpg"]
    files["test/FAKE/0000.jpg"] = files["train/FAKE/0000.jpg"]
    files["test/FAKE/0001 (3).jpg"] = files["test/FAKE/0000 (3).jpg"]
    files["test/REAL/0000 (5).jpg"] = files["train/REAL/0002 (5).jpg"]
    parts = splits.split(read(tmp_path, files), 1, 99, True)
    assert splits.per_class(parts.fake_test, 10) == [1, 2, 1, *[2] * 7]
    assert splits.per_class(parts.test, 10) == [*[2] * 4, 1, *[2] * 5]
    assert splits.per_class(parts.train, 10) == [2] * 10
    assert splits.per_class([*parts.fake_train, *parts.fake_val], 10) == [2, *[3] * 9]
    assert parts.duplicates == splits.Duplicates(inside_class=2, across_pools=2, across_classes=0)
    kept = splits.split(read(tmp_path, files), 1, 99, False)
    assert len(kept.fake_test) == len(kept.test) == 20


@pytest.mark.parametrize("budget", [1, 2])
def test_budgets_hold_for_both_sources_and_are_nested(budget, tmp_path):
    found = read(tmp_path, small_set())
    parts, whole = splits.split(found, 1, 99, True, budget), splits.split(found, 1, 99, True, None)
    for part, all_of_it in ((parts.train, whole.train), (parts.fake_train, whole.fake_train)):
        assert splits.per_class(part, 10) == [budget] * 10
        assert {e.content for e in part} <= {e.content for e in all_of_it}
    assert (parts.val, parts.test, parts.fake_test) == (whole.val, whole.test, whole.fake_test)
    with pytest.raises(BadInput, match=r"class airplane has 3 distinct images, .* \+ 3 \(train_per_class\)"):
        splits.split(found, 1, 99, True, 3)


@contextlib.contextmanager
def website(folder):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def study(folder, dataset_path, url=None, content_sha256=None):
    """Settings in a folder of their own: the shipped digits profile with CIFAKE as its data set."""
    (folder / "profiles").mkdir(parents=True)
    profile = yaml.safe_load((ROOT / "profiles" / "digits.yaml").read_text())
    published = {"kaggle": None, "archive_url": url, "archive_sha256": None, "content_sha256": content_sha256}
    profile["fetch_data"] |= {"dataset": "cifake", "published": published, "codec": {"format": "jpeg", "quality": 75}}
    profile["fetch_data"] |= {"val_per_class": 1, "train_per_class": 1, "near_duplicate_rmse": 15}
    (folder / "profiles" / "cifake.yaml").write_text(yaml.safe_dump(profile))
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    (folder / "params.yaml").write_text(yaml.safe_dump(params | {"profile": "cifake", "dataset_path": dataset_path}))


def test_the_stage_downloads_checks_and_writes_the_same_as_from_a_local_file(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "site").mkdir()
    make_tar(tmp_path / "site" / "set.tar.xz", {f"repo-1/DATASET/{k}": v for k, v in small_set().items()})
    pinned = read(tmp_path, small_set()).published_sha256
    with website(tmp_path / "site") as url:
        study(tmp_path / "online", "profiles/no_local_dataset", f"{url}/set.tar.xz", pinned)
        monkeypatch.chdir(tmp_path / "online")
        fetch_data.main([])
    study(tmp_path / "local", str(tmp_path / "set.zip"))
    monkeypatch.chdir(tmp_path / "local")
    fetch_data.main([])
    for place in ("data", "metrics", "plots"):
        files = [p.relative_to(tmp_path / "local") for p in (tmp_path / "local" / place).rglob("*") if p.is_file()]
        assert files
        for file in files:
            assert (tmp_path / "online" / file).read_bytes() == (tmp_path / "local" / file).read_bytes(), file
    for name, count in (("train", 10), ("val", 10), ("test", 20)):
        assert shards.num_rows(tmp_path / "local" / "data" / "fake", name) == count
    assert [p.name for p in (tmp_path / "online" / ".scratch").iterdir()] == ["fetch_data.lock"]


def test_a_bad_archive_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "site").mkdir()
    make_zip(tmp_path / "site" / "set.zip", without("test/FAKE/0000 (9)"))
    with website(tmp_path / "site") as url:
        study(tmp_path / "online", "profiles/no_local_dataset", f"{url}/set.zip")
        monkeypatch.chdir(tmp_path / "online")
        with pytest.raises(BadInput, match="test/FAKE has 1 images of ship"):
            fetch_data.main([])
        left = [p for p in (tmp_path / "online").rglob("*") if p.is_file() and p.suffix not in (".yaml", ".lock")]
        assert left == []
        make_zip(tmp_path / "site" / "set.zip", small_set())
        fetch_data.main([])  # and the mended archive is fetched anew


def test_another_set_than_the_pinned_one_is_refused(monkeypatch, tmp_path):
    make_zip(tmp_path / "set.zip", small_set())
    study(tmp_path / "run", str(tmp_path / "set.zip"), content_sha256="0" * 64)
    monkeypatch.chdir(tmp_path / "run")
    with pytest.raises(
        BadInput, match=r"published.content_sha256: the images hash to [0-9a-f]{64}, not to the pinned 0"
    ):
        fetch_data.main([])
    assert not (tmp_path / "run" / "data").exists()
