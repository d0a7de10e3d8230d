"""Group batch norm against torch's own batch norm, group by group."""

import pytest
import torch
from torch import nn

from stages.networks.batchnorm import (
    GroupBatchNorm1d,
    GroupBatchNorm2d,
    track,
    update_running_statistics,
)

SHAPES = [(GroupBatchNorm2d, nn.BatchNorm2d, (12, 5, 4, 4)), (GroupBatchNorm1d, nn.BatchNorm1d, (12, 5))]


def make(kind, reference, group):
    """A norm and torch's, in float64, with the same weights that are not ones and zeros."""
    norm, slow = kind(5, group).double(), reference(5).double()
    generator = torch.Generator().manual_seed(2)
    for parameter, other in ((norm.weight, slow.weight), (norm.bias, slow.bias)):
        with torch.no_grad():
            other.copy_(torch.randn(5, generator=generator))
            parameter.copy_(other)
    return norm, slow


def draw(shape, seed=0):
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (drawn * 2 + 3).requires_grad_()


@pytest.mark.parametrize(("kind", "reference", "shape"), SHAPES)
def test_one_group_is_batch_norm(kind, reference, shape):
    norm, slow = make(kind, reference, group=12)
    for seed in range(3):
        inputs, other = draw(shape, seed), draw(shape, seed)
        outputs, expected = norm(inputs), slow(other)
        update_running_statistics(norm)
        (outputs**3).sum().backward()
        (expected**3).sum().backward()
        torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(inputs.grad, other.grad, rtol=1e-10, atol=1e-10)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(norm, name), getattr(slow, name), rtol=0, atol=1e-12)
    torch.testing.assert_close(norm.weight.grad, slow.weight.grad, rtol=1e-10, atol=1e-10)
    inputs = draw(shape, 9)
    torch.testing.assert_close(norm.eval()(inputs), slow.eval()(inputs), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kind", "reference", "shape"), SHAPES)
@pytest.mark.parametrize("group", [3, 4, 6])
def test_each_group_is_normalised_alone(kind, reference, shape, group):
    norm, slow = make(kind, reference, group)
    inputs = draw(shape)
    outputs = norm(inputs)
    for start in range(0, 12, group):
        torch.testing.assert_close(
            outputs[start : start + group], slow(inputs[start : start + group]), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize(("kind", "reference", "shape"), SHAPES)
def test_running_statistics_move_to_the_mean_over_groups(kind, reference, shape):
    norm, _ = make(kind, reference, 4)
    inputs = draw(shape).detach()
    norm(inputs)
    update_running_statistics(norm)
    groups = [part.movedim(1, 0).reshape(5, -1) for part in inputs.chunk(3)]
    mean = torch.stack([part.mean(1) for part in groups]).mean(0)
    variance = torch.stack([part.var(1) for part in groups]).mean(0)
    torch.testing.assert_close(norm.running_mean, 0.1 * mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * variance, rtol=0, atol=1e-12)


def test_micro_batches_give_the_running_statistics_of_the_whole():
    whole, parts = (nn.Sequential(GroupBatchNorm2d(5, 4), nn.ReLU(), GroupBatchNorm2d(5, 2)).double() for _ in "ab")
    for seed in range(3):
        inputs = draw((12, 5, 4, 4), seed).detach()
        whole(inputs)
        for part in inputs.chunk(3):
            parts(part)
        update_running_statistics(whole)
        update_running_statistics(parts)
    torch.testing.assert_close(whole.state_dict(), parts.state_dict(), rtol=0, atol=1e-12)


def test_a_tracked_optimizer_updates_the_statistics_in_each_step():
    network = nn.Sequential(GroupBatchNorm1d(5, 4), nn.Linear(5, 1)).double()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    track(network, optimizer)
    for step in range(3):
        before = network[0].running_mean.clone()
        network(draw((12, 5), step)).sum().backward()
        optimizer.step()
        assert not torch.equal(before, network[0].running_mean)


def test_statistics_that_nobody_folds_in_are_an_error():
    norm = GroupBatchNorm1d(5, 4).double()
    norm(draw((12, 5)))
    with pytest.raises(RuntimeError, match="track"):
        norm.eval()(draw((12, 5)))


def test_a_part_of_a_group_is_an_error_in_training_alone():
    norm = GroupBatchNorm1d(5, 4)
    with pytest.raises(ValueError, match="a batch of 10 is no whole number of groups of 4"):
        norm(torch.zeros(10, 5))
    assert norm.eval()(torch.zeros(10, 5)).shape == (10, 5)
