"""Judges one arm's fine-tuned ViT on the real test split.

    python -m stages.evaluate_vit synthetic stablerep-synthetic

Reads `data/test` and `models/vit/<source>-<init>` (selected weights, and the oracle's in `oracle/`), writes
`predictions/vit/<source>-<init>`, `metrics/evaluate_vit/<source>-<init>.json` and figures. About 10 CPU seconds.
"""

from pathlib import Path
from typing import Any

import torch

from stages import config
from stages.artifacts import DATA, METRICS, MODELS, PLOTS, PREDICTIONS, BadInput, run_stage
from stages.dataset.augment import normalize
from stages.dataset.tensors import load_split
from stages.evaluation.inference import infer
from stages.evaluation.predictions import Predictions
from stages.evaluation.report import Places, write_report
from stages.networks import vit
from stages.training.runtime import open_runtime


def load(folder: Path, class_names: tuple[str, ...]) -> vit.ViTClassifier:
    """Reads a classifier of the data's classes.

    Raises:
        BadInput: the folder holds none, or one of other classes.
    """
    network = vit.load_classifier(folder)
    if tuple(network.network.config.id2label.values()) != class_names:
        raise BadInput(f"{folder}: was trained for other classes than the test split's; run `dvc repro` again")
    return network


def main(argv: list[str]) -> dict[str, Any]:
    """Judges the ViT that the arguments name: a source and an init."""
    if len(argv) != 2:
        raise BadInput("evaluate_vit: takes a source and an init, such as `real random`")
    item = "-".join(argv)
    study = config.load_study()
    profile = config.load_profile(study.profile)
    settings = profile.evaluate
    model = MODELS / "vit" / item
    test = load_split(DATA / "test", "test")
    networks = [load(folder, test.class_names) for folder in (model, model / "oracle")]
    runtime = open_runtime(seed=0)  # nothing is drawn here

    def prepare(batch: torch.Tensor) -> torch.Tensor:
        return normalize(batch.to(runtime.device))

    judged = []
    for network in networks:
        with runtime.autocast(settings.precision):
            logits = infer(network.to(runtime.device), test.images, settings.batch_size, prepare)
        judged.append(Predictions(test.labels.numpy(), logits, test.class_names))
    places = Places(
        PREDICTIONS / "vit" / item, METRICS / "evaluate_vit" / f"{item}.json", PLOTS / "evaluate_vit" / item
    )
    facts = write_report(places, judged[0], judged[1], settings)
    made = f"{places.metrics}, top-1 {facts['top1']:.1%} on {facts['num_images']} real test images"
    return {"item": item, "made": made, "device": str(runtime.device)}


if __name__ == "__main__":
    run_stage(main)
