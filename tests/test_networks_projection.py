"""StableRep's projection head, and encoders under heads."""

import weakref
from functools import partial

import pytest
import torch
from torch import nn

from stages.encoder_sections import Backbone, Projection
from stages.networks import vit
from stages.networks.batchnorm import GroupBatchNorm1d
from stages.networks.heads import contrastive_head
from stages.networks.in_parts import InParts
from stages.networks.projection import ProjectedEncoder

SETTINGS = Projection(hidden_size=6, output_size=3, norm_over="view")
BACKBONE = Backbone(patch_size=4, hidden_size=8, num_layers=2, num_heads=2, initializer_range=0.5)


def head(norm_group):
    torch.manual_seed(0)
    return contrastive_head(5, SETTINGS, partial(GroupBatchNorm1d, group=norm_group))


def test_layers_are_the_released_ones():
    layers = [type(layer).__name__ for layer in head(4)]
    assert layers == ["Linear", "GroupBatchNorm1d", "ReLU", "Linear", "GroupBatchNorm1d", "ReLU", "Linear"]
    linear = [layer for layer in head(4) if isinstance(layer, nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in linear] == [(6, 5), (6, 6), (3, 6)]
    assert all(layer.bias is not None for layer in linear)


def test_each_view_has_statistics_of_its_own():
    features = torch.randn(12, 5)
    network = head(4)
    together = network(features)
    apart = torch.cat([network(view) for view in features.split(4)])
    torch.testing.assert_close(together, apart)
    assert not torch.allclose(together, head(12)(features), atol=1e-3)
    reference = nn.Sequential(*(nn.BatchNorm1d(6) if "Norm" in type(layer).__name__ else layer for layer in network))
    torch.testing.assert_close(together[4:8], reference(features[4:8]))


def test_a_part_of_a_view_is_refused():
    with pytest.raises(ValueError, match="no whole number of groups of 4"):
        head(4)(torch.randn(6, 5))


def test_local_crops_go_through_the_same_weights_at_their_own_size():
    encoder = vit.build_encoder(BACKBONE, 16, seed=0)
    network = ProjectedEncoder(encoder, nn.Identity())
    images, crops = torch.rand(2, 3, 16, 16), torch.rand(4, 3, 8, 8)
    features = network(images, crops)
    assert features.shape == (6, 8)
    torch.testing.assert_close(features[:2], encoder(images))
    positions = encoder.network.embeddings.position_embeddings
    grid = positions[:, 1:].view(1, 4, 4, 8).permute(0, 3, 1, 2)
    small = nn.functional.interpolate(grid, (2, 2), mode="bicubic").permute(0, 2, 3, 1).reshape(1, 4, 8)
    other = vit.build_encoder(BACKBONE, 8, seed=0)  # a network of that size, with the interpolated positions
    weights = {name: tensor for name, tensor in encoder.network.state_dict().items() if "position" not in name}
    other.network.load_state_dict(weights, strict=False)
    other.network.embeddings.position_embeddings.data = torch.cat([positions[:, :1], small], dim=1)
    torch.testing.assert_close(features[2:], other(crops))


def test_parts_hold_activations_of_one_part_at_a_time():
    """In the backward pass as well: what is kept of an encoder grows with the part and not with the batch."""
    encoder = vit.build_encoder(BACKBONE, 16, seed=0)
    alive = most = 0

    def count(layer, inputs, outputs):
        nonlocal alive, most

        def forget(size):
            nonlocal alive
            alive -= size

        alive += outputs.numel()
        most = max(most, alive)
        weakref.finalize(outputs, forget, outputs.numel())

    for layer in encoder.network.layers:
        layer.register_forward_hook(count)
    held = {}
    for size in (2, 16):
        most = 0
        InParts(encoder, size)(torch.rand(16, 3, 16, 16)).square().sum().backward()
        assert alive == 0
        held[size] = most
    assert held[16] == 2 * 16 * 17 * 8  # layers, images, tokens, width
    assert held[2] == held[16] / 8
