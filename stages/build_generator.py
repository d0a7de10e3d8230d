"""A text-to-image latent diffusion model: a small one, trained here on the real train split, or a published one.

    python -m stages.build_generator
    accelerate launch -m stages.build_generator

Writes `models/generator`, a standard diffusers folder that `AutoPipelineForText2Image.from_pretrained` opens, and
learning curves if it trains.

mode `train` reads `data/real` and `data/captions.tsv`. First the autoencoder is trained, then text encoder and UNet
on its latents; in every step an image is shown with a random caption of its class. The saved weights of the latter
are their moving average. Nothing is selected: the last step counts.

mode `hub` takes a Stable Diffusion pipeline from the folder `generator_path`, or else a pinned revision from the hub
(or its cache, `HF_HOME`): settings and safetensors, nothing that holds code. Versioned here, it outlives the hub's
copy. Stable Diffusion v1-5: 5.5 GB, 2.7 GB as variant fp16.
"""

from pathlib import Path
from typing import Any, assert_never

import torch
from diffusers import AutoencoderKL
from torch import nn
from transformers import CLIPTokenizer

from stages import config
from stages.artifacts import (
    CAPTIONS,
    DATA,
    GENERATOR,
    PLOTS,
    BadInput,
    digest,
    fresh_dir,
    is_main_process,
    read_manifest,
    run_stage,
    scratch,
    write_manifest,
)
from stages.dataset import hub
from stages.dataset.tensors import Split, load_split
from stages.diffusion import average, latent_model, published
from stages.diffusion.batches import CaptionedTokens, Draws, ImageBatches, Images, LatentBatches
from stages.diffusion.captions import EMPTY, Caption, read_captions
from stages.diffusion.objectives import reconstruction_objective, velocity_objective
from stages.diffusion.tokenizer import build_tokenizer
from stages.generator_sections import HubGenerator, TrainGenerator
from stages.sections import Optimization
from stages.training.batches import EpochOrder
from stages.training.curves import write_curves
from stages.training.loop import Batches, Objective, Plan, fit
from stages.training.optimizer import adamw, parameter_groups
from stages.training.prefetch import read_ahead
from stages.training.runtime import Runtime, derive_seed, open_runtime
from stages.training.schedule import warmup_cosine

SAVE_EVERY_SECONDS = 20.0
History = list[dict[str, float]]


def draws(seed: int, name: str) -> Draws:
    """A generator of each step's own for the part of training called `name`."""

    def of_step(step: int) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(seed, name, step))

    return of_step


def train(
    network: nn.Module,
    objective: Objective,
    batches: Batches,
    section: Optimization,
    runtime: Runtime,
    state: Path,
    ema_decay: float | None,
) -> History:
    """Trains `network` in place and leaves its averaged weights in it if there is a decay; returns the loss curve."""
    plan = Plan(
        num_steps=section.num_steps,
        batch_size=section.batch_size,
        micro_batch_size=section.micro_batch_size,
        schedule=warmup_cosine(
            section.learning_rate, section.min_learning_rate, section.warmup_steps, section.num_steps
        ),
        evaluate_every_steps=section.evaluate_every_steps,
        precision=section.precision,
        clip_norm=section.clip_norm,
        save_every_seconds=SAVE_EVERY_SECONDS,
        select=(),
    )
    optimizer = adamw(parameter_groups(network, section.weight_decay), section.beta2)
    if ema_decay is not None:
        average.track_average(optimizer, ema_decay)
    result = fit(network, objective, batches, optimizer, plan, runtime, state, None)
    if ema_decay is not None:
        average.load_average(network, optimizer)
    network.eval()
    return result.history


def train_autoencoder(
    images: Images, section: TrainGenerator, runtime: Runtime, state: Path
) -> tuple[AutoencoderKL, History]:
    """Trains the autoencoder on images uint8 (N, 3, S, S), which come on the device; standardizes its latents."""
    part, o, seed = section.autoencoder, section.autoencoder.optimization, section.data_seed
    side = images.shape[-1]
    network = latent_model.VariationalAutoencoder(part, side).to(runtime.device)
    latent_side = side // 2 ** (len(part.block_channels) - 1)
    shape = (part.latent_channels, latent_side, latent_side)
    order = EpochOrder(len(images), o.batch_size, derive_seed(seed, "autoencoder"))
    batches = ImageBatches(images, shape, order, draws(seed, "posterior"), o.batch_size)
    ahead, objective = read_ahead(batches, images, o.num_steps), reconstruction_objective(part.kl_weight)
    history = train(network, objective, ahead, o, runtime, state, None)
    means, _ = latent_model.encode_images(network.model, images, o.batch_size)
    latent_model.standardize_latents(network.model, means)
    return network.model, history


def train_denoiser(
    posterior: tuple[torch.Tensor, torch.Tensor],
    labels: torch.Tensor,
    captions: tuple[Caption, ...],
    section: TrainGenerator,
    runtime: Runtime,
    state: Path,
) -> tuple[latent_model.TextConditionedDenoiser, CLIPTokenizer, History]:
    """Trains text encoder and UNet on latents of the given posterior means and deviations (N, C, h, w)."""
    part, o, seed = section.denoiser, section.denoiser.optimization, section.data_seed
    texts = [caption.text for caption in captions]
    tokenizer = build_tokenizer(texts)
    tokens = tokenizer([*texts, EMPTY], padding="max_length", truncation=True, return_tensors="pt").input_ids
    torch.manual_seed(derive_seed(seed, "denoiser"))  # so that the autoencoder's settings don't alter initial weights
    channels, side = posterior[0].shape[1:3]
    network = latent_model.TextConditionedDenoiser(part, section.text_encoder, tokenizer, channels, side)
    network.to(runtime.device)
    captioned = CaptionedTokens(tokens[:-1], tokens[-1], captions, part.caption_dropout)
    order = EpochOrder(len(labels), o.batch_size, derive_seed(seed, "denoiser"))
    noise = draws(seed, "diffusion")
    batches = LatentBatches(posterior, labels, captioned, part.num_train_timesteps, order, noise, o.batch_size)
    alphas = latent_model.build_scheduler(part).alphas_cumprod.to(runtime.device)
    objective = velocity_objective(alphas, part.snr_gamma)
    history = train(network, objective, batches, o, runtime, state, part.ema_decay)
    return network, tokenizer, history


def build(
    split: Split, captions: tuple[Caption, ...], section: TrainGenerator, runtime: Runtime, state: Path
) -> tuple[latent_model.Generator, dict[str, History]]:
    """Trains the whole generator; returns it with the loss curves of its parts."""
    images = split.images.to(runtime.device)
    autoencoder, reconstruction = train_autoencoder(images, section, runtime, state / "autoencoder")
    posterior = latent_model.encode_images(autoencoder, images, section.autoencoder.optimization.batch_size)
    denoiser, tokenizer, denoising = train_denoiser(
        posterior, split.labels, captions, section, runtime, state / "denoiser"
    )
    scheduler = latent_model.build_scheduler(section.denoiser)
    generator = latent_model.Generator(autoencoder, denoiser, tokenizer, scheduler)
    return generator, {"autoencoder": reconstruction, "denoiser": denoising}


def make_from_scratch(section: TrainGenerator) -> dict[str, Any]:
    """Trains the profile's generator on the real train split."""
    real = read_manifest(DATA / "real")
    captions = read_captions(CAPTIONS, real["class_names"])
    latent_model.check_image_size(real["image_size"], section.autoencoder, section.denoiser)
    runtime = open_runtime(section.data_seed)
    split = load_split(DATA / "real", "train")
    settings = section.model_dump()
    with scratch("build_generator", settings, (DATA / "real", CAPTIONS)) as state:
        generator, curves = build(split, captions, section, runtime, state)
        if runtime.is_main:
            with fresh_dir(PLOTS / "build_generator") as plots, fresh_dir(GENERATOR) as target:
                for part, history in curves.items():
                    write_curves(plots / part, history)
                generator.save(target)
                write_manifest(target, settings=settings, captions_sha256=digest(CAPTIONS))
    return {"made": f"{GENERATOR}, a pipeline trained on {len(split)} images", "device": str(runtime.device)}


def take_published(section: HubGenerator, folder: Path) -> dict[str, Any]:
    """Copies a published pipeline, from the user's folder or from the hub."""
    if folder != config.NO_LOCAL_GENERATOR:
        source, name, taken = folder, f"generator_path: {folder}", str(folder)
        model = None
    else:
        model = section.model
        if model is None:
            raise BadInput("build_generator.model: null, and generator_path names nothing local; name one of the two")
        source = hub.fetch(model, published.patterns(section.variant), "build_generator.model")
        name, taken = f"build_generator.model: {model.repo_id}", f"{model.repo_id} at {model.revision[:12]}"
    published.check(source, name, section.variant)
    with fresh_dir(PLOTS / "build_generator"), fresh_dir(GENERATOR) as target:
        published.copy(source, target, section.variant)
        settings = {"mode": section.mode, "model": model and model.model_dump(), "variant": section.variant}
        write_manifest(target, settings=settings)
    return {"made": f"{GENERATOR}, {taken}"}


def main(argv: list[str]) -> dict[str, Any]:
    """Makes models/generator."""
    if argv:
        raise BadInput(f"build_generator: takes no argument, was given {argv}; run it bare")
    study = config.load_study()
    profile = config.load_profile(study.profile)
    section = profile.build_generator
    match section:
        case TrainGenerator():
            return make_from_scratch(section)
        case HubGenerator():
            return take_published(section, Path(study.generator_path)) if is_main_process() else {}
        case _ as never:
            assert_never(never)


if __name__ == "__main__":
    run_stage(main)
