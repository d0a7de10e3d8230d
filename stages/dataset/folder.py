"""A user's own data set: a folder of one folder per class, with images in it (or in folders below it)."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, ImageOps
from tqdm import tqdm

from stages.artifacts import BadInput
from stages.dataset import examples
from stages.sections import Codec

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
_IN_FLIGHT = 256


def read(root: Path, image_size: int, form: Codec) -> examples.Collection:
    """Reads every image under `root`; a class is named by its folder and labelled by sorted name.

    Hidden files and folders are passed over; other files that are not named like images are counted as ignored.

    Raises:
        BadInput: `root` is no folder or has fewer than two classes, a class has no image, an image is unreadable.
    """
    files, num_ignored = find_images(root)
    labelled = [(path, label) for label, paths in enumerate(files.values()) for path in paths]
    spool = examples.Spool()

    def example(item: tuple[Path, int]) -> examples.Example:
        return examples.from_image(spool, load(item[0]), item[1], image_size, form)

    real: list[examples.Example] = []
    with (
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads,
        tqdm(total=len(labelled), desc=f"read {root}", unit="image", disable=None) as progress,
    ):
        for start in range(0, len(labelled), _IN_FLIGHT):
            real += threads.map(example, labelled[start : start + _IN_FLIGHT])
            progress.update(len(real) - progress.n)
    return examples.Collection(tuple(files), real, num_ignored=num_ignored)


def find_images(root: Path) -> tuple[dict[str, list[Path]], int]:
    """The image files of each class, sorted, and the number of other files. Raises as `read` does."""
    if not root.is_dir():
        what = "is a file" if root.exists() else "is not there"
        raise BadInput(f"dataset_path: {root} {what}; name a folder that holds a folder of images per class")
    visible = [path for path in root.rglob("*") if path.is_file() and not _is_hidden(path.relative_to(root))]
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < 2:
        found = f"one class folder ({names[0]})" if names else "no class folder"
        raise BadInput(
            f"dataset_path: {root} has {found}; a classifier needs a folder of images for each of two or more"
        )
    images: dict[str, list[Path]] = {name: [] for name in names}
    num_ignored = 0
    for path in sorted(visible):
        within = path.relative_to(root).parts
        if len(within) > 1 and path.suffix.lower() in SUFFIXES:
            images[within[0]].append(path)
        else:
            num_ignored += 1
    for name, paths in images.items():
        if not paths:
            kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
            raise BadInput(f"{root / name}: has no image ({kinds}); add some or remove the folder")
    return images, num_ignored


def load(path: Path) -> Image.Image:
    """An image as a person sees it: turned as its EXIF tag says, transparency on white, in RGB.

    Raises:
        BadInput: it can't be read; the line names it.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):  # Pillow would clip sixteen bits to eight
                upright = upright.point(lambda value: value / 256).convert("L")
            if not upright.has_transparency_data:
                return upright.convert("RGB")
            layer = upright.convert("RGBA")
            paper = Image.new("RGBA", layer.size, "white")
            return Image.alpha_composite(paper, layer).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(f"{path}: is no image that can be read ({reason}); mend or remove it") from None


def _is_hidden(within: Path) -> bool:
    """Whether a file or a folder above it is hidden."""
    return any(part.startswith(".") for part in within.parts)
