"""Nearest neighbours in pixel space: how near images lie to the training images.

A generator that memorises makes images that lie nearer to its training images than new real images do
(Carlini et al. 2023 search so, in pixel space, for what diffusion models have memorised).
"""

import torch
import torch.nn.functional as F

from stages.dataset.tensors import Images

COMPARED_SIDE = 32
"""Larger images are compared at this many pixels a side, where memory and time allow all of them."""
_CANDIDATES = 4
_SHRUNK_AT_A_TIME = 64


def thumbnails(images: Images, rows: torch.Tensor | None = None) -> torch.Tensor:
    """The images at `rows` (int64 (n,), all for None) at `COMPARED_SIDE` pixels a side: means of areas, rounded.

    Returns:
        uint8 (n, 3, S, S) on the images' device; images that are no larger, as they are.
    """
    rows = torch.arange(len(images)) if rows is None else rows
    if images.shape[-1] <= COMPARED_SIDE:
        return images[rows]
    sides = (COMPARED_SIDE, COMPARED_SIDE)
    parts = (images[part].float() for part in torch.split(rows, _SHRUNK_AT_A_TIME))
    return torch.cat([F.interpolate(part, sides, mode="area").round().to(torch.uint8) for part in parts])


def nearest_distances(
    queries: torch.Tensor, reference: torch.Tensor, query_block: int = 1024, reference_block: int = 4096
) -> torch.Tensor:
    """The distance of each query to its nearest reference image.

    Blocks of float32 matrix products find the few nearest candidates; their distances are then computed exactly, so
    that an exact copy has distance 0. Memory does not grow with either number of images.

    Args:
        queries: uint8 (N, 3, H, W).
        reference: uint8 (M, 3, H, W).
        query_block: queries at a time.
        reference_block: reference images at a time.

    Returns:
        float64 (N,): root mean square difference of pixel values in [0, 1]; 0 for a copy, 1 for black against white.

    Raises:
        ValueError: there are no reference images, or sizes differ.
    """
    if not len(reference) or queries.shape[1:] != reference.shape[1:]:
        raise ValueError(f"no neighbours of {tuple(queries.shape)} images among {tuple(reference.shape)}")
    blocks = [_nearest_in(block, reference, reference_block) for block in torch.split(queries, query_block)]
    return torch.cat(blocks) if blocks else torch.empty(0, dtype=torch.float64)


def _nearest_in(queries: torch.Tensor, reference: torch.Tensor, reference_block: int) -> torch.Tensor:
    """`nearest_distances` for one block of queries."""
    flat = _flat(queries)
    best = torch.full((len(queries), 0), torch.inf, device=queries.device)
    where = torch.empty((len(queries), 0), dtype=torch.int64, device=queries.device)
    for start in range(0, len(reference), reference_block):
        block = _flat(reference[start : start + reference_block])
        # Squared distance less |query|^2, which is the same for every candidate.
        scores = torch.addmm(block.square().sum(1), flat, block.T, alpha=-2)
        best = torch.cat([best, scores], 1)
        where = torch.cat([where, torch.arange(start, start + len(block), device=where.device).expand_as(scores)], 1)
        best, order = best.topk(min(_CANDIDATES, best.shape[1]), dim=1, largest=False)
        where = where.gather(1, order)
    exact = [
        (queries.double() - reference[candidate].double()).flatten(1).square().mean(1).sqrt() / 255
        for candidate in where.unbind(1)
    ]
    return torch.stack(exact).amin(0)


def _flat(images: torch.Tensor) -> torch.Tensor:
    """float32 (N, 3·H·W) in [-1, 1], where rounding is least."""
    return images.flatten(1).float().mul_(2 / 255).sub_(1)
