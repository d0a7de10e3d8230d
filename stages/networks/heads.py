"""The heads of the methods, over an encoder's features; dropped after pretraining.

Batch norms take their statistics per view, as the published codes do by passing one view at a time, or over the global
batch. That and results that don't depend on the number of processes are why these are not `lightly`'s heads, which
hold `nn.BatchNorm1d`. `norm` makes a batch norm of so many features.
"""

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from stages.encoder_sections import Dino, Projection

Norm = Callable[[int], nn.Module]


def contrastive_head(width: int, settings: Projection, norm: Norm) -> nn.Sequential:
    """StableRep's `image_mlp`: Linear-BN-ReLU-Linear-BN-ReLU-Linear, biases everywhere, no norm after the last."""
    hidden = settings.hidden_size
    return nn.Sequential(
        nn.Linear(width, hidden),
        norm(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, hidden),
        norm(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, settings.output_size),
    )


def byol_head(width: int, settings: Projection, norm: Norm) -> nn.Sequential:
    """BYOL's projector, and with `width` = output_size its predictor: Linear-BN-ReLU-Linear (section 3.3)."""
    hidden = settings.hidden_size
    return nn.Sequential(
        nn.Linear(width, hidden),
        norm(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, settings.output_size),
    )


def mocov3_head(width: int, num_layers: int, settings: Projection, norm: Norm) -> nn.Sequential:
    """MoCo v3's projector (three layers) and predictor (two): every layer has BN, no biases, the last no ReLU."""
    sizes = [width, *[settings.hidden_size] * (num_layers - 1), settings.output_size]
    modules: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        modules += [nn.Linear(inputs, outputs, bias=False), norm(outputs), nn.ReLU()]
    return nn.Sequential(*modules[:-1])


class DinoHead(nn.Module):
    """DINO's head: three layers with GELU, unit length, then similarity to prototypes of unit length.

    The last is the weight-normalised layer of the release with its norms held at 1.
    """

    def __init__(self, width: int, settings: Dino, norm: Norm) -> None:
        super().__init__()
        hidden = settings.hidden_size
        norms = [norm(hidden) for _ in range(2)] if settings.batch_norm else []
        first, second = norms or (nn.Identity(), nn.Identity())
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            first,
            nn.GELU(),
            nn.Linear(hidden, hidden),
            second,
            nn.GELU(),
            nn.Linear(hidden, settings.bottleneck_size),
        )
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.prototypes = nn.Linear(settings.bottleneck_size, settings.num_prototypes, bias=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Maps features (B, width) to (B, num_prototypes), each in [-1, 1]."""
        return F.linear(F.normalize(self.mlp(features), dim=1), F.normalize(self.prototypes.weight, dim=1))
