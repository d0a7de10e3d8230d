"""Images from any `StableDiffusionPipeline`: the small one that is trained here, or Stable Diffusion itself."""

import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image
from torch import nn

from stages.artifacts import BadInput, say
from stages.diffusion.attention import choose_attention
from stages.diffusion.captions import EMPTY
from stages.diffusion.plan import Shot
from stages.diffusion.quiet import hide_progress_bars

PIPELINE_CLASS = "StableDiffusionPipeline"
DECODED_PIXELS = 1 << 18
"""Pixels that the autoencoder decodes at once: at 512 x 512 one image at a time, whatever the batch."""


def open_pipeline(folder: Path, denoiser_dtype: torch.dtype, device: torch.device) -> StableDiffusionPipeline:
    """Opens a pipeline folder with DPM-Solver++; the denoiser's weights in `denoiser_dtype`, all others in float32.

    The solver is the deterministic second-order multistep one (Lu et al. 2022, DPM-Solver++(2M)). Between steps the
    latents stay in float32. The decoder multiplies in `denoiser_dtype` (autocast). Nothing is fetched, no pickle is
    read and no code of the folder is run.

    Raises:
        BadInput: the folder is no such pipeline.
    """
    try:
        kind = json.loads((folder / "model_index.json").read_text())["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(f"{folder}: is not a diffusers pipeline (no model_index.json); make or fetch one") from None
    if kind != PIPELINE_CLASS:
        raise BadInput(f"{folder}: is a {kind}, not a {PIPELINE_CLASS}; choose a generator of that kind")
    hide_progress_bars()
    try:
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder,
            dtype={"unet": denoiser_dtype, "default": torch.float32},
            local_files_only=True,
            use_safetensors=True,
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadInput(f"{folder}: can't be opened as a {PIPELINE_CLASS} ({reason}); make or fetch it again") from None
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
        pipeline.scheduler.config, algorithm_type="dpmsolver++", solver_order=2, steps_offset=1
    )
    pipeline.set_progress_bar_config(disable=True)
    choose_attention(pipeline.unet)
    pipeline.unet.register_forward_pre_hook(_cast_inputs(denoiser_dtype), with_kwargs=True)
    pipeline.unet.register_forward_hook(_cast_outputs)
    return pipeline.to(device)


class Sampler:
    """Makes batches of images, of one size whatever the number of images asked for."""

    def __init__(
        self, pipeline: StableDiffusionPipeline, guidance: float, num_steps: int, batch_size: int, image_size: int
    ) -> None:
        """Takes an opened pipeline; guidance 1 skips the unconditional half of the work."""
        self._pipeline = pipeline
        self._guidance = guidance
        self._num_steps = num_steps
        self._batch_size = batch_size
        self._image_size = image_size
        self._embedded: dict[str, torch.Tensor] = {}

    @property
    def has_safety_checker(self) -> bool:
        """Whether the pipeline judges its own images."""
        return self._pipeline.safety_checker is not None

    def compile(self, cache: Path) -> None:
        """Compiles the denoiser for the one batch that it will see, or says in one line why it stays as it is.

        Done before any image and before worker processes start, which then share the result. What was compiled once
        is read from `cache`.
        """
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache.resolve())  # importing torch has set it to a place in /tmp
        # In this process: a pool of compilers would have threads, which worker processes can't inherit.
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
        compilers = ("c++", "g++", "clang++", "cl")
        if not any(shutil.which(name) for name in compilers):
            say("generate_synthetic: no C++ compiler found, so the denoiser is not compiled; this is slower")
            return
        unet = self._pipeline.unet
        unet.to(memory_format=torch.channels_last)
        # Notes of the compiler's that no user can act on.
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="torch._dynamo")
        # On a CPU all kernels as one C++ file rather than thirty: it is the headers that take a compiler's time.
        options = {"cpp_wrapper": next(unet.parameters()).is_cpu}
        unet.forward = torch.compile(unet.forward, dynamic=False, options=options)
        try:
            self._denoise([EMPTY], [0], num_steps=1)
        except RuntimeError as error:
            del unet.forward  # the class's own is there again
            say(f"generate_synthetic: compiling failed ({str(error).splitlines()[0]}); the denoiser runs uncompiled")

    def images(self, shots: Sequence[Shot]) -> list[tuple[Image.Image, bool]]:
        """One image per shot, and whether the pipeline's own checker finds it unsafe; at most a batch of them."""
        latents = self._denoise([shot.caption.text for shot in shots], [shot.seed for shot in shots], self._num_steps)
        at_once = max(1, DECODED_PIXELS // self._image_size**2)
        return [made for part in torch.split(latents[: len(shots)], at_once) for made in self._decode(part)]

    @torch.inference_mode()
    def _denoise(self, texts: list[str], seeds: list[int], num_steps: int) -> torch.Tensor:
        """Latents float32 (batch_size, C, h, w); a short batch is filled up, so that one compilation serves all."""
        pipeline, filling = self._pipeline, self._batch_size - len(texts)
        texts, seeds = texts + texts[:1] * filling, seeds + seeds[:1] * filling
        # Those of one batch alone: of tens of thousands of captions they would fill a GPU.
        known = self._embedded
        self._embedded = {text: known[text] if text in known else self._embed(text) for text in (EMPTY, *texts)}
        embeddings = torch.cat([self._embedded[text] for text in texts])
        unconditional = self._embedded[EMPTY].expand_as(embeddings) if self._guidance > 1 else None
        made = pipeline(
            prompt_embeds=embeddings,
            negative_prompt_embeds=unconditional,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],  # on the CPU: the same on every device
            guidance_scale=self._guidance,
            num_inference_steps=num_steps,
            height=self._image_size,
            width=self._image_size,
            output_type="latent",
        )
        latents: torch.Tensor = made.images
        return latents

    @torch.inference_mode()
    def _embed(self, text: str) -> torch.Tensor:
        """The text's embedding (1, L, D), computed alone: it can't depend on the batch."""
        embedding: torch.Tensor
        embedding, _ = self._pipeline.encode_prompt(text, self._pipeline.device, 1, False)
        return embedding

    @torch.inference_mode()
    def _decode(self, latents: torch.Tensor) -> list[tuple[Image.Image, bool]]:
        """What `StableDiffusionPipeline.__call__` does after its last step, without blackening unsafe images."""
        pipeline = self._pipeline
        with torch.autocast(
            latents.device.type, dtype=pipeline.unet.dtype, enabled=pipeline.unet.dtype != torch.float32
        ):
            pixels = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor, return_dict=False)[0].float()
        # A copy, since it blackens what it finds: whether an image is blank must not depend on whether it is unsafe.
        _, unsafe = pipeline.run_safety_checker(pixels.clone(), pipeline.device, pixels.dtype)
        images = pipeline.image_processor.postprocess(pixels, output_type="pil")
        return list(zip(images, unsafe or [False] * len(images), strict=True))


def _cast_inputs(dtype: torch.dtype) -> Callable[..., Any]:
    """A hook that hands the denoiser latents and embeddings in its own precision; timesteps are scalars."""

    def cast(value: Any) -> Any:
        is_batch = isinstance(value, torch.Tensor) and value.ndim > 1
        return value.to(dtype) if is_batch else value

    def hook(unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return tuple(cast(value) for value in args), {key: cast(value) for key, value in kwargs.items()}

    return hook


def _cast_outputs(unet: nn.Module, args: tuple[Any, ...], outputs: tuple[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """A hook that hands the solver float32."""
    return tuple(output.float() for output in outputs)
