"""Precision, recall, density and coverage of a set of images in a feature space, and nearest neighbours there.

Improved precision and recall (Kynkäänniemi et al. 2019, equations 1 and 2), density and coverage (Naeem et al.,
"Reliable Fidelity and Diversity Metrics for Generative Models", 2020, equations 4 and 5). Distances are exact float64
differences, never the cheaper |a|^2 + |b|^2 - 2ab, so that a copy lies at distance 0. All four depend on the sizes of
both sets: compare sets of one size.
"""

from collections.abc import Iterable

import torch

ROWS_AT_A_TIME = 1024
"""Bounds memory at this number times the other set; changes nothing else."""


def prdc(reference: torch.Tensor, candidates: torch.Tensor, num_neighbors: int) -> dict[str, float]:
    """All four, as the reference implementation `generative-evaluation-prdc` has them.

    A point's ball reaches to its k-th nearest neighbour of its own set, itself left out; "in" it means nearer than
    that, not as near.

    Args:
        reference: real images, (N, D).
        candidates: the images in question, (M, D).
        num_neighbors: k, below N and M.

    Returns:
        `precision`, the share of candidates in the ball of some real image; `recall`, the share of real images in the
        ball of some candidate; `density`, in how many real balls a candidate lies on average, over k, which may exceed
        1; `coverage`, the share of real images with a candidate in their ball.

    Raises:
        ValueError: a set has too few images for k neighbours.
    """
    if num_neighbors >= min(len(reference), len(candidates)):
        raise ValueError(f"{num_neighbors} neighbours in sets of {len(reference)} and {len(candidates)} images")
    candidate_radii = radii(candidates, num_neighbors)
    balls = torch.zeros(len(candidates), dtype=torch.int64, device=candidates.device)
    recalled, covered = [], []
    for block, own_radii in zip(
        torch.split(reference, ROWS_AT_A_TIME),
        torch.split(radii(reference, num_neighbors), ROWS_AT_A_TIME),
        strict=True,
    ):
        apart = distances(block, candidates)
        balls += (apart < own_radii[:, None]).sum(0)
        recalled.append((apart < candidate_radii).any(1))
        covered.append(apart.amin(1) < own_radii)
    return {
        "precision": (balls > 0).double().mean().item(),
        "recall": torch.cat(recalled).double().mean().item(),
        "density": balls.double().mean().item() / num_neighbors,
        "coverage": torch.cat(covered).double().mean().item(),
    }


def radii(points: torch.Tensor, num_neighbors: int) -> torch.Tensor:
    """The distance of each point (N, D) to its k-th nearest of the others: float64 (N,)."""
    blocks = [
        distances(block, points).topk(num_neighbors + 1, largest=False).values[:, -1]  # the nearest is the point itself
        for block in torch.split(points, ROWS_AT_A_TIME)
    ]
    return torch.cat(blocks)


def nearest(queries: torch.Tensor, reference: Iterable[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Each query's nearest point of the reference, of equals the first.

    Args:
        queries: (M, D).
        reference: blocks (B, D) of the points, in order; no more than one is in memory at a time.

    Returns:
        Its distance, float64 (M,), and its position among all points, int64 (M,).
    """
    apart = torch.full((len(queries),), torch.inf, dtype=torch.float64, device=queries.device)
    position = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
    first = 0
    for block in reference:
        for start in range(0, len(queries), ROWS_AT_A_TIME):
            mine = slice(start, start + ROWS_AT_A_TIME)
            found = distances(queries[mine], block).min(1)
            position[mine] = torch.where(found.values < apart[mine], first + found.indices, position[mine])
            apart[mine] = torch.minimum(apart[mine], found.values)
        first += len(block)
    return apart, position


def distances(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Euclidean distances of all pairs: (N, D) and (M, D) to float64 (N, M)."""
    return torch.cdist(first.double(), second.double(), compute_mode="donot_use_mm_for_euclid_dist")
