"""The losses of BYOL, MoCo v3 and DINO against the papers' formulas written out, and against lightly's."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from lightly.loss import DINOLoss, NegativeCosineSimilarity
from torch import nn

from stages.encoder_sections import Projection
from stages.networks.batchnorm import GroupBatchNorm1d
from stages.networks.heads import DinoHead, byol_head, mocov3_head
from stages.networks.momentum_pair import MomentumPair
from stages.networks.projection import ProjectedEncoder
from stages.training import dino
from stages.training.byol import ByolObjective, byol_loss
from stages.training.dino import DinoObjective, dino_loss, teacher_temperature
from stages.training.mocov3 import MocoV3Objective, mocov3_loss
from stages.training.momentum import follow, momentum_to_one, other_view, steps_done
from tests.rivals import DINO


def views(seed, images=5, size=7):
    """Outputs for two views of some images, view-major, in float64."""
    return torch.randn(2 * images, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


EVERYWHERE = torch.arange(10)
NORM = partial(GroupBatchNorm1d, group=4)


def slow_byol(predictions, targets):
    total = 0.0
    for image in range(5):
        for own, other in ((image, image + 5), (image + 5, image)):
            q, z = predictions[own] / predictions[own].norm(), targets[other] / targets[other].norm()
            total += float(((q - z) ** 2).sum())
    return total / 5


def slow_mocov3(queries, keys, temperature):
    total = 0.0
    for q, k in ((queries[:5], keys[5:]), (queries[5:], keys[:5])):
        for i in range(5):
            similarities = [float(F.cosine_similarity(q[i], k[j], dim=0)) / temperature for j in range(5)]
            total -= math.log(math.exp(similarities[i]) / sum(map(math.exp, similarities))) / 5
    return 2 * temperature * total


def slow_dino(outputs, targets, center, cold, warm):
    total = 0.0
    for image in range(5):
        for own, other in ((image, image + 5), (image + 5, image)):
            teacher = [math.exp(float(t - c) / cold) for t, c in zip(targets[other], center, strict=True)]
            student = [math.exp(float(s) / warm) for s in outputs[own]]
            for t, s in zip(teacher, student, strict=True):
                total -= t / sum(teacher) * math.log(s / sum(student))
    return total / 10


def test_byol_is_the_squared_distance_of_unit_vectors_both_ways():
    predictions, targets = views(0), views(1)
    loss = float(byol_loss(predictions, targets, EVERYWHERE))
    assert loss == pytest.approx(slow_byol(predictions, targets), rel=1e-12)
    criterion = NegativeCosineSimilarity()
    one, other = predictions.chunk(2)
    lightly = 2 + 2 * criterion(one, targets[5:]) + 2 + 2 * criterion(other, targets[:5])
    assert loss == pytest.approx(float(lightly), rel=1e-12)


def test_mocov3_contrasts_with_the_other_view_alone():
    queries, keys = views(0), views(1)
    loss = mocov3_loss(queries, keys, EVERYWHERE, 0.2)
    assert float(loss) == pytest.approx(slow_mocov3(queries, keys, 0.2), rel=1e-12)


def test_dino_is_the_cross_entropy_under_the_centred_teacher():
    outputs, targets, center = views(0), views(1), views(2)[0]
    loss = float(dino_loss(outputs, targets, EVERYWHERE, center, 0.1, 0.0625))
    assert loss == pytest.approx(slow_dino(outputs, targets, center, 0.0625, 0.1), rel=1e-12)
    criterion = DINOLoss(output_dim=7, student_temp=0.1, teacher_temp=0.0625).double()
    criterion.center.copy_(center)
    assert loss == pytest.approx(float(criterion([*targets.chunk(2)], [*outputs.chunk(2)])), rel=1e-12)


def test_dino_moves_its_center_as_lightly_does():
    center = torch.zeros(7, dtype=torch.float64)
    objective = DinoObjective(DINO, center, gather=lambda tensor: tensor, rank=0)
    criterion = DINOLoss(output_dim=7, student_temp=0.1, teacher_temp=0.07, center_momentum=0.9).double()
    for step in range(4, 7):  # after the teacher's warmup
        outputs, targets = views(step), views(step + 10)
        batch = {"images": torch.zeros(0), "step": torch.tensor(step)}
        loss = objective(lambda _, outputs=outputs, targets=targets: (outputs, targets), batch)["loss"]
        torch.testing.assert_close(loss, criterion([*targets.chunk(2)], [*outputs.chunk(2)]))
        torch.testing.assert_close(center, criterion.center.flatten())


def test_teacher_warms_up():
    temperatures = [teacher_temperature(step, DINO) for step in range(6)]
    assert temperatures == pytest.approx([0.04, 0.0475, 0.055, 0.0625, 0.07, 0.07])


LOSSES = {
    "byol": byol_loss,
    "mocov3": lambda p, t, rows: mocov3_loss(p, t, rows, 0.2),
    "dino": lambda p, t, rows: dino_loss(p, t, rows, torch.full((7,), 0.1, dtype=torch.float64), 0.1, 0.05),
}


@pytest.mark.parametrize("name", LOSSES)
def test_order_of_images_and_of_views_does_not_matter(name):
    predictions, targets = views(0), views(1)
    expected = LOSSES[name](predictions, targets, EVERYWHERE)
    shuffled = torch.tensor([3, 0, 4, 1, 2])
    order = torch.cat([shuffled, shuffled + 5])
    torch.testing.assert_close(LOSSES[name](predictions[order], targets[order], EVERYWHERE), expected)
    swapped = other_view(EVERYWHERE, 10)
    torch.testing.assert_close(LOSSES[name](predictions[swapped], targets[swapped], EVERYWHERE), expected)


@pytest.mark.parametrize("name", LOSSES)
def test_shares_of_a_batch_make_up_the_whole(name):
    predictions, targets = views(0).requires_grad_(), views(1)
    whole = LOSSES[name](predictions, targets, EVERYWHERE)
    shares = torch.stack([LOSSES[name](predictions[rows], targets, rows) for rows in EVERYWHERE.chunk(2)]).mean()
    torch.testing.assert_close(shares, whole)
    (expected,), (gradient,) = (torch.autograd.grad(loss, predictions) for loss in (whole, shares))
    torch.testing.assert_close(gradient, expected)


def test_losses_are_taken_in_full_precision():
    outputs, targets = views(0).bfloat16(), views(1).bfloat16()
    batch = {"images": torch.zeros(0), "step": torch.tensor(0)}
    center = torch.zeros(7)
    for objective in (
        ByolObjective(lambda x: x, 0),
        MocoV3Objective(0.2, lambda x: x, 0),
        DinoObjective(DINO, center, lambda x: x, 0),
    ):
        with torch.autocast(outputs.device.type, dtype=torch.bfloat16):
            inside = objective(lambda _: (outputs, targets), batch)["loss"]
        center.zero_()
        outside = objective(lambda _: (outputs.float(), targets.float()), batch)["loss"]
        assert inside.dtype == torch.float32
        torch.testing.assert_close(inside, outside, rtol=1e-6, atol=0)


def test_targets_follow_by_the_schedule_of_byol():
    momentum = momentum_to_one(0.9, num_steps=4)
    quarter, three_quarters = ((2 + sign * 2**0.5) / 4 for sign in (1, -1))
    expected = [0.9, 1 - 0.1 * quarter, 0.95, 1 - 0.1 * three_quarters, 1]
    assert [momentum(step) for step in range(5)] == pytest.approx(expected)
    torch.manual_seed(0)
    pair = MomentumPair(ProjectedEncoder(nn.Linear(3, 2).double(), nn.Identity()), nn.Identity())
    online, target = pair.online.encoder, pair.target.encoder
    expected = target.weight.clone()
    assert torch.equal(expected, online.weight)
    optimizer = torch.optim.AdamW([p for p in pair.parameters() if p.requires_grad], lr=0.1)
    assert steps_done(optimizer) == 0
    follow(pair.target, pair.online, optimizer, momentum)
    for step in range(3):
        optimizer.zero_grad()
        pair(torch.eye(3, dtype=torch.float64))[0].square().sum().backward()
        optimizer.step()
        expected = momentum(step) * expected + (1 - momentum(step)) * online.weight.detach()
        torch.testing.assert_close(target.weight, expected)
        assert target.weight.grad is None
    assert steps_done(optimizer) == 3


def test_dino_schedules_weight_decay_and_freezes_prototypes_at_first():
    torch.manual_seed(0)
    head = DinoHead(4, DINO, NORM)
    matrices = [p for p in head.parameters() if p.ndim > 1]
    vectors = [p for p in head.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], lr=0.1
    )
    dino.schedule(optimizer, head.prototypes, DINO, num_steps=4)
    decays = []
    for step in range(4):
        before = head.prototypes.weight.detach().clone()
        optimizer.zero_grad()
        head(torch.eye(4)).square().sum().backward()
        optimizer.step()
        decays.append([group["weight_decay"] for group in optimizer.param_groups])
        assert torch.equal(before, head.prototypes.weight) == (step < 2)
    quarter, three_quarters = ((2 + sign * 2**0.5) / 4 for sign in (1, -1))
    expected = [0.1, 0.4 - 0.3 * quarter, 0.25, 0.4 - 0.3 * three_quarters]
    assert [matrix for matrix, _ in decays] == pytest.approx(expected)
    assert {vector for _, vector in decays} == {0.0}


def test_heads_have_the_published_layers():
    settings = Projection(hidden_size=12, output_size=6, norm_over="view")

    def layers(head):
        return [(type(m).__name__, *getattr(m, "weight", torch.empty(0)).shape) for m in head if hasattr(m, "weight")]

    norm = "GroupBatchNorm1d"
    assert layers(byol_head(4, settings, NORM)) == [("Linear", 12, 4), (norm, 12), ("Linear", 6, 12)]
    assert layers(mocov3_head(4, 3, settings, NORM)) == [
        ("Linear", 12, 4), (norm, 12), ("Linear", 12, 12), (norm, 12), ("Linear", 6, 12), (norm, 6)
    ]  # fmt: skip
    assert layers(mocov3_head(6, 2, settings, NORM)) == [("Linear", 12, 6), (norm, 12), ("Linear", 6, 12), (norm, 6)]
    linear = ["Linear", "GELU"] * 2
    for batch_norm in (False, True):
        head = DinoHead(4, DINO.model_copy(update={"batch_norm": batch_norm}), NORM)
        kinds = [type(module).__name__ for module in head.mlp if not isinstance(module, nn.Identity)]
        assert [kind for kind in kinds if kind != norm] == [*linear, "Linear"]
        assert kinds.count(norm) == 2 * batch_norm
    cosines = head(torch.randn(8, 4))
    assert cosines.shape == (8, 10)
    assert bool((cosines.abs() <= 1 + 1e-6).all())


def test_dino_compares_every_local_crop_with_both_views_of_the_teacher():
    outputs, targets, center = views(0), views(1), views(2)[0]
    crops = views(7, images=15)  # three of each view, in the order of the views
    objective = DinoObjective(DINO, center.clone(), gather=lambda tensor: tensor, rank=0)
    batch = {"images": torch.zeros(0), "crops": torch.zeros(0), "step": torch.tensor(9)}
    loss = objective(lambda *_: (torch.cat([outputs, crops]), targets), batch)["loss"]
    criterion = DINOLoss(output_dim=7, student_temp=0.1, teacher_temp=0.07).double()
    criterion.center.copy_(center)
    locals_of_images = [*crops.chunk(3)]  # each ten crops: of five images' first views, and of their second ones
    students = [*outputs.chunk(2), *(half for crop in locals_of_images for half in crop.chunk(2))]
    torch.testing.assert_close(loss, criterion([*targets.chunk(2)], students))
    order = torch.tensor([3, 0, 4, 1, 2])
    both = torch.cat([order, order + 5])
    shuffled = torch.cat([outputs[both], *(crop[both] for crop in locals_of_images)])
    again = DinoObjective(DINO, center.clone(), gather=lambda tensor: tensor, rank=0)
    torch.testing.assert_close(again(lambda *_: (shuffled, targets[both]), batch)["loss"], loss)
