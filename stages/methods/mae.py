"""MAE (He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022): paint what is hidden.

Views: one crop of each image. Loss: squared error over hidden patches. Settings: `mae`.
"""

import torch

from stages.dataset.multiview import crop_views
from stages.methods.method import Method, Task
from stages.methods.views import view_batches
from stages.networks.masked_autoencoder import MaskedAutoencoder
from stages.training.mae import MaeObjective, mask_noise


def mae(task: Task) -> Method:
    """MAE on any images."""
    recipe = task.section.mae
    num_patches = (task.split.images.shape[-1] // task.section.backbone.patch_size) ** 2

    def extras(step: int, positions: range, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"noise": mask_noise(task.seed, step, positions, num_patches)}

    rows_of = crop_views(len(task.split), task.num_things(1), 1, task.seed)
    return Method(
        labels_seen="none",
        recipe=recipe,
        batches=view_batches(task, rows_of, recipe.augmentation, extras),
        network=MaskedAutoencoder(task.encoder, recipe),
        objective=MaeObjective(recipe.normalize_patches),
        compares_images=False,
    )
