"""The study of encoders: queues its cells as experiments, and collects what they found into docs/encoder-study.json.

    python -m tools.encoder_study plan
    python -m tools.encoder_study queue guidance digits --seeds 0 1 2
    dvc exp run --run-all                       # or `dvc queue start`; one worker computes on one core
    python -m tools.encoder_study collect
    python -m tools.encoder_table               # the table and the pictures, from docs/encoder-study.json alone

A cell is one encoder: profile, method, source, guidance, seed. An experiment holds the cells of one profile, seed and
guidance, so whatever ends a run costs one experiment: `queue` leaves out what was collected, what an experiment of an
earlier start holds and what still waits, so the same lines go on where they were. Only what a cell needs is run.
"""

import argparse
import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.utils.serialize import parse_yaml

from tools.experiments import Correct, correct_of

RESULTS = Path("docs/encoder-study.json")
PREFIX = "encoders-"
"""Of the experiments' names; others may have been run with other settings, so they are never collected."""
GUIDANCES = (1.0, 2.0, 4.0)
ANY_GUIDANCE = 2.0
"""Of the experiments whose encoders see no synthetic image; the probe's second head, which is not collected, does."""
GUIDED = ("stablerep", "simclr")
RIVALS = ("supcon", "simclr", "mae")
CONTROLS = ("random", "pixels")
PLAN = (("guidance", "digits", (0, 1, 2)), ("guidance", "cifake-cpu", (0,)), ("fakes", "cifake-cpu", (0, 1, 2)))
"""Part, profile and seeds of the whole study; what has not been run stands in the table as that."""


@dataclass(frozen=True)
class Cell:
    """One encoder of the study."""

    profile: str
    method: str
    source: str
    guidance: float | None
    """Of the images that it is pretrained on; None where they are not synthetic."""
    seed: int

    @property
    def encoder(self) -> str:
        """Its name in `encoders` of params.yaml."""
        return self.method if self.method in CONTROLS else f"{self.method}-{self.source}"

    @property
    def experiment(self) -> str:
        """The experiment that makes it."""
        images = "unguided" if self.guidance is None else f"w{self.guidance:g}"
        return f"{PREFIX}{self.profile}-{images}-s{self.seed}".replace(".", "p")


@dataclass(frozen=True)
class Result:
    """What a cell's linear probe found."""

    labels_seen: str
    val_top1: float
    """On real val images, which guidance is chosen by."""
    correct: Correct
    """On real test images, (images,)."""
    test: str
    """Hash of the test images: only equal ones can be compared image by image."""


def cells_of(part: str, profile: str, seeds: Iterable[int]) -> list[Cell]:
    """The cells of a part of the study; controls and real images stand beside every other row."""
    found = []
    for seed in seeds:
        if part == "guidance":
            found += [Cell(profile, method, "synthetic", w, seed) for w in GUIDANCES for method in GUIDED]
        else:
            found += [Cell(profile, method, "fake", None, seed) for method in RIVALS]
        found += [Cell(profile, method, "real", None, seed) for method in RIVALS]
        found += [Cell(profile, "random", "real", None, seed)]
        found += [Cell(profile, "pixels", "real", None, seed)] if seed == 0 else []  # nothing of it is drawn
    return found


def planned() -> list[Cell]:
    """Every cell of the study, once."""
    return list(dict.fromkeys(cell for part, profile, seeds in PLAN for cell in cells_of(part, profile, seeds)))


def command_of(cells: list[Cell], settings: Iterable[str] = ()) -> list[str]:
    """The experiment that makes cells of one profile, seed and guidance; `settings` are further KEY=VALUE."""
    first = cells[0]
    guidance = ANY_GUIDANCE if first.guidance is None else first.guidance
    changes = [f"profile={first.profile}", f"seed={first.seed}", f"guidance={guidance:g}"]
    changes += [f"++encoders.{cell.encoder}={{method:{cell.method},source:{cell.source}}}" for cell in cells]
    options = [word for change in (*changes, *settings) for word in ("-S", change)]
    return ["dvc", "exp", "run", *options, *(f"probe_encoder@{cell.encoder}" for cell in cells)]


# --------------------------------------------------------------------------------------------------- results file


def read_results(path: Path = RESULTS) -> dict[Cell, Result]:
    """What was collected so far."""
    if not path.exists():
        return {}
    found = {}
    for row in json.loads(path.read_text()):
        bits = np.unpackbits(np.frombuffer(base64.b64decode(row["correct"]), np.uint8), count=row["num_images"])
        cell = Cell(**{key: row[key] for key in Cell.__dataclass_fields__})
        found[cell] = Result(row["labels_seen"], row["val_top1"], bits.astype(bool), row["test"])
    return found


def write_results(results: dict[Cell, Result], path: Path = RESULTS) -> None:
    """Everything that the tables need, so that experiments can be deleted; one line per cell."""
    rows = []
    for cell in sorted(results, key=lambda cell: (cell.experiment, cell.encoder)):
        result = results[cell]
        facts = {
            "labels_seen": result.labels_seen,
            "val_top1": result.val_top1,
            "test_top1": float(result.correct.mean()),
            "num_images": len(result.correct),
            "correct": base64.b64encode(np.packbits(result.correct).tobytes()).decode(),
            "test": result.test,
            "command": " ".join(f"'{word}'" if "{" in word else word for word in command_of([cell])),
        }
        rows.append(json.dumps({**asdict(cell), **facts}))
    path.write_text("[\n" + ",\n".join(rows) + "\n]\n")


# ---------------------------------------------------------------------------------------------------- experiments


def experiments() -> dict[str, str]:
    """Revisions of the study's finished experiments by name, whatever commit they started from.

    Asked of Git, since DVC would wait for the experiment that is running.
    """
    command = ["git", "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    refs = re.findall(rf"^(\w+) refs/exps/\w\w/\w{{38}}/({PREFIX}.*)$", listed, re.MULTILINE)
    return {name: revision for revision, name in refs}


def _hash(stage: dict[str, Any], kind: str, path: str) -> str | None:
    return next((entry["md5"] for entry in stage.get(kind, []) if entry["path"] == path), None)


def was_made(lock: dict[str, Any], cell: Cell) -> bool:
    """Whether a dvc.lock says that this very cell was probed: a lock also keeps what earlier settings left in it."""
    stages, model = lock["stages"], f"models/encoder/{cell.encoder}"
    probe, pretrain = (stages.get(f"{stage}@{cell.encoder}") for stage in ("probe_encoder", "pretrain_encoder"))
    if not probe or not pretrain or _hash(probe, "deps", model) != _hash(pretrain, "outs", model):
        return False
    study = pretrain["params"]["params.yaml"]
    made = {"method": cell.method, "source": cell.source}
    if (study["seed"], study[f"encoders.{cell.encoder}"]) != (cell.seed, made):
        return False
    if not all(f"profiles/{cell.profile}.yaml" in stage["params"] for stage in (probe, pretrain)):
        return False
    generate = stages["generate_synthetic"]
    images = _hash(pretrain, "deps", "data/synthetic") == _hash(generate, "outs", "data/synthetic")
    return cell.guidance is None or (images and generate["params"]["params.yaml"]["guidance"] == cell.guidance)


def meant_by(experiment: str, files: DVCFileSystem) -> Iterator[Cell]:
    """The cells that an experiment was queued for; the commit that it started from may hold others, of other code."""
    study = parse_yaml(files.read_text("params.yaml"), "params.yaml")
    for name, encoder in study["encoders"].items():
        guidance = float(study["guidance"]) if encoder["source"] == "synthetic" else None
        cell = Cell(study["profile"], encoder["method"], encoder["source"], guidance, int(study["seed"]))
        if f"{experiment}-".startswith(f"{cell.experiment}-") and cell.encoder == name:
            yield cell


def results_of(experiment: str, revision: str) -> Iterator[tuple[Cell, Result]]:
    """What a finished experiment found of the cells that it was queued for."""
    files = DVCFileSystem(rev=revision)
    lock = parse_yaml(files.read_text("dvc.lock"), "dvc.lock")
    for cell in meant_by(experiment, files):
        if was_made(lock, cell):
            facts = json.loads(files.read_text(f"metrics/probe_encoder/{cell.encoder}.json"))
            test = _hash(lock["stages"][f"probe_encoder@{cell.encoder}"], "deps", "data/test")
            correct = correct_of(files, f"predictions/probe/{cell.encoder}")
            yield cell, Result(facts["labels_seen"], facts["val_top1"], correct, str(test))


# ------------------------------------------------------------------------------------------------------- commands


def queue(cells: list[Cell], settings: list[str], limit: int | None) -> None:
    """Queues one experiment for each group of cells of which nothing is known yet, `limit` of them at the most."""
    repository = Repo()
    tasks = repository.experiments.celery_queue
    entries = [entry for entry in (*tasks.iter_queued(), *tasks.iter_active()) if entry.name]
    waiting = {cell for entry in entries for cell in meant_by(entry.name, DVCFileSystem(rev=entry.stash_rev))}
    finished = experiments()
    taken = {*finished, *(entry.name for entry in entries)}
    done = {*read_results(), *(cell for made in finished.items() for cell, _ in results_of(*made))}
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell not in done:
            groups.setdefault(cell.experiment, []).append(cell)
    for experiment, group in list(groups.items())[:limit]:
        left = [cell for cell in group if cell not in waiting]
        if not left:
            print(f"{experiment}: waits in the queue already")
            continue
        further = (f"{experiment}-{number}" for number in count(2))  # beside earlier ones, which have other cells
        name = next(name for name in chain([experiment], further) if name not in taken)
        command = command_of(left, settings)
        subprocess.run([sys.executable, "-m", *command, "--queue", "--name", name, "--quiet"], check=True)
        print(f"{name}: {', '.join(cell.encoder for cell in left)}")
    print(f"{len(groups)} experiments are not done; `dvc exp run --run-all` runs what waits")


def collect() -> None:
    """Adds what experiments hold to the results file."""
    results = read_results()
    before = len(results)
    for experiment in experiments().items():
        results |= dict(results_of(*experiment))
    write_results(results)
    print(f"{RESULTS}: {len(results)} cells, {len(results) - before} of them new")


def show_plan() -> None:
    """Says of each experiment of the study which of its cells were collected."""
    results = read_results()
    groups: dict[str, list[Cell]] = {}
    for cell in planned():
        groups.setdefault(cell.experiment, []).append(cell)
    for name, group in groups.items():
        left = [cell.encoder for cell in group if cell not in results]
        print(f"{name}: {'not run: ' + ', '.join(left) if left else 'done'}")


def main(argv: list[str]) -> None:
    """Runs one of the commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("plan", help="what is done and what is not")
    adding = commands.add_parser("queue", help="queue what is not done")
    adding.add_argument("part", choices=["guidance", "fakes"])
    adding.add_argument("profile")
    adding.add_argument("--seeds", type=int, nargs="+", required=True)
    adding.add_argument("--limit", type=int, metavar="N", help="queue at most N experiments now")
    adding.add_argument("-S", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="as of dvc")
    commands.add_parser("collect", help="read finished experiments")
    options = parser.parse_args(argv)
    match options.command:
        case "plan":
            show_plan()
        case "queue":
            queue(cells_of(options.part, options.profile, options.seeds), options.settings, options.limit)
        case _:
            collect()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (DvcException, subprocess.CalledProcessError) as error:
        sys.exit(f"ERROR: {error}")
