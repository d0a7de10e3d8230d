"""Pretrains a ViT encoder (StableRep, SupCon, SimCLR, MAE, BYOL, MoCo v3, DINO), or makes an untrained control.

    python -m stages.pretrain_encoder stablerep-synthetic
    accelerate launch -m stages.pretrain_encoder stablerep-synthetic  # on several GPUs
    torchrun --standalone --nproc_per_node=2 -m stages.pretrain_encoder stablerep-synthetic  # on a CPU

Reads `data/<the encoder's source>`, writes `models/encoder/<name>`, a standard `transformers` folder, and its learning
curves. All encoders of a study start from the same weights, which are what `random` is. The last weights count:
nothing is selected. digits: about 55 CPU seconds; a linear head on real train features reaches 93 % on val with
`stablerep-synthetic`, 83 % with `simclr-synthetic`, 63 % with `random`, and 90 % on raw pixels.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages import config
from stages.artifacts import DATA, MODELS, PLOTS, BadInput, fresh_dir, run_stage, scratch, write_manifest
from stages.dataset.augment import augment
from stages.dataset.multiview import PositiveKey, caption_views, crop_views, keys_of
from stages.dataset.tensors import Split, load_split
from stages.encoder_sections import Byol, Dino, MocoV3, PretrainEncoder, Recipe
from stages.networks import heads, vit
from stages.networks.batchnorm import track
from stages.networks.masked_autoencoder import MaskedAutoencoder
from stages.networks.momentum_pair import MomentumPair
from stages.networks.projection import ProjectedEncoder
from stages.training import dino
from stages.training.byol import ByolObjective
from stages.training.contrastive import Gather, contrastive_objective
from stages.training.curves import write_curves
from stages.training.dino import DinoObjective
from stages.training.loop import Batches, Objective, Plan, fit, split_rows
from stages.training.mae import MaeObjective, mask_noise
from stages.training.mocov3 import MocoV3Objective
from stages.training.momentum import follow, momentum_to_one
from stages.training.optimizer import adamw, parameter_groups
from stages.training.prefetch import read_ahead
from stages.training.runtime import Runtime, open_runtime

CROPS_PER_IMAGE = 2
"""Views of the methods that compare an image with itself."""


def positives(method: str, section: PretrainEncoder) -> tuple[PositiveKey, int]:
    """What a method calls the same thing, and in how many views a batch shows each."""
    match method:
        case "stablerep":
            return section.positive_key, section.images_per_caption
        case "supcon":
            return "class", CROPS_PER_IMAGE
        case "mae":
            return "slot", 1
        case _:
            return "slot", CROPS_PER_IMAGE


def labels_seen(method: str, section: PretrainEncoder) -> str:
    """The labels that an encoder learned from, for its row in every table: none, captions or classes."""
    if method not in ("stablerep", "supcon"):
        return "none"
    return "classes" if positives(method, section)[0] == "class" else "captions"


def recipe_of(method: str, section: PretrainEncoder) -> Recipe:
    """The learning rate, weight decay and augmentation that are a method's own."""
    match method:
        case "simclr":
            return section.simclr
        case "mae":
            return section.mae
        case "byol":
            return section.byol
        case "mocov3":
            return section.mocov3
        case "dino":
            return section.dino
        case _:
            o = section.optimization
            return Recipe(
                learning_rate=o.learning_rate,
                weight_decay=o.weight_decay,
                beta2=o.beta2,
                augmentation=section.augmentation,
            )


def make_batches(split: Split, method: str, section: PretrainEncoder, seed: int, device: torch.device) -> Batches:
    """Augmented views, their keys, the step, and for MAE what hides patches, as a pure function of the step.

    Raises:
        BadInput: the split has not the captions, labels or images that the method needs.
    """
    key, num_views = positives(method, section)
    per_view = section.optimization.batch_size // num_views
    if method == "stablerep":
        rows_of = caption_views(split.caption_ids, per_view, num_views, seed)
    else:
        rows_of = crop_views(len(split), per_view, num_views, seed)
    keys_of(split, rows_of(0), key, num_views)  # complains now of what it would in the first step
    images = split.images.to(device)
    augmentation = recipe_of(method, section).augmentation
    num_patches = (images.shape[-1] // section.backbone.patch_size) ** 2

    def batches(step: int, positions: range) -> dict[str, torch.Tensor]:
        rows = rows_of(step)
        chosen = rows[positions.start : positions.stop]
        indices = torch.arange(positions.start, positions.stop)
        keys = keys_of(split, rows, key, num_views)[positions.start : positions.stop]
        views = augment(images[chosen], augmentation, seed, step, indices)
        batch = {"images": views, "keys": keys.to(device), "step": torch.tensor(step)}
        if method == "mae":
            batch["noise"] = mask_noise(seed, step, positions, num_patches).to(device)
        return batch

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


def network_of(
    method: str, encoder: vit.ViTEncoder, section: PretrainEncoder, images_per_view: int
) -> ProjectedEncoder | MaskedAutoencoder | MomentumPair:
    """The encoder under a method's head, with its target or decoder where it has one."""
    width, projection = section.backbone.hidden_size, section.projection
    match method:
        case "mae":
            return MaskedAutoencoder(encoder, section.mae)
        case "byol":
            online = nn.Sequential(encoder, heads.byol_head(width, projection, images_per_view))
            return MomentumPair(online, heads.byol_head(projection.output_size, projection, images_per_view))
        case "mocov3":
            if section.mocov3.freeze_patch_embedding:
                encoder.network.embeddings.patch_embeddings.requires_grad_(False)
            online = nn.Sequential(encoder, heads.mocov3_head(width, 3, projection, images_per_view))
            return MomentumPair(online, heads.mocov3_head(projection.output_size, 2, projection, images_per_view))
        case "dino":
            pair = MomentumPair(
                nn.Sequential(encoder, heads.DinoHead(width, section.dino, images_per_view)), nn.Identity()
            )
            pair.register_buffer("center", torch.zeros(section.dino.num_prototypes))
            return pair
        case _:
            return ProjectedEncoder(encoder, width, projection, images_per_view)


def objective_of(method: str, network: nn.Module, section: PretrainEncoder, gather: Gather, rank: int) -> Objective:
    """What a method minimises."""
    match method:
        case "mae":
            return MaeObjective(section.mae.normalize_patches)
        case "byol":
            return ByolObjective(gather, rank)
        case "mocov3":
            return MocoV3Objective(section.mocov3.temperature, gather, rank)
        case "dino":
            return DinoObjective(section.dino, network.get_buffer("center"), gather, rank)
        case _:
            return contrastive_objective(section.temperature, gather, rank)


def optimizer_of(
    method: str, network: ProjectedEncoder | MaskedAutoencoder | MomentumPair, section: PretrainEncoder
) -> torch.optim.Optimizer:
    """AdamW by the method's recipe; each of its steps also moves running statistics and targets."""
    recipe, num_steps = recipe_of(method, section), section.optimization.num_steps
    optimizer = adamw(parameter_groups(network, recipe.weight_decay), recipe.beta2)
    track(network, optimizer)
    if isinstance(network, MomentumPair) and isinstance(recipe, Byol | MocoV3 | Dino):
        follow(network.target, network.online, optimizer, momentum_to_one(recipe.momentum, num_steps))
        if isinstance(recipe, Dino):
            dino.schedule(optimizer, network.online.get_submodule("1.prototypes"), recipe, num_steps)
    return optimizer


def pretrain(
    encoder: vit.ViTEncoder,
    split: Split,
    method: str,
    section: PretrainEncoder,
    runtime: Runtime,
    seed: int,
    state: Path,
) -> list[dict[str, float]]:
    """Trains `encoder` in place; returns the loss curve."""
    o, recipe = section.optimization, recipe_of(method, section)
    images_per_view = o.batch_size // positives(method, section)[1]
    plan = Plan.of(o.model_copy(update={"learning_rate": recipe.learning_rate}), select=())
    check_shares(plan, runtime, images_per_view)
    batches = make_batches(split, method, section, seed, runtime.device)
    network = network_of(method, encoder, section, images_per_view).to(runtime.device)
    objective = objective_of(method, network, section, runtime.gather, runtime.rank)
    optimizer = optimizer_of(method, network, section)
    ahead = read_ahead(batches, split.images, plan.num_steps)
    history = fit(network, objective, ahead, optimizer, plan, runtime, state, evaluate=None).history
    if method == "dino":  # whose teacher is the better one all along (section 5.2)
        encoder.load_state_dict(network.get_submodule("target.0").state_dict())
    return history


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
            write_curves(PLOTS / "pretrain_encoder" / name, curve)
            with fresh_dir(MODELS / "encoder" / name) as folder:
                if encoder is not None:
                    vit.save(encoder, folder)
                write_manifest(folder, method=method, source=source, labels_seen=labels_seen(method, section))
        runtime.barrier()
    outcome = f"loss {curve[-1]['loss']:.3f}" if curve else "untrained"
    if curve and "divergence" in curve[-1]:
        outcome += f", {curve[-1]['divergence']:.3f} above its floor"
    return {"item": name, "made": f"{MODELS / 'encoder' / name}, {outcome}", "device": str(runtime.device)}


if __name__ == "__main__":
    run_stage(main)
