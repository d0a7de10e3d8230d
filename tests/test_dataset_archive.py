"""Archives are read without unpacking, and hostile ones are refused by name."""

import gzip
import io
import lzma
import os
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from stages.artifacts import BadInput
from stages.dataset.archive import Limits, members

LIMITS = Limits(member_bytes=1 << 16, total_bytes=1 << 22, num_members=100)
FILES = {"train/REAL/0000.jpg": b"first" * 200, "train/REAL/0000 (2).jpg": b"", "README.md": b"about"}


def jpg(name: str) -> bool:
    return name.endswith(".jpg")


def read(path: Path, limits: Limits = LIMITS) -> dict[str, bytes]:
    return dict(members(path, limits, jpg))


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make_tar(path: Path, files: dict[str, bytes], mode: str = "w", **fields: object) -> Path:
    """`fields` are set on every TarInfo."""
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in fields.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return path


def make_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def honest(kind: str, tmp_path: Path) -> Path:
    target = tmp_path / f"set.{kind}"
    if kind == "zip":
        return make_zip(target, {"train/": b"", **FILES})
    if kind == "folder":
        return make_folder(target, FILES)
    return make_tar(target, FILES, {"tar": "w", "tar.gz": "w:gz", "tar.xz": "w:xz", "tar.bz2": "w:bz2"}[kind])


KINDS = ["zip", "tar", "tar.gz", "tar.xz", "tar.bz2", "folder"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_wanted_files_come_out_and_nothing_lands_on_disk(kind, tmp_path):
    path = honest(kind, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert read(path) == {name: content for name, content in FILES.items() if jpg(name)}
    assert sorted(tmp_path.rglob("*")) == before


def test_kind_is_told_by_content_not_by_extension(tmp_path):
    assert len(read(make_tar(tmp_path / "wrong.zip", FILES, "w:xz"))) == 2


def test_a_leading_dot_slash_is_dropped(tmp_path):
    assert list(read(make_tar(tmp_path / "a.tar", {"./train/a.jpg": b"x"}))) == ["train/a.jpg"]


HOSTILE_NAMES = ["../outside.jpg", "train/../../outside.jpg", "/etc/passwd.jpg", "C:/a.jpg", "train\\..\\..\\a.jpg"]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_names_that_leave_the_archive_are_refused(make, name, tmp_path):
    with pytest.raises(BadInput, match=r"member '.*jpg' has an? (absolute )?name") as caught:
        read(make(tmp_path / "archive", {"train/good.jpg": b"x", name: b"x"}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(kind, tmp_path):
    path = make_tar(tmp_path / "a.tar", {"train/a.jpg": b""}, type=kind, linkname="/etc/passwd")
    with pytest.raises(BadInput, match=r"'train/a.jpg' is a link or a device"):
        read(path)


def test_links_in_a_zip_are_refused(tmp_path):
    link = zipfile.ZipInfo("train/a.jpg")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(BadInput, match=r"'train/a.jpg' is a link or a device"):
        read(tmp_path / "a.zip")


@pytest.mark.parametrize("name", ["a.jpg", "train"])
def test_links_in_a_folder_are_refused(name, tmp_path):
    root = make_folder(tmp_path / "set", FILES)
    link = root / name if name == "a.jpg" else root / "linked"
    link.symlink_to(tmp_path / "elsewhere" if name == "a.jpg" else root / "train")
    with pytest.raises(BadInput, match="is a link or a device"):
        read(root)


def test_a_fifo_in_a_folder_is_refused_without_waiting_for_a_writer(tmp_path):
    root = make_folder(tmp_path / "set", FILES)
    os.mkfifo(root / "pipe.jpg")
    with pytest.raises(BadInput, match=r"'pipe.jpg' is a link or a device"):
        read(root)


def test_an_encrypted_member_is_refused(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"train/a.jpg": b"secret"})
    raw = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(magic) + offset] |= 1
    path.write_bytes(raw)
    with pytest.raises(BadInput, match=r"'train/a.jpg' is encrypted"):
        read(path)


@pytest.mark.parametrize("kind", KINDS[:-1])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
def test_a_truncated_archive_is_refused(kind, share, tmp_path):
    rng = np.random.default_rng(0)
    files = {f"train/{i}.jpg": rng.bytes(700) for i in range(40)}
    modes = {"tar": "w", "tar.gz": "w:gz", "tar.xz": "w:xz", "tar.bz2": "w:bz2"}
    path = tmp_path / f"a.{kind}"
    path = make_zip(path, files) if kind == "zip" else make_tar(path, files, modes[kind])
    assert len(read(path)) == 40
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(BadInput, match=r"damaged or cut short|no end mark|is cut short"):
        read(path)


def test_a_tar_cut_exactly_between_two_members_is_refused(tmp_path):
    path = make_tar(tmp_path / "a.tar", {"train/a.jpg": b"x" * 512, "train/b.jpg": b"y" * 512})
    path.write_bytes(path.read_bytes()[:1024])
    with pytest.raises(BadInput, match="no end mark"):
        read(path)


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.xz"])
def test_flipped_bits_are_refused(kind, tmp_path):
    files = {f"train/{i}.jpg": np.random.default_rng(i).bytes(700) for i in range(10)}
    path = tmp_path / "a"
    path = make_zip(path, files) if kind == "zip" else make_tar(path, files, f"w:{kind[4:]}")
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(BadInput, match=f"{path}"):
        read(path)


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_an_oversized_member_is_refused(make, tmp_path):
    with pytest.raises(BadInput, match=r"'train/big.jpg' is 70000 bytes"):
        read(make(tmp_path / "a", {"train/big.jpg": bytes(70_000)}))


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize("name", ["train/{}.jpg", "docs/{}.txt"])
def test_too_many_bytes_are_a_bomb_wanted_or_not(make, name, tmp_path):
    files = {name.format(i): bytes(65_000) for i in range(70)}
    with pytest.raises(BadInput, match="decompression bomb"):
        read(make(tmp_path / "a", files))


def test_too_many_members_are_a_bomb(tmp_path):
    with pytest.raises(BadInput, match="decompression bomb"):
        read(make_zip(tmp_path / "a.zip", {f"{i}.jpg": b"" for i in range(101)}))


def test_a_compressed_stream_of_zeros_is_refused_in_little_memory(tmp_path):
    """400 MB of zeros in 400 KB, where the tar headers should stand, after them, and inside a long-name record."""
    zeros = bytes(1 << 20)
    with gzip.open(tmp_path / "zeros.gz", "wb", compresslevel=1) as stream:
        for _ in range(400):
            stream.write(zeros)
    name = tarfile.TarInfo("././@LongLink")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 400 << 20
    with lzma.open(tmp_path / "name.xz", "wb", preset=0) as stream:
        stream.write(name.tobuf())
        for _ in range(100):
            stream.write(zeros.replace(b"\0", b"a"))
    for bomb in ("zeros.gz", "name.xz"):
        tracemalloc.start()
        with pytest.raises(BadInput):
            read(tmp_path / bomb)
        assert tracemalloc.get_traced_memory()[1] < 20e6
        tracemalloc.stop()


def test_a_zip_that_lies_about_a_size_is_refused(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"train/a.jpg": bytes(5_000_000)})
    raw = bytearray(path.read_bytes())
    struct.pack_into("<I", raw, raw.index(b"PK\x01\x02") + 24, 100)
    path.write_bytes(raw)
    with pytest.raises(BadInput, match="damaged or cut short"):
        read(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_name_that_comes_twice_is_refused(kind, tmp_path):
    path = tmp_path / "a"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("train/a.jpg", b"x")
            archive.writestr("train/a.jpg", b"y")
    else:
        make_tar(path, {"train/a.jpg": b"x", "./train/a.jpg": b"y"})
    with pytest.raises(BadInput, match=r"'train/a.jpg' comes twice"):
        read(path)


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><html>", b"\xef\xbb\xbf\n <html><body>Sign in</body></html>"])
def test_a_web_page_saved_as_zip_is_called_one(page, tmp_path):
    (tmp_path / "cifake.zip").write_bytes(page)
    with pytest.raises(BadInput, match="is a web page"):
        read(tmp_path / "cifake.zip")


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n", b"PK", bytes(2000)])
def test_a_file_that_is_no_archive_is_refused(content, tmp_path):
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(BadInput, match="is neither a zip"):
        read(tmp_path / "a.zip")


def test_a_missing_path_is_refused(tmp_path):
    with pytest.raises(BadInput, match="not there"):
        read(tmp_path / "nowhere.zip")


def test_memory_does_not_grow_with_the_archive(tmp_path):
    peaks = []
    for count in (500, 4000):
        path = make_tar(tmp_path / f"{count}.tar.gz", {f"{i}.jpg": bytes(5_000) for i in range(count)}, "w:gz")
        tracemalloc.start()
        assert sum(1 for _ in members(path, Limits(1 << 16, 1 << 26, 10_000), jpg)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 3500 * 300, "about a name and its place in a set for each"
