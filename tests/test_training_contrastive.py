"""The contrastive loss against published values, slow references, and itself on two processes."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stages.training.contrastive import contrastive_objective, multi_positive_loss, with_local_crops
from tests.two_processes import run_in_two

EYE = [[1, 0], [0, 1], [1, 0], [0, 1]]
SIX = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0.6, 0.8, 0, 0], [0, 0.6, 0.8, 0], [0.8, 0, 0.6, 0]]


def alone(tensor):
    return tensor


def loss_of(features, keys, temperature):
    return multi_positive_loss(features, torch.as_tensor(keys), temperature, alone, 0)["loss"]


def slow_reference(features, keys, temperature):
    """Equations 1 to 3 of StableRep, an anchor and a candidate at a time."""
    unit = [f / f.norm() for f in features]
    total = 0.0
    for i, anchor in enumerate(unit):
        others = [j for j in range(len(unit)) if j != i]
        denominator = sum(math.exp(float(anchor @ unit[j]) / temperature) for j in others)
        positives = [j for j in others if keys[j] == keys[i]]
        for j in positives:
            q = math.exp(float(anchor @ unit[j]) / temperature) / denominator
            total -= math.log(q) / len(positives)
    return total / len(unit)


def slow_nt_xent(features, temperature):
    """SimCLR, equation 1: rows k and k + n are the two crops of an image."""
    n = len(features) // 2
    unit = [f / f.norm() for f in features]
    total = 0.0
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        similarities = {j: math.exp(float(unit[i] @ unit[j]) / temperature) for j in range(2 * n) if j != i}
        total -= math.log(similarities[partner] / sum(similarities.values()))
    return total / (2 * n)


@pytest.mark.parametrize(
    ("rows", "keys", "temperature", "expected"),
    [
        (EYE, [0, 1, 0, 1], 0.1, 9.079574e-05),
        (EYE, [0, 1, 0, 1], 1.0, 0.5514447),
        (SIX, [0, 1, 2, 0, 1, 2], 0.1, 2.1621816),
        (SIX, [0, 1, 2, 0, 1, 2], 0.5, 1.3481669),
        (3 * [[1, 0], [0, 1]], 3 * [0, 1], 0.1, 0.6932153),
    ],
)
def test_values_of_the_released_class(rows, keys, temperature, expected):
    assert float(loss_of(torch.tensor(rows, dtype=torch.float32), keys, temperature)) == pytest.approx(
        expected, abs=1e-5
    )


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("keys", [[0, 1, 2] * 3, [0, 0, 0, 0, 1, 1, 1, 2, 2], [4, 4, 4, 7, 7, 8, 9, 9, 9]])
def test_equals_the_slow_reference(keys, temperature):
    features = torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 3
    expected = slow_reference(features, keys, temperature)
    assert float(loss_of(features, keys, temperature)) == pytest.approx(expected, abs=1e-12)


def test_two_crops_are_simclr():
    features = torch.randn(12, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = slow_nt_xent(features, 0.2)
    assert float(loss_of(features, [*range(6), *range(6)], 0.2)) == pytest.approx(expected, abs=1e-12)


def test_order_and_scale_and_names_of_keys_do_not_matter():
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(10, 4, dtype=torch.float64, generator=generator)
    keys = torch.tensor([0, 1, 2, 3, 4] * 2)
    expected = float(loss_of(features, keys, 0.1))
    order = torch.randperm(10, generator=generator)
    scales = torch.rand(10, 1, dtype=torch.float64, generator=generator) + 0.1
    assert float(loss_of(features[order], keys[order], 0.1)) == pytest.approx(expected, abs=1e-12)
    assert float(loss_of(features * scales, 90 - 7 * keys, 0.1)) == pytest.approx(expected, abs=1e-12)
    assert float(loss_of(features, torch.tensor([0, 1, 2, 3, 4, 4, 3, 2, 1, 0]), 0.1)) != pytest.approx(expected)


def test_the_divergence_compares_between_numbers_of_views():
    for num_views in (2, 3, 6):
        values = multi_positive_loss(
            torch.eye(4).repeat(num_views, 1), torch.arange(4).repeat(num_views), 0.05, alone, 0
        )
        assert float(values["loss"]) == pytest.approx(math.log(max(1, num_views - 1)), abs=1e-5)
        assert float(values["divergence"]) == pytest.approx(0, abs=1e-5)


def test_an_image_pulls_on_its_positives_and_pushes_the_others():
    features = torch.tensor([[1.0, 0.2], [0.3, 1.0], [1.0, -0.5]], dtype=torch.float64, requires_grad=True)
    loss_of(features, [0, 0, 1], 0.5).backward()
    moved = F.normalize((features - 0.01 * features.grad).detach(), dim=1)
    before = F.normalize(features.detach(), dim=1)
    assert moved[0] @ moved[1] > before[0] @ before[1]
    assert moved[0] @ moved[2] < before[0] @ before[2]


def test_local_crops_are_anchors_and_no_candidates():
    """Each crop's target is uniform over all views of its key, its own image's among them."""
    generator = torch.Generator().manual_seed(6)
    views = torch.randn(6, 5, dtype=torch.float64, generator=generator)
    crops = torch.randn(12, 5, dtype=torch.float64, generator=generator)
    keys = torch.tensor([0, 1, 2, 0, 1, 2])
    total = 6 * slow_reference(views, keys, 0.2)
    unit = [f / f.norm() for f in views]
    for number, crop in enumerate(crops):
        similarities = [math.exp(float(crop / crop.norm() @ view) / 0.2) for view in unit]
        positives = [j for j in range(6) if keys[j] == keys[number % 6]]
        total -= sum(math.log(similarities[j] / sum(similarities)) for j in positives) / len(positives)
    values = with_local_crops(torch.cat([views, crops]), keys, 0.2, alone, 0)
    assert float(values["loss"]) == pytest.approx(total / 18, abs=1e-12)
    plain = multi_positive_loss(views, keys, 0.2, alone, 0)
    assert values["divergence"] == plain["divergence"]
    assert with_local_crops(views, keys, 0.2, alone, 0) == plain


def test_the_loss_leaves_autocast():
    """exp(a.b / tau) of bfloat16 similarities is off in its second digit."""
    network = nn.Linear(6, 4)
    batch = {"images": torch.randn(8, 6), "keys": torch.arange(4).repeat(2)}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = contrastive_objective(0.1, alone, 0)(network, batch)
        features = network(batch["images"]).detach()
    assert features.dtype == torch.bfloat16
    assert values["loss"].dtype == torch.float32
    assert float(values["loss"].detach()) == pytest.approx(
        slow_reference(features.double(), batch["keys"], 0.1), abs=1e-5
    )


def example():
    """A double-precision network with one global batch: four views of six captions."""
    generator = torch.Generator().manual_seed(4)
    torch.manual_seed(5)
    network = nn.Sequential(nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 5)).double()
    images = torch.randn(24, 7, dtype=torch.float64, generator=generator)
    return network, {"images": images, "keys": torch.arange(6).repeat(4)}


def share(rank, folder):
    """One of two processes: its half of the batch, through the project's runtime."""
    from stages.training.runtime import open_runtime

    runtime = open_runtime(0)
    network, batch = example()
    prepared = runtime.prepare(network)
    mine = {name: tensor[rank * 12 : rank * 12 + 12] for name, tensor in batch.items()}
    values = contrastive_objective(0.1, runtime.gather, runtime.rank)(prepared, mine)
    values["loss"].backward()
    result = {name: runtime.mean(value) for name, value in values.items()}
    torch.save([result, [p.grad for p in network.parameters()]], folder / f"{rank}.pt")
    runtime.barrier()


def test_two_processes_have_the_gradient_of_one(tmp_path):
    run_in_two(share, tmp_path)

    network, batch = example()
    values = contrastive_objective(0.1, alone, 0)(network, batch)
    values["loss"].backward()
    assert float(sum(p.grad.abs().sum() for p in network.parameters())) > 1e-3
    for rank in range(2):
        shared, gradients = torch.load(tmp_path / f"{rank}.pt")
        for name in ("loss", "divergence"):
            assert float(shared[name]) == pytest.approx(float(values[name].detach()), abs=1e-12)
        for ours, theirs in zip(network.parameters(), gradients, strict=True):
            assert torch.allclose(ours.grad, theirs, rtol=0, atol=1e-12)
