"""What weights are selected by."""

import pytest
import torch
from torch import nn

from stages.training.loop import Plan
from stages.training.runtime import open_runtime
from stages.training.selection import scorer


class Index(nn.Module):
    """Says that an image's class is its first pixel."""

    def forward(self, images):
        return nn.functional.one_hot(images[:, 0, 0, 0].long(), 20).float()


@pytest.mark.parametrize("micro_batch_size", [1, 4, 6, 11, 64])
def test_every_image_counts_the_same_whatever_the_parts(micro_batch_size):
    """A mean of the parts' means would give the last, smaller part's images more weight."""
    plan = Plan(1, 64, micro_batch_size, lambda step: 0.0, 1, "float32", None, 1.0, ())
    images = torch.arange(11, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)
    labels = torch.arange(11)
    labels[8:] += 1
    looked_at = []

    def prepare(part):
        looked_at.append(len(part))
        return part.float()

    evaluate = scorer({"val": (images, labels)}, prepare, plan, open_runtime(0))
    assert evaluate(Index(), 1) == {"val": pytest.approx(8 / 11)}
    assert sum(looked_at) == 11
    assert max(looked_at) <= micro_batch_size
