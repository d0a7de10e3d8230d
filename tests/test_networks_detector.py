"""The detector is the published network, and its pair of logits is its one sigmoid unit."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stages.artifacts import BadInput
from stages.detector_sections import DetectorNetwork
from stages.networks import detector

PUBLISHED = DetectorNetwork(num_filters=32, hidden_size=64)
SMALL = DetectorNetwork(num_filters=3, hidden_size=5)


def test_the_published_sizes_give_the_published_number_of_parameters():
    network = detector.build(PUBLISHED, 32)
    assert sum(p.numel() for p in network.parameters()) == 141_345


def test_it_is_convolution_relu_pooling_twice_and_two_dense_layers():
    torch.manual_seed(0)
    network = detector.build(SMALL, 16)
    plain = nn.Sequential(
        nn.Conv2d(3, 3, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(3, 3, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(48, 5), nn.ReLU(), nn.Linear(5, 1),
    )  # fmt: skip
    for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        theirs.data = ours.data
    images = torch.rand(4, 3, 16, 16) * 2 - 1
    logits, (expected,) = network(images), plain(images).T
    torch.testing.assert_close(logits, torch.stack([torch.zeros(4), expected], dim=1))
    assert expected.std() > 1e-4


def test_the_pair_of_logits_is_one_sigmoid_unit():
    logits = detector.build(SMALL, 16)(torch.rand(6, 3, 16, 16))
    kinds = torch.tensor([0, 1, 1, 0, 1, 0])
    torch.testing.assert_close(logits.softmax(1)[:, 1], logits[:, 1].sigmoid())
    binary = F.binary_cross_entropy_with_logits(logits[:, 1], kinds.float())
    torch.testing.assert_close(F.cross_entropy(logits, kinds), binary)


def test_saved_and_loaded_it_says_the_same(tmp_path):
    network = detector.build(SMALL, 16).eval()
    detector.save(tmp_path, SMALL, 16, 1.75, network.state_dict())
    loaded, temperature = detector.load(tmp_path, 16)
    images = torch.rand(2, 3, 16, 16)
    assert temperature == 1.75
    assert torch.equal(loaded(images), network(images))


def test_bad_folders_and_sizes_are_refused(tmp_path):
    with pytest.raises(BadInput, match=r"18 is no multiple of 4"):
        detector.build(SMALL, 18)
    with pytest.raises(BadInput, match="not there"):
        detector.load(tmp_path, 16)
    detector.save(tmp_path, SMALL, 16, 1.0, detector.build(SMALL, 16).state_dict())
    with pytest.raises(BadInput, match="trained at 16 pixels, not 32"):
        detector.load(tmp_path, 32)
    detector.save(tmp_path, PUBLISHED, 16, 1.0, detector.build(SMALL, 16).state_dict())
    with pytest.raises(BadInput, match="holds no detector"):
        detector.load(tmp_path, 16)
