"""Everything that is said of one classifier on the test split, and where it goes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.artifacts import fresh_dir, write_json, write_manifest
from stages.evaluation import figures, scores
from stages.evaluation.intervals import Resampling, top1_interval
from stages.evaluation.metrics import score
from stages.evaluation.predictions import Predictions, write_predictions
from stages.sections import Evaluate


@dataclass(frozen=True)
class Places:
    """Where a report goes."""

    predictions: Path
    """Folder of test.parquet and oracle.parquet."""
    metrics: Path
    """JSON file."""
    plots: Path
    """Folder of confusion.csv and reliability.csv."""


def write_report(places: Places, chosen: Predictions, oracle: Predictions, settings: Evaluate) -> dict[str, Any]:
    """Writes predictions, scores and figures of one classifier.

    Args:
        places: where to.
        chosen: of the weights selected on the arm's own validation split: the arm's figure.
        oracle: of the weights selected on real validation images, which a synthetic arm would not have.
        settings: bins and resampling.

    Returns:
        The content of the metrics file.
    """
    found = score(chosen.labels, chosen.logits, chosen.class_names, settings.num_bins)
    counts = found.pop("confusion")
    resampling = Resampling(settings.num_resamples, settings.bootstrap_seed, settings.confidence)
    with_oracle = scores.correct(oracle.labels, oracle.logits)
    facts = {
        **found,
        "top1_interval": top1_interval(scores.correct(chosen.labels, chosen.logits), resampling).as_json(),
        "oracle_top1": float(with_oracle.mean()),
        "oracle_top1_interval": top1_interval(with_oracle, resampling).as_json(),
        "num_images": len(chosen.labels),
    }
    with fresh_dir(places.predictions) as folder:
        write_predictions(folder / "test.parquet", chosen)
        write_predictions(folder / "oracle.parquet", oracle)
        write_manifest(folder, split="test")
    with fresh_dir(places.plots) as folder:
        figures.write_csv(folder / "confusion.csv", figures.confusion_rows(counts, chosen.class_names))
        figures.write_csv(
            folder / "reliability.csv", scores.reliability(chosen.labels, chosen.logits, settings.num_bins)
        )
    write_json(places.metrics, facts)
    return facts
