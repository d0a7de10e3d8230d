"""A StableRep step as the stage takes it against the same step written plainly after the paper's pseudo-code.

    python -m benchmarks.stablerep_step [steps] [image size]

ViT-S/16 with StableRep's head, at 112 pixels unless told otherwise, in float32 on one thread. Both start from the same
weights and see the same augmented views; in each step the plain one goes first. Printed are medians of CPU seconds over
`steps` (9 by default) after a first one that is not counted, and by how much the losses differ: by rounding in the
first step, later by what Adam makes of it. About a minute. Wanted: at most 1.0x the time, the same loss.
"""

import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.vit.modeling_vit import ViTModel

from stages import config
from stages.dataset.tensors import Split
from stages.encoder_sections import Backbone, Projection
from stages.methods.method import Task
from stages.methods.stablerep import stablerep
from stages.networks import vit
from stages.pretrain_encoder import pretrain
from stages.training.runtime import open_runtime

CAPTIONS, IMAGES_PER_CAPTION = 4, 6
BACKBONE = Backbone(patch_size=16, hidden_size=384, num_layers=12, num_heads=6, initializer_range=0.02)
PROJECTION = Projection(hidden_size=4096, output_size=256, norm_over="view")


def settings(num_steps):
    """The digits profile's section with the networks of the paper."""
    section = config.load_profile("digits").pretrain_encoder
    batch = CAPTIONS * IMAGES_PER_CAPTION
    sizes = {"num_steps": num_steps, "warmup_steps": 1, "evaluate_every_steps": num_steps}
    sizes |= {"batch_size": batch, "micro_batch_size": batch, "precision": "float32"}
    return section.model_copy(
        update={
            "backbone": BACKBONE,
            "projection": PROJECTION,
            "images_per_caption": IMAGES_PER_CAPTION,
            "optimization": section.optimization.model_copy(update=sizes),
        }
    )


def pictures(size):
    """Eight captions of ten images of noise."""
    images = torch.randint(256, (80, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Split(images, torch.zeros(80, dtype=torch.int64), torch.arange(80) // 10, ("thing",))


class Plain:
    """The paper's pseudo-code: f is the backbone under the projection MLP, one batch norm per view."""

    def __init__(self, network, section):
        encoder = network.encoder.network.network
        self.backbone = ViTModel(encoder.config, add_pooling_layer=False)
        self.backbone.set_attn_implementation("sdpa")  # the library's default
        self.backbone.load_state_dict(encoder.state_dict())
        width, hidden, size = BACKBONE.hidden_size, PROJECTION.hidden_size, PROJECTION.output_size
        self.head = nn.Sequential(
            nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(),
            nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.ReLU(),
            nn.Linear(hidden, size),
        )  # fmt: skip
        self.head.load_state_dict(network.head.state_dict(), strict=False)
        self.temperature = section.temperature
        both = nn.ModuleList([self.backbone, self.head]).train()
        decayed, others = ([p for p in both.parameters() if (p.ndim > 1) == is_matrix] for is_matrix in (True, False))
        o = section.optimization
        groups = [{"params": decayed, "weight_decay": o.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, o.beta2))

    def step(self, views, rate):
        """One step on views (m * n, 3, H, W), view-major; returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        features = self.backbone(pixel_values=views).last_hidden_state[:, 0]
        h = F.normalize(torch.cat([self.head(view) for view in features.chunk(IMAGES_PER_CAPTION)]), dim=1)
        label = torch.arange(len(views)) % CAPTIONS
        p = (label.view(-1, 1) == label.view(1, -1)).float()
        p.fill_diagonal_(0)
        p /= p.sum(1, keepdim=True)
        logits = h @ h.T / self.temperature
        logits = logits - 1e9 * torch.eye(len(views))
        loss = -(p * logits.log_softmax(1)).sum(1).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def main():
    """Runs both side by side and prints the comparison."""
    steps, size = (int(given) for given in (*sys.argv[1:], *("9", "112")[len(sys.argv) - 1 :]))
    runtime, section = open_runtime(0), settings(steps + 1)
    split = pictures(size)
    encoder = vit.build_encoder(section.backbone, size, seed=0)
    method = stablerep(Task(encoder, split, Path(), section, runtime, seed=0))
    plain, losses = Plain(method.network, section), {"plain": [], "ours": []}
    seconds, started = {"plain": [], "ours": []}, 0.0
    rates = []

    def timed_batches(step, rows):
        nonlocal started
        rate = rates[-1]["lr"] if rates else 0.0
        started = time.process_time()
        batch = method.batches(step, rows)
        losses["plain"].append(plain.step(batch["images"], rate))
        seconds["plain"].append(time.process_time() - started)
        started = time.process_time()
        return method.batches(step, rows)

    def objective(network, batch):
        values = method.objective(network, batch)
        losses["ours"].append(float(values["loss"].detach()))
        return values

    def attach(optimizer):
        method.attach(optimizer)
        rates.append(optimizer.param_groups[0])
        optimizer.register_step_post_hook(lambda *_: seconds["ours"].append(time.process_time() - started))

    observed = replace(method, batches=timed_batches, objective=objective, attach=attach)
    with tempfile.TemporaryDirectory() as folder:
        pretrain(observed, encoder, section, split.images, runtime, Path(folder))
    median = {way: statistics.median(values[1:]) for way, values in seconds.items()}
    for way, value in median.items():
        print(f"{way:5} {value:6.3f} CPU-s a step of {CAPTIONS * IMAGES_PER_CAPTION} images of {size} pixels")
    ratios = sorted(ours / theirs for ours, theirs in zip(seconds["ours"][1:], seconds["plain"][1:], strict=True))
    print(f"ours takes {statistics.median(ratios):.3f} of the plain step's time ({ratios[0]:.3f} to {ratios[-1]:.3f})")
    gaps = [abs(a - b) / b for a, b in zip(losses["ours"], losses["plain"], strict=True)]
    print(f"losses differ by {gaps[0]:.1e} in the first step, by {max(gaps):.1e} at most over {steps + 1}")


if __name__ == "__main__":
    main()
