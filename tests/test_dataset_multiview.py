"""Who meets whom in a contrastive batch."""

import pytest
import torch

from stages.artifacts import BadInput
from stages.dataset.multiview import caption_views, crop_views, keys_of
from stages.dataset.tensors import Split

IDS = torch.tensor([7, 3, 3, 9, 7, 3, 9, 7, 9, 1, 1, 1, 7])  # captions 1, 3, 7, 9 with 3, 3, 4, 3 images


def split(captions=IDS, labels=None):
    labels = captions // 2 % 2 if labels is None else labels
    images = torch.zeros(len(captions), 3, 2, 2, dtype=torch.uint8)
    return Split(images, labels, captions, ("even", "odd"))


def test_a_batch_is_distinct_images_of_distinct_captions_in_view_major_order():
    rows_of = caption_views(IDS, num_captions=2, images_per_caption=3, seed=0)
    for step in range(30):
        rows = rows_of(step)
        views = IDS[rows].view(3, 2)
        assert (views == views[0]).all(), "every view shows the same captions in the same order"
        assert len(views[0].unique()) == 2
        assert len(rows.unique()) == 6


def test_captions_come_in_epochs_and_images_at_random():
    rows_of = caption_views(IDS, num_captions=2, images_per_caption=3, seed=0)
    seen = set()
    for epoch in range(40):
        rows = torch.cat([rows_of(2 * epoch), rows_of(2 * epoch + 1)])
        assert sorted(IDS[rows].unique().tolist()) == [1, 3, 7, 9]
        seen |= {tuple(sorted(rows[IDS[rows] == 7].tolist()))}
    assert len(seen) == 4, "all choices of 3 out of caption 7's 4 images"


def test_batches_are_a_function_of_seed_and_step():
    for make in (lambda seed: caption_views(IDS, 2, 3, seed), lambda seed: crop_views(13, 4, 2, seed)):
        forwards = [make(0)(step).tolist() for step in range(8)]
        rows_of = make(0)
        backwards = [rows_of(step).tolist() for step in reversed(range(8))][::-1]
        assert forwards == backwards
        assert forwards != [make(1)(step).tolist() for step in range(8)]


def test_two_crops_of_each_image():
    rows_of = crop_views(13, images_per_batch=4, num_views=2, seed=0)
    for epoch in range(3):
        first = []
        for step in range(3 * epoch, 3 * epoch + 3):
            left, right = rows_of(step).view(2, 4)
            assert left.tolist() == right.tolist()
            first += left.tolist()
        assert len(set(first)) == 12, "no image twice in an epoch"


def test_keys():
    rows = torch.tensor([0, 1, 4, 2])  # two views of captions 7 and 3
    assert keys_of(split(), "slot", 2)(rows).tolist() == [0, 1, 0, 1]
    assert keys_of(split(), "caption", 2)(rows).tolist() == [7, 3, 7, 3]
    assert keys_of(split(), "class", 2)(rows).tolist() == [1, 1, 1, 1]


def test_what_can_not_be_done_is_said():
    with pytest.raises(BadInput, match="images_per_caption: 4, but caption 1 has only 3 images"):
        caption_views(IDS, 2, 4, 0)
    with pytest.raises(BadInput, match="batch_size: needs 5 captions per batch, but there are only 4"):
        caption_views(IDS, 5, 3, 0)
    with pytest.raises(BadInput, match="made from no caption"):
        caption_views(torch.full((6,), -1), 2, 3, 0)
    with pytest.raises(BadInput, match="made from no caption"):
        caption_views(torch.empty(0, dtype=torch.int64), 2, 3, 0)
    with pytest.raises(BadInput, match="batch_size: needs 4 images per batch, but there are only 3"):
        crop_views(3, 4, 2, 0)
    for labels, complaint in ((-1, "have no label, which"), (1, "all training images have one label")):
        with pytest.raises(BadInput, match=complaint):
            keys_of(split(labels=torch.full_like(IDS, labels)), "class", 2)
