"""Linear heads trained by SGD at many learning rates at once: the linear probe of the StableRep release."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from stages.probe_sections import LinearHeads

MOMENTUM = 0.9
INITIAL_DEVIATION = 0.01
BATCH_OF_BASE_RATE = 256
"""Learning rates are given for this batch size and scaled linearly to the actual one."""
BATCH_NORM_EPSILON = 1e-6


@dataclass(frozen=True)
class Heads:
    """Fitted heads, one per learning rate."""

    weight: torch.Tensor
    """(heads, classes, D)."""
    bias: torch.Tensor
    """(heads, classes)."""
    normalization: nn.Module
    """What all of them see features through, in eval mode."""

    @torch.no_grad()
    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """(heads, images, classes) of features (images, D)."""
        return _apply(self.weight, self.bias, self.normalization(features)).transpose(0, 1)

    def accuracy(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Top-1 accuracy per head, (heads,), in [0, 1]."""
        return (self.logits(features).argmax(2) == labels).double().mean(1)


@torch.no_grad()
def fit_heads(
    features: torch.Tensor, labels: torch.Tensor, num_classes: int, settings: LinearHeads, seed: int
) -> Heads:
    """Fits one head per learning rate, all in one matrix product per step.

    `main_linear.py` of the StableRep release: SGD with momentum 0.9 and no weight decay, learning rate times batch size
    over 256 and by a half cosine to zero per step, weights from N(0, 0.01), optionally batch norm without parameters
    before the heads. Two differences: features are computed once, of images without augmentation, and the release
    reports the best head and epoch on the split that it reports, while here the caller chooses a head on other images.
    Gradients of the cross-entropy are written out, which is exact and needs no graph.

    Args:
        features: float (images, D), on any device.
        labels: int64 (images,).
        num_classes: outputs of a head.
        settings: learning rates, epochs, batch size, batch norm. A smaller rest of an epoch is left out.
        seed: of initial weights and of the order of images.
    """
    generator = torch.Generator().manual_seed(seed)
    count, dimensions = features.shape
    batch_size = min(settings.batch_size, count)
    rates = torch.tensor(settings.base_learning_rates).to(features) * (batch_size / BATCH_OF_BASE_RATE)
    shape = (len(rates), num_classes, dimensions)
    weight = (torch.randn(shape, generator=generator) * INITIAL_DEVIATION).to(features)
    bias = weight.new_zeros(shape[:2])
    weight_velocity, bias_velocity = torch.zeros_like(weight), torch.zeros_like(bias)
    normalization = _normalization(dimensions, settings.batch_norm).to(features)
    rows = torch.arange(batch_size, device=features.device)
    num_steps = settings.num_epochs * (count // batch_size)
    for step in range(num_steps):
        place = step % (count // batch_size)
        if place == 0:
            order = torch.randperm(count, generator=generator).to(features.device)
        batch = order[place * batch_size : (place + 1) * batch_size]
        inputs = normalization(features[batch])
        errors = _apply(weight, bias, inputs).softmax(2)  # (images, heads, classes)
        errors[rows, :, labels[batch]] -= 1
        errors /= batch_size
        weight_velocity.mul_(MOMENTUM).add_((errors.flatten(1).T @ inputs).view(shape))
        bias_velocity.mul_(MOMENTUM).add_(errors.sum(0))
        rate = rates * (0.5 * (1 + math.cos(math.pi * step / num_steps)))
        weight -= rate[:, None, None] * weight_velocity
        bias -= rate[:, None] * bias_velocity
    return Heads(weight, bias, normalization.eval())


def choose_head(heads: Heads, features: torch.Tensor, labels: torch.Tensor) -> int:
    """The position of the head that is the most accurate on held-out images, of equals the first."""
    return int(heads.accuracy(features, labels).argmax())


def _apply(weight: torch.Tensor, bias: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Logits (images, heads, classes), as one matrix product."""
    logits = torch.addmm(bias.flatten(), inputs, weight.flatten(0, 1).T)
    return logits.view(len(inputs), *bias.shape)


def _normalization(dimensions: int, batch_norm: bool) -> nn.Module:
    """Batch norm without parameters, which makes learning rates comparable between encoders, or nothing."""
    return nn.BatchNorm1d(dimensions, eps=BATCH_NORM_EPSILON, affine=False) if batch_norm else nn.Identity()
