"""What StableRep, SupCon and SimCLR share: the network and the loss; they differ in views and positives."""

import torch

from stages.dataset.multiview import PositiveKey, keys_of
from stages.encoder_sections import Recipe
from stages.methods.method import LabelsSeen, Method, Task
from stages.methods.views import RowsOf, view_batches
from stages.networks.heads import contrastive_head
from stages.networks.projection import ProjectedEncoder
from stages.training.contrastive import contrastive_objective


def contrastive(
    task: Task, rows_of: RowsOf, num_views: int, key: PositiveKey, recipe: Recipe, labels_seen: LabelsSeen
) -> Method:
    """The multi-positive contrastive method on batches of `num_views` views whose positives are equal in `key`."""
    section, n = task.section, task.num_things(num_views)
    keys = keys_of(task.split, key, num_views)

    def extras(step: int, positions: range, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"keys": keys(rows)[positions.start : positions.stop]}

    batches = view_batches(task, rows_of, recipe.augmentation, extras, section.local_crops)
    head = contrastive_head(section.backbone.hidden_size, section.projection, task.norm(n))
    return Method(
        labels_seen=labels_seen,
        recipe=recipe,
        batches=batches,
        network=ProjectedEncoder(task.encoder_in_parts(), head),
        objective=contrastive_objective(section.temperature, task.runtime.gather, task.runtime.rank),
        compares_images=True,
    )
