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
    queries: torch.Tensor, reference: Images, query_block: int = 1024, reference_block: int = 4096
) -> torch.Tensor:
    """The distance of each query to its nearest reference image, both as thumbnails.

    A float32 matrix product finds the few nearest candidates in each block of the reference; their distances are then
    computed exactly, so that an exact copy has distance 0. Each reference image is read once, and memory does not grow
    with their number.

    Args:
        queries: uint8 (N, 3, S, S), `thumbnails` of images.
        reference: uint8 (M, 3, H, W), whole images.
        query_block: queries at a time.
        reference_block: reference images at a time.

    Returns:
        float64 (N,): root mean square difference of pixel values in [0, 1]; 0 for a copy, 1 for black against white.

    Raises:
        ValueError: there are no reference images, or sizes differ.
    """
    rows = torch.arange(len(reference))
    if not len(rows) or queries.shape[1:] != thumbnails(reference, rows[:1]).shape[1:]:
        raise ValueError(f"no neighbours of {tuple(queries.shape)} images among {tuple(reference.shape)}")
    nearest = torch.full((len(queries),), torch.inf, dtype=torch.float64, device=queries.device)
    for part in torch.split(rows, reference_block):
        block = thumbnails(reference, part)
        flat = _flat(block)
        norms = flat.square().sum(1)
        for start in range(0, len(queries), query_block):
            mine = slice(start, start + query_block)
            # Squared distance less |query|^2, which is the same for every candidate.
            scores = torch.addmm(norms, _flat(queries[mine]), flat.T, alpha=-2)
            candidates = scores.topk(min(_CANDIDATES, len(block)), dim=1, largest=False).indices
            for candidate in candidates.unbind(1):
                nearest[mine] = torch.minimum(nearest[mine], _distances(queries[mine], block[candidate]))
    return nearest


def _distances(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Of each of the first images (N, 3, S, S) to the second in its place."""
    return (first.double() - second.double()).flatten(1).square().mean(1).sqrt() / 255


def _flat(images: torch.Tensor) -> torch.Tensor:
    """float32 (N, 3·H·W) in [-1, 1], where rounding is least."""
    return images.flatten(1).float().mul_(2 / 255).sub_(1)
