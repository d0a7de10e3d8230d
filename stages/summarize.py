"""The verdict: the headline arm against the real one, as CNN and as ViT from random initial weights.

    python -m stages.summarize

Reads the predictions of both arms, writes `metrics/summary.json`, the file that `dvc metrics diff` compares between
experiments, and the accuracy per class. Imports no torch: two CPU seconds.
"""

from typing import Any

from stages import config
from stages.artifacts import METRICS, PLOTS, PREDICTIONS, BadInput, fresh_dir, run_stage, write_json
from stages.evaluation.figures import write_csv
from stages.evaluation.intervals import Resampling
from stages.evaluation.predictions import read_predictions
from stages.evaluation.verdict import per_class_rows, summarize


def main(argv: list[str]) -> dict[str, Any]:
    """Compares what the settings name as headline with the real arm."""
    if argv:
        raise BadInput("summarize: takes no arguments; choose the arm by `headline` in params.yaml")
    study = config.load_study()
    profile = config.load_profile(study.profile)
    settings = profile.summarize
    resampling = Resampling(settings.num_resamples, settings.bootstrap_seed, settings.confidence)
    folders = {
        "cnn": (PREDICTIONS / "cnn" / study.headline, PREDICTIONS / "cnn" / "real"),
        "vit": (PREDICTIONS / "vit" / f"{study.headline}-random", PREDICTIONS / "vit" / "real-random"),
    }
    pairs = {
        network: (read_predictions(ours / "test.parquet"), read_predictions(theirs / "test.parquet"))
        for network, (ours, theirs) in folders.items()
    }
    verdicts = summarize(pairs, profile.evaluate.num_bins, resampling)
    with fresh_dir(PLOTS / "summarize") as folder:
        for network, pair in pairs.items():
            write_csv(folder / f"{network}_per_class.csv", per_class_rows(*pair))
    write_json(METRICS / "summary.json", {"headline": study.headline, **verdicts})
    cnn = verdicts["cnn"]
    made = f"{METRICS / 'summary.json'}, {study.headline} CNN {cnn['top1']:.1%} against real {cnn['real_top1']:.1%}"
    return {"made": made}


if __name__ == "__main__":
    run_stage(main)
