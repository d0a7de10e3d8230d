import threading

import pytest
import torch

from stages.training.batches import EpochOrder, LabelledBatches
from stages.training.prefetch import ReadAhead, read_ahead

STEPS, PARTS = 4, (range(0, 3), range(3, 6))


def batches_of(images):
    order = EpochOrder(len(images), 6, 0)
    return LabelledBatches(images, torch.arange(len(images)), order, lambda images, step, rows: images * step + rows)


def test_batches_are_the_same_and_one_step_ahead():
    plain, asked = batches_of(torch.arange(40)), []

    def noted(step, rows):
        asked.append((step, rows, threading.current_thread() is threading.main_thread()))
        return plain(step, rows)

    ahead = ReadAhead(noted, STEPS)
    for step in range(1, STEPS):  # as after a resume at step 1
        for rows in PARTS:
            batch, expected = ahead(step, rows), plain(step, rows)
            assert batch.keys() == expected.keys()
            assert all(torch.equal(batch[key], expected[key]) for key in batch)
    assert len(asked) == len(PARTS) * (STEPS - 1)  # each once, and none beyond the last step
    assert {step for step, _, in_main in asked if in_main} == {1}
    assert {(step, rows) for step, rows, _ in asked} == {(s, r) for s in range(1, STEPS) for r in PARTS}


def test_what_goes_wrong_ahead_is_raised_where_the_batch_is_taken():
    def broken(step, rows):
        if step == 2:
            raise ValueError("no such image")
        return {"images": torch.zeros(1)}

    ahead = ReadAhead(broken, STEPS)
    for step in (0, 1):
        ahead(step, PARTS[0])
    with pytest.raises(ValueError, match="no such image"):
        ahead(2, PARTS[0])


def test_images_in_memory_need_none():
    batches = batches_of(torch.arange(40))
    assert read_ahead(batches, torch.zeros(1), STEPS) is batches
    assert isinstance(read_ahead(batches, object(), STEPS), ReadAhead)
