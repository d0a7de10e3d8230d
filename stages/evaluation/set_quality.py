"""What a set of images is worth as training data, by a classifier's features and predictions.

Each figure is meant to stand beside its floor: what new real images get against the same reference.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stages.artifacts import BadInput
from stages.evaluation.frechet import frechet_distance
from stages.evaluation.prdc import prdc
from stages.evaluation.vendi import vendi_score

Counts = NDArray[np.int64]
"""Images by (own class, class that the classifier takes them for), as `scores.confusion` has them."""


@dataclass(frozen=True)
class Embedded:
    """Where a classifier's penultimate layer puts a set of images."""

    features: torch.Tensor
    """(N, D)."""
    labels: torch.Tensor
    """int64 (N,), what each image was made or taken as."""

    def of_class(self, label: int) -> "Embedded":
        """The images of one class."""
        own = self.labels == label
        return Embedded(self.features[own], self.labels[own])

    def by_class(self) -> list["Embedded"]:
        """The images of each class that is there, by its index."""
        return [self.of_class(label) for label in sorted(set(self.labels.tolist()))]


class Drawn:
    """Keeps the drawn ones of features that pass by, so that those of a whole set are never in memory."""

    def __init__(self, rows: torch.Tensor) -> None:
        """`rows`: int64 (n,), positions among all that will pass, in any order."""
        self._rows = rows
        self._found: torch.Tensor | None = None

    def passing(self, batches: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """The batches (B, D) themselves, in order."""
        first = 0
        for batch in batches:
            if self._found is None:
                self._found = batch.new_zeros((len(self._rows), batch.shape[1]))
                self._rows = self._rows.to(batch.device)
            mine = (self._rows >= first) & (self._rows < first + len(batch))
            self._found[mine] = batch[self._rows[mine] - first]
            first += len(batch)
            yield batch

    def features(self) -> torch.Tensor:
        """(n, D), once all have passed."""
        assert self._found is not None
        return self._found


def draw_equally(
    labels: Mapping[str, torch.Tensor], num_classes: int, images_per_class: int, seed: int
) -> dict[str, torch.Tensor]:
    """Positions in each set of as many images of a class as the poorest set has, `images_per_class` at the most.

    Figures of a set depend on its size and its shares of classes; so all that are compared have the same. What is drawn
    is a function of the seed, the label and the number of images that the set has of it. `labels`: int64 (N,) by set.
    """
    drawn: dict[str, list[torch.Tensor]] = {name: [] for name in labels}
    for label in range(num_classes):
        own = {name: given.eq(label).nonzero().flatten() for name, given in labels.items()}
        count = min(images_per_class, *map(len, own.values()))
        for name, positions in own.items():
            order = np.random.default_rng([seed, label]).permutation(len(positions))[:count]
            drawn[name].append(positions[torch.from_numpy(order)])
    return {name: torch.cat(parts) for name, parts in drawn.items()}


def recognizability(confusion: Counts) -> float:
    """The share of images, in [0, 1], that the classifier takes for their own class: its accuracy, "GAN-test"."""
    return float(confusion.trace() / confusion.sum())


def diversity(judged: Embedded) -> float:
    """The features' standard deviation inside a class, mean over dimensions, then over the classes that are there."""
    deviations = [part.features.double().std(0, correction=0).mean() for part in judged.by_class()]
    return torch.stack(deviations).mean().item()


def compare(reference: Embedded, candidates: Embedded, to_train: torch.Tensor, num_neighbors: int) -> dict[str, Any]:
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
    whole: Mapping[str, Counts], drawn: Mapping[str, Embedded], class_names: tuple[str, ...]
) -> list[dict[str, Any]]:
    """One row per class with the figures that are about images of one class, for a table.

    Args:
        whole: what the classifier takes each set's images for, by the names that columns begin with.
        drawn: their equal parts.
        class_names: of the labels.
    """
    rows = []
    for label, class_name in enumerate(class_names):
        row: dict[str, Any] = {"class": class_name}
        for name, confusion in whole.items():
            part = drawn[name].of_class(label)
            row |= {
                f"{name}_recognizability": float(confusion[label, label] / confusion[label].sum()),
                f"{name}_diversity": diversity(part),
                f"{name}_vendi": vendi_score(part.features),
            }
        rows.append(row)
    return rows
