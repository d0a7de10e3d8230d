"""Judges a detector of generated images on test images of one source, beside a floor of low-level statistics.

    python -m stages.detect_fakes fake fake          # trained on fakes, judged on fakes: CIFAKE's own task
    python -m stages.detect_fakes fake synthetic     # trained on fakes, judged on our own images

Reads `models/detector/<trained>`, `data/test` and the images of `<tested>` that no detector has seen; writes
`metrics/detect_fakes/<trained>-<tested>.json`, predictions, tables and pictures of where it looks. Nothing is selected
or fitted on test images. digits: about 8 CPU seconds.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stages import config
from stages.artifacts import (
    METRICS,
    MODELS,
    PLOTS,
    PREDICTIONS,
    BadInput,
    fresh_dir,
    run_stage,
    write_bytes,
    write_json,
    write_manifest,
)
from stages.dataset.augment import normalize
from stages.dataset.pairing import KINDS, Pairing, digests, draw_per_class, load_test
from stages.detector_sections import DetectFakes
from stages.diffusion.grid import sample_grid
from stages.evaluation import attention, detection, scores
from stages.evaluation.figures import write_csv
from stages.evaluation.image_statistics import statistics
from stages.evaluation.inference import infer
from stages.evaluation.intervals import Resampling
from stages.evaluation.predictions import Predictions, write_predictions
from stages.evaluation.statistics_floor import STRONGEST, judge_by_statistics
from stages.evaluation.training_images import TrainingImages
from stages.networks import detector
from stages.training.runtime import Runtime, open_runtime

Logits = NDArray[np.float32]
CNN = "cnn"


def main(argv: list[str]) -> dict[str, Any]:
    """Judges the detector that the first argument names on images of the source that the second names."""
    if len(argv) != 2:
        raise BadInput("detect_fakes: takes two sources, trained on and judged on, such as `fake synthetic`")
    trained, tested = argv
    item = f"{trained}-{tested}"
    study = config.load_study()
    profile = config.load_profile(study.profile)
    section = profile.detect_fakes
    test = load_test(tested, section.draw_seed)
    folder = MODELS / "detector" / trained
    network, temperature = detector.load(folder, test.images.shape[-1])
    seen = TrainingImages.load(folder)
    runtime = open_runtime(seed=0)  # nothing is drawn here
    network = network.to(runtime.device)
    logits = judge(network, seen, test, section, runtime)
    maps, picture = look(network, logits[CNN], test, section, runtime)
    leaked = np.isin(digests(test), seen.digests)
    facts = {**figures(logits, test, leaked, temperature, section), "border_density": borders(maps)}
    with fresh_dir(PREDICTIONS / "detector" / item) as predictions:
        for name, each in logits.items():
            write_predictions(predictions / f"{name}.parquet", Predictions(test.kinds.numpy(), each, KINDS))
        write_manifest(predictions, trained=trained, tested=tested)
    with fresh_dir(PLOTS / "detect_fakes" / item) as plots:
        write_tables(plots, logits[CNN], test, maps, section.num_bins)
        write_bytes(plots / "attention.png", picture)
    target = METRICS / "detect_fakes" / f"{item}.json"
    write_json(target, facts)
    made = f"{target}, {facts[CNN]['accuracy']:.1%} told apart, {facts[STRONGEST]['accuracy']:.1%} by statistics alone"
    return {"item": item, "made": made, "device": str(runtime.device)}


def judge(
    network: detector.Detector, seen: TrainingImages, test: Pairing, section: DetectFakes, runtime: Runtime
) -> dict[str, Logits]:
    """Logits of the CNN and of the floor."""

    def prepare(batch: torch.Tensor) -> torch.Tensor:
        return normalize(batch.to(runtime.device))

    with runtime.autocast(section.precision):
        logits = infer(network, test.images, section.batch_size, prepare)
    return {
        CNN: logits,
        **judge_by_statistics(seen, statistics(block.numpy() for block in test.blocks()), section.floor),
    }


def figures(
    logits: dict[str, Logits], test: Pairing, leaked: NDArray[np.bool_], temperature: float, section: DetectFakes
) -> dict[str, Any]:
    """Every score."""
    kinds, labels = test.kinds.numpy(), test.labels.numpy()
    resampling = Resampling(section.num_resamples, section.bootstrap_seed, section.confidence)
    facts: dict[str, Any] = {
        name: detection.judge(kinds, each, section.num_bins, resampling) for name, each in logits.items()
    }
    calibrated = (logits[CNN] / temperature).astype(np.float32)
    facts[CNN]["ece_calibrated"] = scores.expected_calibration_error(kinds, calibrated, section.num_bins)
    rows = detection.per_class_rows(kinds, labels, logits[CNN], test.class_names)
    facts[CNN]["per_class"] = {row["class"]: row["accuracy"] for row in rows}
    facts["cnn_against_statistics"] = detection.against(kinds, logits[CNN], logits[STRONGEST], resampling)
    facts["leaks"] = detection.leaks(kinds, labels, logits[CNN], leaked)
    return {**facts, "num_images": len(test)}


def look(
    network: detector.Detector, logits: Logits, test: Pairing, section: DetectFakes, runtime: Runtime
) -> tuple[dict[str, torch.Tensor], bytes]:
    """Heat maps of images drawn from each class and kind, and a picture of those that the detector is surest of."""

    def prepare(batch: torch.Tensor) -> torch.Tensor:
        return normalize(batch.to(runtime.device))

    def heat(chosen: torch.Tensor) -> torch.Tensor:
        images, kinds = test.images[chosen], test.kinds[chosen].to(runtime.device)
        return attention.heat_maps(network, network.last_maps, images, kinds, section.batch_size, prepare)

    log_odds = torch.from_numpy(logits[:, 1] - logits[:, 0])
    maps, rows = {}, []
    for kind, name in enumerate(KINDS):
        own = test.kinds.eq(kind).nonzero().flatten()
        counts = [section.attention.images_per_class] * len(test.class_names)
        maps[name] = heat(own[draw_per_class(test.labels[own], counts, section.draw_seed)])
    for label, class_name in enumerate(test.class_names):
        for kind, name in reversed(list(enumerate(KINDS))):
            own = (test.labels.eq(label) & test.kinds.eq(kind)).nonzero().flatten()
            if len(own):
                order = log_odds[own].argsort(descending=bool(kind), stable=True)
                chosen = own[order[: section.attention.pictures_per_class]]
                images = test.images[chosen]
                pairs = torch.stack([images, attention.overlay(images, heat(chosen))], dim=1)
                rows.append((f"{class_name}, {name}", pairs.flatten(0, 1)))
    return maps, sample_grid(rows)


def borders(maps: dict[str, torch.Tensor]) -> dict[str, float]:
    """How much of the attention falls on the border, by kind."""
    return {name: attention.border_density(each) for name, each in maps.items()}


def write_tables(folder: Path, logits: Logits, test: Pairing, maps: dict[str, torch.Tensor], num_bins: int) -> None:
    """Per class, confidence against accuracy, and attention against distance from the border."""
    kinds = test.kinds.numpy()
    rows = detection.per_class_rows(kinds, test.labels.numpy(), logits, test.class_names)
    write_csv(folder / "per_class.csv", rows)
    write_csv(folder / "reliability.csv", scores.reliability(kinds, logits, num_bins))
    rings = {name: attention.density_by_ring(each) for name, each in maps.items()}
    write_csv(
        folder / "attention.csv",
        [
            {"pixels_from_border": ring, **{name: values[ring] for name, values in rings.items()}}
            for ring in range(len(rings[KINDS[0]]))
        ],
    )


if __name__ == "__main__":
    run_stage(main)
