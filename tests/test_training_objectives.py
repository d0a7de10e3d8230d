import math

import pytest
import torch
from torch import nn

from stages.training.objectives import cross_entropy


def test_equals_the_sum_over_smoothed_targets():
    logits = torch.tensor([[2.0, 0.5, -1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    labels, smoothing, total = [0, 2], 0.3, 0.0
    for row, label in zip(logits.tolist(), labels, strict=True):
        norm = math.log(sum(math.exp(v) for v in row))
        for index, value in enumerate(row):
            target = smoothing / 3 + (1 - smoothing) * (index == label)
            total -= target * (value - norm) / 2
    values = cross_entropy(smoothing)(nn.Identity(), {"images": logits, "labels": torch.tensor(labels)})
    assert float(values["loss"]) == pytest.approx(total, abs=1e-12)
    assert float(values["train_top1"]) == 0.5


def test_half_precision_logits_are_compared_in_full():
    logits = torch.randn(8, 10, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.arange(8)
    half, full = (cross_entropy(0.1)(nn.Identity(), {"images": x, "labels": labels}) for x in (logits, logits.float()))
    assert half["loss"].dtype == torch.float32
    assert half["loss"] == full["loss"]
