"""Judges one frozen encoder by a linear head on its features, on the real test split.

    python -m stages.probe_encoder stablerep-synthetic

Reads `data/real`, `data/val`, `data/test`, `data/synthetic` and `models/encoder/<name>`, writes
`predictions/probe/<name>` and `metrics/probe_encoder/<name>.json`. The feature is the CLS token; the encoder named
`pixels` is the image itself. About 20 CPU seconds for 9,000 images of 32 x 32 pixels.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stages import config
from stages.artifacts import (
    DATA,
    METRICS,
    MODELS,
    PREDICTIONS,
    BadInput,
    fresh_dir,
    read_manifest,
    run_stage,
    validation_of,
    write_json,
    write_manifest,
)
from stages.dataset.augment import normalize
from stages.dataset.tensors import Split, load_split
from stages.encoder_sections import ProbeEncoder
from stages.evaluation.inference import infer
from stages.evaluation.predictions import Predictions, write_predictions
from stages.evaluation.probe import Labelled, Splits, judge_encoder
from stages.evaluation.protocols import judge_otherwise
from stages.networks import vit
from stages.training.runtime import Runtime, open_runtime


def features_of(folder: Path, settings: ProbeEncoder, runtime: Runtime) -> Callable[[Split], Labelled]:
    """How a split becomes features: by the ViT in `folder`, or as pixels where the manifest's method says so."""
    method = read_manifest(folder)["method"]
    encoder = None if method == "pixels" else vit.load_encoder(folder).to(runtime.device)
    network = encoder or torch.nn.Flatten()

    def prepare(batch: torch.Tensor) -> torch.Tensor:
        return normalize(batch.to(runtime.device))

    def embed(split: Split) -> Labelled:
        size = split.images.shape[-1]
        if encoder and method != "hub" and encoder.processing.size != size:  # published weights bring their own size
            raise BadInput(
                f"{folder}: was pretrained on images of {encoder.processing.size} pixels, the data's have {size}; "
                "run `dvc repro` to pretrain it again"
            )
        with runtime.autocast(settings.precision):
            features: NDArray[np.float32] = infer(network, split.images, settings.batch_size, prepare)
        return Labelled(features, split.labels.numpy())

    return embed


def main(argv: list[str]) -> dict[str, Any]:
    """Judges the encoder that the one argument names."""
    if len(argv) != 1:
        raise BadInput("probe_encoder: takes one encoder, such as `stablerep-synthetic`")
    (name,) = argv
    study = config.load_study()
    profile = config.load_profile(study.profile)
    folder = MODELS / "encoder" / name
    manifest = read_manifest(folder)
    runtime = open_runtime(seed=0)  # nothing is drawn here
    embed = features_of(folder, profile.probe_encoder, runtime)
    test = load_split(DATA / "test", "test")
    splits = Splits(
        real_train=embed(load_split(DATA / "real", "train")),
        real_val=embed(load_split(validation_of("real"), "val")),
        synthetic_train=embed(load_split(DATA / "synthetic", "train")),
        synthetic_val=embed(load_split(validation_of("synthetic"), "val")),
        test=embed(test),
    )
    num_classes = len(test.class_names)
    others = judge_otherwise(splits.real_train, splits.real_val, splits.test, num_classes, profile.probe_encoder)
    facts, logits = judge_encoder(splits, num_classes, profile.probe_encoder)
    with fresh_dir(PREDICTIONS / "probe" / name) as partial:
        predictions = Predictions(test.labels.numpy(), logits, test.class_names)
        write_predictions(partial / "test.parquet", predictions)
        write_manifest(partial, split="test")
    seen = {key: manifest[key] for key in ("method", "source", "labels_seen")}
    target = METRICS / "probe_encoder" / f"{name}.json"
    write_json(target, {**facts, **others, **seen})
    made = f"{target}, top-1 {facts['top1']:.1%} on {len(test)} real test images"
    return {"item": name, "made": made, "device": str(runtime.device)}


if __name__ == "__main__":
    run_stage(main)
