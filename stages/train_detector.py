"""Trains the CIFAKE paper's CNN to tell one source's images from real ones.

    python -m stages.train_detector fake
    accelerate launch -m stages.train_detector fake      # on several GPUs

Reads `data/real`, `data/val` and `data/<source>`; writes `models/detector/<source>` (weights, temperature, and what the
floor and the search for leaks need of the same training images), `metrics/train_detector/<source>.json` and curves.
Weights and temperature are chosen on validation images. digits: about 10 CPU seconds.
"""

from pathlib import Path
from typing import Any

import torch

from stages import config
from stages.artifacts import (
    DATA,
    METRICS,
    MODELS,
    PLOTS,
    BadInput,
    fresh_dir,
    run_stage,
    scratch,
    validation_of,
    write_json,
    write_manifest,
)
from stages.dataset.augment import augment, normalize
from stages.dataset.pairing import Pairing, digests, load_train_and_val
from stages.detector_sections import TrainDetector
from stages.evaluation import calibration, scores
from stages.evaluation.image_statistics import statistics
from stages.evaluation.inference import infer
from stages.evaluation.training_images import TrainingImages
from stages.networks import detector
from stages.training.batches import EpochOrder, LabelledBatches
from stages.training.curves import write_curves
from stages.training.loop import FitResult, Plan, fit
from stages.training.objectives import cross_entropy
from stages.training.optimizer import adamw, parameter_groups
from stages.training.prefetch import read_ahead
from stages.training.runtime import Runtime, open_runtime
from stages.training.selection import OWN, scorer


def train(section: TrainDetector, images: Pairing, val: Pairing, runtime: Runtime, seed: int, state: Path) -> FitResult:
    """Trains a fresh detector; keeps the weights that tell most of `val` apart."""
    network = detector.build(section.network, images.images.shape[-1]).to(runtime.device)
    plan = Plan.of(section.optimization, select=(OWN,))
    optimizer = adamw(parameter_groups(network, section.optimization.weight_decay), section.optimization.beta2)

    def transform(batch: torch.Tensor, step: int, positions: torch.Tensor) -> torch.Tensor:
        return augment(batch, section.augmentation, seed, step, positions)

    order = EpochOrder(len(images), plan.batch_size, seed)
    batches = LabelledBatches(images.images.to(runtime.device), images.kinds.to(runtime.device), order, transform)
    labelled = {OWN: (val.images.to(runtime.device), val.kinds.to(runtime.device))}
    evaluate = scorer(labelled, normalize, plan, runtime)
    ahead = read_ahead(batches, images.images, plan.num_steps)
    return fit(network, cross_entropy(section.label_smoothing), ahead, optimizer, plan, runtime, state, evaluate)


def calibrate(section: TrainDetector, result: FitResult, val: Pairing, runtime: Runtime) -> tuple[float, float]:
    """The temperature of the selected weights, and the share of val that they tell apart."""
    network = detector.build(section.network, val.images.shape[-1])
    network.load_state_dict(result.best[OWN].state_dict)
    network = network.to(runtime.device)
    logits = infer(
        network, val.images, section.optimization.micro_batch_size, lambda batch: normalize(batch.to(runtime.device))
    )
    kinds = val.kinds.numpy()
    return calibration.fit_temperature(kinds, logits), float(scores.correct(kinds, logits).mean())


def main(argv: list[str]) -> dict[str, Any]:
    """Trains the detector of the one source that the argument names."""
    if len(argv) != 1:
        raise BadInput("train_detector: takes one source of generated images, such as `fake`")
    (source,) = argv
    study = config.load_study()
    profile = config.load_profile(study.profile)
    section, folders = profile.train_detector, (DATA / "real", validation_of("real"), DATA / source)
    images, val = load_train_and_val(source, section.draw_seed)
    settings = {"section": section.model_dump(), "seed": study.seed}
    target = MODELS / "detector" / source
    with scratch(f"train_detector-{source}", settings, folders) as state:
        runtime = open_runtime(study.seed)
        result = train(section, images, val, runtime, study.seed, state)
        best, last = result.best[OWN], result.history[-1]
        if runtime.is_main:
            temperature, accuracy = calibrate(section, result, val, runtime)
            on_val = {"val_accuracy": accuracy, "temperature": temperature}
            counts = {"num_train_images": len(images), "num_val_images": len(val)}
            steps = {"best_step": best.step, "num_steps": last["step"], "final_train_loss": last["loss"]}
            write_curves(PLOTS / "train_detector" / source, result.history)
            write_json(METRICS / "train_detector" / f"{source}.json", {**counts, **steps, **on_val})
            with fresh_dir(target) as fresh:
                detector.save(fresh, section.network, images.images.shape[-1], temperature, best.state_dict)
                table = statistics(block.numpy() for block in images.blocks())
                seen = TrainingImages(table, images.kinds.numpy(), digests(images))
                seen.save(fresh)
                write_manifest(fresh, source=source, best_step=best.step)
    made = f"{target}, {best.score:.1%} on val after {best.step} of {last['step']} steps"
    return {"item": source, "made": made, "device": str(runtime.device), "num_processes": runtime.num_processes}


if __name__ == "__main__":
    run_stage(main)
