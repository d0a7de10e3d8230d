"""An encoder under a head, which is dropped after pretraining."""

import torch
from torch import nn


class ProjectedEncoder(nn.Module):
    """An encoder of images under the head of its method (`heads`)."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, images: torch.Tensor, crops: torch.Tensor | None = None) -> torch.Tensor:
        """Maps images to what their method compares.

        Args:
            images: (B, 3, H, W) in [-1, 1], view-major: the norms of the head take statistics over whole views.
            crops: (B * k, 3, h, w), smaller local crops of the same images, k view-major batches like `images`.

        Returns:
            (B, D), and with crops (B + B * k, D).
        """
        features = self.encoder(images)
        if crops is not None:
            features = torch.cat([features, self.encoder(crops, interpolate=True)])
        outputs: torch.Tensor = self.head(features)
        return outputs
