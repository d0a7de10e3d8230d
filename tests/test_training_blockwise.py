import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stages.training.blockwise import matching_loss, multi_positive_loss

SQUARE = [[1, 0], [0, 1], [1, 0], [0, 1]]
TILTED = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0.6, 0.8, 0, 0], [0, 0.6, 0.8, 0], [0.8, 0, 0.6, 0]]


def loss_of(features, keys, temperature, block=3):
    return multi_positive_loss(features, features, keys, torch.arange(len(keys)), temperature, block)


def random_batch(count=23, num_keys=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(count, 5, generator=generator, dtype=dtype).requires_grad_()
    return features, torch.randint(num_keys, (count,), generator=generator)


def slow_loss(features, keys, temperature):
    """Equations 1 to 3 of the paper, one pair at a time."""
    rows = [row / row.norm() for row in features]
    total = torch.zeros((), dtype=features.dtype)
    for a, anchor in enumerate(rows):
        others = [j for j in range(len(rows)) if j != a]
        positives = [j for j in others if keys[j] == keys[a]]
        denominator = sum(torch.exp(anchor @ rows[j] / temperature) for j in others)
        for j in positives:
            total = total - torch.log(torch.exp(anchor @ rows[j] / temperature) / denominator) / len(positives)
    return total / len(rows)


@pytest.mark.parametrize(
    ("rows", "keys", "temperature", "published"),
    [
        (SQUARE, [0, 1, 0, 1], 0.1, 9.079574e-05),
        (SQUARE, [0, 1, 0, 1], 1.0, 0.5514447),
        (TILTED, [0, 1, 2, 0, 1, 2], 0.1, 2.1621816),
        (TILTED, [0, 1, 2, 0, 1, 2], 0.5, 1.3481669),
        ([[1, 0], [0, 1]] * 3, [0, 1] * 3, 0.1, 0.6932153),
    ],
)
def test_golden_values_of_the_released_code(rows, keys, temperature, published):
    features = torch.tensor(rows, dtype=torch.float32)
    assert float(loss_of(features, torch.tensor(keys), temperature)["loss"]) == pytest.approx(published, abs=1e-5)


@pytest.mark.parametrize("block", [1, 7, 23, 100])
def test_value_and_gradient_of_the_equations_whatever_the_block(block):
    features, keys = random_batch()
    (expected,) = torch.autograd.grad(slow_loss(features, keys, 0.2), features)
    loss = loss_of(features, keys, 0.2, block)["loss"]
    (gradient,) = torch.autograd.grad(loss, features)
    torch.testing.assert_close(loss, slow_loss(features, keys, 0.2), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


def test_gradcheck_with_anchors_apart_from_candidates():
    candidates, keys = random_batch(count=9, num_keys=3)
    index = torch.tensor([2, 7, 4])
    anchors = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)

    def loss(a, c):
        return multi_positive_loss(a, c, keys, index, 0.3, 2)["loss"] * 3

    assert torch.autograd.gradcheck(loss, (anchors, candidates))


def test_shares_of_the_anchors_make_up_the_whole():
    """What several processes do: the mean over processes of their shares' losses, gradients summed by the gather."""
    features, keys = random_batch(count=24)
    whole = loss_of(features, keys, 0.1)["loss"]
    parts = torch.arange(24).chunk(3)
    shares = [multi_positive_loss(features[part], features, keys, part, 0.1, 5)["loss"] for part in parts]
    torch.testing.assert_close(torch.stack(shares).mean(), whole)
    (expected,) = torch.autograd.grad(whole, features)
    (gradient,) = torch.autograd.grad(torch.stack(shares).mean(), features)
    torch.testing.assert_close(gradient, expected)


def test_order_scale_and_names_of_keys_do_not_matter():
    features, keys = random_batch()
    shuffled = torch.randperm(len(keys), generator=torch.Generator().manual_seed(1))
    expected = loss_of(features, keys, 0.1)["loss"]
    torch.testing.assert_close(loss_of(features[shuffled], keys[shuffled], 0.1)["loss"], expected)
    torch.testing.assert_close(loss_of(features * 7, keys * 10 - 3, 0.1)["loss"], expected)


def test_an_anchor_without_positives_adds_nothing_and_counts():
    features, _ = random_batch(count=5)
    pair_only = torch.tensor([0, 0, 1, 2, 3])
    torch.testing.assert_close(loss_of(features, pair_only, 0.1)["loss"], slow_loss(features, pair_only, 0.1))
    alone = loss_of(features[:1], pair_only[:1], 0.1)["loss"]
    (gradient,) = torch.autograd.grad(alone, features)
    assert not alone.any()
    assert not gradient.any()


def test_divergence_is_what_lies_above_the_floor():
    """Three perfect clones of two captions: the loss is near log 2, its floor, and the divergence near 0."""
    features = torch.tensor([[1.0, 0], [0, 1]] * 3, dtype=torch.float64)
    values = loss_of(features, torch.tensor([0, 1] * 3), 0.1)
    assert float(values["loss"]) - math.log(2) == pytest.approx(float(values["divergence"]), abs=1e-12)
    assert 0 < float(values["divergence"]) < 1e-4


def test_large_similarities_neither_overflow_nor_vanish():
    features, keys = random_batch(dtype=torch.float32)
    loss = loss_of(features, keys, 0.001)["loss"]
    (gradient,) = torch.autograd.grad(loss, features)
    expected = loss_of(features.double(), keys, 0.001)["loss"]
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0, check_dtype=False)
    assert bool(torch.isfinite(gradient).all())


def test_autocast_does_not_round_the_similarities():
    features, keys = random_batch(dtype=torch.float32)
    expected = loss_of(features, keys, 0.1)["loss"]
    with torch.autocast(features.device.type, dtype=torch.bfloat16):
        inside = loss_of(features, keys, 0.1)["loss"]
        rounded = loss_of(features.bfloat16(), keys, 0.1)["loss"]
    assert inside.dtype == rounded.dtype == torch.float32
    assert float(inside) == float(expected)


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


@pytest.mark.parametrize("count", [256, 512])
def test_no_tensor_grows_with_the_square_of_the_batch(count):
    features, keys = random_batch(count=count)
    with LargestTensor() as largest:
        loss_of(features, keys, 0.1, block=16)["loss"].backward()
    assert largest.elements == count * 16


@pytest.mark.parametrize("count", [256, 512])
def test_no_tensor_grows_with_the_square_where_candidates_are_of_another_kind(count):
    features, keys = random_batch(count=count)
    others = features.detach().flip(0).requires_grad_()
    with LargestTensor() as largest:
        matching_loss(features, keys, others, keys.flip(0), torch.tensor(10.0, dtype=torch.float64), 16).backward()
    assert largest.elements == count * 16
