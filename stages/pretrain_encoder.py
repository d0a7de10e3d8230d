"""Pretrains a ViT encoder by one of the methods in `methods/`, or makes an untrained control.

    python -m stages.pretrain_encoder stablerep-synthetic
    accelerate launch -m stages.pretrain_encoder stablerep-synthetic  # on several GPUs
    torchrun --standalone --nproc_per_node=2 -m stages.pretrain_encoder stablerep-synthetic  # on a CPU

Reads `data/<the encoder's source>`, writes `models/encoder/<name>`, a standard `transformers` folder, and its learning
curves; beside the encoders of StableRep+ and CLIP stands what zero-shot classification needs. All encoders of a study
start from the same weights, which are what `random` is. The last weights count: nothing is selected. digits: about 55
CPU seconds; a linear head on real train features reaches 93 % on val with `stablerep-synthetic`, 83 % with
`simclr-synthetic`, 63 % with `random`, and 90 % on raw pixels.
"""

from pathlib import Path
from typing import Any, Literal, assert_never

from torch import nn

from stages import config
from stages.artifacts import DATA, MODELS, PLOTS, BadInput, fresh_dir, run_stage, scratch, write_manifest
from stages.dataset.tensors import load_split
from stages.encoder_sections import PretrainEncoder
from stages.methods.byol import byol
from stages.methods.clip import clip
from stages.methods.dino import dino
from stages.methods.mae import mae
from stages.methods.method import Method, Task
from stages.methods.mocov3 import mocov3
from stages.methods.simclr import simclr
from stages.methods.stablerep import stablerep
from stages.methods.stablerep_plus import stablerep_plus
from stages.methods.supcon import supcon
from stages.methods.supervised import supervised
from stages.networks import language, vit
from stages.networks.batchnorm import track
from stages.networks.momentum_pair import Averaged
from stages.training.curves import write_curves
from stages.training.loop import Plan, fit
from stages.training.momentum import follow, momentum_to_one
from stages.training.optimizer import adamw, parameter_groups
from stages.training.prefetch import read_ahead
from stages.training.runtime import Runtime, open_runtime

Pretrained = Literal[
    "stablerep", "stablerep+", "supcon", "simclr", "mae", "clip", "byol", "mocov3", "dino", "supervised"
]


def method_of(name: Pretrained, task: Task) -> Method:
    """The method of that name on the task.

    Raises:
        BadInput: the images have not the captions or labels that it needs, or are too few.
    """
    match name:
        case "stablerep":
            return stablerep(task)
        case "stablerep+":
            return stablerep_plus(task)
        case "supcon":
            return supcon(task)
        case "simclr":
            return simclr(task)
        case "mae":
            return mae(task)
        case "clip":
            return clip(task)
        case "byol":
            return byol(task)
        case "mocov3":
            return mocov3(task)
        case "dino":
            return dino(task)
        case "supervised":
            return supervised(task)
        case _:
            assert_never(name)


def plan_of(method: Method, section: PretrainEncoder, runtime: Runtime) -> Plan:
    """Sizes and rates. Of a method that compares images, a process's whole share is one batch of the loop.

    Raises:
        BadInput: the processes can't share a batch.
    """
    o = section.optimization
    changes: dict[str, float] = {"learning_rate": method.recipe.learning_rate}
    if method.compares_images:
        changes["micro_batch_size"] = o.batch_size  # the encoder is what sees micro-batches (networks.in_parts)
    if o.batch_size % (runtime.num_processes * method.share_multiple):
        raise BadInput(
            f"batch_size: {runtime.num_processes} processes can't share {o.batch_size} images in whole multiples of "
            f"{method.share_multiple}, a caption's images; start a number that divides the captions of a batch"
        )
    return Plan.of(o.model_copy(update=changes), select=())


def pretrain(
    method: Method, encoder: vit.ViTEncoder, section: PretrainEncoder, images: object, runtime: Runtime, state: Path
) -> list[dict[str, float]]:
    """Trains the method's network, and with it `encoder`, in place; returns the loss curve."""
    plan, network = plan_of(method, section, runtime), method.network.to(runtime.device)
    kept = nn.ModuleList([method.teacher or encoder])
    if method.text:
        kept.extend([method.text.encoder, method.text.visual_projection])
    average = None if section.ema_momentum is None else Averaged(network, kept)
    optimizer = adamw(parameter_groups(average or network, method.recipe.weight_decay), method.recipe.beta2)
    track(network, optimizer)
    method.attach(optimizer)
    if average and section.ema_momentum is not None:
        follow(average.average, kept, optimizer, momentum_to_one(section.ema_momentum, plan.num_steps))
    batches = read_ahead(method.batches, images, plan.num_steps)
    history = fit(average or network, method.objective, batches, optimizer, plan, runtime, state, evaluate=None).history
    if average:
        kept.load_state_dict(average.average.state_dict())
    if method.teacher:
        encoder.load_state_dict(method.teacher.state_dict())
    return history


def save(folder: Path, encoder: vit.ViTEncoder, method: Method | None) -> dict[str, Any]:
    """Writes an encoder, and the text encoder of a language method; returns what the manifest says of it."""
    vit.save(encoder, folder)
    if method is None:
        return {}
    if method.text is None:
        return {"labels_seen": method.labels_seen}
    language.save(folder, method.text.encoder, method.text.tokenizer, method.text.visual_projection)
    return {"labels_seen": method.labels_seen, "zero_shot": True}


def main(argv: list[str]) -> dict[str, Any]:
    """Makes one encoder of `encoders`."""
    study = config.load_study()
    profile = config.load_profile(study.profile)
    if len(argv) != 1 or argv[0] not in study.encoders:
        raise BadInput(f"pretrain_encoder: takes one name among {[*study.encoders]}, the encoders of {config.PARAMS}")
    (item,) = argv
    name, source = study.encoders[item].method, study.encoders[item].source
    section, seed = profile.pretrain_encoder, study.seed
    runtime = open_runtime(seed)
    encoder, method, curve = None, None, []
    settings = {"seed": seed, "method": name, "section": section.model_dump()}
    with scratch(f"pretrain_encoder-{item}", settings, (DATA / source,)) as state:
        if name != "pixels":
            split = load_split(DATA / source, "train")
            encoder = vit.build_encoder(section.backbone, split.images.shape[-1], seed)
            if name != "random":
                method = method_of(name, Task(encoder, split, DATA / source, section, runtime, seed))
                curve = pretrain(method, encoder, section, split.images, runtime, state)
        if runtime.is_main:
            write_curves(PLOTS / "pretrain_encoder" / item, curve)
            with fresh_dir(MODELS / "encoder" / item) as folder:
                facts = save(folder, encoder, method) if encoder else {}
                write_manifest(folder, **{"method": name, "source": source, "labels_seen": "none", **facts})
        runtime.barrier()
    outcome = f"loss {curve[-1]['loss']:.3f}" if curve else "untrained"
    if curve and "divergence" in curve[-1]:
        outcome += f", {curve[-1]['divergence']:.3f} above its floor"
    return {"item": item, "made": f"{MODELS / 'encoder' / item}, {outcome}", "device": str(runtime.device)}


if __name__ == "__main__":
    run_stage(main)
