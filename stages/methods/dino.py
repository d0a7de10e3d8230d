"""DINO (Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021).

Views: two crops of each image, and local ones where `local_crops` asks for them. Loss: cross-entropy under the
teacher's centred and sharpened softmax (equation 3); the teacher follows by a moving average, and is the encoder that
is kept, since it is the better one all along (section 5.2). Settings: `dino`.
"""

import torch
from torch import nn

from stages.dataset.multiview import crop_views
from stages.methods.method import Method, Task
from stages.methods.views import TWO_CROPS, view_batches
from stages.networks import vit
from stages.networks.heads import DinoHead
from stages.networks.in_parts import InParts
from stages.networks.momentum_pair import MomentumPair
from stages.networks.projection import ProjectedEncoder
from stages.training.dino import DinoObjective, schedule
from stages.training.momentum import follow, momentum_to_one


def dino(task: Task) -> Method:
    """DINO on any images."""
    section, recipe, n = task.section, task.section.dino, task.num_things(TWO_CROPS)
    num_steps = section.optimization.num_steps
    rows_of = crop_views(len(task.split), n, TWO_CROPS, task.seed)
    head = DinoHead(section.backbone.hidden_size, recipe, task.norm(n))
    pair = MomentumPair(ProjectedEncoder(task.encoder_in_parts(), head), nn.Identity())
    pair.register_buffer("center", torch.zeros(recipe.num_prototypes, device=task.runtime.device))

    def attach(optimizer: torch.optim.Optimizer) -> None:
        follow(pair.target, pair.online, optimizer, momentum_to_one(recipe.momentum, num_steps))
        schedule(optimizer, head.prototypes, recipe, num_steps)

    return Method(
        labels_seen="none",
        recipe=recipe,
        batches=view_batches(
            task,
            rows_of,
            recipe.augmentation,
            lambda step, *_: {"step": torch.tensor(step)},
            section.local_crops,
        ),
        network=pair,
        objective=DinoObjective(recipe, pair.get_buffer("center"), task.runtime.gather, task.runtime.rank),
        compares_images=True,
        attach=attach,
        teacher=teacher_of(pair),
    )


def teacher_of(pair: MomentumPair) -> vit.ViTEncoder:
    """The encoder of the pair's target."""
    in_parts = pair.target.encoder
    assert isinstance(in_parts, InParts)
    encoder = in_parts.network
    assert isinstance(encoder, vit.ViTEncoder)
    return encoder
