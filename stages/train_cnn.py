"""Trains a CNN from scratch on one source.

    python -m stages.train_cnn synthetic
    accelerate launch -m stages.train_cnn synthetic                 # on several GPUs
    torchrun --standalone --nproc_per_node=2 -m stages.train_cnn synthetic  # in several processes on a CPU

Reads `data/<source>`, that source's own validation split and the real one; writes `models/cnn/<source>`,
`metrics/train_cnn/<source>.json` and learning curves. Every arm has the same steps, augmentation and evaluation
points. Weights are selected on the source's own validation images, as somebody without real ones would have to; the
oracle's, selected on real ones, show what that costs. digits: about 25 CPU seconds, 99 % on val for `real`.
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
from stages.dataset.tensors import Split, check_arm, count_distinct, load_split
from stages.networks import batchnorm, cnn
from stages.sections import TrainCnn
from stages.training.batches import EpochOrder, LabelledBatches
from stages.training.curves import write_curves
from stages.training.loop import FitResult, Plan, fit
from stages.training.objectives import cross_entropy
from stages.training.optimizer import adamw, parameter_groups
from stages.training.prefetch import read_ahead
from stages.training.runtime import Runtime, open_runtime
from stages.training.selection import OWN, REAL, figures, scorer


def train(
    section: TrainCnn, split: Split, validation: dict[str, Split], runtime: Runtime, seed: int, state: Path
) -> FitResult:
    """Trains a fresh CNN on `split`; keeps the best weights for each entry of `validation`."""
    network = cnn.build(section.network, len(split.class_names), split.images.shape[-1]).to(runtime.device)
    plan = Plan.of(section.optimization, select=tuple(validation))
    optimizer = adamw(parameter_groups(network, section.optimization.weight_decay), section.optimization.beta2)
    batchnorm.track(network, optimizer)

    def transform(images: torch.Tensor, step: int, positions: torch.Tensor) -> torch.Tensor:
        return augment(images, section.augmentation, seed, step, positions)

    order = EpochOrder(len(split), plan.batch_size, seed)
    batches = LabelledBatches(split.images.to(runtime.device), split.labels.to(runtime.device), order, transform)
    labelled = {
        key: (other.images.to(runtime.device), other.labels.to(runtime.device)) for key, other in validation.items()
    }
    evaluate = scorer(labelled, normalize, plan, runtime)
    objective = cross_entropy(section.label_smoothing)
    ahead = read_ahead(batches, split.images, plan.num_steps)
    return fit(network, objective, ahead, optimizer, plan, runtime, state, evaluate)


def main(argv: list[str]) -> dict[str, Any]:
    """Trains the arm that the one argument names."""
    if len(argv) != 1:
        raise BadInput("train_cnn: takes one source, such as `real`")
    (source,) = argv
    study = config.load_study()
    profile = config.load_profile(study.profile)
    section, folders = profile.train_cnn, (DATA / source, validation_of(source), DATA / "val")
    split, own, real = (load_split(folder, name) for folder, name in zip(folders, ("train", "val", "val"), strict=True))
    validation = {OWN: own, REAL: real}
    check_arm(source, split, validation)
    settings = {"section": section.model_dump(), "seed": study.seed}
    with scratch(f"train_cnn-{source}", settings, folders) as state:
        runtime = open_runtime(study.seed)
        result = train(section, split, validation, runtime, study.seed, state)
        best, oracle, last = result.best[OWN], result.best[REAL], result.history[-1]
        target = MODELS / "cnn" / source
        if runtime.is_main:
            images = {"num_images": len(split), "num_distinct_images": count_distinct(split.images)}
            weights = {"model.safetensors": best.state_dict, "model_oracle.safetensors": oracle.state_dict}
            write_curves(PLOTS / "train_cnn" / source, result.history)
            write_json(METRICS / "train_cnn" / f"{source}.json", {**figures(result), **images})
            with fresh_dir(target) as fresh:
                cnn.save(fresh, section.network, split.class_names, split.images.shape[-1], weights)
                write_manifest(fresh, source=source, best_step=best.step, oracle_step=oracle.step)
    made = f"{target}, {best.score:.1%} on val after {best.step} of {last['step']} steps"
    return {"item": source, "made": made, "device": str(runtime.device), "num_processes": runtime.num_processes}


if __name__ == "__main__":
    run_stage(main)
