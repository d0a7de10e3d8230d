"""Measures the apai3010 study both ways: by its own protocol, and corrected.

    python -m tools.apai3010 cifake.zip                                    # every run of docs/apai3010.md, hours
    python -m tools.apai3010 cifake.zip --set published --arm fake --seed 0
    python -m tools.apai3010 cifake.zip --change augmentation.blur=0       # one setting of train_cnn changed
    python -m tools.apai3010                                               # prints the table of what is done

Its protocol looks at a random crop of each test image, and picks the best epoch by that very figure. No stage may
select on test images, so this lies outside the pipeline: it trains with the stages' rooms and the profile's
`train_cnn`, and looks at the test images after every epoch, whole and cropped. One training serves both protocols.

Sets: `published`, all 50,000 + 50,000 training images with their leaks and nothing held out, and `leak-free`, what
`fetch_data` makes of them. Each run is a row of docs/apai3010.json; a run that is there is not done again, and one
that was killed goes on from its checkpoint.
"""

import argparse
import base64
import fcntl
import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from stages import config
from stages.artifacts import write_json
from stages.dataset import cifake, codec, splits
from stages.dataset.augment import augment, normalize
from stages.dataset.examples import Example
from stages.evaluation.intervals import Resampling, top1_interval
from stages.networks import batchnorm, cnn
from stages.sections import Augmentation, FetchData, TrainCnn
from stages.training.batches import EpochOrder, LabelledBatches
from stages.training.loop import Plan, fit
from stages.training.objectives import cross_entropy
from stages.training.optimizer import adamw, parameter_groups
from stages.training.runtime import Runtime, derive_seed, open_runtime

RESULTS = Path("docs/apai3010.json")
SCRATCH = Path(".scratch/apai3010")
SETS, ARMS, SEEDS = ("published", "leak-free"), ("real", "fake"), (0, 1, 2)
NUM_CROPS = 5
CROP = Augmentation(
    crop_scale_min=0.08, translate=0, rotate_degrees=0, flip=0, jitter=0, brightness=0, contrast=0, saturation=0,
    hue=0, grayscale=0, blur=0, blur_sigma_max=2,
)  # fmt: skip
"""RandomResizedCrop(32), which the study's notebooks apply to test images."""
BOOTSTRAP = Resampling(num_resamples=10_000, seed=0, confidence=0.95)

Labelled = tuple[torch.Tensor, torch.Tensor]
"""Images uint8 (N, 3, 32, 32) and labels int64 (N,)."""


def decoded(examples: list[Example]) -> Labelled:
    """Examples in memory."""
    images = np.stack([np.asarray(codec.decode(example.image)).transpose(2, 0, 1) for example in examples])
    return torch.from_numpy(images), torch.tensor([example.label for example in examples])


def read_set(name: str, archive: Path, section: FetchData) -> dict[str, Labelled]:
    """The images of a set: `real` and `fake` to train on, `val` of each where held out, `test` of each."""
    place = SCRATCH / f"{name}.pt"
    if not place.exists():
        found = cifake.read(archive, section.image_size, section.codec)
        if name == "published":
            parts = {"real": found.real, "fake": found.fake}
            tests = {"test real": found.real_test, "test fake": found.fake_test}
        else:
            cut = splits.split(found, section.val_per_class, section.test_per_class, True, section.train_per_class)
            parts = {"real": cut.train, "fake": cut.fake_train, "val real": cut.val, "val fake": cut.fake_val}
            tests = {"test real": cut.test, "test fake": cut.fake_test}
        place.parent.mkdir(parents=True, exist_ok=True)
        torch.save({key: decoded(examples) for key, examples in (parts | tests).items()}, place)
    images: dict[str, Labelled] = torch.load(place, weights_only=True)
    return images


class Judge:
    """What the protocols see: whole test images, cropped ones, and validation images where they are held out."""

    def __init__(self, images: Mapping[str, Labelled], arm: str, plan: Plan, runtime: Runtime, seed: int) -> None:
        self.images, self.arm, self.plan, self.runtime, self.seed = images, arm, plan, runtime, seed
        self.seconds = 0.0

    def correct(self, network: nn.Module, key: str, draw: int | None = None) -> torch.Tensor:
        """Whether the network is right, per image: of whole images, or with a `draw` of the `draw`th random crops."""
        images, labels = self.images[key]
        seed, positions = derive_seed(self.seed, "test crop"), torch.arange(len(images))
        inputs = normalize(images) if draw is None else augment(images, CROP, seed, draw, positions)
        with self.runtime.autocast(self.plan.precision):
            return torch.cat([network(part).argmax(1) for part in inputs.chunk(-(-len(labels) // 1000))]) == labels

    def __call__(self, network: nn.Module, step: int) -> dict[str, float]:
        """Accuracies after an epoch."""
        started = time.process_time()
        scores = {"test real": share(self.correct(network, "test real"))}
        scores["cropped"] = share(self.correct(network, "test real", step))
        if f"val {self.arm}" in self.images:
            scores["val"] = share(self.correct(network, f"val {self.arm}"))
        self.seconds += time.process_time() - started
        return scores

    @torch.no_grad()
    def last(self, network: nn.Module) -> dict[str, Any]:
        """A closer look at trained weights."""
        network.eval()
        labels = self.images["test real"][1]
        right = {key: self.correct(network, key) for key in ("test real", "test fake")}
        draws = range(self.plan.num_steps + 1, self.plan.num_steps + 1 + NUM_CROPS)
        return {
            **{key: share(value) for key, value in right.items()},
            **{f"cropped {key}": [share(self.correct(network, key, draw)) for draw in draws] for key in right},
            "per_class": [share(right["test real"][labels == label]) for label in range(len(cifake.CLASS_NAMES))],
            "correct": base64.b64encode(np.packbits(right["test real"].cpu().numpy()).tobytes()).decode(),
        }


def share(right: torch.Tensor) -> float:
    """Of true values."""
    return right.double().mean().item()


def run(section: TrainCnn, images: Mapping[str, Labelled], arm: str, seed: int, state: Path) -> dict[str, Any]:
    """Trains one CNN and judges it both ways."""
    runtime = open_runtime(seed)
    images = {key: (pair[0].to(runtime.device), pair[1].to(runtime.device)) for key, pair in images.items()}
    train, labels = images[arm]
    network = cnn.build(section.network, len(cifake.CLASS_NAMES), cifake.SIDE).to(runtime.device)
    plan = Plan.of(section.optimization, select=())
    optimizer = adamw(parameter_groups(network, section.optimization.weight_decay), section.optimization.beta2)
    batchnorm.track(network, optimizer)
    order = EpochOrder(len(labels), plan.batch_size, seed)

    def transform(batch: torch.Tensor, step: int, positions: torch.Tensor) -> torch.Tensor:
        return augment(batch, section.augmentation, seed, step, positions)

    batches = LabelledBatches(train, labels, order, transform)
    judge, is_fresh, started = Judge(images, arm, plan, runtime, seed), not state.exists(), time.process_time()
    objective = cross_entropy(section.label_smoothing)
    result = fit(network, objective, batches, optimizer, plan, runtime, state, judge)
    seconds = time.process_time() - started - judge.seconds
    epochs = [row for row in result.history if "cropped" in row]
    facts: dict[str, Any] = {
        "num_images": len(labels),
        "num_steps": plan.num_steps,
        "train_top1": epochs[-1]["train_top1"],
    }
    for key in {"cropped", "val"} & epochs[0].keys():
        facts[f"best_by_{key}"] = max(epochs, key=lambda row: row[key])  # of equal ones the earliest
    facts |= {"last": judge.last(network), "train_cpu_seconds": round(seconds) if is_fresh else None}
    return facts | {"curve": {key: [row[key] for row in epochs] for key in ("step", "test real", "cropped")}}


def changed(section: TrainCnn, changes: list[str]) -> TrainCnn:
    """The section with `key.key=value` changes."""
    content = section.model_dump()
    for change in changes:
        path, value = change.split("=", 1)
        *parents, key = path.split(".")
        place = content
        for parent in parents:
            place = place[parent]
        place[key] = json.loads(value) if value[0] not in "abcdefghijklmnopqrstuvwxyz" or value == "null" else value
    return TrainCnn.model_validate(content)


def record(key: dict[str, Any], facts: dict[str, Any]) -> None:
    """Adds a row to the results, which another process may be doing too."""
    with (SCRATCH / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows = read_results()
        rows.append({**key, **facts})
        rows.sort(key=lambda row: (row["profile"], row["changes"], row["set"], row["arm"], row["seed"]))
        write_json(RESULTS, {"runs": rows})


def read_results() -> list[dict[str, Any]]:
    """The rows that are there."""
    rows: list[dict[str, Any]] = json.loads(RESULTS.read_text())["runs"] if RESULTS.exists() else []
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Prints means over seeds as Markdown, accuracies in per cent."""
    groups = defaultdict(list)
    for row in rows:
        groups[" ".join([row["profile"], *row["changes"]]), row["set"], row["arm"]].append(row)
    print(
        "| profile, changes | set | trained on | seeds | test REAL | by val | cropped | cropped, best by test "
        "| test FAKE | cropped | train | CPU s |\n|" + "---|" * 12
    )
    for key, group in groups.items():
        bits = [np.frombuffer(base64.b64decode(row["last"]["correct"]), np.uint8) for row in group]
        interval = top1_interval(np.unpackbits(np.stack(bits), axis=1).astype(bool), BOOTSTRAP)
        seconds = [row["train_cpu_seconds"] for row in group if row["train_cpu_seconds"]]
        low, high = 100 * interval.low, 100 * interval.high
        cells = [
            *key,
            str(len(group)),
            f"{mean(row['last']['test real'] for row in group)} ({low:.1f} to {high:.1f})",
            mean(row["best_by_val"]["test real"] for row in group if "best_by_val" in row),
            mean(value for row in group for value in row["last"]["cropped test real"]),
            mean(row["best_by_cropped"]["cropped"] for row in group),
            mean(row["last"]["test fake"] for row in group),
            mean(value for row in group for value in row["last"]["cropped test fake"]),
            mean(row["train_top1"] for row in group),
            f"{np.mean(seconds):.0f}" if seconds else "",
        ]
        print(f"| {' | '.join(cells)} |")


def mean(shares: Any) -> str:
    """A mean share in per cent, or nothing where there is none."""
    values = list(shares)
    return f"{100 * np.mean(values):.1f}" if values else ""


def main() -> None:
    """Does what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, nargs="?")
    parser.add_argument("--profile", default="apai3010")
    parser.add_argument("--set", choices=SETS, action="append")
    parser.add_argument("--arm", choices=ARMS, action="append")
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--change", action="append", default=[])
    asked = parser.parse_args()
    if asked.archive is not None:
        study, section = config.load_profile("apai3010"), config.load_profile(asked.profile).train_cnn
        section = changed(section, asked.change)
        wanted = (
            (s, arm, seed) for seed in asked.seed or SEEDS for s in asked.set or SETS for arm in asked.arm or ARMS
        )
        for name, arm, seed in wanted:
            digest = hashlib.sha256(repr((section, name, arm, seed)).encode()).hexdigest()[:16]
            key = {"profile": asked.profile, "changes": asked.change, "set": name, "arm": arm, "seed": seed}
            key["settings"] = digest  # of what the profile says today
            if any(row["settings"] == digest for row in read_results()):
                continue
            images = read_set(name, asked.archive, study.fetch_data)
            record(key, run(section, images, arm, seed, SCRATCH / digest))
    show(read_results())


if __name__ == "__main__":
    main()
