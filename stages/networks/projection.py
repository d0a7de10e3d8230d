"""The projection head of contrastive pretraining, dropped afterwards."""

import torch
from torch import nn

from stages.encoder_sections import Projection
from stages.networks.batchnorm import GroupBatchNorm1d


class ProjectedEncoder(nn.Module):
    """An encoder under StableRep's head: Linear-BN-ReLU-Linear-BN-ReLU-Linear.

    As in the released `image_mlp`: biases everywhere, no norm after the last layer, and batch-norm statistics taken
    per view. Batches are view-major, so the n images of one view stand in a row: they are the norm's group.
    """

    def __init__(self, encoder: nn.Module, width: int, settings: Projection, images_per_view: int) -> None:
        super().__init__()
        hidden = settings.hidden_size
        self.encoder = encoder
        self.head = nn.Sequential(
            nn.Linear(width, hidden),
            GroupBatchNorm1d(hidden, images_per_view),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            GroupBatchNorm1d(hidden, images_per_view),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, settings.output_size),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps images (B, 3, H, W) in [-1, 1], B a multiple of `images_per_view`, to features (B, output_size)."""
        features: torch.Tensor = self.head(self.encoder(images))
        return features
