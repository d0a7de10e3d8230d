"""Grad-CAM against the formula, and where attention lies on maps that are known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stages.dataset.augment import normalize
from stages.detector_sections import DetectorNetwork
from stages.evaluation import attention
from stages.networks import detector


@pytest.fixture
def network():
    torch.manual_seed(0)
    return detector.build(DetectorNetwork(num_filters=6, hidden_size=8), 16).eval()


def images(count, size=16):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def slow(network, image, kind):
    """The paper's equations for one image, with the network cut in two by hand."""
    first, second = network.convs
    maps = F.relu(second(F.max_pool2d(F.relu(first(normalize(image[None]))), 2))).detach().requires_grad_()
    logit = network.output(F.relu(network.hidden(F.max_pool2d(maps, 2).flatten(1))))
    ((logit if kind else -logit).sum()).backward()
    weights = maps.grad.mean((2, 3))[0]
    heat = sum(weight * each for weight, each in zip(weights, maps[0].detach(), strict=True)).clamp(min=0)
    large = F.interpolate(heat[None, None], scale_factor=2, mode="bilinear")[0, 0]
    return large / large.sum() if large.sum() > 0 else large


def test_heat_maps_are_grad_cam(network):
    batch, kinds = images(5), torch.tensor([0, 1, 1, 0, 1])
    found = attention.heat_maps(network, network.last_maps, batch, kinds, 2, normalize)
    expected = torch.stack([slow(network, image, kind) for image, kind in zip(batch, kinds.tolist(), strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert found.std() > 1e-4
    other = attention.heat_maps(network, network.last_maps, batch, 1 - kinds, 2, normalize)
    assert not torch.allclose(found, other)


def test_a_map_that_nothing_speaks_for_is_zero_and_left_out(network):
    nn.init.zeros_(network.output.weight)
    maps = attention.heat_maps(network, network.last_maps, images(2), torch.tensor([0, 1]), 2, normalize)
    assert maps.abs().max() == 0
    assert attention.border_density(maps) == 0
    even = torch.full((1, 16, 16), 1 / 256)
    assert attention.border_density(torch.cat([maps, even])) == pytest.approx(1)


def test_density_is_one_where_attention_is_even():
    even = torch.full((3, 32, 32), 1 / 1024)
    np.testing.assert_allclose(attention.density_by_ring(even), np.ones(16), rtol=1e-6)
    assert attention.border_density(even) == pytest.approx(1)


def test_density_tells_the_border_from_the_middle():
    frame = torch.ones(1, 32, 32)
    frame[:, 4:-4, 4:-4] = 0
    frame /= frame.sum()
    area = 1 - 24**2 / 32**2
    assert attention.border_density(frame) == pytest.approx(1 / area)
    np.testing.assert_allclose(attention.density_by_ring(frame)[:4], 1 / area, rtol=1e-6)
    assert attention.density_by_ring(frame)[4:].max() == 0
    middle = torch.zeros(1, 32, 32)
    middle[0, 16, 16] = 1
    assert attention.border_density(middle) == 0
    assert attention.density_by_ring(middle)[15] == pytest.approx(1024 / 4)


def test_pictures_are_red_where_attention_is_and_gray_elsewhere():
    batch = images(2)
    maps = torch.zeros(2, 16, 16)
    maps[0, 3, 5] = 0.2
    shown = attention.overlay(batch, maps)
    gray = batch.float().mean(1, keepdim=True).round().expand(-1, 3, -1, -1)
    assert torch.equal(shown[1].float(), gray[1])
    assert shown[0, 0, 3, 5] > 190
    assert shown[0, 2, 3, 5] < 65
    elsewhere = torch.ones(16, 16, dtype=torch.bool)
    elsewhere[3, 5] = False
    assert torch.equal(shown[0][:, elsewhere].float(), gray[0][:, elsewhere])
