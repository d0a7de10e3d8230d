"""Which images are made, in which fixed batches, from which seeds: all of it known before the first one is.

Pure; never imports torch.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from stages.artifacts import BadInput
from stages.diffusion.captions import Caption


@dataclasses.dataclass(frozen=True)
class Shot:
    """One image to make."""

    caption: Caption
    sample_index: int
    """Counts the images of the caption, rejected ones included."""
    seed: int
    """Of its noise, in [0, 2**63)."""


def image_seed(data_seed: int, caption_id: int, sample_index: int) -> int:
    """A seed for each image that no other image, batch or process has a part in."""
    content = f"{data_seed} {caption_id} {sample_index}".encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") >> 1


def plan_shots(
    captions: Sequence[Caption],
    wanted: Mapping[int, int],
    images_per_caption: int,
    val_images_per_caption: int,
    data_seed: int,
) -> list[Shot]:
    """The images of the train captions and of the held-out ones, in the order of caption and sample index.

    A class gets as many train images as are wanted, spread evenly over its captions, so that every arm has the same
    number of distinct images.

    Args:
        captions: of all classes.
        wanted: for each label the number of train images, that of the real train split.
        images_per_caption: the most that a train caption gives.
        val_images_per_caption: how many each held-out caption gives.
        data_seed: of all images.

    Raises:
        BadInput: the captions of a class don't give as many images as are wanted.
    """
    counts: dict[int, int] = {}
    for label, total in wanted.items():
        train = [c for c in captions if c.label == label and c.split == "train"]
        least, more = divmod(total, len(train))
        if total > len(train) * images_per_caption:
            raise BadInput(
                f"generate_synthetic.images_per_caption: {len(train)} captions x {images_per_caption} are fewer than "
                f"the {total} real train images of label {label}; make it {least + bool(more)} or more"
            )
        counts |= {c.caption_id: least + (position < more) for position, c in enumerate(train)}
    shots = []
    for caption in captions:
        number = counts[caption.caption_id] if caption.split == "train" else val_images_per_caption
        shots += [_shot(caption, index, data_seed) for index in range(number)]
    return shots


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


def _shot(caption: Caption, sample_index: int, data_seed: int) -> Shot:
    return Shot(caption, sample_index, image_seed(data_seed, caption.caption_id, sample_index))
