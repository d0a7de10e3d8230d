"""Images from `generate_synthetic`'s sampler against a plain loop over `StableDiffusionPipeline.__call__`.

    python -m benchmarks.generation [profile]

Same machine, same run, same generator, steps, solver, guidance and batch; CPU seconds of one thread each, in a process
each, the two taking turns. The generator is the profile's own, untrained: weights don't change its speed. Compiling
starts from an empty cache, as on a new machine; later runs find it there. Exits with 1 if the sampler misses what it
promises.
"""

import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

from stages import config
from stages.diffusion.latent_model import Generator, TextConditionedDenoiser, VariationalAutoencoder, build_scheduler
from stages.diffusion.plan import Shot, cut, plan_shots
from stages.diffusion.prompts import make_captions
from stages.diffusion.sampler import Sampler, open_pipeline
from stages.diffusion.tokenizer import build_tokenizer
from stages.generator_sections import TrainGenerator
from stages.training.runtime import compute_dtype, open_runtime

ROUNDS = 5
STEADY_RATIO = 2.5


def cpu_seconds() -> float:
    """Of this process and its finished children, such as the C++ compiler."""
    return sum(
        u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def untrained(section: TrainGenerator, texts: list[str], image_size: int) -> Generator:
    """The profile's generator with its initial weights."""
    tokenizer = build_tokenizer(texts)
    vae = VariationalAutoencoder(section.autoencoder, image_size).model
    side, channels = image_size // 2 ** (len(vae.config.block_out_channels) - 1), vae.config.latent_channels
    denoiser = TextConditionedDenoiser(section.denoiser, section.text_encoder, tokenizer, channels, side)
    return Generator(vae.eval(), denoiser.eval(), tokenizer, build_scheduler(section.denoiser))


def plain_loop(folder: Path, guidance: float, num_steps: int, image_size: int) -> Callable[[tuple[Shot, ...]], object]:
    """What one writes first."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return lambda batch: pipeline(
        [shot.caption.text for shot in batch],
        generator=[torch.Generator().manual_seed(shot.seed) for shot in batch],
        guidance_scale=guidance,
        num_inference_steps=num_steps,
        height=image_size,
        width=image_size,
    )


class Peer:
    """A loop in a forked process of its own, asked for one batch at a time."""

    def __init__(self, loop: Callable[..., Callable[[tuple[Shot, ...]], object]], *settings: object) -> None:
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        context.Process(target=self._serve, args=(theirs, loop, settings), daemon=True).start()

    @staticmethod
    def _serve(pipe, loop, settings) -> None:
        torch.set_num_threads(1)
        make = loop(*settings)
        while True:
            pipe.send(per_image(make, pipe.recv()))

    def per_image(self, batch: tuple[Shot, ...]) -> float:
        """CPU seconds per image of one batch."""
        self._pipe.send(batch)
        return self._pipe.recv()


def per_image(make: Callable[[tuple[Shot, ...]], object], batch: tuple[Shot, ...]) -> float:
    """CPU seconds per image of one batch."""
    started = time.process_time()
    make(batch)
    return (time.process_time() - started) / len(batch)


def main() -> int:
    """Measures and prints."""
    study = config.load_study()
    profile = config.load_profile(sys.argv[1] if len(sys.argv) > 1 else study.profile)
    section, size = profile.generate_synthetic, profile.fetch_data.image_size
    captions = make_captions(profile.prompts, list(profile.prompts.class_names), config.PROMPTS)
    classes = len(profile.prompts.class_names)
    per_class = section.images_per_caption * (len(captions) // classes - profile.prompts.val_captions_per_class)
    wanted = dict.fromkeys(range(classes), per_class)
    shots = plan_shots(captions, wanted, section.images_per_caption, section.val_images_per_caption, 0)
    batches = cut(shots, section.batch_size)
    with tempfile.TemporaryDirectory() as place:
        generator = untrained(profile.build_generator, [caption.text for caption in captions], size)
        generator.save(Path(place))
        plain = Peer(plain_loop, Path(place), study.guidance, section.num_inference_steps, section.image_size)
        runtime = open_runtime(0)  # after the plain loop's process has begun: that one is to stay as it comes
        pipeline = open_pipeline(Path(place), compute_dtype(section.precision), runtime.device)
        ours = Sampler(pipeline, study.guidance, section.num_inference_steps, section.batch_size, section.image_size)
        started = cpu_seconds()
        ours.compile(Path(place) / "cache")
        warm_up = cpu_seconds() - started
        seconds: dict[str, list[float]] = {"plain": [], "sampler": []}
        for turn in range(ROUNDS + 1):  # the first round warms up
            batch = batches[turn % (len(batches) - 1)]
            for name, value in (("plain", plain.per_image(batch)), ("sampler", per_image(ours.images, batch))):
                if turn:
                    seconds[name].append(value)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    steady = middle["plain"] / middle["sampler"]
    whole = middle["plain"] * len(shots) / (middle["sampler"] * len(shots) + warm_up)
    report = {
        "cpu_ms_per_image": {name: round(1000 * value, 2) for name, value in middle.items()},
        "warm_up_cpu_seconds": round(warm_up, 1),
        "images_of_the_profile": len(shots),
        "speedup_steady": round(steady, 2),
        "speedup_with_warm_up": round(whole, 2),
        "guidance": study.guidance,
        "batch_size": section.batch_size,
    }
    print(json.dumps(report, indent=2))
    return int(steady < STEADY_RATIO or whole < 1)


if __name__ == "__main__":
    sys.exit(main())
