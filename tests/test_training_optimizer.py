import torch
from torch import nn

from stages.training.optimizer import adamw, parameter_groups


def make_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def test_only_matrices_and_kernels_decay():
    network = make_network()
    groups = parameter_groups(network, 0.3)
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    expected = {"0.weight": 0.3, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0, "3.weight": 0.3, "3.bias": 0.0}
    assert {name: decay[id(p)] for name, p in network.named_parameters()} == expected


def test_groups_by_share_of_the_rate_and_leaves_frozen_ones_out():
    network = make_network()
    network[0].weight.requires_grad_(False)
    groups = parameter_groups(network, 0.3, lambda name: 0.5 ** (3 - int(name[0])))
    assert sorted((g["rate_scale"], g["weight_decay"], len(g["params"])) for g in groups) == [
        (0.125, 0.0, 1),
        (0.25, 0.0, 2),
        (1.0, 0.0, 1),
        (1.0, 0.3, 1),
    ]


def test_adamw_takes_the_published_step():
    """Loshchilov and Hutter 2019, algorithm 2, by hand over three steps."""
    weight = nn.Parameter(torch.tensor([[0.5, -1.0]], dtype=torch.float64))
    holder = nn.Module()
    holder.weight = weight
    optimizer = adamw(parameter_groups(holder, 0.1), beta2=0.99)
    x, m, v, rate = weight.detach().clone(), torch.zeros(1, 2), torch.zeros(1, 2), 0.01
    for step in range(1, 4):
        gradient = torch.tensor([[1.0, -2.0]], dtype=torch.float64) * step
        weight.grad = gradient.clone()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        m, v = 0.9 * m + 0.1 * gradient, 0.99 * v + 0.01 * gradient**2
        update = (m / (1 - 0.9**step)) / ((v / (1 - 0.99**step)).sqrt() + 1e-8)
        x = x - rate * (update + 0.1 * x)
    torch.testing.assert_close(weight.detach(), x, rtol=0, atol=1e-12)
