"""The field's other ways to judge frozen features, beside the linear probe of `probe`."""

import torch

from stages.evaluation.feature_analysis import analyze
from stages.evaluation.few_shot import few_shot_accuracy
from stages.evaluation.knn import class_votes
from stages.evaluation.linear_heads import choose_head, fit_heads
from stages.evaluation.probe import Labelled
from stages.probe_sections import ProbeEncoder


def judge_otherwise(
    train: Labelled, val: Labelled, test: Labelled, num_classes: int, settings: ProbeEncoder
) -> dict[str, float]:
    """Few shots, nearest neighbours, SGD heads, and what the features look like.

    Args:
        train: real images that neighbours and SGD heads learn from.
        val: real images that the SGD head's learning rate is chosen on.
        test: real images that all figures are about; the few shots are drawn from them too.
        num_classes: of the data set.
        settings: the protocols' own sections.

    Returns:
        Shares in [0, 1], and the figures of `feature_analysis.analyze`.

    Raises:
        BadInput: the test split is too small for the few-shot episodes.
    """
    few = few_shot_accuracy(test.features, test.labels, settings.few_shot, settings.bootstrap_seed)
    near = settings.neighbors
    votes = class_votes(train.features, train.labels, test.features, num_classes, near.num_neighbors, near.temperature)
    heads = fit_heads(*_tensors(train), num_classes, settings.linear_heads, settings.bootstrap_seed)
    chosen = choose_head(heads, *_tensors(val))
    return {
        "few_shot_top1": few.mean,
        "few_shot_top1_half_width": few.half_width,
        "neighbors_top1": float((votes.argmax(axis=1) == test.labels).mean()),
        "sgd_head_top1": float(heads.accuracy(*_tensors(test))[chosen]),
        "sgd_head_base_learning_rate": settings.linear_heads.base_learning_rates[chosen],
        **analyze(test.features, test.labels),
    }


def _tensors(split: Labelled) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(split.features), torch.from_numpy(split.labels)
