"""Which images are made, in which fixed batches, from which seeds: all of it known before the first one is.

Pure; never imports torch.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from stages.artifacts import BadInput
from stages.diffusion.captions import Caption


@dataclasses.dataclass(frozen=True, slots=True)
class Shot:
    """One image to make."""

    caption: Caption
    sample_index: int
    """Counts the images of the caption, rejected ones included."""
    seed: int
    """Of its noise, in [0, 2**63)."""


def image_seed(data_seed: int, caption_id: int, sample_index: int) -> int:
    """A seed for each image that no other image, batch or process has a part in."""
    return int.from_bytes(_digest(data_seed, caption_id, sample_index), "little") >> 1


def plan_shots(
    captions: Sequence[Caption],
    wanted: Mapping[int, int],
    images_per_caption: int,
    val_images_per_caption: int,
    data_seed: int,
) -> list[Shot]:
    """The images of the train captions and of the held-out ones, in the order of caption and sample index.

    A class gets as many train images as are wanted, spread evenly over as few of its captions as can give them. Which
    these are is drawn by the seed and their texts.

    Args:
        captions: of all classes.
        wanted: for each label the number of train images.
        images_per_caption: the most that a train caption gives.
        val_images_per_caption: how many each held-out caption gives.
        data_seed: of all images.

    Raises:
        BadInput: the captions of a class don't give as many images as are wanted.
    """
    counts: dict[int, int] = {}
    for label, total in wanted.items():
        train = [c for c in captions if c.label == label and c.split == "train"]
        if total > len(train) * images_per_caption:
            raise BadInput(
                f"generate_synthetic.images_per_caption: {len(train)} captions x {images_per_caption} are fewer than "
                f"the {total} train images wanted of label {label}; make it {-(-total // len(train))} or more, or "
                "write more prompts"
            )
        number = -(-total // images_per_caption)
        drawn = set(sorted(train, key=lambda c: _digest(data_seed, c.text))[:number])
        counts |= _spread(total, [c for c in train if c in drawn])
    shots = []
    for caption in captions:
        number = counts.get(caption.caption_id, 0) if caption.split == "train" else val_images_per_caption
        shots += [_shot(caption, index, data_seed) for index in range(number)]
    return shots


def plan_extra(
    captions: Sequence[Caption], wanted: Mapping[int, int], made: Iterable[Shot], data_seed: int
) -> list[Shot]:
    """Further images of the train captions, spread evenly over all of them, from the first indices not made yet.

    Args:
        captions: of all classes.
        wanted: for each label the number of further images.
        made: all images so far, rejected ones included.
        data_seed: of all images.
    """
    train = [caption for caption in captions if caption.split == "train"]
    counts: dict[int, int] = {}
    for label, total in wanted.items():
        counts |= _spread(total, [caption for caption in train if caption.label == label])
    following = Counter(shot.caption.caption_id for shot in made)
    return [
        _shot(caption, following[caption.caption_id] + index, data_seed)
        for caption in train
        for index in range(counts[caption.caption_id])
    ]


def replacements(made: Iterable[Shot], rejected: Iterable[Shot], data_seed: int) -> list[Shot]:
    """For each rejected image the next sample index of its caption that was not made yet."""
    following = Counter(shot.caption.caption_id for shot in made)
    again = []
    for shot in rejected:
        caption = shot.caption
        again.append(_shot(caption, following[caption.caption_id], data_seed))
        following[caption.caption_id] += 1
    return again


def cut(shots: Sequence[Shot], batch_size: int) -> list[tuple[Shot, ...]]:
    """Fixed batches by position alone."""
    return [tuple(shots[start : start + batch_size]) for start in range(0, len(shots), batch_size)]


def _spread(total: int, captions: Sequence[Caption]) -> dict[int, int]:
    """For each caption its share of `total` images; the first ones make one more where it does not divide."""
    least, more = divmod(total, max(1, len(captions)))
    return {caption.caption_id: least + (position < more) for position, caption in enumerate(captions)}


def _digest(*parts: int | str) -> bytes:
    return hashlib.blake2b(" ".join(map(str, parts)).encode(), digest_size=8).digest()


def _shot(caption: Caption, sample_index: int, data_seed: int) -> Shot:
    return Shot(caption, sample_index, image_seed(data_seed, caption.caption_id, sample_index))
