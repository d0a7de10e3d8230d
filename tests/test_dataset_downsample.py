"""Views made coarse."""

import numpy as np
import pytest
import torch
from PIL import Image

from stages.dataset.downsample import downsample
from stages.encoder_sections import Downsample

EVERYWHERE = torch.arange(400)


def pictures(count=400, side=16):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, side, side), generator=generator, dtype=torch.uint8)


def test_a_share_of_the_views_is_resized_to_each_size_equally_often():
    images = pictures()
    coarse = downsample(images, Downsample(probability=0.5, sizes=[4, 8]), 0, 0, EVERYWHERE)
    outcomes = [images, *(downsample(images, Downsample(probability=1, sizes=[s]), 0, 0, EVERYWHERE) for s in (4, 8))]
    unchanged, four, eight = ((coarse == outcome).flatten(1).all(1).sum() for outcome in outcomes)
    assert int(unchanged + four + eight) == len(images)
    assert 160 < int(unchanged) < 240
    assert 70 < int(four) < 130
    assert torch.equal(downsample(images, Downsample(probability=0, sizes=[4]), 0, 0, EVERYWHERE), images)


def test_it_is_pils_resize_there_and_back():
    images = pictures(4)
    coarse = downsample(images, Downsample(probability=1, sizes=[6]), 0, 0, EVERYWHERE[:4])
    for image, ours in zip(images, coarse, strict=True):
        small = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((6, 6), Image.Resampling.BILINEAR)
        expected = np.asarray(small.resize((16, 16), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        assert np.abs(expected.astype(int) - ours.numpy().astype(int)).max() <= 2  # PIL rounds between columns and rows


@pytest.mark.parametrize("parts", [2, 5])
def test_any_split_of_a_batch_gives_the_same_pixels(parts):
    images, settings = pictures(), Downsample(probability=0.3, sizes=[4, 8])
    whole = downsample(images, settings, 3, 7, EVERYWHERE)
    shares = [downsample(images[rows], settings, 3, 7, rows) for rows in EVERYWHERE.chunk(parts)]
    assert torch.equal(torch.cat(shares), whole)
    for seed, step in ((4, 7), (3, 8)):
        assert not torch.equal(downsample(images, settings, seed, step, EVERYWHERE), whole)
