"""CLIP's and StableRep+'s losses against the papers' formulas written out."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stages.training.blockwise import matching_loss
from stages.training.contrastive import multi_positive_loss
from stages.training.language import ClipObjective, StableRepPlusObjective, bound_scale, image_text_loss


def alone(tensor):
    return tensor


def vectors(count, seed, size=5):
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(count, size, generator=generator, dtype=torch.float64)).requires_grad_()


def slow_direction(anchors, anchor_keys, candidates, candidate_keys, scale):
    """Cross-entropy from each anchor to a uniform target over the candidates of its key, one pair at a time."""
    total = torch.zeros((), dtype=torch.float64)
    for anchor, key in zip(anchors, anchor_keys, strict=True):
        logits = [scale * F.cosine_similarity(anchor, candidate, dim=0) for candidate in candidates]
        denominator = sum(torch.exp(logit) for logit in logits)
        positives = [j for j, other in enumerate(candidate_keys) if other == key]
        for j in positives:
            total = total - torch.log(torch.exp(logits[j]) / denominator) / len(positives)
    return total / len(anchors)


SCALE = torch.tensor(4.0, dtype=torch.float64)
IMAGE_KEYS, TEXT_KEYS = torch.tensor([7, 3, 9, 7, 3, 9, 7, 3, 9]), torch.tensor([7, 3, 9])


@pytest.mark.parametrize("block", [1, 2, 100])
def test_both_directions_are_the_formulas_whatever_the_block(block):
    images, texts = vectors(9, 0), vectors(3, 1)
    scale = SCALE.clone().requires_grad_()
    for pair in ((images, IMAGE_KEYS, texts, TEXT_KEYS), (texts, TEXT_KEYS, images, IMAGE_KEYS)):
        loss, expected = matching_loss(*pair, scale, block), slow_direction(*pair, scale)
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
        inputs = (images, texts, scale)
        for ours, theirs in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_an_anchor_without_a_match_adds_nothing_and_counts():
    images, texts = vectors(2, 0), vectors(1, 1)
    loss = matching_loss(images, torch.tensor([0, 5]), torch.cat([texts, texts + 1]), torch.tensor([0, 1]), SCALE, 8)
    one = matching_loss(images[:1], torch.tensor([0]), torch.cat([texts, texts + 1]), torch.tensor([0, 1]), SCALE, 8)
    torch.testing.assert_close(loss, one / 2)


def test_one_image_per_text_is_clip():
    images, texts = vectors(6, 2), vectors(6, 3)
    keys = torch.tensor([5, 0, 3, 1, 2, 9])
    logits = SCALE * F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
    expected = (F.cross_entropy(logits, torch.arange(6)) + F.cross_entropy(logits.T, torch.arange(6))) / 2
    torch.testing.assert_close(image_text_loss(images, texts, keys, keys, SCALE, alone), expected)


def test_order_of_images_and_of_texts_does_not_matter():
    images, texts = vectors(9, 0), vectors(3, 1)
    expected = image_text_loss(images, texts, IMAGE_KEYS, TEXT_KEYS, SCALE, alone)
    one, other = torch.tensor([8, 3, 1, 0, 7, 2, 5, 6, 4]), torch.tensor([1, 2, 0])
    shuffled = image_text_loss(images[one], texts[other], IMAGE_KEYS[one], TEXT_KEYS[other], SCALE, alone)
    torch.testing.assert_close(shuffled, expected)
    wrong = image_text_loss(images, texts[other], IMAGE_KEYS, TEXT_KEYS, SCALE, alone)
    assert float(wrong.detach()) != pytest.approx(float(expected.detach()))


def batch_and_outputs(dtype=torch.float64):
    outputs = {
        "images": vectors(9, 0).to(dtype),
        "texts": vectors(3, 1).to(dtype),
        "features": vectors(9, 4, size=4).to(dtype),
        "log_scale": SCALE.log(),
    }
    batch = {
        "images": torch.zeros(0), "tokens": torch.zeros(0), "keys": IMAGE_KEYS % 2,
        "image_captions": IMAGE_KEYS, "text_captions": TEXT_KEYS,
    }  # fmt: skip
    return batch, outputs


def test_stablerep_plus_weighs_its_two_losses():
    batch, outputs = batch_and_outputs()
    values = StableRepPlusObjective(0.5, 2, 0.1, alone, 0)(lambda *_: outputs, batch)
    between_images = multi_positive_loss(outputs["features"], IMAGE_KEYS % 2, 0.1, alone, 0)["loss"]
    sides = outputs["images"], IMAGE_KEYS, outputs["texts"], TEXT_KEYS
    to_text, to_image = slow_direction(*sides, SCALE), slow_direction(*sides[2:], *sides[:2], SCALE)
    torch.testing.assert_close(values["loss"], 0.5 * between_images + 2 * (to_text + to_image) / 2)
    torch.testing.assert_close(values["image_loss"], between_images)
    clip = ClipObjective(alone)(lambda *_: outputs, batch)
    torch.testing.assert_close(clip["loss"], (to_text + to_image) / 2)


def test_losses_are_taken_in_full_precision():
    batch, outputs = batch_and_outputs(torch.bfloat16)
    precise = {name: tensor.float() for name, tensor in outputs.items()}
    for objective in (ClipObjective(alone), StableRepPlusObjective(1, 1, 0.1, alone, 0)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = objective(lambda *_: outputs, batch)["loss"]
        outside = objective(lambda *_: precise, batch)["loss"]
        assert inside.dtype in (torch.float32, torch.float64)
        torch.testing.assert_close(inside, outside, rtol=1e-6, atol=0, check_dtype=False)


def test_the_scale_stays_in_its_bounds():
    for start, direction, end in ((math.log(100) - 0.01, -1.0, math.log(100)), (0.01, 1.0, 0.0)):
        scale = nn.Parameter(torch.tensor(start, dtype=torch.float64))
        optimizer = torch.optim.SGD([scale], lr=1.0)
        bound_scale(scale, optimizer)
        (direction * scale).backward()
        optimizer.step()
        assert float(scale.detach()) == pytest.approx(end, abs=1e-12)
