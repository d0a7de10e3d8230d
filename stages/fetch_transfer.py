"""The labelled data sets that encoders are judged on besides the study's own, from folders to Parquet shards.

    python -m stages.fetch_transfer
    transfer_path/<set>/<class>/<image>, or nothing -> data/transfer/<set>

Each set is read as `fetch_data` reads a folder: square RGB in the study's size and codec, exact duplicates dropped,
`val` and `test` cut by the hash of each image's content. About 3 ms an image.
"""

from pathlib import Path
from typing import Any

from stages import config
from stages.artifacts import DATA, BadInput, fresh_dir, run_stage, write_manifest
from stages.dataset import folder, shards, splits
from stages.dataset.examples import Example
from stages.probe_sections import FetchTransfer
from stages.sections import FetchData

NAMES = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")


def find_sets(root: Path) -> list[Path]:
    """The folders of the data sets, by name.

    Raises:
        BadInput: there is no such folder, it holds no set, or a name would make a key of the metrics unreadable.
    """
    if root == config.NO_TRANSFER_SETS:
        return []
    if not root.is_dir():
        what = "is a file" if root.exists() else "is not there"
        raise BadInput(f"transfer_path: {root} {what}; name a folder that holds a folder per data set")
    found = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not found:
        raise BadInput(f"transfer_path: {root} has no folder; put each data set into one, as <set>/<class>/<image>")
    for path in found:
        if not set(path.name) <= NAMES:
            raise BadInput(f"transfer_path: {path.name}: is no name for a data set; use a-z, 0-9, - and _")
    return found


def read_set(root: Path, stored: FetchData, section: FetchTransfer) -> tuple[splits.Splits, tuple[str, ...]]:
    """The splits of one data set and its class names.

    Raises:
        BadInput: it can't be read, or a class has too few images.
    """
    try:
        found = folder.read(root, stored.image_size, stored.codec)
        return splits.split(found, section.val_per_class, section.test_per_class, deduplicate=True), found.class_names
    except BadInput as error:
        what = str(error).removeprefix("dataset_path: ").removeprefix("fetch_data: ")
        raise BadInput(f"fetch_transfer, set {root.name}: {what}") from None


def write_set(target: Path, parts: splits.Splits, class_names: tuple[str, ...], stored: FetchData) -> int:
    """Writes `train`, `val` and `test` of a set; returns its number of images."""
    suffix = {"png": "png", "jpeg": "jpg"}[stored.codec.format]

    def row(example: Example) -> shards.Row:
        return shards.Row(example.image, f"{class_names[example.label]}/{example.content[:16]}.{suffix}", example.label)

    counts = {
        name: shards.write_shards(target, name, map(row, part), class_names)
        for name, part in (("train", parts.train), ("val", parts.val), ("test", parts.test))
    }
    write_manifest(target, class_names=class_names, rows=counts)
    return sum(counts.values())


def main(argv: list[str]) -> dict[str, Any]:
    """Reads and writes every set."""
    if argv:
        raise BadInput(f"fetch_transfer: takes no argument, was given {argv}; run it bare")
    study = config.load_study()
    profile = config.load_profile(study.profile)
    stored, section = profile.fetch_data, profile.fetch_transfer
    counts = {}
    with fresh_dir(DATA / "transfer") as target:
        for root in find_sets(Path(study.transfer_path)):
            parts, class_names = read_set(root, stored, section)
            counts[root.name] = write_set(target / root.name, parts, class_names, stored)
        write_manifest(target, sets=sorted(counts))
    shown = ", ".join(f"{name} ({count} images)" for name, count in counts.items()) or "no sets"
    return {"made": f"{DATA / 'transfer'}: {shown}"}


if __name__ == "__main__":
    run_stage(main)
