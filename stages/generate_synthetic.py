"""Prompts to images at a guidance scale, by any Stable Diffusion pipeline folder.

    python -m stages.generate_synthetic
    accelerate launch -m stages.generate_synthetic

Reads `models/generator`, `data/captions.tsv` and `data/real` (classes, sizes and codec; its pixels for comparison
alone), writes `data/synthetic` with a train and a val split (and `extra`, further images for `mix_sources`, where the
profile asks for some), the counts and distances of metrics/generate_synthetic.json, and a grid of real above synthetic
images. On a CPU it spreads over the cores
itself; the images are the same for any number of processes. Killed and started again it goes on at the first
unfinished batch.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from stages import config
from stages.artifacts import (
    CAPTIONS,
    DATA,
    GENERATOR,
    METRICS,
    PLOTS,
    BadInput,
    compiler_cache,
    digest,
    fresh_dir,
    read_manifest,
    run_stage,
    scratch,
    write_bytes,
    write_json,
    write_manifest,
)
from stages.dataset import codec, shards
from stages.dataset.neighbours import nearest_distances, thumbnails
from stages.dataset.tensors import Images, Split, load_split
from stages.diffusion import rounds
from stages.diffusion.captions import Caption, read_captions
from stages.diffusion.grid import evenly, sample_grid
from stages.diffusion.plan import Shot, plan_extra, plan_shots
from stages.diffusion.sampler import Sampler, open_pipeline
from stages.diffusion.spread import run_each
from stages.generator_sections import GenerateSynthetic
from stages.sections import Codec
from stages.training.runtime import Runtime, compute_dtype, open_runtime

SAMPLES_PER_CLASS = 10
COMPARED_AT_MOST = 4096
"""Images of each kind whose nearest real one is looked for: the quantiles need no more, and memory stays flat."""
SUFFIXES = {"png": "png", "jpeg": "jpg"}
Made = Mapping[str, tuple[rounds.Result, list[Shot]]]
"""For each split what was made, and which of it belongs there."""


def open_sampler(section: GenerateSynthetic, guidance: float, runtime: Runtime) -> Sampler:
    """The generator, ready to make batches."""
    pipeline = open_pipeline(GENERATOR, compute_dtype(section.precision), runtime.device)
    sampler = Sampler(pipeline, guidance, section.num_inference_steps, section.batch_size, section.image_size)
    if section.compile:
        sampler.compile(compiler_cache())
    return sampler


def encoder(manifest: Mapping[str, Any]) -> Callable[[Image.Image], bytes]:
    """Resizes and encodes an image as the real ones are, by their manifest."""
    size, stored = int(manifest["image_size"]), Codec.model_validate(manifest["codec"])
    return lambda image: codec.encode(codec.resize(image, size), stored)


def generate(
    shots: list[Shot],
    sampler: Sampler,
    encode: Callable[[Image.Image], bytes],
    section: GenerateSynthetic,
    runtime: Runtime,
    state: Path,
) -> rounds.Result:
    """Makes and encodes every shot, over all processes and cores."""

    def make(batches: list[tuple[Path, tuple[Shot, ...]]]) -> None:
        mine = [item for item in batches[runtime.rank :: runtime.num_processes] if not item[0].exists()]

        def task(index: int) -> None:
            path, batch = mine[index]
            rounds.develop(batch, sampler.images, encode, section.blank_below_std).save(path)

        run_each(task, range(len(mine)), runtime.num_workers(), "batches")
        runtime.barrier()

    result = rounds.make_all(shots, section.batch_size, section.data_seed, state, make)
    runtime.barrier()  # every process has read what rank 0 is about to remove
    return result


def generate_all(
    captions: Sequence[Caption],
    counts: Mapping[int, int],
    section: GenerateSynthetic,
    make: Callable[[list[Shot], Path], rounds.Result],
    state: Path,
) -> Made:
    """Makes every split, for as many real images of each label as there are.

    The extra images come after all others, in batches of their own, so that their number changes none of the others.
    """
    wanted, extra = (
        {label: round(share * count) for label, count in counts.items()}
        for share in (section.train_images_per_real, section.extra_images_per_real)
    )
    shots = plan_shots(captions, wanted, section.images_per_caption, section.val_images_per_caption, section.data_seed)
    result = make(shots, state)
    accepted = sorted(result.accepted, key=place_of)
    made = {name: (result, [shot for shot in accepted if shot.caption.split == name]) for name in ("train", "val")}
    if any(extra.values()):
        before = [*result.accepted, *result.rejected]
        result = make(plan_extra(captions, extra, before, section.data_seed), state / "extra")
        made["extra"] = (result, sorted(result.accepted, key=place_of))
    return made


def rejected_of(made: Made) -> dict[Shot, str]:
    """Every rejected image, in order, and why."""
    found = [item for result, _ in made.values() for item in result.rejected.items()]
    return dict(sorted(found, key=lambda item: place_of(item[0])))


def write(
    target: Path,
    made: Made,
    manifest: Mapping[str, Any],
    section: GenerateSynthetic,
    guidance: float,
    settings: Mapping[str, Any],
) -> None:
    """Writes every split, and the manifest with everything that made them and all that was rejected."""
    names, how = manifest["class_names"], {"guidance": guidance, "num_inference_steps": section.num_inference_steps}
    counts = {}
    for name, (result, shots) in made.items():
        rows = rows_of(result, shots, names, how, SUFFIXES[manifest["codec"]["format"]])
        counts[name] = shards.write_shards(target, name, rows, names)
    rejected = [
        {"caption_id": shot.caption.caption_id, "sample_index": shot.sample_index, "reason": reason}
        for shot, reason in rejected_of(made).items()
    ]
    write_manifest(
        target,
        class_names=names,
        image_size=manifest["image_size"],
        codec=manifest["codec"],
        rows=counts,
        rejected=rejected,
        generator_sha256=digest(GENERATOR),
        captions_sha256=digest(CAPTIONS),
        settings=settings,
    )


def place_of(shot: Shot) -> tuple[int, int]:
    """Where a shot stands among all."""
    return shot.caption.caption_id, shot.sample_index


def rows_of(
    result: rounds.Result, shots: list[Shot], class_names: list[str], how: Mapping[str, float], suffix: str
) -> Iterator[shards.Row]:
    """The images of accepted shots."""
    for shot, image in result.images(shots):
        caption = shot.caption
        yield shards.Row(
            image=image,
            path=f"{class_names[caption.label]}/{caption.caption_id:05}-{shot.sample_index:04}.{suffix}",
            label=caption.label,
            caption=caption.text,
            caption_id=caption.caption_id,
            seed=shot.seed,
            settings={**how, "sample_index": shot.sample_index},
        )


def distances(queries: torch.Tensor, reference: Images) -> dict[str, float]:
    """How near thumbnails come to the training images: least, fifth percentile and median distance."""
    found = nearest_distances(queries, reference)
    low, middle = found.quantile(torch.tensor([0.05, 0.5], dtype=found.dtype)).tolist()
    return {"minimum": round(found.min().item(), 6), "percentile_5": round(low, 6), "median": round(middle, 6)}


def facts(made: Made, real: Split, val: Split, synthetic: Mapping[str, Split], device: torch.device) -> dict[str, Any]:
    """What `metrics/generate_synthetic.json` tells.

    As many synthetic as real validation images, up to `COMPARED_AT_MOST`, are compared with the real training images:
    if the generator only repeated those, its images would lie nearer to them than new real images do.
    """
    images = {}
    for name, split in synthetic.items():
        counts = split.labels.bincount(minlength=len(split.class_names)).tolist()
        images[name] = {"total": len(split), "per_class": dict(zip(split.class_names, counts, strict=True))}
    number = min(len(val), COMPARED_AT_MOST)
    compared = {
        name: thumbnails(split.images.to(device), evenly(torch.arange(len(split)), number))
        for name, split in (("synthetic", synthetic["train"]), ("val", val))
    }
    reference = real.images.to(device)
    reasons = Counter(rejected_of(made).values())
    return {
        "images": images,
        "rejected": {reason: reasons[reason] for reason in rounds.VERDICTS[1:]},
        "distance_to_nearest_real_train": {k: distances(v, reference) for k, v in compared.items()},
    }


def picture(real: Split, synthetic: Split) -> bytes:
    """The grid of samples: for each class real images above synthetic ones."""
    rows = []
    for label, name in enumerate(real.class_names):
        for title, split in (("real", real), ("synthetic", synthetic)):
            shown = evenly(split.labels.eq(label).nonzero().flatten(), SAMPLES_PER_CLASS)
            rows.append((f"{name} {title}", split.images[shown]))
    return sample_grid(rows)


def main(argv: list[str]) -> dict[str, Any]:
    """Makes the synthetic arm at the study's guidance."""
    if argv:
        raise BadInput(f"generate_synthetic: takes no argument, was given {argv}; run it bare")
    study = config.load_study()
    profile = config.load_profile(study.profile)
    section, guidance = profile.generate_synthetic, study.guidance
    manifest = read_manifest(DATA / "real")
    captions = read_captions(CAPTIONS, manifest["class_names"])
    real = load_split(DATA / "real", "train")
    counts = dict(enumerate(real.labels.bincount(minlength=len(real.class_names)).tolist()))
    settings = {"guidance": guidance, "generate_synthetic": section.model_dump()}
    runtime = open_runtime(section.data_seed)
    encode, sampler = encoder(manifest), open_sampler(section, guidance, runtime)
    with scratch("generate_synthetic", settings, (DATA / "real", CAPTIONS, GENERATOR)) as state:
        made = generate_all(
            captions,
            counts,
            section,
            lambda shots, place: generate(shots, sampler, encode, section, runtime, place),
            state,
        )
        if runtime.is_main:
            with fresh_dir(DATA / "synthetic") as target:
                write(target, made, manifest, section, guidance, settings)
            synthetic = {name: load_split(DATA / "synthetic", name) for name in made}
            val = load_split(DATA / "val", "val")
            write_json(METRICS / "generate_synthetic.json", facts(made, real, val, synthetic, runtime.device))
            write_bytes(PLOTS / "generate_synthetic" / "samples.png", picture(real, synthetic["train"]))
    total, rejected = sum(len(shots) for _, shots in made.values()), len(rejected_of(made))
    again = f", {rejected} made again" if rejected else ""
    return {
        "made": f"{DATA / 'synthetic'}, {total} images at guidance {guidance:g}{again}",
        "device": str(runtime.device),
        "workers": runtime.num_workers(),
        "num_processes": runtime.num_processes,
    }


if __name__ == "__main__":
    run_stage(main)
