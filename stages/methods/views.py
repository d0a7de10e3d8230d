"""The batches of a method: augmented views, and what goes with them."""

from collections.abc import Callable, Mapping

import torch

from stages.dataset.augment import augment
from stages.dataset.downsample import downsample
from stages.dataset.local_crops import local_crops
from stages.encoder_sections import LocalCrops
from stages.methods.method import Task
from stages.sections import Augmentation
from stages.training.loop import Batches

TWO_CROPS = 2
"""Views of the methods that compare an image with itself."""
RowsOf = Callable[[int], torch.Tensor]
Extras = Callable[[int, range, torch.Tensor], Mapping[str, torch.Tensor]]
"""What else a batch holds: a function of the step, the positions in its global batch, and all its rows (N,)."""


def view_batches(
    task: Task, rows_of: RowsOf, augmentation: Augmentation, extras: Extras, crops: LocalCrops | None = None
) -> Batches:
    """Views as a pure function of the step.

    Args:
        task: the images, and whether some are made coarse.
        rows_of: the step's rows of the split, view-major; asked for step 0 now, so that it complains now.
        augmentation: of each view.
        extras: asked for step 0 now as well.
        crops: local crops beside each view.

    Returns:
        For a step and positions in its global batch `images` (B, 3, H, W) in [-1, 1], with `crops` also those
        (k * B, 3, h, w), and the extras, on the device.
    """
    device, seed, coarse = task.runtime.device, task.seed, task.section.downsample
    first = rows_of(0)
    extras(0, range(1), first)
    images = task.split.images.to(device)

    def batches(step: int, positions: range) -> dict[str, torch.Tensor]:
        rows = rows_of(step)
        indices = torch.arange(positions.start, positions.stop)
        chosen = images[rows[positions.start : positions.stop].to(images.device)]
        if coarse:
            chosen = downsample(chosen, coarse, seed, step, indices)
        batch = {"images": augment(chosen, augmentation, seed, step, indices)}
        if crops:
            batch["crops"] = local_crops(chosen, crops, augmentation, seed, step, indices, len(rows))
        return batch | {name: tensor.to(device) for name, tensor in extras(step, positions, rows).items()}

    return batches
