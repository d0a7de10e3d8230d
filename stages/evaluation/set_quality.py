"""What a set of images is worth as training data, by a classifier's features and predictions.

Each figure is meant to stand beside its floor: what new real images get against the same reference.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stages.artifacts import BadInput
from stages.evaluation.frechet import frechet_distance
from stages.evaluation.prdc import prdc
from stages.evaluation.vendi import vendi_score


@dataclass(frozen=True)
class Judged:
    """What a classifier makes of a set of images."""

    features: torch.Tensor
    """(N, D), of the penultimate layer."""
    predicted: torch.Tensor
    """int64 (N,), class indices."""
    labels: torch.Tensor
    """int64 (N,), what each image was made or taken as."""

    def __getitem__(self, chosen: torch.Tensor) -> "Judged":
        """The images at the positions, or where the mask, (n,)."""
        return Judged(self.features[chosen], self.predicted[chosen], self.labels[chosen])

    def by_class(self) -> list["Judged"]:
        """The images of each class that is there, by its index."""
        return [self[self.labels == label] for label in sorted(set(self.labels.tolist()))]


def draw_equally(
    sets: Mapping[str, Judged], num_classes: int, images_per_class: int, seed: int
) -> dict[str, torch.Tensor]:
    """Positions in each set of as many images of a class as the poorest set has, `images_per_class` at the most.

    Figures of a set depend on its size and its shares of classes; so all that are compared have the same. What is drawn
    is a function of the seed, the label and the number of images that the set has of it.
    """
    drawn: dict[str, list[torch.Tensor]] = {name: [] for name in sets}
    for label in range(num_classes):
        own = {name: judged.labels.eq(label).nonzero().flatten().cpu() for name, judged in sets.items()}
        count = min(images_per_class, *map(len, own.values()))
        for name, positions in own.items():
            order = np.random.default_rng([seed, label]).permutation(len(positions))[:count]
            drawn[name].append(positions[torch.from_numpy(order)])
    return {name: torch.cat(parts) for name, parts in drawn.items()}


def recognizability(judged: Judged) -> float:
    """The share of images, in [0, 1], that the classifier takes for their own class: its accuracy, "GAN-test"."""
    return judged.predicted.eq(judged.labels).double().mean().item()


def diversity(judged: Judged) -> float:
    """The features' standard deviation inside a class, mean over dimensions, then over the classes that are there."""
    deviations = [part.features.double().std(0, correction=0).mean() for part in judged.by_class()]
    return torch.stack(deviations).mean().item()


def compare(reference: Judged, candidates: Judged, to_train: torch.Tensor, num_neighbors: int) -> dict[str, Any]:
    """A set beside the real one.

    Args:
        reference: real images, as many of each class as candidates.
        candidates: the images in question.
        to_train: float64 (candidates,), how far each is from the nearest image that it may have been copied from.
        num_neighbors: of precision, recall, density and coverage.

    Raises:
        BadInput: there are too few images for so many neighbours.
    """
    if num_neighbors >= len(candidates.labels):
        raise BadInput(
            f"audit_synthetic.num_neighbors: {num_neighbors} neighbours need more than {len(candidates.labels)} images "
            "a set; lower it, or raise images_per_class or fetch_data.test_per_class"
        )
    low, middle = to_train.quantile(to_train.new_tensor([0.05, 0.5])).tolist()
    classes = [vendi_score(part.features) for part in candidates.by_class()]
    return {
        **prdc(reference.features, candidates.features, num_neighbors),
        "diversity": diversity(candidates),
        "vendi": vendi_score(candidates.features),
        "vendi_per_class": float(np.mean(classes)),
        "frechet_distance": frechet_distance(reference.features, candidates.features),
        "distance_to_nearest_train": {"minimum": to_train.min().item(), "percentile_5": low, "median": middle},
    }


def per_class_rows(
    whole: Mapping[str, Judged], drawn: Mapping[str, Judged], class_names: tuple[str, ...]
) -> list[dict[str, Any]]:
    """One row per class with the figures that are about images of one class, for a table.

    Args:
        whole: sets by the names that columns begin with.
        drawn: their equal parts.
        class_names: of the labels.
    """
    rows = []
    for label, class_name in enumerate(class_names):
        row: dict[str, Any] = {"class": class_name}
        for name, judged in whole.items():
            part = drawn[name][drawn[name].labels == label]
            row |= {
                f"{name}_recognizability": recognizability(judged[judged.labels == label]),
                f"{name}_diversity": diversity(part),
                f"{name}_vendi": vendi_score(part.features),
            }
        rows.append(row)
    return rows
