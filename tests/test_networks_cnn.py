import pytest
import torch
from torch import nn

from stages.artifacts import BadInput
from stages.networks import cnn
from stages.networks.batchnorm import GroupBatchNorm2d, update_running_statistics
from stages.sections import Cnn

APAI = Cnn(name="apai3010", width=32, norm_group=8)
RESNET = Cnn(name="resnet", width=8, norm_group=8)


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def draw(count=8, side=32, seed=0):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_apai3010_has_the_parameters_of_its_released_weights():
    assert count(cnn.build(APAI, 10, 32)) == 185_098


def test_apai3010_equals_the_published_stack_of_layers():
    network = cnn.build(APAI, 10, 32)
    layers = []
    for conv, norm in zip(network.convs, network.norms, strict=True):
        layers += [conv, nn.ReLU(), nn.MaxPool2d(2), norm]
    layers += [nn.Flatten(), network.dense[0], nn.ReLU(), network.dense[1], nn.ReLU(), network.dense[2]]
    assert [layer.weight.shape for layer in network.dense] == [(256, 512), (128, 256), (10, 128)]
    published = nn.Sequential(*layers)
    torch.testing.assert_close(network(draw()), published(draw()), rtol=0, atol=1e-5)


def test_resnet_has_the_parameters_that_its_drawing_gives():
    w, classes = 8, 10
    kernels = 9 * (3 * w + w * 2 * w + 2 * (2 * w) ** 2 + 2 * w * 4 * w + 4 * w * 8 * w + 2 * (8 * w) ** 2)
    norms = 2 * (w + 2 * w + 2 * 2 * w + 4 * w + 8 * w + 2 * 8 * w)
    assert count(cnn.build(RESNET, classes, 32)) == kernels + norms + 8 * w * classes + classes


@pytest.mark.parametrize("settings", [APAI, RESNET])
@pytest.mark.parametrize(("side", "classes"), [(16, 3), (32, 10)])
def test_logits_of_every_image_in_evaluation_are_its_own(settings, side, classes):
    network = cnn.build(settings, classes, side)
    network(draw(side=side))
    update_running_statistics(network)
    network.eval()
    logits = network(draw(8, side))
    assert logits.shape == (8, classes)
    torch.testing.assert_close(network(draw(8, side)[3:4]), logits[3:4], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("settings", "size"), [(APAI, 128), (RESNET, 64)])
def test_logits_are_linear_in_the_penultimate_features(settings, size):
    network = cnn.build(settings, 10, 32).eval()
    features = network.features(draw())
    assert features.shape == (8, size)
    assert torch.equal(network.classify(features), network(draw()))
    middle = network.classify((features[:4] + features[4:]) / 2)
    torch.testing.assert_close(middle, (network(draw())[:4] + network(draw())[4:]) / 2)


@pytest.mark.parametrize("settings", [APAI, RESNET])
def test_every_parameter_learns(settings):
    network = cnn.build(settings, 10, 32)
    nn.functional.cross_entropy(network(draw()), torch.arange(8)).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        if not (isinstance(network, cnn.Apai3010) and name.startswith("convs") and name.endswith("bias")):
            assert parameter.grad.abs().max() > 0, name


def test_the_side_must_halve_three_times():
    with pytest.raises(ValueError, match="36 is no multiple of 8"):
        cnn.build(APAI, 10, 36)


@pytest.mark.parametrize("settings", [APAI, RESNET])
def test_weights_come_back_from_disk(tmp_path, settings):
    networks = [cnn.build(settings, 2, 16) for _ in range(2)]
    for seed, network in enumerate(networks):
        network(draw(side=16, seed=seed))
        update_running_statistics(network)
    weights = {f"{index}.safetensors": network.state_dict() for index, network in enumerate(networks)}
    cnn.save(tmp_path, settings, ("cat", "dog"), 16, weights)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.safetensors", "1.safetensors", "config.json"]
    for index, network in enumerate(networks):
        loaded = cnn.load(tmp_path, f"{index}.safetensors", ("cat", "dog"), 16)
        assert not loaded.training
        assert torch.equal(loaded(draw(side=16)), network.eval()(draw(side=16)))


def test_what_was_trained_for_something_else_is_refused(tmp_path):
    network = cnn.build(RESNET, 2, 16)
    cnn.save(tmp_path, RESNET, ("cat", "dog"), 16, {"model.safetensors": network.state_dict()})
    cases = [
        (("cat", "cow"), 16, "model.safetensors", "other classes"),
        (("cat", "dog"), 32, "model.safetensors", "another image size"),
        (("cat", "dog"), 16, "missing.safetensors", r"missing.safetensors: holds no weights of this CNN"),
        (("cat", "dog"), 16, "config.json", r"config.json: holds no weights of this CNN"),
    ]
    for class_names, size, name, message in cases:
        with pytest.raises(BadInput, match=message):
            cnn.load(tmp_path, name, class_names, size)
    with pytest.raises(BadInput, match=r"config.json: not there"):
        cnn.load(tmp_path / "nowhere", "model.safetensors", ("cat", "dog"), 16)


def test_width_and_group_reach_the_layers():
    network = cnn.build(Cnn(name="resnet", width=4, norm_group=2), 3, 16)
    norms = [module for module in network.modules() if isinstance(module, GroupBatchNorm2d)]
    assert [len(norm.weight) for norm in norms] == [4, 8, 8, 8, 16, 32, 32, 32]
    assert {norm.group for norm in norms} == {2}
