"""Files inside a zip, a tar or a folder, one at a time and never unpacked to disk.

An archive is treated as hostile: whatever a data set has no use for (a path that leaves the archive, a link, a
device, an encrypted, repeated or oversized member) is refused by name, and so is an archive that is cut short. Memory
is that of one member, whatever the archive claims about itself.
"""

import bz2
import dataclasses
import functools
import gzip
import io
import lzma
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from stages.artifacts import BadInput

_HEADER_BYTES = 1 << 20
"""What tar may spend on one member's headers: long names and pax records are read into memory whole."""
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    lzma.LZMAError,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    UnicodeError,
)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What an honest archive of a data set stays below; beyond it lies a decompression bomb."""

    member_bytes: int
    """Of one wanted member, unpacked."""
    total_bytes: int
    """Of all members, unpacked."""
    num_members: int
    """Files and folders."""


@dataclasses.dataclass(frozen=True)
class _Entry:
    name: str
    size: int
    is_dir: bool
    flaw: str | None
    read: Callable[[], bytes]


def members(path: Path, limits: Limits, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yields the name (with forward slashes, no leading `./`) and the content of every wanted file.

    Zip and tar (plain, .gz, .xz, .bz2) are told apart by content, not by extension. Names come in the archive's
    order; those of a folder are sorted. Members that are not wanted are checked but not read.

    Args:
        path: an archive or a folder.
        limits: when to stop believing it.
        wanted: whether the file of this name belongs to the data set.

    Raises:
        BadInput: the archive is none, is damaged or cut short, exceeds a limit, or holds a member that is refused.
    """
    seen: set[str] = set()
    total = 0
    try:
        for entry in _entries(path, limits):
            name = re.sub(r"^(\./)+", "", entry.name)
            total += entry.size
            flaw = _flaw_of_name(entry.name) or entry.flaw or ("comes twice" if name in seen else None)
            if not entry.is_dir and wanted(name) and entry.size > limits.member_bytes:
                flaw = flaw or f"is {entry.size} bytes; no image of this data set has over {limits.member_bytes}"
            if flaw:
                raise BadInput(
                    f"{path}: member {_shown(name)} {flaw}; use an archive as the data set's authors made it"
                )
            seen.add(name)
            if total > limits.total_bytes or len(seen) > limits.num_members:
                raise _bomb(path, limits)
            if not entry.is_dir and wanted(name):
                content = entry.read()
                if len(content) != entry.size:
                    raise BadInput(f"{path}: member {_shown(name)} is cut short; download the archive again")
                yield name, content
    except (*_DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's trouble, not the archive's: gzip and bz2 raise a bare OSError for damage
        raise BadInput(f"{path}: is damaged or cut short ({type(error).__name__}); download it again") from None


def _entries(path: Path, limits: Limits) -> Iterator[_Entry]:
    """The members of whatever lies at `path`."""
    if not path.exists():
        raise BadInput(f"{path}: not there; point dataset_path in params.yaml at the archive or folder")
    if path.is_dir():
        return _folder_entries(path)
    if not path.is_file():
        raise BadInput(f"{path}: is neither a file nor a folder; point dataset_path at the archive or folder")
    with path.open("rb") as stream:
        start = stream.read(512)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_entries(path)
    for magic, opener in ((b"\x1f\x8b", gzip.open), (b"\xfd7zXZ\0", lzma.open), (b"BZh", bz2.open)):
        if start.startswith(magic):
            return _tar_entries(path, limits, opener)
    if start[257:262] == b"ustar":
        return _tar_entries(path, limits, open)
    if start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<":
        raise BadInput(f"{path}: is a web page, not an archive; download the file itself (signed in, if the site asks)")
    raise BadInput(f"{path}: is neither a zip, a tar (plain, .gz, .xz or .bz2) nor a folder; point dataset_path at one")


def _zip_entries(path: Path) -> Iterator[_Entry]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            flaw = None
            if info.flag_bits & 0x1:
                flaw = "is encrypted"
            elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                flaw = "is a link or a device"
            yield _Entry(info.filename, info.file_size, info.is_dir(), flaw, functools.partial(archive.read, info))


def _tar_entries(path: Path, limits: Limits, opener: Callable[..., Any]) -> Iterator[_Entry]:
    with opener(path, "rb") as stream:
        meter = _Meter(stream, path, limits)
        with tarfile.open(fileobj=meter, mode="r|") as archive:
            while (info := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every one
                meter.allow(info.size + _HEADER_BYTES)
                flaw = (
                    None
                    if info.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE)
                    else "is a link or a device"
                )
                yield _Entry(info.name, info.size, info.isdir(), flaw, functools.partial(_content, archive, info))
        meter.allow(limits.total_bytes)
        while meter.read(_HEADER_BYTES):
            pass  # the compressed stream's own checksum stands at its end
        if meter.tail != bytes(tarfile.BLOCKSIZE):
            raise BadInput(f"{path}: has no end mark, so it is cut short; download it again")


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(info)
    return stream.read() if stream else b""


def _folder_entries(path: Path) -> Iterator[_Entry]:
    def refuse(error: OSError) -> None:
        raise BadInput(f"{error.filename}: cannot be read ({error.strerror}); mend its permissions")

    for folder, subfolders, files in os.walk(path, onerror=refuse):
        subfolders.sort()
        for file in sorted([*files, *(name for name in subfolders if Path(folder, name).is_symlink())]):
            full = Path(folder, file)
            status = full.lstat()
            flaw = None if stat.S_ISREG(status.st_mode) else "is a link or a device"
            yield _Entry(full.relative_to(path).as_posix(), status.st_size, False, flaw, full.read_bytes)


class _Meter(io.BufferedIOBase):
    """A stream that raises when more is read from it than was allowed, and remembers its last block."""

    def __init__(self, stream: IO[bytes], path: Path, limits: Limits) -> None:
        super().__init__()
        self.stream, self.path, self.limits = stream, path, limits
        self.left, self.total = _HEADER_BYTES, limits.total_bytes
        self.tail = b""

    def allow(self, size: int) -> None:
        """Grants the next `size` bytes, beyond what tar has already read ahead."""
        self.left = size

    def read(self, size: int | None = -1) -> bytes:
        """Reads on, if that is still allowed."""
        chunk = self.stream.read(-1 if size is None else size)
        self.left, self.total = self.left - len(chunk), self.total - len(chunk)
        if self.left < 0 or self.total < 0:
            raise _bomb(self.path, self.limits)
        self.tail = (self.tail + chunk)[-tarfile.BLOCKSIZE :]
        return chunk


def _flaw_of_name(name: str) -> str | None:
    parts = name.rstrip("/").split("/")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "has an absolute name"
    if ".." in parts or "\\" in name:
        return "has a name that leaves the archive"
    if "\0" in name or not name:
        return "has no usable name"
    return None


def _shown(name: str) -> str:
    """A member's name, fit for a terminal."""
    return repr(name if len(name) <= 100 else f"{name[:100]}...")


def _bomb(path: Path, limits: Limits) -> BadInput:
    return BadInput(
        f"{path}: unpacks to more than this data set holds ({limits.num_members} members, "
        f"{limits.total_bytes} bytes), like a decompression bomb; use an archive as the data set's authors made it"
    )
