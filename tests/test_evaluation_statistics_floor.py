"""The floor finds what statistics tell, nothing where they tell nothing, and keeps no pickle."""

import numpy as np
import pytest

from stages.artifacts import BadInput
from stages.detector_sections import StatisticsFloor
from stages.evaluation.image_statistics import NAMES
from stages.evaluation.statistics_floor import judge_by_statistics
from stages.evaluation.training_images import TrainingImages

SETTINGS = StatisticsFloor(inverse_strength=1, max_iterations=200, num_trees=30, learning_rate=0.1, max_leaves=8)


def table(count, seed, *planted, strength=2.0):
    """Noise, and columns that rise with the kind."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 2, count)
    statistics = rng.normal(0, 1, (count, len(NAMES))).astype(np.float32)
    for name in planted:
        statistics[:, NAMES.index(name)] += strength * kinds
    return TrainingImages(statistics, kinds, np.arange(count))


def accuracy(train, test):
    found = judge_by_statistics(train, test.statistics, SETTINGS)
    assert set(found) == {"gradient_boosting", "logistic_regression", "spectrum"}
    for logits in found.values():
        assert logits.shape == (len(test.kinds), 2)
        assert logits.dtype == np.float32
        assert not logits[:, 0].any()
    return {name: float(((logits[:, 1] > 0) == test.kinds).mean()) for name, logits in found.items()}


def test_a_planted_difference_is_found_by_those_who_look_there():
    colour = accuracy(table(600, 0, "mean_cb"), table(400, 1, "mean_cb"))
    assert colour["gradient_boosting"] > 0.75
    assert colour["logistic_regression"] > 0.75
    assert colour["spectrum"] < 0.6
    assert accuracy(table(600, 0, "log_power_16"), table(400, 1, "log_power_16"))["spectrum"] > 0.75


def test_an_interaction_is_found_by_trees_alone():
    def crossed(seed):
        plain = table(1500, seed)
        kinds = ((plain.statistics[:, 3] > 0) ^ (plain.statistics[:, 20] > 0)).astype(np.int64)
        return TrainingImages(plain.statistics, kinds, plain.digests)

    found = accuracy(crossed(0), crossed(1))
    assert found["gradient_boosting"] > 0.85
    assert found["logistic_regression"] < 0.6


def test_nothing_is_found_where_nothing_is():
    assert max(accuracy(table(600, 0), table(1000, 1)).values()) < 0.56


def test_the_same_table_gives_the_same_logits():
    train, test = table(300, 0, "mean_cr"), table(100, 1, "mean_cr")
    first, second = (judge_by_statistics(train, test.statistics, SETTINGS) for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_the_table_comes_back_from_disk_or_is_refused(tmp_path):
    kept = table(50, 0, "mean_red")
    kept.save(tmp_path)
    read = TrainingImages.load(tmp_path)
    for name, values in vars(kept).items():
        assert np.array_equal(getattr(read, name), values)
    with pytest.raises(BadInput, match=r"nowhere/training_images.safetensors: can't be read"):
        TrainingImages.load(tmp_path / "nowhere")
    (tmp_path / "training_images.safetensors").write_bytes(b"no")
    with pytest.raises(BadInput, match="can't be read"):
        TrainingImages.load(tmp_path)
    short = TrainingImages(kept.statistics[:, :5], kept.kinds, kept.digests)
    with pytest.raises(BadInput, match="holds other statistics"):
        judge_by_statistics(short, kept.statistics, SETTINGS)
