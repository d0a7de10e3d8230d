"""Classification: the control that sees labels, an encoder under a linear head.

Views: one crop of each image. Loss: cross-entropy with label smoothing. Settings: `supervised`.
"""

import torch
from torch import nn

from stages.dataset.multiview import class_labels, crop_views
from stages.methods.method import Method, Task
from stages.methods.views import view_batches
from stages.training.objectives import cross_entropy


def supervised(task: Task) -> Method:
    """A classifier of images that have labels."""
    recipe, labels = task.section.supervised, class_labels(task.split)

    def extras(step: int, positions: range, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"labels": labels[rows[positions.start : positions.stop]]}

    rows_of = crop_views(len(task.split), task.num_things(1), 1, task.seed)
    head = nn.Linear(task.section.backbone.hidden_size, len(task.split.class_names))
    return Method(
        labels_seen="classes",
        recipe=recipe,
        batches=view_batches(task, rows_of, recipe.augmentation, extras),
        network=nn.Sequential(task.encoder, head),
        objective=cross_entropy(recipe.label_smoothing),
        compares_images=False,
    )
