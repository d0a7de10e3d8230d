"""MoCo v3 (Chen, Xie and He, "An Empirical Study of Training Self-Supervised Vision Transformers", ICCV 2021).

Views: two crops of each image. Loss: InfoNCE against the target's keys of the other crop (algorithm 1); the target
follows by a moving average. Settings: `mocov3`, `projection`.
"""

from stages.dataset.multiview import crop_views
from stages.methods.method import Method, Task
from stages.methods.views import TWO_CROPS, view_batches
from stages.networks.heads import mocov3_head
from stages.networks.momentum_pair import MomentumPair
from stages.networks.projection import ProjectedEncoder
from stages.training.mocov3 import MocoV3Objective
from stages.training.momentum import follow, momentum_to_one

PROJECTOR_LAYERS, PREDICTOR_LAYERS = 3, 2


def mocov3(task: Task) -> Method:
    """MoCo v3 on any images."""
    section, recipe, n = task.section, task.section.mocov3, task.num_things(TWO_CROPS)
    norm, sizes = task.norm(n), section.projection
    if recipe.freeze_patch_embedding:
        task.encoder.network.embeddings.patch_embeddings.requires_grad_(False)
    rows_of = crop_views(len(task.split), n, TWO_CROPS, task.seed)
    head = mocov3_head(section.backbone.hidden_size, PROJECTOR_LAYERS, sizes, norm)
    online = ProjectedEncoder(task.encoder_in_parts(), head)
    pair = MomentumPair(online, mocov3_head(sizes.output_size, PREDICTOR_LAYERS, sizes, norm))
    momentum = momentum_to_one(recipe.momentum, section.optimization.num_steps)
    return Method(
        labels_seen="none",
        recipe=recipe,
        batches=view_batches(task, rows_of, recipe.augmentation, lambda *_: {}),
        network=pair,
        objective=MocoV3Objective(recipe.temperature, task.runtime.gather, task.runtime.rank),
        compares_images=True,
        attach=lambda optimizer: follow(pair.target, pair.online, optimizer, momentum),
    )
