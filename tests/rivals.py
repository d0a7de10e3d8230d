"""Methods of `pretrain_encoder` at tiny size, and a run of each in two processes: `python -m tests.rivals FOLDER`."""

import functools
import os
import socket
import sys
from pathlib import Path

import torch

from stages.dataset.tensors import Split
from stages.encoder_sections import Backbone, Byol, Dino, Mae, MocoV3, PretrainEncoder, Projection, Recipe
from stages.networks import vit
from stages.pretrain_encoder import make_batches, network_of, objective_of, optimizer_of, positives
from stages.sections import Augmentation, Optimization
from stages.training.loop import Plan, fit
from stages.training.runtime import open_runtime

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
METHODS = ("stablerep", "mae", "byol", "mocov3", "dino")
NUM_STEPS, BATCH, SIZE = 4, 8, 16
SECTION = PretrainEncoder(
    backbone=Backbone(patch_size=4, hidden_size=16, num_layers=2, num_heads=2, initializer_range=0.02),
    projection=Projection(hidden_size=12, output_size=6),
    temperature=0.1,
    positive_key="caption",
    images_per_caption=2,
    optimization=Optimization(
        num_steps=NUM_STEPS, batch_size=BATCH, micro_batch_size=BATCH, learning_rate=0.01, min_learning_rate=0,
        warmup_steps=1, weight_decay=0.1, beta2=0.95, clip_norm=None, evaluate_every_steps=2, precision="float32",
    ),
    augmentation=PLAIN.model_copy(update={"crop_scale_min": 0.3, "jitter": 0.8, "brightness": 0.4}),
    simclr=Recipe(**RECIPE), mae=MAE, byol=BYOL, mocov3=MOCOV3, dino=DINO,
)  # fmt: skip


def pictures():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (20, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    return Split(images, torch.arange(20) % 2, torch.arange(20) // 4, ("one", "two"))


def train(method, runtime, state, stop_at=None, double=False):
    """Runs a method for a few steps.

    Returns its final weights, targets and centers included, its loss curve, and the first step's gradients.
    """
    encoder = vit.build_encoder(SECTION.backbone, SIZE, seed=0)
    if double:  # eager attention takes its softmax in float32
        encoder.network.set_attn_implementation("sdpa")
    network = network_of(method, encoder, SECTION, BATCH // positives(method, SECTION)[1])
    network = network.double() if double else network
    own = make_batches(pictures(), method, SECTION, 0, runtime.device)

    def batches(step, rows):
        if step == stop_at:
            raise KeyboardInterrupt
        batch = own(step, rows)
        return {**batch, "images": batch["images"].to(next(network.parameters()).dtype)}

    plan = Plan(NUM_STEPS, BATCH, BATCH, lambda step: 0.01, 2, "float32", None, 0.0, ())
    objective = objective_of(method, network, SECTION, runtime.gather, runtime.rank)
    optimizer = optimizer_of(method, network, SECTION)
    gradients = {}

    def keep(*_):
        for name, parameter in network.named_parameters():
            if parameter.grad is not None:
                gradients.setdefault(name, parameter.grad.clone())

    optimizer.register_step_pre_hook(keep)
    result = fit(network, objective, batches, optimizer, plan, runtime, state, evaluate=None)
    return network.state_dict(), [row["loss"] for row in result.history], gradients


def share(rank, port, folder):
    """One of two processes."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    runtime = open_runtime(0)
    for method in METHODS:
        torch.manual_seed(0)
        state = folder / f"{method}-state"
        state.mkdir(exist_ok=True)
        torch.save(train(method, runtime, state, double=True), folder / f"{method}-{rank}.pt")
    runtime.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        PORT = free.getsockname()[1]
    # Forked before anything ran, so that torch and transformers are imported once.
    torch.multiprocessing.start_processes(
        functools.partial(share, port=PORT, folder=Path(sys.argv[1])), nprocs=2, start_method="fork"
    )
