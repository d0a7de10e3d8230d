"""Published data sets from the network: the only file of this room that reaches it.

Tried against a loopback server; the real sites were never asked from where this was written.
"""

import contextlib
import dataclasses
import hashlib
import http.client
import itertools
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import kagglehub

from stages.artifacts import BadInput, say, write_json

MAX_BYTES = 1 << 30
"""Nothing that is fetched here comes near it; a server that sends on and on does."""
_CHUNK_BYTES = 1 << 18
_TIMEOUT_SECONDS = 30
_IDLE_ATTEMPTS = 4
"""Connections in a row that may bring nothing before the way counts as closed."""


class DownloadError(Exception):
    """One way to the data is closed; says why, without addresses that may carry a token."""


@dataclasses.dataclass(frozen=True)
class Published:
    """Where a data set is published."""

    name: str
    """What people call it."""
    kaggle: str | None
    """Its handle on Kaggle, `owner/name` with `/versions/n` if one is pinned."""
    url: str | None
    """The archive of its authors' repository."""
    sha256: str | None
    """Of that archive, where its host sends the same bytes every time."""


def obtain(published: Published, folder: Path) -> Path:
    """Downloads a data set, from Kaggle or else from its authors, and goes on where an earlier try was cut off.

    Kaggle is asked through `kagglehub`, with the user's own token if there is one: kagglehub finds it, and it is
    neither read nor written here.

    Args:
        published: where to look.
        folder: kept between tries, for what has arrived from the authors so far.

    Returns:
        The archive, in `folder`, or the folder of kagglehub's own cache.

    Raises:
        BadInput: neither works; the line says why, and names every way to the data.
    """
    ways: dict[str, Callable[[], Path]] = {}
    if handle := published.kaggle:
        ways["Kaggle"] = lambda: _from_kaggle(handle)
    if url := published.url:
        ways["the authors' repository"] = lambda: download(url, folder / "archive", published.sha256)
    problems = []
    for name, fetch in ways.items():
        say(f"fetching {published.name} from {name}")
        try:
            return fetch()
        except DownloadError as problem:
            problems.append(f"{name}: {problem}")
    raise BadInput(
        f"dataset_path: names no local data, and {published.name} can't be downloaded "
        f"({'; '.join(problems) or 'the profile names no place'}). Either set dataset_path in params.yaml to Kaggle's "
        f"zip ({published.kaggle}), a tar or an unpacked folder; or let kagglehub download it: reach kaggle.com, with "
        f"your token in ~/.kaggle or KAGGLE_API_TOKEN; or let this machine reach {published.url}"
    )


def _from_kaggle(handle: str) -> Path:
    """Kaggle's copy, unpacked by kagglehub into its own cache, where it also resumes."""
    try:
        return Path(kagglehub.dataset_download(handle))
    except Exception as error:
        # Its text may hold a signed address; the kind is enough to know what to do.
        raise DownloadError(type(error).__name__) from None


def download(url: str, target: Path, sha256: str | None, pause_seconds: float = 1) -> Path:
    """Downloads a file, across any number of broken connections and of starts of this program.

    What has arrived is kept beside `target` and continued by an HTTP range request, if the server can tell that the
    file is still the same (`If-Range`) or a checksum will.

    Args:
        url: http or https.
        target: where the file goes once it is whole.
        sha256: what it must hash to, in hex; None to take what comes.
        pause_seconds: before the second attempt; doubled for each further one that brings nothing.

    Raises:
        DownloadError: no answer, a refusal, a web page, too many bytes, or the wrong checksum.
    """
    if target.exists() and (sha256 is None or _sha256(target) == sha256):
        return target  # an earlier start got this far
    partial = target.with_name(f"{target.name}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    idle = 0
    for first in itertools.chain([True], itertools.repeat(False)):
        before = _size(partial)
        try:
            if _receive(url, partial, may_resume=sha256 is not None):
                break
            problem = "the connection broke off"
        except (OSError, http.client.HTTPException) as error:
            problem = _reason(error)
            if first and _is_unreachable(error):
                raise DownloadError(problem) from None  # no network, no such host: waiting does not help
        idle = idle + 1 if _size(partial) <= before else 0
        if idle == _IDLE_ATTEMPTS:
            raise DownloadError(f"{problem}, {idle} times in a row; start again to go on from {_size(partial)} bytes")
        time.sleep(pause_seconds * 2**idle)
    if sha256 is not None and (found := _sha256(partial)) != sha256:
        _forget(partial)
        raise DownloadError(f"the download's SHA-256 is {found}, not {sha256}; it was deleted")
    partial.replace(target)
    _forget(partial)
    return target


def _receive(url: str, partial: Path, may_resume: bool) -> bool:
    """One connection; True if the file is whole afterwards."""
    have, validator = _size(partial), _validator(partial)
    headers = {"User-Agent": "understudy", "Accept-Encoding": "identity"}
    if have and (validator or may_resume):
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": validator} if validator else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_SECONDS) as answer:
            if answer.headers.get_content_type() == "text/html":
                raise DownloadError("it sent a web page instead of the archive")
            return _store(answer, partial, have)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return True  # killed between the last byte and the renaming
            _forget(partial)
            return False
        if error.code < 500 and error.code != http.client.TOO_MANY_REQUESTS:
            raise DownloadError(f"HTTP {error.code}") from None
        raise


def _store(answer: http.client.HTTPResponse, partial: Path, have: int) -> bool:
    """Writes an answer's body to the partial file, behind what is there if the server agreed to go on from it."""
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    resumed = answer.status == http.client.PARTIAL_CONTENT and span is not None and int(span[1]) == have
    if answer.status == http.client.PARTIAL_CONTENT and not resumed:
        _forget(partial)
        return False
    received = have if resumed else 0
    length = answer.headers.get("Content-Length")
    total = received + int(length) if length else None
    if (total or 0) > MAX_BYTES:
        raise DownloadError(f"it offers {total} bytes, over {MAX_BYTES}")
    if not resumed:
        tag = answer.headers.get("ETag") or ""
        write_json(_notes(partial), None if tag.startswith("W/") else tag or answer.headers.get("Last-Modified"))
    with partial.open("ab" if resumed else "wb") as stream:
        while chunk := answer.read(_CHUNK_BYTES):
            stream.write(chunk)
            received += len(chunk)
            if received > MAX_BYTES:
                _forget(partial)
                raise DownloadError(f"it sent over {MAX_BYTES} bytes")
    return total is None or received == total


def _notes(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _validator(partial: Path) -> str | None:
    """What the server called the version of the file that the partial one belongs to."""
    with contextlib.suppress(OSError, ValueError):
        note = json.loads(_notes(partial).read_bytes())
        return note if isinstance(note, str) else None
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _forget(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    _notes(partial).unlink(missing_ok=True)


def _is_unreachable(error: BaseException) -> bool:
    return isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError)


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return (isinstance(cause, OSError) and cause.strerror) or type(cause).__name__
