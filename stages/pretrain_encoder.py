"""Pretrains a ViT encoder by contrast (StableRep, SupCon, SimCLR), or makes a control without training.

    python -m stages.pretrain_encoder stablerep-synthetic
    accelerate launch -m stages.pretrain_encoder stablerep-synthetic

Reads `data/<the encoder's source>`, writes `models/encoder/<name>`, a standard `transformers` folder, and its learning
curves. All encoders of a study start from the same weights, which are what `random` is. The last weights count:
nothing is selected.
"""

from pathlib import Path
from typing import Any

import torch

from stages import config
from stages.artifacts import DATA, MODELS, PLOTS, BadInput, fresh_dir, run_stage, scratch, write_manifest
from stages.dataset.augment import augment
from stages.dataset.multiview import PositiveKey, caption_views, crop_views, keys_of
from stages.dataset.tensors import Split, load_split
from stages.encoder_sections import PretrainEncoder
from stages.networks import vit
from stages.networks.batchnorm import track
from stages.networks.projection import ProjectedEncoder
from stages.training.contrastive import contrastive_objective
from stages.training.curves import write_curves
from stages.training.loop import Batches, Plan, fit, split_rows
from stages.training.optimizer import adamw, parameter_groups
from stages.training.runtime import Runtime, open_runtime
from stages.training.schedule import warmup_cosine

SAVE_EVERY_SECONDS = 20.0
CROPS_PER_IMAGE = 2
"""Views of SimCLR and SupCon."""


def positives(method: str, section: PretrainEncoder) -> tuple[PositiveKey, int]:
    """What a method calls the same thing, and in how many views a batch shows each."""
    match method:
        case "stablerep":
            return section.positive_key, section.images_per_caption
        case "supcon":
            return "class", CROPS_PER_IMAGE
        case _:
            return "slot", CROPS_PER_IMAGE


def labels_seen(method: str, section: PretrainEncoder) -> str:
    """The labels that an encoder learned from, for its row in every table: none, captions or classes."""
    if method not in ("stablerep", "supcon"):
        return "none"
    return "classes" if positives(method, section)[0] == "class" else "captions"


def make_batches(split: Split, method: str, section: PretrainEncoder, seed: int, device: torch.device) -> Batches:
    """Augmented views and their keys, as a pure function of the step.

    Raises:
        BadInput: the split has not the captions, labels or images that the method needs.
    """
    key, num_views = positives(method, section)
    per_view = section.optimization.batch_size // num_views
    if method == "stablerep":
        rows_of = caption_views(split.caption_ids, per_view, num_views, seed)
    else:
        rows_of = crop_views(len(split), per_view, seed)
    keys_of(split, rows_of(0), key, num_views)  # complains now of what it would in the first step
    images = split.images.to(device)

    def batches(step: int, positions: range) -> dict[str, torch.Tensor]:
        rows = rows_of(step)
        chosen = rows[positions.start : positions.stop].to(device)
        indices = torch.arange(positions.start, positions.stop)
        keys = keys_of(split, rows, key, num_views)[positions.start : positions.stop]
        views = augment(images[chosen], section.augmentation, seed, step, indices)
        return {"images": views, "keys": keys.to(device)}

    return batches


def check_shares(plan: Plan, runtime: Runtime, images_per_view: int) -> None:
    """Holds processes to one forward pass per step, over whole views.

    Raises:
        BadInput: the loss compares all images of a batch, so micro-batches would change it; or a process would get a
            part of a view, whose batch-norm statistics would then differ.
    """
    shares = split_rows(plan, runtime)
    if len(shares) > 1:
        raise BadInput(
            f"micro_batch_size: {plan.micro_batch_size} is less than a process's share of batch_size "
            f"{plan.batch_size}; a contrastive loss needs it whole: raise it, or start more processes"
        )
    if len(shares[0]) % images_per_view:
        raise BadInput(
            f"batch_size: {runtime.num_processes} processes can't share it in whole views of {images_per_view} images; "
            "start a number of processes that divides the number of views"
        )


def pretrain(
    encoder: vit.ViTEncoder,
    split: Split,
    method: str,
    section: PretrainEncoder,
    runtime: Runtime,
    seed: int,
    state: Path,
) -> list[dict[str, float]]:
    """Trains `encoder` in place under a projection head; returns the loss curve."""
    o = section.optimization
    images_per_view = o.batch_size // positives(method, section)[1]
    plan = Plan(
        num_steps=o.num_steps,
        batch_size=o.batch_size,
        micro_batch_size=o.micro_batch_size,
        schedule=warmup_cosine(o.learning_rate, o.min_learning_rate, o.warmup_steps, o.num_steps),
        evaluate_every_steps=o.evaluate_every_steps,
        precision=o.precision,
        clip_norm=o.clip_norm,
        save_every_seconds=SAVE_EVERY_SECONDS,
        select=(),
    )
    check_shares(plan, runtime, images_per_view)
    batches = make_batches(split, method, section, seed, runtime.device)
    width = section.backbone.hidden_size
    network = ProjectedEncoder(encoder, width, section.projection, images_per_view).to(runtime.device)
    optimizer = adamw(parameter_groups(network, o.weight_decay), o.beta2)
    track(network, optimizer)
    objective = contrastive_objective(section.temperature, runtime.gather, runtime.rank)
    return fit(network, objective, batches, optimizer, plan, runtime, state, evaluate=None).history


def main(argv: list[str]) -> dict[str, Any]:
    """Makes one encoder of `encoders`."""
    study = config.load_study()
    profile = config.load_profile(study.profile)
    if len(argv) != 1 or argv[0] not in study.encoders:
        raise BadInput(f"pretrain_encoder: takes one name among {[*study.encoders]}, the encoders of {config.PARAMS}")
    (name,) = argv
    method, source = study.encoders[name].method, study.encoders[name].source
    section, seed = profile.pretrain_encoder, study.seed
    runtime = open_runtime(seed)
    encoder, curve = None, []
    settings = {"seed": seed, "method": method, "section": section.model_dump()}
    with scratch(f"pretrain_encoder-{name}", settings, (DATA / source,)) as state:
        if method != "pixels":
            split = load_split(DATA / source, "train")
            encoder = vit.build_encoder(section.backbone, split.images.shape[-1], seed)
            if method != "random":
                curve = pretrain(encoder, split, method, section, runtime, seed, state)
        if runtime.is_main:
            with fresh_dir(PLOTS / "pretrain_encoder" / name) as folder:
                write_curves(folder, curve)
            with fresh_dir(MODELS / "encoder" / name) as folder:
                if encoder is not None:
                    vit.save(encoder, folder)
                write_manifest(folder, method=method, source=source, labels_seen=labels_seen(method, section))
        runtime.barrier()
    outcome = f"loss {curve[-1]['loss']:.3f}, {curve[-1]['divergence']:.3f} above its floor" if curve else "untrained"
    return {"item": name, "made": f"{MODELS / 'encoder' / name}, {outcome}", "device": str(runtime.device)}


if __name__ == "__main__":
    run_stage(main)
