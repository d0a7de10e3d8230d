"""Prints the study's result tables as Markdown, from the metrics files alone; the README's are its output.

    python -m tools.show_results

Reads `metrics/` for the arms, inits and encoders that params.yaml names; a dash stands for what has not been run.
"""

import json
import sys
from pathlib import Path
from typing import Any

from stages import config
from stages.artifacts import METRICS, BadInput

Facts = dict[str, Any]
DASH = "–"


def read(path: Path) -> Facts | None:
    """A metrics file, or None where there is none yet."""
    return json.loads(path.read_text()) if path.is_file() else None


def share(facts: Facts | None, key: str) -> str:
    """A share as per cent with its interval: `98.3 (97.4 to 99.0)`."""
    if facts is None or key not in facts:
        return DASH
    interval = facts.get(f"{key}_interval")
    shown = f"{100 * facts[key]:.1f}"
    return f"{shown} ({100 * interval['low']:.1f} to {100 * interval['high']:.1f})" if interval else shown


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def arms(sources: list[str], inits: list[str]) -> str:
    """Every classifier: a row per arm, a column per network."""
    rows = []
    for source in sources:
        cnn = read(METRICS / "evaluate" / f"{source}.json")
        vits = [read(METRICS / "evaluate_vit" / f"{source}-{init}.json") for init in inits]
        rows.append([source, share(cnn, "top1"), share(cnn, "oracle_top1"), *(share(vit, "top1") for vit in vits)])
    return table(["arm", "CNN", "CNN, oracle", *(f"ViT from {init}" for init in inits)], rows)


def probes(encoders: list[str]) -> str:
    """Every encoder by every protocol, the fine-tuned one where `vit_inits` has it."""
    columns = {
        "linear head": "",
        "k-NN": "neighbors_",
        "few shots": "few_shot_",
        "zero shots": "zero_shot_",
        "head on synthetic": "synthetic_head_",
        "head on shuffled labels": "permuted_",
    }
    rows = []
    for name in encoders:
        facts = read(METRICS / "probe_encoder" / f"{name}.json")
        tuned = read(METRICS / "evaluate_vit" / f"real-{name}.json")
        seen = facts["labels_seen"] if facts else DASH
        rows.append([name, seen, *(share(facts, f"{key}top1") for key in columns.values()), share(tuned, "top1")])
    return table(["encoder", "labels seen", *columns, "fine-tuned on real"], rows)


def detection(detectors: list[str]) -> str:
    """Every detector on the unseen images of every source, beside what low-level statistics alone tell apart."""
    rows = []
    for trained in detectors:
        for tested in detectors:
            facts = read(METRICS / "detect_fakes" / f"{trained}-{tested}.json") or {}
            scores = [share(facts.get(name), "accuracy") for name in ("cnn", "gradient_boosting", "spectrum")]
            rows.append([trained, tested, *scores, share(facts.get("cnn"), "roc_auc")])
    return table(["trained on", "judged on", "CNN", "29 statistics", "spectrum", "CNN, ROC-AUC"], rows)


def verdict(network: str, headline: str, facts: Facts) -> str:
    """The headline arm against the real one, in a line."""
    points = [100 * value for value in (facts["gap"], facts["gap_interval"]["low"], facts["gap_interval"]["high"])]
    probability = facts["mcnemar_p_holm"]
    worded = f"p = {probability:.2g}" if probability else "p < 1e-300"  # less than a float can say
    return (
        f"- {network}: {headline} against real {points[0]:+.1f} points ({points[1]:+.1f} to {points[2]:+.1f}), "
        f"McNemar {worded} after Holm; of {facts['scope']}"
    )


def main() -> str:
    """The whole text."""
    study = config.load_study()
    profile = config.load_profile(study.profile)
    measured = read(METRICS / "evaluate" / "real.json") or {}
    summary = read(METRICS / "summary.json") or {}
    networks = {"cnn": "CNN", "vit": "ViT from random"}
    verdicts = [verdict(networks[key], summary["headline"], summary[key]) for key in networks if key in summary]
    return "\n\n".join(
        [
            f"Top-1 in per cent on {measured.get('num_images', DASH)} real test images "
            f"({profile.evaluate.confidence:.0%} interval over test images; profile {study.profile}, "
            f"guidance {study.guidance:g}, seed {study.seed}). Weights were selected on the arm's own validation "
            "images, the oracle's on real ones.",
            arms(list(study.sources), list(study.vit_inits)),
            "The same of frozen features, by the protocols of docs/encoders.md; the last column is no frozen one:",
            probes(list(study.encoders)),
            *(["\n".join(verdicts)] if verdicts else []),
            "Generated images told from real ones (docs/detector.md; 50 is chance):",
            detection(list(study.detectors)),
        ]
    )


if __name__ == "__main__":
    try:
        print(main())
    except BadInput as error:
        sys.exit(f"ERROR: {error}")
