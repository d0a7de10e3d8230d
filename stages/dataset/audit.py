"""What is wrong with a data set as published: duplicates, leaks between splits, storage that tells sources apart.

It finds them; it carries no list. A *part* is a split of one source, such as `fake/train`.
"""

import collections
import dataclasses
import functools
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, JpegImagePlugin

from stages.dataset import codec
from stages.dataset.examples import Example

COMPARED_SIDE = 32
"""Near-duplicates are looked for at this many pixels a side, or the image's own if it has fewer."""
_BLOCK = 1000
"""Images of each side that are in memory as pixels at a time."""
_SCALE, _GAP, _PAIRS_SHOWN = 3, 6, 8


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two images that are the same, or nearly."""

    first: Example
    second: Example
    rmse: float
    """Root of the mean squared difference over all pixels and channels, in grey levels of 255."""


Parts = Mapping[str, Sequence[Example]]


def examine(
    parts: Parts, compared: Mapping[str, tuple[Sequence[Example], Sequence[Example]]], near_rmse: float | None
) -> tuple[dict[str, Any], bytes]:
    """The whole audit.

    Args:
        parts: the data set as published.
        compared: by name, pairs of train and test images among which near-duplicates are looked for.
        near_rmse: below what distance, in grey levels of 255; None to look for none.

    Returns:
        Facts for a metrics file, and a PNG of the duplicates found.
    """
    exact = exact_duplicates(parts)
    facts: dict[str, Any] = {"as_published": storage_statistics(parts)}
    facts["exact_duplicates"] = {"total": sum(map(len, exact.values()))}
    facts["exact_duplicates"] |= {place: len(pairs) for place, pairs in exact.items() if pairs}
    kinds = {f"equal, {place}": pairs for place, pairs in exact.items()}
    if near_rmse is not None:
        near = {name: near_duplicates(*both, near_rmse) for name, both in compared.items()}
        facts["near_duplicates"] = {"rmse_below": near_rmse, **{name: len(pairs) for name, pairs in near.items()}}
        kinds |= {f"near, {name}": [pair for pair in pairs if pair.rmse] for name, pairs in near.items()}
    sized = {name: [e.published.num_bytes for e in part if e.published] for name, part in parts.items()}
    if sized.get("real/train") and sized.get("fake/train"):
        facts["file_size_tells_fakes"] = round(threshold_accuracy(sized["real/train"], sized["fake/train"]), 4)
    return facts, draw_pairs(kinds)


def exact_duplicates(parts: Parts) -> dict[str, list[Pair]]:
    """Every image that has the pixels of an earlier one, with the first such: that many could be dropped.

    Pairs inside a part stand under its name, those across two under `a + b`.
    """
    names = list(parts)
    places = [*names, *(f"{a} + {b}" for i, a in enumerate(names) for b in names[i + 1 :])]
    found: dict[str, list[Pair]] = {place: [] for place in places}
    first: dict[str, tuple[str, Example]] = {}
    for name, examples in parts.items():
        for example in examples:
            part, twin = first.setdefault(example.content, (name, example))
            if twin is not example:
                found[name if part == name else f"{part} + {name}"].append(Pair(twin, example, 0.0))
    return found


def near_duplicates(train: Sequence[Example], test: Sequence[Example], rmse: float) -> list[Pair]:
    """For each test image the most similar train image of its class, if they differ by less than `rmse`.

    Exact duplicates count as well. Candidates come from a blocked matrix product in float32, with a margin above its
    rounding error, and are then measured in integers, so that neither threads nor libraries can change the answer.

    Args:
        train: images to compare with.
        test: images to look up.
        rmse: in grey levels of 255.

    Returns:
        Pairs (train, test), in the order of the classes and of `test` within them.
    """
    pairs = []
    for label in sorted({example.label for example in test}):
        known = [example for example in train if example.label == label]
        asked = [example for example in test if example.label == label]
        for start in range(0, len(asked), _BLOCK):
            pairs += _nearest_pairs(known, asked[start : start + _BLOCK], rmse)
    return pairs


def _nearest_pairs(known: Sequence[Example], asked: Sequence[Example], rmse: float) -> list[Pair]:
    """Each asked image with its nearest known one, of equals the first, if they differ by less than `rmse`."""
    pixels, best = _pixels(asked), dict[int, tuple[float, int]]()
    for first in range(0, len(known), _BLOCK):
        for i, j, distance in nearest_below(_pixels(known[first : first + _BLOCK]), pixels, rmse):
            found = (distance, first + j)
            best[i] = min(best.get(i, found), found)
    return [Pair(known[j], asked[i], distance) for i, (distance, j) in sorted(best.items())]


def nearest_below(train: NDArray[np.uint8], test: NDArray[np.uint8], rmse: float) -> list[tuple[int, int, float]]:
    """Nearest neighbours in pixels.

    Args:
        train: (N, P), values 0..255.
        test: (M, P).
        rmse: only neighbours nearer than this count.

    Returns:
        (index into test, index into train, their RMSE) for every test image that has such a neighbour.
    """
    count = train.shape[1]
    limit = rmse**2 * count
    # Centred, no product exceeds 128**2; the margin bounds the error of three sums of `count` such products.
    margin = 4 * count * np.finfo(np.float32).eps * count * 128**2
    known, asked = (part.astype(np.float32) - 128 for part in (train, test))
    norms = [np.einsum("np,np->n", part, part) for part in (asked, known)]
    squared = norms[0][:, None] - 2 * (asked @ known.T) + norms[1]
    found = []
    for i, near in enumerate(squared < limit + margin):
        candidates = np.flatnonzero(near)
        if len(candidates):
            exact = ((train[candidates].astype(np.int64) - test[i]) ** 2).sum(axis=1)
            nearest = int(exact.argmin())
            if exact[nearest] < limit:
                found.append((i, int(candidates[nearest]), float(np.sqrt(exact[nearest] / count))))
    return found


def storage_statistics(parts: Parts) -> dict[str, Any]:
    """Per part: how many images, and how they were published: file sizes in bytes, and how many in which form.

    A part whose reader did not look at the published files has the number of images alone.
    """
    statistics: dict[str, Any] = {}
    for name, examples in parts.items():
        statistics[name] = {"images": len(examples)}
        published = [example.published for example in examples if example.published]
        if published:
            sizes = np.array([each.num_bytes for each in published])
            statistics[name] |= {
                "file_bytes": {"min": int(sizes.min()), "mean": round(float(sizes.mean()), 2), "max": int(sizes.max())},
                "form": dict(sorted(collections.Counter(each.form for each in published).items())),
                "stored_unchanged": sum(each.is_stored for each in published),
            }
    return statistics


def threshold_accuracy(first: Sequence[int], second: Sequence[int]) -> float:
    """Share of images whose source the best single threshold on a whole number tells: chance is 0.5.

    Both sources weigh the same, whatever their numbers.
    """
    top = max(*first, *second)
    below = [np.cumsum(np.bincount(values, minlength=top + 1)) / len(values) for values in (first, second)]
    return float(0.5 + np.abs(below[0] - below[1]).max() / 2)


def draw_pairs(kinds: Mapping[str, Sequence[Pair]]) -> bytes:
    """A PNG of pairs side by side, a row for each kind that has any; equal pairs give equal bytes."""
    shown = {kind: pairs[:_PAIRS_SHOWN] for kind, pairs in kinds.items() if pairs}
    side, line = COMPARED_SIDE * _SCALE, 14
    width = _GAP + _PAIRS_SHOWN * (2 * side + 2 * _GAP)
    canvas = Image.new("RGB", (width, max(1, len(shown)) * (side + line + 2 * _GAP)), "white")
    draw = ImageDraw.Draw(canvas)
    if not shown:
        draw.text((_GAP, _GAP), "no duplicates were found", "black")
    for i, (kind, pairs) in enumerate(shown.items()):
        top = i * (side + line + 2 * _GAP) + _GAP
        draw.text((_GAP, top), f"{kind}: {len(kinds[kind])}", "black")
        for j, pair in enumerate(pairs):
            for k, example in enumerate((pair.first, pair.second)):
                tile = codec.resize(codec.decode(example.image), COMPARED_SIDE).resize(
                    (side, side), Image.Resampling.NEAREST
                )
                canvas.paste(tile, (_GAP + j * (2 * side + 2 * _GAP) + k * (side + 1), top + line))
    stream = io.BytesIO()
    canvas.save(stream, "PNG")
    return stream.getvalue()


def form_of(image: Image.Image) -> str:
    """How an opened image file is stored: its format, and for JPEG its quality and chroma subsampling."""
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        return str(image.format)
    tables = tuple(tuple(table) for _, table in sorted(image.quantization.items()))
    quality = _jpeg_qualities().get(tables)
    sampling = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}.get(JpegImagePlugin.get_sampling(image), "other sampling")
    return f"JPEG {'own tables' if quality is None else f'quality {quality}'} {sampling}"


def _pixels(examples: Sequence[Example]) -> NDArray[np.uint8]:
    """uint8 (N, P): images decoded, at `COMPARED_SIDE` pixels a side or their own size if they are smaller."""
    images = (codec.decode(example.image) for example in examples)
    flat = [np.asarray(codec.resize(image, min(COMPARED_SIDE, *image.size))).reshape(-1) for image in images]
    return np.stack(flat)


@functools.cache
def _jpeg_qualities() -> dict[tuple[tuple[int, ...], ...], int]:
    """The quantization tables that libjpeg uses at each quality."""
    qualities = {}
    for quality in range(1, 101):
        stream = io.BytesIO()
        Image.new("RGB", (8, 8)).save(stream, "JPEG", quality=quality)
        with Image.open(stream) as image:
            assert isinstance(image, JpegImagePlugin.JpegImageFile)
            qualities[tuple(tuple(table) for _, table in sorted(image.quantization.items()))] = quality
    return qualities
