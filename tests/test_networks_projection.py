"""StableRep's projection head."""

import pytest
import torch
from torch import nn

from stages.encoder_sections import Projection
from stages.networks.projection import ProjectedEncoder

SETTINGS = Projection(hidden_size=6, output_size=3)


def head(images_per_view):
    torch.manual_seed(0)
    return ProjectedEncoder(nn.Flatten(), 5, SETTINGS, images_per_view)


def test_layers_are_the_released_ones():
    layers = [type(layer).__name__ for layer in head(4).head]
    assert layers == ["Linear", "GroupBatchNorm1d", "ReLU", "Linear", "GroupBatchNorm1d", "ReLU", "Linear"]
    linear = [layer for layer in head(4).head if isinstance(layer, nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in linear] == [(6, 5), (6, 6), (3, 6)]
    assert all(layer.bias is not None for layer in linear)


def test_each_view_has_statistics_of_its_own():
    images = torch.randn(12, 5)
    network = head(4)
    together = network(images)
    apart = torch.cat([network(view) for view in images.split(4)])
    torch.testing.assert_close(together, apart)
    assert not torch.allclose(together, head(12)(images), atol=1e-3)
    reference = nn.Sequential(
        *(nn.BatchNorm1d(6) if "Norm" in type(layer).__name__ else layer for layer in network.head)
    )
    torch.testing.assert_close(together[4:8], reference(images[4:8]))


def test_a_part_of_a_view_is_refused():
    with pytest.raises(ValueError, match="no whole number of groups of 4"):
        head(4)(torch.randn(6, 5))
