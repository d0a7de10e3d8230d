"""Judges one arm's CNN on the real test split.

    python -m stages.evaluate synthetic

Reads `data/test` and `models/cnn/<source>` (selected weights and the oracle's), writes `predictions/cnn/<source>`,
`metrics/evaluate/<source>.json` and figures. About 10 CPU seconds.
"""

from typing import Any

import torch

from stages import config
from stages.artifacts import DATA, METRICS, MODELS, PLOTS, PREDICTIONS, BadInput, run_stage
from stages.dataset.augment import normalize
from stages.dataset.tensors import load_split
from stages.evaluation.inference import infer
from stages.evaluation.predictions import Predictions
from stages.evaluation.report import Places, write_report
from stages.networks import cnn
from stages.training.runtime import open_runtime


def main(argv: list[str]) -> dict[str, Any]:
    """Judges the CNN of the arm that the one argument names."""
    if len(argv) != 1:
        raise BadInput("evaluate: takes one source, such as `real`")
    (source,) = argv
    study = config.load_study()
    profile = config.load_profile(study.profile)
    settings = profile.evaluate
    test = load_split(DATA / "test", "test")
    weights = ("model.safetensors", "model_oracle.safetensors")
    networks = [cnn.load(MODELS / "cnn" / source, name, test.class_names, test.images.shape[-1]) for name in weights]
    runtime = open_runtime(seed=0)  # nothing is drawn here

    def prepare(batch: torch.Tensor) -> torch.Tensor:
        return normalize(batch.to(runtime.device))

    judged = []
    for network in networks:
        with runtime.autocast(settings.precision):
            logits = infer(network.to(runtime.device), test.images, settings.batch_size, prepare)
        judged.append(Predictions(test.labels.numpy(), logits, test.class_names))
    places = Places(PREDICTIONS / "cnn" / source, METRICS / "evaluate" / f"{source}.json", PLOTS / "evaluate" / source)
    facts = write_report(places, judged[0], judged[1], settings)
    made = f"{places.metrics}, top-1 {facts['top1']:.1%} on {facts['num_images']} real test images"
    return {"item": source, "made": made, "device": str(runtime.device)}


if __name__ == "__main__":
    run_stage(main)
