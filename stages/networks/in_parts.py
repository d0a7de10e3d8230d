"""Large batches through a network a part at a time, for losses that need all of a batch at once.

What Gao et al. call cached gradients ("Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", 2021):
a first pass keeps no activations but the features, the loss compares all of them and leaves a gradient for each, and a
second pass runs each part again to carry that gradient to the weights. Gradient accumulation alone would compare each
image with those of its micro-batch only.
"""

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class InParts(nn.Module):
    """A network that sees at most `size` rows at a time; activations are held for one part at a time.

    Value and gradient are those of the network on the whole batch, in 4/3 of the time. Not for networks whose rows see
    one another, such as those with batch norm.
    """

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network = network
        self.size = size

    def forward(self, inputs: torch.Tensor, **options: Any) -> torch.Tensor:
        """Maps (B, ...) to what the network gives for it, (B, D); `options` go to the network."""
        if len(inputs) <= self.size:
            outputs: torch.Tensor = self.network(inputs, **options)
            return outputs
        parts = [inputs[start : start + self.size] for start in range(0, len(inputs), self.size)]
        if torch.is_grad_enabled():
            return torch.cat([checkpoint(self.network, part, use_reentrant=False, **options) for part in parts])
        return torch.cat([self.network(part, **options) for part in parts])
