"""Methods of `pretrain_encoder` at tiny size, and a run of each in two processes: `python -m tests.rivals FOLDER`."""

import contextlib
import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from stages.dataset.codec import encode
from stages.dataset.shards import Row, write_shards
from stages.dataset.tensors import load_split
from stages.encoder_sections import (
    Backbone,
    Byol,
    Dino,
    Downsample,
    Language,
    LocalCrops,
    Mae,
    MocoV3,
    PretrainEncoder,
    Projection,
    Recipe,
    Supervised,
)
from stages.methods.method import Task
from stages.networks import vit
from stages.pretrain_encoder import method_of, pretrain
from stages.sections import Augmentation, Codec, Optimization
from stages.training.runtime import open_runtime
from tests.two_processes import run_in_two

PLAIN = Augmentation(
    crop_scale_min=1, translate=0, rotate_degrees=0, flip=0, jitter=0, brightness=0, contrast=0, saturation=0, hue=0,
    grayscale=0, blur=0, blur_sigma_max=2,
)  # fmt: skip
RECIPE = {"learning_rate": 0.01, "weight_decay": 0.1, "beta2": 0.95, "augmentation": PLAIN}
MAE = Mae(**RECIPE, mask_ratio=0.75, normalize_patches=True, decoder_size=8, decoder_layers=1, decoder_heads=2)
BYOL = Byol(**RECIPE, momentum=0.9)
MOCOV3 = MocoV3(**RECIPE, momentum=0.9, temperature=0.2, freeze_patch_embedding=True)
DINO = Dino(
    **RECIPE, momentum=0.9, final_weight_decay=0.4, hidden_size=12, batch_norm=True, bottleneck_size=6,
    num_prototypes=10, student_temperature=0.1, warmup_teacher_temperature=0.04, teacher_temperature=0.07,
    teacher_warmup_steps=4, center_momentum=0.9, freeze_prototypes_steps=2,
)  # fmt: skip
LANGUAGE = Language(
    hidden_size=8, num_layers=1, num_heads=2, context_length=12, projection_size=6, image_weight=0.5, text_weight=2
)
NUM_STEPS, BATCH, SIZE = 4, 8, 16
SECTION = PretrainEncoder(
    backbone=Backbone(patch_size=4, hidden_size=16, num_layers=2, num_heads=2, initializer_range=0.02),
    projection=Projection(hidden_size=12, output_size=6, norm_over="view"),
    temperature=0.1,
    positive_key="caption",
    images_per_caption=2,
    optimization=Optimization(
        num_steps=NUM_STEPS, batch_size=BATCH, micro_batch_size=BATCH, learning_rate=0.01, min_learning_rate=0,
        warmup_steps=1, weight_decay=0.1, beta2=0.95, clip_norm=None, evaluate_every_steps=1, precision="float32",
    ),
    augmentation=PLAIN.model_copy(update={"crop_scale_min": 0.3, "jitter": 0.8, "brightness": 0.4}),
    simclr=Recipe(**RECIPE), stablerep_plus=Recipe(**RECIPE), clip=Recipe(**RECIPE), mae=MAE, byol=BYOL, mocov3=MOCOV3,
    dino=DINO, supervised=Supervised(**RECIPE, label_smoothing=0.1), language=LANGUAGE,
    ema_momentum=None, local_crops=None, downsample=None,
)  # fmt: skip
WORDS = ("one", "some", "this", "the", "that")
METHODS = ("stablerep", "stablerep+", "supcon", "simclr", "mae", "clip", "byol", "mocov3", "dino", "supervised")
IN_PARTS = SECTION.model_copy(update={"optimization": SECTION.optimization.model_copy(update={"micro_batch_size": 2})})
"""Two images at a time through the encoder, two texts at a time through theirs."""
OPTIONS = SECTION.model_copy(
    update={
        "projection": SECTION.projection.model_copy(update={"norm_over": "batch"}),
        "ema_momentum": 0.8,
        "local_crops": LocalCrops(num_crops=2, size=8, scale_min=0.1, scale_max=0.4),
        "downsample": Downsample(probability=0.5, sizes=[4, 8]),
    }
)
"""Everything that is off by default."""
ACROSS = SECTION.model_copy(
    update={
        "images_per_caption": 3,
        "optimization": SECTION.optimization.model_copy(update={"batch_size": 12, "micro_batch_size": 12}),
    }
)
"""Three views of four captions: the second of two processes begins in the middle of a view."""
CASES = {
    **{method: (method, SECTION) for method in METHODS},
    **{f"{method} in parts": (method, IN_PARTS) for method in METHODS},
    **{f"{method} across views": (method, ACROSS) for method in ("stablerep", "stablerep+")},
    **{f"{method} with options": (method, OPTIONS) for method in ("stablerep", "stablerep+", "byol", "dino")},
}
SHARED = [case for case in CASES if case not in METHODS]
"""Run in two processes."""


def make_source(folder: Path) -> None:
    """Thirty pictures of noise, of two classes and ten captions."""
    rng = np.random.default_rng(0)
    codec = Codec(format="png", quality=None)

    def rows():
        for index in range(30):
            content = encode(Image.fromarray(rng.integers(256, size=(SIZE, SIZE, 3), dtype=np.uint8)), codec)
            caption = index // 3
            text = f"{WORDS[caption % 5]} {'ab'[caption % 2]}"
            yield Row(content, f"{index}.png", caption % 2, text, caption)

    write_shards(folder, "train", rows(), ("one", "two"))


@dataclasses.dataclass
class Trained:
    """What a run leaves behind."""

    weights: dict[str, torch.Tensor]
    """Of the encoder that is kept, and of all that learned with it: heads, targets, centers."""
    losses: list[float]
    gradients: dict[str, torch.Tensor]
    """The first step's, averaged over processes."""


@contextlib.contextmanager
def precision_of(double):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if double else torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def train(case, source, runtime, state, stop_at=None, double=False):
    """Runs a case for a few steps by the stage's own `pretrain`."""
    name, section = CASES[case]
    split = load_split(source, "train")
    with precision_of(double):
        encoder = vit.build_encoder(section.backbone, SIZE, seed=0)
        if double:  # eager attention takes its softmax in float32
            encoder.network.set_attn_implementation("sdpa")
        method = method_of(name, Task(encoder, split, source, section, runtime, 0))
        network, gradients = method.network, {}

        def batches(step, rows):
            if step == stop_at:
                raise KeyboardInterrupt
            with precision_of(False):
                batch = method.batches(step, rows)
            dtype = torch.float64 if double else torch.float32
            return {key: x.to(dtype) if key in ("images", "crops") else x for key, x in batch.items()}

        def keep(*_):
            for key, parameter in network.named_parameters():
                if parameter.grad is not None:
                    gradients.setdefault(key, parameter.grad.clone())

        def attach(optimizer):
            method.attach(optimizer)
            optimizer.register_step_pre_hook(keep)

        observed = dataclasses.replace(method, batches=batches, attach=attach)
        history = pretrain(observed, encoder, section, split.images, runtime, state)
    weights = {**network.state_dict(), **{f"kept.{key}": x for key, x in encoder.state_dict().items()}}
    return Trained(weights, [row["loss"] for row in history], gradients)


def share(rank, folder):
    """One of two processes."""
    runtime = open_runtime(0)
    for case in SHARED:
        torch.manual_seed(0)
        state = folder / f"{case} state"
        state.mkdir(exist_ok=True)
        torch.save(vars(train(case, folder / "source", runtime, state, double=True)), folder / f"{case} {rank}.pt")
    runtime.barrier()


if __name__ == "__main__":
    # Forked before anything ran, so that torch and transformers are imported once.
    run_in_two(share, Path(sys.argv[1]), start_method="fork")
