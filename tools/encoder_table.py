"""Writes the table of the encoder study into docs/encoders.md and draws it, from docs/encoder-study.json alone.

    python -m tools.encoder_table

Accuracies are of linear probes on real images: means over seeds, the intervals by the hierarchical bootstrap (seeds,
then the same test images for both sides of a comparison). Guidance is chosen on real val images. The p-values of a
profile form one family and are Holm-corrected. A cell that has not been run says so.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np

from stages import config
from stages.artifacts import BadInput
from stages.evaluation.intervals import gap_interval, holm, paired_p, scope, top1_interval
from tools.encoder_study import CONTROLS, GUIDANCES, GUIDED, RIVALS, Cell, Result, command_of, planned, read_results
from tools.experiments import Correct, resampling_of, shown

mpl.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

PAGE, PICTURES = Path("docs/encoders.md"), Path("docs/pictures")
BEGIN, END = "<!-- tools/encoder_table.py writes from here -->", "<!-- to here -->"
NOT_RUN = "not run"


@dataclass(frozen=True)
class Row:
    """An encoder, whatever its seed."""

    profile: str
    method: str
    source: str
    guidance: float | None

    def __str__(self) -> str:
        """`stablerep on synthetic, w = 2`."""
        if self.method in CONTROLS:
            return self.method
        return f"{self.method} on {self.source}" + (f", w = {self.guidance:g}" if self.guidance is not None else "")


Found = dict[Row, dict[int, Result]]
"""Every row that is planned or was run, with what is known of it by seed."""


def by_row(results: dict[Cell, Result]) -> Found:
    """The study's rows in the order of its plan."""
    found: Found = {}
    for cell in [*planned(), *results]:
        row = found.setdefault(Row(cell.profile, cell.method, cell.source, cell.guidance), {})
        if cell in results:
            row[cell.seed] = results[cell]
    return dict(sorted(found.items(), key=lambda item: (item[0].method not in CONTROLS, item[0].source)))


def stack(row: dict[int, Result], seeds: list[int]) -> Correct:
    """(seeds, images)."""
    return np.stack([row[seed].correct for seed in seeds])


def val_top1(row: dict[int, Result]) -> float:
    """Mean over seeds."""
    return float(np.mean([result.val_top1 for result in row.values()]))


def best(found: Found, profile: str, method: str) -> Row | None:
    """The guidance that real val images choose for a method; None until all guidances have the same seeds."""
    rows = [Row(profile, method, "synthetic", guidance) for guidance in GUIDANCES]
    seeds = {frozenset(found.get(row, {})) for row in rows}
    if len(seeds) > 1 or not next(iter(seeds)):
        return None
    return max(rows, key=lambda row: val_top1(found[row]))


# --------------------------------------------------------------------------------------------------------- tables


def accuracies(found: Found, profile: str) -> str:
    """Every encoder of a profile: a row per method, source and guidance."""
    resampling = resampling_of(config.load_study().profile)
    chosen = {best(found, profile, method) for method in GUIDED}
    lines = ["| encoder | labels seen | seeds | real val | real test |", "| --- | --- | --- | --- | --- |"]
    for row, known in found.items():
        if row.profile != profile:
            continue
        if not known:
            lines.append(f"| {row} | | 0 | {NOT_RUN} | {NOT_RUN} |")
            continue
        correct = stack(known, sorted(known))
        val = f"{100 * val_top1(known):.1f}" + (", chosen" if row in chosen else "")
        test = shown(float(correct.mean()), top1_interval(correct, resampling))
        lines.append(f"| {row} | {next(iter(known.values())).labels_seen} | {len(known)} | {val} | {test} |")
    return "\n".join(lines)


def choice(found: Found, profile: str) -> str:
    """Which guidance real val images choose for each method."""
    chosen = [(method, best(found, profile, method)) for method in GUIDED]
    words = [f"{method} {f'w = {row.guidance:g}' if row else NOT_RUN}" for method, row in chosen]
    return f"Guidance chosen on real val: {', '.join(words)}."


def questions(found: Found, profile: str) -> list[tuple[str, Row | None, Row | None]]:
    """What the study asks of a profile: a wording and the two sides, None where guidance is not chosen yet."""

    def row(method: str, source: str, guidance: float | None = None) -> Row:
        return Row(profile, method, source, guidance)

    asked: list[tuple[str, Row | None, Row | None]] = []
    if any(other.profile == profile and other.source == "synthetic" for other in found):
        chosen = {method: best(found, profile, method) for method in GUIDED}
        for w in GUIDANCES:
            sides = row("stablerep", "synthetic", w), row("simclr", "synthetic", w)
            asked.append((f"StableRep against SimCLR on the same synthetic images, w = {w:g}", *sides))
        asked += [
            ("StableRep against SimCLR, each at its own w", chosen["stablerep"], chosen["simclr"]),
            ("SimCLR: synthetic images at its w against real ones", chosen["simclr"], row("simclr", "real")),
            ("StableRep at its w against SimCLR on real images", chosen["stablerep"], row("simclr", "real")),
            ("StableRep at its w against SupCon on real images", chosen["stablerep"], row("supcon", "real")),
        ]
    if any(other.profile == profile and other.source == "fake" for other in found):
        asked += [
            (f"{method}: fake images against real ones", row(method, "fake"), row(method, "real")) for method in RIVALS
        ]
    return asked


def comparisons(found: Found, profile: str) -> str:
    """The answers: differences with intervals, and their family of tests."""
    resampling = resampling_of(config.load_study().profile)
    answers: dict[str, tuple[str, str]] = {}
    tests: dict[str, float] = {}
    for wording, first, second in questions(found, profile):
        known = [found.get(side, {}) if side else {} for side in (first, second)]
        seeds = sorted(known[0].keys() & known[1].keys())
        if not seeds:
            answers[wording] = (NOT_RUN, "")
            continue
        if len({known[side][seed].test for side in (0, 1) for seed in seeds}) > 1:
            raise BadInput(f"{first} and {second}: were judged on different test images; run one of them again")
        ours, theirs = (stack(rows, seeds) for rows in known)
        gap = float(ours.mean() - theirs.mean())
        answers[wording] = (shown(gap, gap_interval(ours, theirs, resampling), "+"), scope(len(seeds)))
        tests[wording] = paired_p(ours, theirs, resampling)
    adjusted = holm(tests)
    lines = ["| question | points | p after Holm | of |", "| --- | --- | --- | --- |"]
    for wording, (points, of) in answers.items():
        lines.append(f"| {wording} | {points} | {f'{adjusted[wording]:.2g}' if wording in adjusted else ''} | {of} |")
    return "\n".join(lines)


def commands(found: Found, profile: str) -> str:
    """What rebuilds each row, for any seed."""
    lines = []
    for row in found:
        if row.profile == profile:
            words = command_of([Cell(row.profile, row.method, row.source, row.guidance, seed=0)])
            quoted = " ".join(f"'{word}'" if "{" in word else word for word in words)
            lines.append(f"{quoted.replace(' seed=0 ', ' seed=$SEED ')}")
    return "```bash\n" + "\n".join(lines) + "\n```"


# ------------------------------------------------------------------------------------------------------- pictures


def draw_guidance(axes: Axes, found: Found, profile: str) -> None:
    """Accuracy over guidance for each method, beside encoders of real images."""
    resampling = resampling_of(config.load_study().profile)
    for shift, (method, colour) in zip((0.98, 1.02), zip(GUIDED, ("C0", "C1"), strict=True), strict=True):
        known = {w: found.get(Row(profile, method, "synthetic", w), {}) for w in GUIDANCES}
        curve = {w: stack(rows, sorted(rows)) for w, rows in known.items() if rows}
        means = np.array([correct.mean() for correct in curve.values()])
        intervals = [top1_interval(correct, resampling) for correct in curve.values()]
        spread = np.array([[m - i.low, i.high - m] for m, i in zip(means, intervals, strict=True)]).T
        places = [w * shift for w in curve]
        axes.errorbar(places, 100 * means, 100 * spread, marker="o", capsize=3, color=colour, label=f"{method}, test")
        vals = [100 * val_top1(known[w]) for w in curve]
        axes.plot(places, vals, "x--", color=colour, label=f"{method}, val")
    for method, colour in (("simclr", "C1"), ("supcon", "C2"), ("random", "gray")):
        rows = found.get(Row(profile, method, "real", None), {})
        if rows:
            correct = stack(rows, sorted(rows))
            interval = top1_interval(correct, resampling)
            axes.axhspan(100 * interval.low, 100 * interval.high, alpha=0.12, color=colour)
            name = method if method in CONTROLS else f"{method} on real images"
            axes.axhline(100 * float(correct.mean()), color=colour, linestyle=":", label=f"{name}, test")
    axes.set_xscale("log", base=2)
    axes.set_xticks(GUIDANCES, [f"{w:g}" for w in GUIDANCES])
    axes.set(xlabel="guidance scale w of the synthetic images", ylabel="linear probe, top-1 (%)")


def draw_fakes(axes: Axes, found: Found, profile: str) -> None:
    """Fake images beside real ones, a group per method."""
    resampling = resampling_of(config.load_study().profile)
    for source, shift, colour in (("real", -0.08, "C0"), ("fake", 0.08, "C1")):
        known = {m: found.get(Row(profile, m, source, None), {}) for m in RIVALS}
        points = [(i, stack(rows, sorted(rows))) for i, rows in enumerate(known.values()) if rows]
        means = np.array([correct.mean() for _, correct in points])
        intervals = [top1_interval(correct, resampling) for _, correct in points]
        spread = np.array([[m - i.low, i.high - m] for m, i in zip(means, intervals, strict=True)]).T
        places = [i + shift for i, _ in points]
        axes.errorbar(places, 100 * means, 100 * spread, fmt="o", capsize=3, color=colour, label=f"{source} images")
    axes.set_xticks(range(len(RIVALS)), RIVALS)
    axes.set(xlim=(-0.5, len(RIVALS) - 0.5), ylabel="linear probe, top-1 (%)")


def picture(name: str, draw: Callable[[Axes, Found, str], None], found: Found, profile: str) -> str:
    """Draws one figure; equal results give equal bytes. Returns the Markdown that shows it."""
    mpl.rcParams["svg.hashsalt"] = "understudy"
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    draw(axes, found, profile)
    axes.legend(fontsize="small")
    path = PICTURES / f"encoders-{profile}-{name}.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return f"![{name}, profile {profile}]({path.relative_to(PAGE.parent)})"


def section(found: Found, profile: str) -> str:
    """All of one profile."""
    parts = [
        f"### Profile `{profile}`",
        accuracies(found, profile),
        choice(found, profile),
        comparisons(found, profile),
    ]
    ran = {row.source for row, known in found.items() if row.profile == profile and known}
    if "synthetic" in ran:
        parts.append(picture("guidance", draw_guidance, found, profile))
    if "fake" in ran:
        parts.append(picture("fakes", draw_fakes, found, profile))
    return "\n\n".join([*parts, "Each row again, for the seeds 0, 1, ...:", commands(found, profile)])


def main() -> int:
    """Writes page and pictures."""
    found = by_row(read_results())
    try:
        text = "\n\n".join(section(found, profile) for profile in dict.fromkeys(row.profile for row in found))
    except BadInput as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 2
    page = PAGE.read_text()
    between = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    PAGE.write_text(between.sub(lambda _: f"{BEGIN}\n\n{text}\n\n{END}", page))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
