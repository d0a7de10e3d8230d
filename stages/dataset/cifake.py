"""CIFAKE: CIFAR-10 as JPEG, against fakes from Stable Diffusion 1.4.

Bird and Lotfi, "CIFAKE", IEEE Access 2024, arXiv 2303.14126. Published as `{train,test}/{REAL,FAKE}/*.jpg`, on Kaggle
and in the authors' repository, sometimes below a root folder. The class stands in the file's name: `0012.jpg` is class
0 and `0012 (k).jpg`, k = 2..10, is class k - 1.
"""

import collections
import hashlib
import io
import re
import statistics
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from stages.artifacts import BadInput
from stages.dataset import archive, audit, examples
from stages.dataset.examples import Collection, Example, Published
from stages.sections import Codec

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32
LIMITS = archive.Limits(member_bytes=1 << 16, total_bytes=1 << 29, num_members=200_000)
"""The set has 120,001 files of about 1 kB; archives with git histories or thumbnails beside them still pass."""
_LAYOUT = re.compile(r"(?P<root>(?:.*?/)??)(?P<part>(?:train|test)/(?:REAL|FAKE))/(?P<file>.+)")
_FILE = re.compile(r"\d+(?: \(([2-9]|10)\))?\.jpe?g")
_SPLITS = ("train", "test")
_SOURCES = ("REAL", "FAKE")


def read(path: Path, image_size: int, form: Codec) -> Collection:
    """Reads and checks the whole set.

    An image that has the study's size and codec already keeps its published bytes: another generation of JPEG would
    change its pixels.

    Args:
        path: a zip, a tar or a folder.
        image_size: side in pixels to store.
        form: codec to store.

    Raises:
        BadInput: what lies at `path` is no archive or a hostile one (see `archive.members`), a file is no 32x32 RGB
            JPEG or has no class in its name, or a folder misses images of a class.
    """
    spool = examples.Spool()
    parts: dict[str, list[Example]] = {f"{split}/{source}": [] for split in _SPLITS for source in _SOURCES}
    roots: set[str] = set()
    digests: list[str] = []
    for name, content in archive.members(path, LIMITS, _belongs):
        place = _LAYOUT.fullmatch(name)
        assert place is not None
        roots.add(place["root"])
        if len(roots) > 1:
            raise BadInput(f"{path}: holds the data set twice, below {sorted(roots)}; leave one")
        try:
            example = _example(spool, place["file"], content, image_size, form)
        except ValueError as flaw:
            raise BadInput(f"{path}: member {name!r} {flaw}; use the data set as its authors published it") from None
        parts[place["part"]].append(example)
        digests.append(f"{place['part']} {example.label} {hashlib.sha256(content).hexdigest()}\n")
    _check_counts(path, parts)
    for pool in parts.values():
        pool.sort(key=lambda example: (example.content, example.label, example.stored))
    return Collection(
        CLASS_NAMES,
        real=parts["train/REAL"],
        real_test=parts["test/REAL"],
        fake=parts["train/FAKE"],
        fake_test=parts["test/FAKE"],
        published_sha256=hashlib.sha256("".join(sorted(digests)).encode()).hexdigest(),
    )


def _belongs(name: str) -> bool:
    """Whether a file lies in one of the four folders; not what file managers leave there."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
    return not hidden and _LAYOUT.fullmatch(name) is not None


def _example(spool: examples.Spool, file: str, content: bytes, size: int, form: Codec) -> Example:
    """Raises ValueError, with the flaw as a predicate."""
    name = _FILE.fullmatch(file)
    if name is None:
        raise ValueError("has no class in its name (`0012.jpg`, or `0012 (k).jpg` with k from 2 to 10)")
    label = int(name[1] or 1) - 1
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            if image.size != (SIDE, SIDE) or image.mode != "RGB":
                raise ValueError(f"is a {image.width}x{image.height} {image.mode} image, not {SIDE}x{SIDE} RGB")
            how = audit.form_of(image)
            if size == SIDE and form.format == "jpeg" and how == f"JPEG quality {form.quality} 4:2:0":
                published = Published(how, len(content), is_stored=True)
                return examples.from_file(spool, content, image.convert("RGB"), label, published)
            published = Published(how, len(content), is_stored=False)
            return examples.from_image(spool, image.convert("RGB"), label, size, form, published)
    except UnidentifiedImageError:
        raise ValueError("is no JPEG") from None
    except (OSError, SyntaxError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's trouble, not the file's
        raise ValueError("is a damaged JPEG") from None


def _check_counts(path: Path, parts: dict[str, list[Example]]) -> None:
    """In each split, all classes of both sources have the same number of images."""
    for split in _SPLITS:
        counts = collections.Counter(
            (f"{split}/{source}", example.label) for source in _SOURCES for example in parts[f"{split}/{source}"]
        )
        if not counts:
            raise BadInput(f"{path}: has no image in {split}/REAL or {split}/FAKE; is it CIFAKE?")
        usual = statistics.mode(counts.values())
        for source in _SOURCES:
            for label, class_name in enumerate(CLASS_NAMES):
                found = counts[f"{split}/{source}", label]
                if found != usual:
                    raise BadInput(
                        f"{path}: {split}/{source} has {found} images of {class_name}, where other classes have "
                        f"{usual}; use the whole data set, as its authors published it"
                    )
