"""Which images meet in a contrastive batch, and which of them count as the same thing.

A batch is n things in m views each, in the paper's view-major order: all n in view 0, then all n in view 1, ... Both
kinds of batches are pure functions of the step, so resuming a run needs nothing but its step.
"""

import functools
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch

from stages.artifacts import BadInput
from stages.dataset.tensors import Split

PositiveKey = Literal["slot", "caption", "class"]

_ORDER, _CHOICE = 1, 2  # random streams: the order of an epoch, and a step's choice of images


def caption_views(
    caption_ids: torch.Tensor, num_captions: int, images_per_caption: int, seed: int
) -> Callable[[int], torch.Tensor]:
    """StableRep's batches: n distinct captions, m distinct images of each (methods: random m of those generated).

    Captions come in epochs without replacement; an epoch's last captions that fill no batch are left out of it.

    Args:
        caption_ids: int64 (N,), -1 where an image was made from no caption.
        num_captions: n, captions per batch.
        images_per_caption: m.
        seed: of the order.

    Returns:
        A function of the step that gives int64 (m * n,): rows of the split.

    Raises:
        BadInput: images without captions, fewer than n captions, or a caption with fewer than m images.
    """
    if len(caption_ids) == 0 or bool((caption_ids < 0).any()):
        raise BadInput(
            "images_per_caption: some training images were made from no caption, so that they have no views; "
            "pretrain by captions on synthetic images, or use method simclr or supcon"
        )
    order = np.argsort(caption_ids.numpy(), kind="stable")
    captions, starts, counts = np.unique(caption_ids.numpy()[order], return_index=True, return_counts=True)
    if counts.min() < images_per_caption:
        raise BadInput(
            f"images_per_caption: {images_per_caption}, but caption {captions[counts.argmin()]} has only "
            f"{counts.min()} images; lower it, or raise generate_synthetic.images_per_caption"
        )
    if len(captions) < num_captions:
        raise BadInput(
            f"batch_size: needs {num_captions} captions per batch, but there are only {len(captions)}; "
            "lower it, or write more prompts"
        )

    def rows(step: int) -> torch.Tensor:
        chosen = _epoch_batch(len(captions), num_captions, seed, step)
        rng = np.random.default_rng([seed, _CHOICE, step])
        views = [starts[c] + rng.permutation(counts[c])[:images_per_caption] for c in chosen]
        return torch.from_numpy(order[np.stack(views, axis=1).reshape(-1)])

    return rows


def crop_views(num_images: int, images_per_batch: int, num_views: int, seed: int) -> Callable[[int], torch.Tensor]:
    """SimCLR's batches: n images, each in as many views; the augmentation makes another crop of it for each.

    Images come in epochs without replacement; an epoch's last images that fill no batch are left out of it.

    Returns:
        A function of the step that gives int64 (num_views * n,): rows of the split.

    Raises:
        BadInput: fewer than n images.
    """
    if num_images < images_per_batch:
        raise BadInput(
            f"batch_size: needs {images_per_batch} images per batch, but there are only {num_images}; lower it"
        )

    def rows(step: int) -> torch.Tensor:
        return torch.from_numpy(np.tile(_epoch_batch(num_images, images_per_batch, seed, step), num_views))

    return rows


def keys_of(split: Split, key: PositiveKey, num_views: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """What makes two views of a batch positives: equal numbers.

    Args:
        split: the training images.
        key: `slot` is the place in the batch, as StableRep's released code has it: two captions are two things even
            if they read alike. `caption` and `class` say what they are.
        num_views: m.

    Returns:
        A function from a batch's rows, int64 (m * n,) in view-major order, to as many numbers.

    Raises:
        BadInput: class positives, but an image has no label, or all have the same.
    """
    numbers = class_labels(split) if key == "class" else split.caption_ids

    def keys(rows: torch.Tensor) -> torch.Tensor:
        return torch.arange(len(rows) // num_views).repeat(num_views) if key == "slot" else numbers[rows]

    return keys


def class_labels(split: Split) -> torch.Tensor:
    """The labels of all images, int64 (N,), for the methods that learn from them.

    Raises:
        BadInput: an image has none, or all have the same.
    """
    if bool((split.labels < 0).any()):
        raise BadInput(
            "method: some training images have no label, which supervised, supcon and positive_key class learn from; "
            "choose another method, or positive_key slot or caption"
        )
    if len(torch.unique(split.labels)) < 2:
        raise BadInput("method: all training images have one label, which tells nothing apart; use another method")
    return split.labels


def _epoch_batch(num_items: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """The items of a step's batch: a slice of its epoch's permutation."""
    epoch, place = divmod(step, num_items // batch_size)
    return _permutation(num_items, seed, epoch)[place * batch_size : (place + 1) * batch_size]


@functools.lru_cache(maxsize=2)
def _permutation(num_items: int, seed: int, epoch: int) -> np.ndarray:
    """An epoch's order; kept, since for millions of items it takes longer than a step's augmentation."""
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(num_items)
