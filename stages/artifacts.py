"""Paths, atomic writes, manifests and provenance: the only place that knows where things lie on disk.

Every path is relative to the working directory, which DVC makes the repository's root (or an experiment's temporary
copy of it). Never imports torch: a settings typo must not wait for CUDA.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

DATA = Path("data")
MODELS = Path("models")
METRICS = Path("metrics")
PREDICTIONS = Path("predictions")
PLOTS = Path("plots")
RUNS = Path("runs")
SETTINGS_CHECKED = DATA / "settings_checked"
CAPTIONS = DATA / "captions.tsv"
GENERATOR = MODELS / "generator"
MANIFEST = "manifest.json"


class BadInput(Exception):
    """A mistake of the user's, worded as one line: the file or key, what is wrong, what to do."""


def validation_of(source: str) -> Path:
    """The folder that holds the `val` split of a source: real validation images stand apart in `data/val`.

    Every other source carries its own `val` split next to its `train` split (synthetic: held-out captions and seeds).
    """
    return DATA / "val" if source == "real" else DATA / source


# ---------------------------------------------------------------------------------------------- atomic writes


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file that is either wholly there or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON with sorted keys; NaN and infinity are refused, since no other JSON reader accepts them.

    Raises:
        ValueError: a number is not finite.
    """
    write_bytes(path, (json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Reads a JSON file that a stage wrote.

    Raises:
        BadInput: the file is missing or is no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BadInput(f"{path}: not there; run the stage that makes it (`dvc repro`) or `dvc pull` it") from None
    except ValueError as error:
        raise BadInput(f"{path}: is no JSON ({error}); delete it and run `dvc repro` again") from None


@contextlib.contextmanager
def fresh_dir(target: Path) -> Iterator[Path]:
    """Yields an empty folder beside `target` that takes its place when the block ends well, and vanishes otherwise.

    What a killed predecessor left behind is removed first, so that a stage can always simply be started again.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(f".{target.name}.partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    partial = target.parent / f".{target.name}.partial-{os.getpid()}"
    partial.mkdir()
    try:
        yield partial
        if target.exists():
            shutil.rmtree(target)
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


# ------------------------------------------------------------------------------------------ manifests, digests


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes, or of a folder's file names and bytes in sorted order.

    Raises:
        BadInput: nothing lies at `path`.
    """
    if not path.exists():
        raise BadInput(f"{path}: not there; run the stage that makes it (`dvc repro`) or `dvc pull` it")
    if path.is_file():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    total = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        total.update(f"{file.relative_to(path).as_posix()}\0{digest(file)}\n".encode())
    return total.hexdigest()


def write_manifest(folder: Path, **facts: Any) -> None:
    """Lists a folder's files with their SHA-256 beside `facts`; written last, it marks the folder as finished."""
    files = {
        p.relative_to(folder).as_posix(): digest(p)
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != MANIFEST
    }
    write_json(folder / MANIFEST, {**facts, "files": files})


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished folder.

    Raises:
        BadInput: the folder has none, so it is missing or unfinished.
    """
    content: dict[str, Any] = read_json(folder / MANIFEST)
    return content


# ----------------------------------------------------------------------------------------------- resumable state


def code_digest() -> str:
    """SHA-256 over every Python file of the package: resumable state never outlives an edit."""
    root = Path(__file__).parent
    total = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        total.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return total.hexdigest()


@contextlib.contextmanager
def scratch(stage: str, settings: Any, inputs: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yields the folder of a stage's resumable state, keyed by settings, inputs and code; removed on success.

    It lies outside DVC's outs, since DVC deletes those before a run, and in the original repository even for an
    experiment in a temporary folder. A file lock makes a second start wait for the first: killing dvc leaves the
    stage that it had started running. The kernel drops the lock when its holder dies, so it can't go stale.

    Args:
        stage: the stage and its item, such as `train_cnn-real`.
        settings: whatever JSON can hold; every setting that the state depends on.
        inputs: files and folders that the state depends on; a folder with a manifest is read by that alone.
    """
    content = json.dumps(settings, sort_keys=True, default=str).encode()
    key = hashlib.sha256(content + code_digest().encode())
    for path in inputs:
        key.update(digest(path / MANIFEST if (path / MANIFEST).exists() else path).encode())
    root = Path(os.environ.get("DVC_ROOT", ".")) / ".scratch"
    folder = root / f"{stage}-{key.hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    if not is_main_process():
        yield folder
        return
    with (root / f"{stage}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{stage}: another process still runs this stage; waiting for it to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        folder.mkdir(exist_ok=True)
        yield folder
        shutil.rmtree(folder)


def compiler_cache() -> Path:
    """Where compiled kernels outlive a run; like resumable state outside DVC's outs, and safe to delete."""
    return Path(os.environ.get("DVC_ROOT", ".")) / ".scratch" / "compiled"


def feature_cache() -> Path:
    """Where features of frozen encoders outlive a run; like compiled kernels no result, and safe to delete."""
    return Path(os.environ.get("DVC_ROOT", ".")) / ".scratch" / "features"


def is_main_process() -> bool:
    """Whether this is rank 0 of the processes that `accelerate launch` started, or the only process."""
    return os.environ.get("RANK", "0") == "0"


# ------------------------------------------------------------------------------------------- words and provenance


def say(line: str) -> None:
    """Prints one line for the person at the terminal, clear of any progress bar."""
    print(line, file=sys.stderr, flush=True)


def git_revision() -> str | None:
    """The checked-out revision, with `-dirty` after it where tracked files differ, or None outside a repository."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def write_provenance(stage: str, seconds: float, **facts: Any) -> None:
    """Writes `runs/<stage>.json`: what differs from machine to machine and so has no place among the metrics."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    names = ("torch", "torchvision", "transformers", "diffusers", "accelerate", "numpy", "scikit-learn", "dvc")
    write_json(
        RUNS / f"{stage}.json",
        {
            "git_revision": git_revision(),
            "seconds": round(seconds, 2),
            "cpu_seconds": round(own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime, 2),
            "peak_memory_mib": round(max(own.ru_maxrss, children.ru_maxrss) / 1024, 1),
            "python": sys.version.split()[0],
            "versions": {name: metadata.version(name) for name in names},
            **facts,
        },
    )


def run_stage(main: Callable[[list[str]], Mapping[str, Any]]) -> None:
    """Runs a stage's `main(argv)` as a program: one line on success, one line and a non-zero code on bad input.

    `main` returns the facts for `runs/<stage>.json`; of these `made` (what was made and where) is also printed, and
    an item of the stage is named by `item`. Only rank 0 of several processes speaks and writes.
    """
    stage = main.__globals__["__spec__"].name.rpartition(".")[2]
    started = time.monotonic()
    try:
        facts = dict(main(sys.argv[1:]))
    except BadInput as error:
        say(f"ERROR: {error}")
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        say(f"ERROR: {error.filename or 'disk'}: no space left; free some and start the same command again")
        sys.exit(2)
    if is_main_process():
        seconds = time.monotonic() - started
        name = "-".join(filter(None, (stage, facts.get("item"))))
        write_provenance(name, seconds, **facts)
        say(f"{name}: {facts.get('made', 'done')} in {seconds:.1f} s")
