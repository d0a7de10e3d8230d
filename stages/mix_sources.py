"""Real and synthetic images in one training set: as many as the real arm has, or a budget of either.

    python -m stages.mix_sources
    data/{real,val,synthetic} -> data/mixed

The validation split has the same proportions, from real validation images and the synthetic arm's own. Draws are
nested: a larger budget keeps the images of a smaller one, so learning and mixing curves are sweeps of this section:

    dvc exp run --queue -S 'profiles/digits.yaml:mix_sources.real_fraction=0.1,0.25,0.5'

digits at `real_fraction: 0.5`: 3,500 train and 500 val images, in about 2 s.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages import config
from stages.artifacts import DATA, BadInput, fresh_dir, read_manifest, run_stage, validation_of, write_manifest
from stages.dataset import mixing, shards
from stages.generator_sections import MixSources


def main(argv: list[str]) -> dict[str, Any]:
    """Mixes both splits."""
    if argv:
        raise BadInput(f"mix_sources: takes no argument, was given {argv}; run it bare")
    study = config.load_study()
    profile = config.load_profile(study.profile)
    real, synthetic, target = DATA / "real", DATA / "synthetic", DATA / "mixed"
    facts = {key: read_manifest(real)[key] for key in ("class_names", "image_size")}
    if facts != {key: read_manifest(synthetic).get(key) for key in facts}:
        raise BadInput(f"{synthetic}: its classes or image size differ from those of {real}; run `dvc repro` again")
    with fresh_dir(target) as fresh:
        train = mix(fresh, "train", (real, synthetic), profile.mix_sources)
        val = mix(fresh, "val", (validation_of("real"), validation_of("synthetic")), profile.mix_sources)
        write_manifest(fresh, **facts, rows={"train": train, "val": val})
    return {"made": f"{target}, {train} train and {val} val images"}


def mix(target: Path, name: str, origins: tuple[Path, Path], section: MixSources) -> int:
    """Writes one mixed split from a real and a synthetic folder; returns its number of images."""
    real, synthetic = (mixing.drawables(rows_of(origin, name), section.data_seed) for origin in origins)
    class_names = shards.read_class_names(origins[0], name)
    counts = mixing.quotas(real, section, name)
    chosen = (
        mixing.draw(real, counts[0], class_names, "real"),
        mixing.draw(synthetic, counts[1], class_names, "synthetic"),
    )
    drawn = (mixing.select(rows_of(origin, name), picks) for origin, picks in zip(origins, chosen, strict=True))
    return shards.write_shards(target, name, itertools.chain.from_iterable(drawn), class_names)


def rows_of(origin: Path, name: str) -> Iterator[shards.Row]:
    """The rows of a split, and after the train split's own those that were made for this stage alone."""
    yield from shards.read_rows(origin, name)
    if name == "train" and "extra" in read_manifest(origin).get("rows", {}):
        yield from shards.read_rows(origin, "extra")


if __name__ == "__main__":
    run_stage(main)
