"""Prints the guidance curve as Markdown and draws it, from the experiments of a sweep over guidance and seed.

    dvc exp run --queue -S 'guidance=1,2,4,8' -S 'seed=0,1,2' evaluate@real evaluate@synthetic audit_synthetic
    dvc exp run --run-all -j 2
    python -m tools.guidance_table docs/pictures/guidance.svg

Accuracies are of the CNNs: means over seeds, the intervals by the hierarchical bootstrap (seeds, then the same test
images for both arms). Guidance is to be chosen by the column of real validation images. What explains the curve stands
beneath it: how well the real arm's CNN recognizes the synthetic images, and how much of the real ones they cover.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import dvc.api
import matplotlib as mpl
import numpy as np
from dvc.api import DVCFileSystem

from stages import config
from stages.evaluation.intervals import Interval, gap_interval, scope, top1_interval
from tools.encoder_study import PREFIX
from tools.experiments import Correct, correct_of, resampling_of, shown

mpl.use("svg")
from matplotlib import pyplot as plt

Audit = dict[str, dict[str, float]]
"""metrics/audit_synthetic.json: the figures of synthetic images, and of real test images as their floor."""
AUDITED = ("recognizability", "precision", "recall", "coverage")
"""The figures of the audit that are shares, and so share an axis."""


def sweep() -> Iterator[tuple[float, int, DVCFileSystem]]:
    """Guidance, seed and files of each experiment of the sweep; those of the study of encoders judge no CNN."""
    for row in dvc.api.exp_show():
        if row["Experiment"] and not row["Experiment"].startswith(PREFIX):
            yield float(row["guidance"]), int(row["seed"]), DVCFileSystem(rev=row["rev"])


def collect_audits() -> dict[float, list[Audit]]:
    """The audits of each guidance, one per seed of the CNN that judged."""
    audits: dict[float, list[Audit]] = defaultdict(list)
    for guidance, _, files in sweep():
        audits[guidance].append(json.loads(files.read_text("metrics/audit_synthetic.json")))
    return dict(sorted(audits.items()))


def mean_of(audits: list[Audit], which: str, figure: str) -> float:
    """Mean over seeds."""
    return float(np.mean([audit[which][figure] for audit in audits]))


def collect() -> tuple[dict[float, dict[int, Correct]], dict[float, dict[int, float]], dict[int, Correct]]:
    """Of each experiment: the synthetic arm on test and on real val by guidance and seed, the real arm by seed."""
    synthetic: dict[float, dict[int, Correct]] = defaultdict(dict)
    val: dict[float, dict[int, float]] = defaultdict(dict)
    real: dict[int, Correct] = {}
    for guidance, seed, files in sweep():
        synthetic[guidance][seed] = correct_of(files, "predictions/cnn/synthetic")
        val[guidance][seed] = json.loads(files.read_text("metrics/train_cnn/synthetic.json"))["real_val_top1"]
        real[seed] = correct_of(files, "predictions/cnn/real")
    return synthetic, val, real


def stack(by_seed: dict[int, Correct]) -> Correct:
    """(seeds, images)."""
    return np.stack([by_seed[seed] for seed in sorted(by_seed)])


def print_audits(audits: dict[float, list[Audit]]) -> None:
    """The table of what explains the curve."""
    print(f"\n| guidance | {' | '.join(AUDITED)} | diversity | Frechet distance |")
    print("| --- " * (len(AUDITED) + 3) + "|")
    rows = [(f"{w:g}", "synthetic", found) for w, found in audits.items()]
    rows.append(("real test images", "real_test", [audit for found in audits.values() for audit in found]))
    for title, which, found in rows:
        shares = " | ".join(f"{100 * mean_of(found, which, figure):.1f}" for figure in AUDITED)
        diversity, distance = mean_of(found, which, "diversity"), mean_of(found, which, "frechet_distance")
        print(f"| {title} | {shares} | {diversity:.2f} | {distance:.1f} |")


def draw(
    path: Path,
    curve: dict[float, tuple[float, float, Interval]],
    real: tuple[float, Interval],
    audits: dict[float, list[Audit]],
) -> None:
    """Accuracy over guidance, above what the audit found; equal curves give equal bytes."""
    mpl.rcParams["svg.hashsalt"] = "understudy"
    figure, (axes, below) = plt.subplots(2, 1, figsize=(6, 6), sharex=True, layout="constrained")
    guidance = list(curve)
    tests = [100 * curve[w][1] for w in guidance]
    spread = np.array([[100 * (m - i.low), 100 * (i.high - m)] for _, m, i in curve.values()]).T
    axes.errorbar(guidance, tests, spread, marker="o", capsize=3, label="synthetic arm, real test images")
    axes.plot(guidance, [100 * v for v, _, _ in curve.values()], "x--", label="synthetic arm, real val images")
    axes.axhspan(100 * real[1].low, 100 * real[1].high, alpha=0.2, color="gray")
    axes.axhline(100 * real[0], color="gray", label="real arm, real test images")
    axes.set_xscale("log", base=2)
    axes.set_xticks(guidance, [f"{w:g}" for w in guidance])
    axes.set(ylabel="CNN top-1 (%)")
    axes.legend()
    for name in AUDITED:
        (line,) = below.plot(
            guidance, [100 * mean_of(audits[w], "synthetic", name) for w in guidance], "o-", label=name
        )
        floor = [100 * mean_of(audits[w], "real_test", name) for w in guidance]
        below.plot(guidance, floor, ":", color=line.get_color())
    below.set(xlabel="guidance scale w", ylabel="synthetic images (%)\ndotted: real test images")
    below.legend()
    figure.savefig(path, metadata={"Date": None, "Creator": None})


def main(argv: list[str]) -> int:
    """Prints the table; draws into the file that the argument names."""
    if len(argv) != 1:
        print("guidance_table: takes the .svg file to draw into", file=sys.stderr)
        return 2
    resampling = resampling_of(config.load_study().profile)
    synthetic, val, real = collect()
    if not synthetic:
        print("guidance_table: no experiments; run the sweep first (see the top of this file)", file=sys.stderr)
        return 2
    seeds = sorted(real)
    print("| guidance | real val | real test | gap to the real arm |\n| --- | --- | --- | --- |")
    curve: dict[float, tuple[float, float, Interval]] = {}
    for guidance in sorted(synthetic):
        ours, theirs = stack(synthetic[guidance]), np.stack([real[seed] for seed in sorted(synthetic[guidance])])
        mean, interval = float(ours.mean()), top1_interval(ours, resampling)
        on_val = float(np.mean(list(val[guidance].values())))
        gap = shown(mean - float(theirs.mean()), gap_interval(ours, theirs, resampling))
        curve[guidance] = (on_val, mean, interval)
        print(f"| {guidance:g} | {100 * on_val:.1f} | {shown(mean, interval)} | {gap} |")
    reference = stack(real)
    whole = (float(reference.mean()), top1_interval(reference, resampling))
    print(f"| real arm | | {shown(*whole)} | |")
    print(f"\n{len(seeds)} seeds; of {scope(len(seeds))}")
    audits = collect_audits()
    print_audits(audits)
    draw(Path(argv[0]), curve, whole, audits)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
