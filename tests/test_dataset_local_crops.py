"""Small crops of small parts of images."""

import pytest
import torch

from stages.dataset.local_crops import local_crops
from stages.encoder_sections import LocalCrops
from tests.rivals import PLAIN

SIDE, COUNT = 32, 200
EVERYWHERE = torch.arange(COUNT)
SETTINGS = LocalCrops(num_crops=3, size=8, scale_min=0.05, scale_max=0.4)


def gradients():
    """Red is the column, green the row: a crop shows where it was taken."""
    ramp = (torch.arange(SIDE) * 8).to(torch.uint8)
    image = torch.stack([ramp.expand(SIDE, SIDE), ramp[:, None].expand(SIDE, SIDE), torch.zeros(SIDE, SIDE)])
    return image.to(torch.uint8).expand(COUNT, -1, -1, -1)


def crops_of(settings=SETTINGS, augmentation=PLAIN, seed=0, step=0, rows=EVERYWHERE):
    return local_crops(gradients()[rows], settings, augmentation, seed, step, rows, COUNT)


def test_areas_and_places_are_what_was_asked_for():
    crops = crops_of()
    assert crops.shape == (3 * COUNT, 3, 8, 8)
    levels = (crops + 1) / 2 * 255 / 8  # columns and rows of the image
    width, height = levels[:, 0, 0, -1] - levels[:, 0, 0, 0], levels[:, 1, -1, 0] - levels[:, 1, 0, 0]
    inner = (levels > 0.5).all(-1).all(-1)[:, :2].all(1) & (levels < 30.5).all(-1).all(-1)[:, :2].all(1)
    area = (width * height / SIDE**2 * (8 / 7) ** 2)[inner]  # centres of 8 pixels span 7
    assert int(inner.sum()) > 300
    assert 0.04 < float(area.min()) < 0.07
    assert 0.35 < float(area.max()) < 0.42
    ratio = (width / height)[inner]
    assert 0.72 < float(ratio.min()) < 0.85
    assert 1.2 < float(ratio.max()) < 1.38
    middle = (levels[:, :2, 3:5, 3:5]).mean((2, 3))
    assert bool((middle.min(0).values < 6).all() & (middle.max(0).values > 25).all())


def test_an_images_crops_differ():
    first, second, third = crops_of().chunk(3)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


@pytest.mark.parametrize("parts", [2, 5])
def test_any_split_of_a_batch_gives_the_same_crops(parts):
    whole = crops_of().chunk(3)
    shares = [crops_of(rows=rows).chunk(3) for rows in EVERYWHERE.chunk(parts)]
    for number in range(3):
        assert torch.equal(torch.cat([share[number] for share in shares]), whole[number])
    assert not torch.equal(crops_of(step=1), crops_of())


def test_crops_are_augmented_like_images():
    gray = crops_of(augmentation=PLAIN.model_copy(update={"grayscale": 1.0, "crop_scale_min": 0.01}))
    assert torch.equal(gray[:, 0], gray[:, 2])
    wanted = (crops_of()[:, :2] + 1) @ torch.eye(8)
    shown = gray + 1
    torch.testing.assert_close(shown[:, 0], 0.2989 * wanted[:, 0] + 0.587 * wanted[:, 1], rtol=0, atol=1e-3)
