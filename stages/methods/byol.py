"""BYOL (Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020): predict the target's view of the other crop.

Views: two crops of each image. Loss: squared distance of unit vectors (equations 2 and 3); the target follows by a
moving average. Settings: `byol`, `projection`.
"""

from stages.dataset.multiview import crop_views
from stages.methods.method import Method, Task
from stages.methods.views import TWO_CROPS, view_batches
from stages.networks.heads import byol_head
from stages.networks.momentum_pair import MomentumPair
from stages.networks.projection import ProjectedEncoder
from stages.training.byol import ByolObjective
from stages.training.momentum import follow, momentum_to_one


def byol(task: Task) -> Method:
    """BYOL on any images."""
    section, recipe, n = task.section, task.section.byol, task.num_things(TWO_CROPS)
    norm = task.norm(n)
    rows_of = crop_views(len(task.split), n, TWO_CROPS, task.seed)
    head = byol_head(section.backbone.hidden_size, section.projection, norm)
    online = ProjectedEncoder(task.encoder_in_parts(), head)
    pair = MomentumPair(online, byol_head(section.projection.output_size, section.projection, norm))
    momentum = momentum_to_one(recipe.momentum, section.optimization.num_steps)
    return Method(
        labels_seen="none",
        recipe=recipe,
        batches=view_batches(task, rows_of, recipe.augmentation, lambda *_: {}),
        network=pair,
        objective=ByolObjective(task.runtime.gather, task.runtime.rank),
        compares_images=True,
        attach=lambda optimizer: follow(pair.target, pair.online, optimizer, momentum),
    )
