"""DINO (Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021).

Two global crops of each image, and local ones where a profile asks for them: at 32 pixels a crop of a twentieth of the
area is 7 pixels wide.
"""

import math

import torch
from torch import nn

from stages.encoder_sections import Dino
from stages.training.contrastive import Gather
from stages.training.momentum import other_view, steps_done


def dino_loss(
    outputs: torch.Tensor,
    targets: torch.Tensor,
    positions: torch.Tensor,
    center: torch.Tensor,
    student_temperature: float,
    teacher_temperature: float,
) -> torch.Tensor:
    """Cross-entropy of the student's softmax under the teacher's centred and sharpened one for the other view (eq. 3).

    Args:
        outputs: (B, K), this process's student outputs.
        targets: (N, K) without gradient, all processes' rows in view-major order, two views per image.
        positions: int64 (B,), where the outputs' images stand among the N.
        center: (K,), subtracted from the teacher's outputs.
        student_temperature: tau_s.
        teacher_temperature: tau_t.

    Returns:
        The mean over images and both directions.
    """
    wanted = ((targets[other_view(positions, len(targets))] - center) / teacher_temperature).softmax(dim=1)
    return -(wanted * (outputs / student_temperature).log_softmax(dim=1)).sum(dim=1).mean()


def local_crops_loss(
    outputs: torch.Tensor,
    targets: torch.Tensor,
    positions: torch.Tensor,
    center: torch.Tensor,
    student_temperature: float,
    teacher_temperature: float,
) -> torch.Tensor:
    """The same for local crops, each under the teacher's softmax for either view of its image.

    Args:
        outputs: (k * B, K), the student's: a first crop of this process's views in their order, a second, ...
        targets: as for `dino_loss`.
        positions: int64 (B,), where these views stand among the N.
        center: as for `dino_loss`.
        student_temperature: tau_s.
        teacher_temperature: tau_t.

    Returns:
        The mean over crops and views.
    """
    positions = positions.repeat(len(outputs) // len(positions))
    losses = [
        dino_loss(outputs, targets, rows, center, student_temperature, teacher_temperature)
        for rows in (positions, other_view(positions, len(targets)))
    ]
    return torch.stack(losses).mean()


def teacher_temperature(step: int, settings: Dino) -> float:
    """tau_t of a step: a linear rise over the warmup, then constant."""
    start, end, warmup = (
        settings.warmup_teacher_temperature,
        settings.teacher_temperature,
        settings.teacher_warmup_steps,
    )
    return end if step >= warmup else start + (end - start) * step / warmup


class DinoObjective:
    """An objective for `fit`: batches hold `images`, two crops of each, view-major, and `step`, a scalar.

    They may hold `crops`, local ones. The loss is the mean over all pairs of a student's crop and a teacher's other.
    """

    def __init__(self, settings: Dino, center: torch.Tensor, gather: Gather, rank: int) -> None:
        """Takes the center (K,), a buffer of the network, so that it is saved with it; it is moved in place."""
        self.settings = settings
        self.center = center
        self.gather = gather
        self.rank = rank

    def __call__(self, network: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Takes a network that gives student and teacher outputs (B, K), such as `MomentumPair`."""
        outputs, targets = network(*(batch[name] for name in ("images", "crops") if name in batch))
        settings = self.settings
        dtype = torch.promote_types(outputs.dtype, torch.float32)
        gathered = self.gather(targets.to(dtype))
        outputs = outputs.to(dtype)
        views, crops = outputs[: len(targets)], outputs[len(targets) :]
        rows = torch.arange(len(views), device=outputs.device) + self.rank * len(views)
        temperatures = settings.student_temperature, teacher_temperature(int(batch["step"]), settings)
        loss = dino_loss(views, gathered, rows, self.center, *temperatures)
        if len(crops):
            local_pairs = 2 * len(crops) // len(views)  # a view meets one teacher's view, a local crop two
            local = local_crops_loss(crops, gathered, rows, self.center, *temperatures)
            loss = (loss + local_pairs * local) / (1 + local_pairs)
        # Equation 4, after its use: so every process moves the same center by the same rows.
        self.center.lerp_(gathered.mean(dim=0).to(self.center), 1 - settings.center_momentum)
        return {"loss": loss}


def schedule(optimizer: torch.optim.Optimizer, prototypes: nn.Module, settings: Dino, num_steps: int) -> None:
    """Raises the weight decay by half a cosine over training, and holds the prototypes still in the first steps.

    Both as in the release; groups without weight decay stay so.
    """
    start, end = settings.weight_decay, settings.final_weight_decay

    def prepare(optimizer: torch.optim.Optimizer, *_: object) -> None:
        step = steps_done(optimizer)
        for group in optimizer.param_groups:
            if group["weight_decay"]:
                group["weight_decay"] = end + (start - end) * (1 + math.cos(math.pi * step / num_steps)) / 2
        if step < settings.freeze_prototypes_steps:
            for parameter in prototypes.parameters():
                parameter.grad = None

    optimizer.register_step_pre_hook(prepare)
