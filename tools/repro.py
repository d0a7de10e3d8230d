"""Runs the stages that changed side by side: `dvc repro -s STAGE` each, in the order of DVC's own graph.

    python tools/repro.py [--jobs N] [-S KEY=VALUE]

Same results and same dvc.lock as plain `dvc repro`, which runs one stage at a time. A stage computes on one CPU core
or one GPU, so there is one slot per core, or per GPU if there are any. On a CPU a stage with `meta: {slots: all}` in
dvc.yaml spreads over all cores itself: it starts on the first free one and nothing is started beside it. Among the
stages that could start, the one with the longest way to the end goes first, by the seconds in `runs/*.json` where an
earlier run left them. -S writes to params.yaml first, as `dvc exp run -S` does, but makes no experiment.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.utils.cli_parse import to_path_overrides
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import load_yaml

# What DVC says after every stage; once a study would be enough.
HINTS = (
    "Generating lock file",
    "Updating lock file",
    "To track the changes",
    "\tgit add",
    "To enable auto",
    "\tdvc config",
    "Use `dvc push`",
)

Slot = str | None
"""The GPU that a stage may use, as CUDA numbers it, or None for a CPU core."""


@dataclass(frozen=True)
class Pipeline:
    """What DVC knows of the study: every stage with those it reads from, and the stages that differ from dvc.lock."""

    upstream: dict[str, set[str]]
    changed: set[str]
    spreading: set[str]


def read_pipeline() -> Pipeline:
    """Asks DVC; about a second."""
    repo = Repo()
    graph = repo.index.graph
    return Pipeline(
        upstream={stage.addressing: {other.addressing for other in graph.successors(stage)} for stage in graph},
        changed=set(repo.status()),
        spreading={stage.addressing for stage in graph if (stage.meta or {}).get("slots") == "all"},
    )


def find_slots() -> list[Slot]:
    """One slot per visible GPU, else one per core that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None and shutil.which("nvidia-smi"):
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
        gpus = [str(i) for i, line in enumerate(line for line in listing.splitlines() if line.startswith("GPU "))]
    else:
        gpus = [name for name in (visible or "").split(",") if name.strip() not in ("", "-1")]
    return [*gpus] or [None] * len(os.sched_getaffinity(0))


def recorded_outs(stage: str) -> object:
    """The hashes of a stage's outs in dvc.lock, or None where they can't be read (another dvc may be writing)."""
    with contextlib.suppress(DvcException, OSError, KeyError, TypeError):
        return load_yaml("dvc.lock")["stages"][stage]["outs"]
    return None


def ways_to_end(upstream: dict[str, set[str]]) -> dict[str, float]:
    """Seconds from each stage's start to the end of the study if nothing ever had to wait for a slot."""
    seconds = {}
    for stage in upstream:
        with contextlib.suppress(OSError, ValueError, KeyError):
            seconds[stage] = float(json.loads(Path("runs", f"{stage.replace('@', '-')}.json").read_text())["seconds"])
    unknown = statistics.median(seconds.values()) if seconds else 1.0
    downstream = {stage: {other for other in upstream if stage in upstream[other]} for stage in upstream}

    @cache
    def way(stage: str) -> float:
        return seconds.get(stage, unknown) + max((way(other) for other in downstream[stage]), default=0.0)

    return {stage: way(stage) for stage in upstream}


class Runner:
    """Starts stages as their inputs and a slot become free."""

    def __init__(self, pipeline: Pipeline, slots: list[Slot]) -> None:
        self.pipeline = pipeline
        self.slots = slots
        self.spreading = pipeline.spreading if slots[0] is None else set[str]()
        self.processes: set[subprocess.Popen[str]] = set()
        self.failed: dict[str, deque[str]] = {}
        self.width = max(map(len, pipeline.upstream), default=0)
        self.stopping = threading.Event()

    def run(self) -> bool:
        """Runs whatever is stale; stops starting stages at the first failure. Whether all went well."""
        upstream = self.pipeline.upstream
        way = ways_to_end(upstream)
        waiting = sorted(upstream, key=lambda stage: (-way[stage], stage))
        stale, done, free = set(self.pipeline.changed), set[str](), list(self.slots)
        running: dict[Future[bool], tuple[str, list[Slot]]] = {}
        with ThreadPoolExecutor(len(self.slots)) as pool:
            try:
                while waiting or running:
                    ready = [stage for stage in waiting if upstream[stage] <= done]
                    if unchanged := {stage for stage in ready if stage not in stale}:
                        done |= unchanged
                        waiting = [stage for stage in waiting if stage not in unchanged]
                        continue
                    for stage in ready:
                        if taken := self.take(stage, free, {name for name, _ in running.values()}):
                            waiting.remove(stage)
                            running[pool.submit(self.repro, stage, taken)] = (stage, taken)
                    if not running:
                        break  # a stage failed, so nothing is started any more
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        stage, taken = running.pop(future)
                        free += taken
                        done.add(stage)
                        if future.result():
                            stale |= {other for other in upstream if stage in upstream[other]}
            except BaseException:
                self.stop()
                raise
        return not self.failed

    def take(self, stage: str, free: list[Slot], running: set[str]) -> list[Slot]:
        """Moves the slots that a stage gets out of `free`; none if it has to wait."""
        if self.failed or not free or running & self.spreading:
            return []
        count = len(free) if stage in self.spreading else 1
        return [free.pop() for _ in range(count)]

    def repro(self, stage: str, slots: list[Slot]) -> bool:
        """Runs one stage, its output line by line under its name. Whether its outs came out differently."""
        if self.stopping.is_set():
            return False
        before = recorded_outs(stage)
        environment = dict(os.environ, PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
        if slots[0] is not None:
            environment["CUDA_VISIBLE_DEVICES"] = slots[0]
        process = subprocess.Popen(
            [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", stage],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
            start_new_session=True,
        )
        self.processes.add(process)
        if self.stopping.is_set():
            process.kill()
        assert process.stdout is not None
        lines: deque[str] = deque(maxlen=40)
        for line in process.stdout:
            lines.append(line)
            if line.strip() and not line.startswith(HINTS):
                print(f"{stage:<{self.width}} | {line.rstrip()}\n", end="", flush=True)
        self.processes.discard(process)
        if process.wait():
            self.failed[stage] = lines
            return True
        after = recorded_outs(stage)
        return after is None or before != after

    def stop(self) -> None:
        """Ends every dvc that is running together with the stage that it started."""
        self.stopping.set()
        for sent in (signal.SIGTERM, signal.SIGKILL):
            for process in tuple(self.processes):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, sent)
            deadline = time.monotonic() + 5
            while self.processes and time.monotonic() < deadline:
                time.sleep(0.05)


def main() -> int:
    """Runs the study; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, help="stages at a time (default: one per GPU, else one per core)")
    parser.add_argument(
        "-S", dest="changes", action="append", default=[], metavar="KEY=VALUE", help="as of dvc exp run"
    )
    options = parser.parse_args()
    slots = find_slots()
    if options.jobs is not None:
        slots = (slots * max(1, options.jobs))[: max(1, options.jobs)]
    try:
        for path, changes in to_path_overrides(options.changes).items():
            apply_overrides(path, changes)
    except DvcException as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        print(f"ERROR: -S {' '.join(options.changes)}: {reason}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        pipeline = read_pipeline()
        if not pipeline.changed:
            print(f"All {len(pipeline.upstream)} stages are up to date.")
            return 0
        runner = Runner(pipeline, slots)
        if not runner.run():
            for stage, lines in runner.failed.items():
                print(f"\n{stage} failed; the last it said:\n{''.join(lines)}", file=sys.stderr)
            return 1
        if Repo().status():  # what this runner's own bookkeeping overlooked
            return subprocess.run([sys.executable, "-m", "dvc", "repro"], check=False).returncode
    except DvcException:  # DVC can't read the study; its command line words that best
        return subprocess.run([sys.executable, "-m", "dvc", "status"], check=False).returncode or 1
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    print(f"All {len(pipeline.upstream)} stages are up to date.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
