"""A small residual network for small images, cheap enough for a CPU."""

import torch
import torch.nn.functional as F
from torch import nn

from stages.networks.batchnorm import GroupBatchNorm2d

LOGIT_SCALE = 0.125


class ConvNorm(nn.Module):
    """3x3 convolution, max pooling by `pool`, batch norm, ReLU: pooling first makes the norm four times cheaper."""

    def __init__(self, in_channels: int, out_channels: int, pool: int, norm_group: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.pool = pool
        self.norm = GroupBatchNorm2d(out_channels, norm_group)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / pool, W / pool)."""
        outputs = self.conv(inputs)
        if self.pool > 1:
            outputs = F.max_pool2d(outputs, self.pool)
        return F.relu(self.norm(outputs), inplace=True)


class Residual(nn.Module):
    """The inputs plus two `ConvNorm`s of them."""

    def __init__(self, channels: int, norm_group: int) -> None:
        super().__init__()
        self.first = ConvNorm(channels, channels, 1, norm_group)
        self.second = ConvNorm(channels, channels, 1, norm_group)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(B, channels, H, W) to the same shape."""
        outputs: torch.Tensor = inputs + self.second(self.first(inputs))
        return outputs


class ResNet9(nn.Module):
    """Eight convolutions in channels w, 2w, 4w, 8w and a linear layer; two of three resolutions have a residual.

    David Page's network ("How to train your ResNet", 2018), made for CIFAR-10 in minutes: 94 % at width 64 in the
    original. Logits are scaled down, as there, which keeps the first softmaxes soft at high learning rates.
    """

    def __init__(self, width: int, norm_group: int, num_classes: int) -> None:
        super().__init__()
        self.stem = ConvNorm(3, width, 1, norm_group)
        self.body = nn.Sequential(
            ConvNorm(width, 2 * width, 2, norm_group),
            Residual(2 * width, norm_group),
            ConvNorm(2 * width, 4 * width, 2, norm_group),
            ConvNorm(4 * width, 8 * width, 2, norm_group),
            Residual(8 * width, norm_group),
        )
        self.head = nn.Linear(8 * width, num_classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [-1, 1] to the penultimate layer (B, 8 * width)."""
        features: torch.Tensor = self.body(self.stem(images)).amax((2, 3))
        return features

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """What `features` gives to logits (B, classes)."""
        logits: torch.Tensor = self.head(features) * LOGIT_SCALE
        return logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [-1, 1] to logits (B, classes)."""
        return self.classify(self.features(images))
