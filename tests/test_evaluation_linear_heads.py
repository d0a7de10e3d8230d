import math

import pytest
import torch
import torch.nn.functional as F

from stages.evaluation.linear_heads import choose_head, fit_heads
from stages.probe_sections import LinearHeads

RATES = [0.01, 0.1, 1.0]


def settings(batch_norm=False, batch_size=16, num_epochs=4):
    return LinearHeads(base_learning_rates=RATES, num_epochs=num_epochs, batch_size=batch_size, batch_norm=batch_norm)


def clouds(count, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=generator)
    centres = torch.randn(3, 7, generator=torch.Generator().manual_seed(99), dtype=dtype)
    return centres[labels] + torch.randn(count, 7, generator=generator, dtype=dtype), labels


@pytest.mark.parametrize("batch_norm", [False, True])
def test_each_head_is_what_torch_trains_alone(batch_norm):
    """Heads of nn.Linear under autograd, torch.optim.SGD and a learning rate set per step."""
    features, labels = clouds(70, 0)
    heads = fit_heads(features, labels, 3, settings(batch_norm), seed=5)
    for index, base_rate in enumerate(RATES):
        generator = torch.Generator().manual_seed(5)
        weight = torch.randn(3, 3, 7, generator=generator)[index] * 0.01
        normalization = torch.nn.BatchNorm1d(7, eps=1e-6, affine=False).double() if batch_norm else torch.nn.Identity()
        linear = torch.nn.Linear(7, 3).double()
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.zero_()
        optimizer = torch.optim.SGD(linear.parameters(), momentum=0.9)
        step, num_steps = 0, 4 * 4
        for _ in range(4):
            for batch in torch.randperm(70, generator=generator)[:64].split(16):
                optimizer.param_groups[0]["lr"] = base_rate * 16 / 256 * (1 + math.cos(math.pi * step / num_steps)) / 2
                optimizer.zero_grad()
                F.cross_entropy(linear(normalization(features[batch])), labels[batch]).backward()
                optimizer.step()
                step += 1
        torch.testing.assert_close(heads.weight[index], linear.weight.detach())
        torch.testing.assert_close(heads.bias[index], linear.bias.detach())
        expected = linear(normalization.eval()(features))
        torch.testing.assert_close(heads.logits(features)[index], expected.detach())


def test_heads_separate_what_is_separable_and_the_choice_is_made_elsewhere():
    features, labels = clouds(300, 0)
    val, val_labels = clouds(200, 1)
    heads = fit_heads(features, labels, 3, settings(num_epochs=30), seed=0)
    accuracies = heads.accuracy(val, val_labels)
    chosen = choose_head(heads, val, val_labels)
    assert accuracies.shape == (3,)
    assert accuracies[chosen] == accuracies.max()
    assert accuracies[chosen] > 0.8
    assert choose_head(heads, val[:0], val_labels[:0]) == 0


def test_permuted_labels_leave_chance():
    """On average: a single shuffle may by luck align with a class or two."""
    features, labels = clouds(600, 0)
    val, val_labels = clouds(600, 1)
    accuracies = []
    for seed in range(12):
        shuffled = labels[torch.randperm(600, generator=torch.Generator().manual_seed(seed))]
        heads = fit_heads(features, shuffled, 3, settings(batch_size=100), seed)
        accuracies.append(heads.accuracy(val, val_labels))
    assert float(torch.stack(accuracies).mean()) == pytest.approx(1 / 3, abs=0.06)


def test_batch_norm_makes_the_scale_of_features_irrelevant():
    features, labels = clouds(128, 0)
    enough = settings(batch_norm=True, num_epochs=25)  # for the running statistics to forget how they began
    one, other = (fit_heads(features * scale, labels, 3, enough, seed=0).logits(features * scale) for scale in (1, 50))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_same_seed_same_bits_and_a_batch_larger_than_the_split():
    features, labels = clouds(20, 0, torch.float32)
    one, again = (fit_heads(features, labels, 3, settings(batch_size=1024), seed=1) for _ in range(2))
    other = fit_heads(features, labels, 3, settings(batch_size=1024), seed=2)
    assert torch.equal(one.weight, again.weight)
    assert not torch.equal(one.weight, other.weight)
    assert one.weight.dtype == torch.float32
