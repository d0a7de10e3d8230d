"""Judges one frozen encoder by the field's protocols, on the real test split and on every set of `data/transfer`.

    python -m stages.probe_encoder stablerep-synthetic

Reads `data/real`, `data/val`, `data/test`, `data/synthetic`, `data/transfer` and `models/encoder/<name>`, writes
`predictions/probe/<name>` and `metrics/probe_encoder/<name>.json`. The feature is the CLS token; the encoder named
`pixels` is the image itself. Each image is embedded once for all protocols, and not again while encoder and images
stay the same. About 9 CPU seconds for 9,000 images of 32 x 32 pixels.
"""

import functools
import hashlib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stages import config
from stages.artifacts import (
    DATA,
    MANIFEST,
    METRICS,
    MODELS,
    PREDICTIONS,
    BadInput,
    code_digest,
    digest,
    feature_cache,
    fresh_dir,
    read_manifest,
    run_stage,
    validation_of,
    write_json,
    write_manifest,
)
from stages.dataset.augment import normalize
from stages.dataset.shards import read_class_names
from stages.dataset.tensors import Split, load_split
from stages.evaluation import scores
from stages.evaluation.feature_cache import recall
from stages.evaluation.inference import infer
from stages.evaluation.intervals import Resampling, top1_interval
from stages.evaluation.predictions import Predictions, write_predictions
from stages.evaluation.probe import Labelled, Splits, judge_encoder
from stages.evaluation.protocols import judge_otherwise
from stages.evaluation.transfer import judge_transfer
from stages.evaluation.zero_shot import class_embeddings, class_sentences, read_templates, similarities
from stages.probe_sections import ProbeEncoder
from stages.training.runtime import Runtime, open_runtime


def features_of(folder: Path, settings: ProbeEncoder, runtime: Runtime) -> Callable[[Split], Labelled]:
    """How a split becomes features: by the ViT in `folder`, or as pixels where the manifest's method says so."""
    from stages.networks import vit  # four seconds that a run with all features at hand is spared

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


def reader(folder: Path, settings: ProbeEncoder, runtime: Runtime) -> Callable[[Path, str], Labelled]:
    """Gives the features of a split on disk, kept from an earlier run if nothing differs that they depend on."""
    versions = [metadata.version(name) for name in ("torch", "transformers", "numpy", "pillow")]
    about = [digest(folder / MANIFEST), settings.batch_size, settings.precision, runtime.device, code_digest()]
    embed = functools.cache(lambda: features_of(folder, settings, runtime))

    def read(data: Path, name: str) -> Labelled:
        parts = (*about, *versions, digest(data / MANIFEST), name)
        key = hashlib.sha256(repr([str(part) for part in parts]).encode()).hexdigest()
        place = feature_cache() / folder.name / f"{'-'.join(data.relative_to(DATA).parts)}-{name}.safetensors"
        return recall(place, key, lambda: embed()(load_split(data, name)))

    return read


def judge_by_texts(
    folder: Path, test: Labelled, class_names: tuple[str, ...], settings: ProbeEncoder, runtime: Runtime
) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """Zero-shot figures of an encoder with a text encoder, and its similarities (images, classes)."""
    from stages.networks.text_side import load_text_side

    templates = read_templates(config.TEMPLATES / f"{settings.zero_shot.templates}.txt")
    sentences = class_sentences(templates, settings.zero_shot.class_names, class_names)
    side = load_text_side(folder).to(runtime.device)
    classes = class_embeddings(sentences, lambda texts: side.embed_texts(texts).cpu().numpy())
    images = side.embed_images(torch.from_numpy(test.features)).cpu().numpy()
    logits = similarities(images, classes)
    correct = scores.correct(test.labels, logits)
    resampling = Resampling(settings.num_resamples, settings.bootstrap_seed, settings.confidence)
    facts = {
        "zero_shot_top1": float(correct.mean()),
        "zero_shot_top1_interval": top1_interval(correct, resampling).as_json(),
        "zero_shot_templates": len(templates),
    }
    return facts, logits


def judge_set(place: Path, read: Callable[[Path, str], Labelled], settings: ProbeEncoder) -> dict[str, Any]:
    """Transfer to one data set."""
    train, val, test = (read(place, name) for name in ("train", "val", "test"))
    return judge_transfer(train, val, test, len(read_class_names(place, "test")), settings)


def main(argv: list[str]) -> dict[str, Any]:
    """Judges the encoder that the one argument names."""
    if len(argv) != 1:
        raise BadInput("probe_encoder: takes one encoder, such as `stablerep-synthetic`")
    (name,) = argv
    study = config.load_study()
    profile = config.load_profile(study.profile)
    section, folder = profile.probe_encoder, MODELS / "encoder" / name
    manifest, sets = read_manifest(folder), read_manifest(DATA / "transfer")["sets"]
    runtime = open_runtime(seed=0)  # nothing is drawn here
    read = reader(folder, section, runtime)
    splits = Splits(
        real_train=read(DATA / "real", "train"),
        real_val=read(validation_of("real"), "val"),
        synthetic_train=read(DATA / "synthetic", "train"),
        synthetic_val=read(validation_of("synthetic"), "val"),
        test=read(DATA / "test", "test"),
    )
    class_names = read_class_names(DATA / "test", "test")
    facts, logits = judge_encoder(splits, len(class_names), section)
    facts |= judge_otherwise(splits.real_train, splits.real_val, splits.test, len(class_names), section)
    predictions = {"test": logits}
    if manifest.get("zero_shot"):
        by_texts, predictions["zero_shot"] = judge_by_texts(folder, splits.test, class_names, section, runtime)
        facts |= by_texts
    if sets:
        facts["transfer"] = {other: judge_set(DATA / "transfer" / other, read, section) for other in sets}
    with fresh_dir(PREDICTIONS / "probe" / name) as partial:
        for kind, outputs in predictions.items():
            write_predictions(partial / f"{kind}.parquet", Predictions(splits.test.labels, outputs, class_names))
        write_manifest(partial, split="test")
    seen = {key: manifest[key] for key in ("method", "source", "labels_seen")}
    target = METRICS / "probe_encoder" / f"{name}.json"
    write_json(target, {**facts, **seen})
    made = f"{target}, top-1 {facts['top1']:.1%} on {len(splits.test.labels)} real test images"
    return {"item": name, "made": made, "device": str(runtime.device)}


if __name__ == "__main__":
    run_stage(main)
