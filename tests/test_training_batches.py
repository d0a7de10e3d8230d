import torch

from stages.training.batches import EpochOrder, LabelledBatches

NUM_IMAGES, BATCH = 10, 4


def test_each_epoch_shows_every_image_once_in_an_order_of_its_own():
    order = EpochOrder(NUM_IMAGES, BATCH, seed=0)
    stream = torch.cat([order(step, range(BATCH)) for step in range(15)]).tolist()
    epochs = [stream[start : start + NUM_IMAGES] for start in range(0, 60, NUM_IMAGES)]
    assert all(sorted(epoch) == list(range(NUM_IMAGES)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_it_is_a_function_of_the_seed_and_the_step_alone():
    order, fresh, other = (EpochOrder(NUM_IMAGES, BATCH, seed) for seed in (0, 0, 1))
    steps = [order(step, range(BATCH)).tolist() for step in range(20)]
    assert [fresh(step, range(BATCH)).tolist() for step in reversed(range(20))] == steps[::-1]
    assert [other(step, range(BATCH)).tolist() for step in range(20)] != steps


def test_rows_cut_a_batch_anywhere():
    order = EpochOrder(NUM_IMAGES, BATCH, seed=0)
    for step in range(10):
        parts = [order(step, range(0, 1)), order(step, range(1, 3)), order(step, range(3, 4))]
        assert torch.cat(parts).tolist() == order(step, range(BATCH)).tolist()


def test_a_batch_may_be_larger_than_the_set():
    chosen = EpochOrder(3, 8, seed=0)(1, range(8)).tolist()  # positions 8 to 15: the last of epoch 2, then 3, 4, 5
    assert sorted(chosen[1:4]) == sorted(chosen[4:7]) == [0, 1, 2]


def test_labels_stay_with_their_images_and_the_transform_sees_positions():
    images = torch.arange(NUM_IMAGES, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    seen = []

    def transform(images, step, positions):
        seen.append((step, positions.tolist()))
        return images.float()

    batches = LabelledBatches(images, torch.arange(NUM_IMAGES) * 7, EpochOrder(NUM_IMAGES, BATCH, 0), transform)
    batch = batches(5, range(2, 4))
    assert seen == [(5, [2, 3])]
    assert (batch["images"][:, 0, 0, 0] * 7).tolist() == batch["labels"].tolist()
