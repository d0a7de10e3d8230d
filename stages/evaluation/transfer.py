"""Frozen features on another labelled data set: what an encoder is worth where it was not made for."""

from typing import Any

import numpy as np

from stages.artifacts import BadInput
from stages.evaluation import scores
from stages.evaluation.few_shot import few_shot_accuracy
from stages.evaluation.intervals import Resampling, top1_interval
from stages.evaluation.knn import class_votes
from stages.evaluation.probe import Labelled, choose_head
from stages.probe_sections import ProbeEncoder


def judge_transfer(
    train: Labelled, val: Labelled, test: Labelled, num_classes: int, settings: ProbeEncoder
) -> dict[str, Any]:
    """The transfer protocol's linear probe, nearest neighbours and few shots, all on the set's own test split.

    Args:
        train: what head and neighbours learn from.
        val: what the penalty is chosen on, then learned from too where the settings say so.
        test: what all figures are about.
        num_classes: of this data set.
        settings: the protocols' own sections.

    Returns:
        Shares in [0, 1]. `top1` and, for sets of unequal classes, `mean_class_accuracy`. The few-shot figures are
        left out where the test split is too small for the episodes.
    """
    head = choose_head(train, val, num_classes, settings.transfer)
    logits = head.logits(test.features)
    correct, per_class = (
        scores.correct(test.labels, logits),
        scores.per_class_accuracy(test.labels, scores.predicted(logits), num_classes),
    )
    near = settings.neighbors
    votes = class_votes(train.features, train.labels, test.features, num_classes, near.num_neighbors, near.temperature)
    resampling = Resampling(settings.num_resamples, settings.bootstrap_seed, settings.confidence)
    facts = {
        "top1": float(correct.mean()),
        "top1_interval": top1_interval(correct, resampling).as_json(),
        "mean_class_accuracy": float(np.mean([share for share in per_class if share is not None])),
        "val_top1": head.val_top1,
        "inverse_strength": head.inverse_strength,
        "converged": head.converged,
        "neighbors_top1": float((votes.argmax(axis=1) == test.labels).mean()),
        "num_classes": num_classes,
        "num_train_images": len(train.labels),
        "num_images": len(test.labels),
    }
    try:
        few = few_shot_accuracy(test.features, test.labels, settings.few_shot, settings.bootstrap_seed)
    except BadInput:
        return facts
    return {**facts, "few_shot_top1": few.mean, "few_shot_top1_half_width": few.half_width}
