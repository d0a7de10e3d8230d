"""A text-to-image pipeline of the least size, untrained."""

import torch
from diffusers import AutoencoderKL

from stages.diffusion.latent_model import Generator, TextConditionedDenoiser, VariationalAutoencoder, build_scheduler
from stages.diffusion.tokenizer import build_tokenizer
from stages.generator_sections import Autoencoder, Denoiser, TextEncoder
from tests.tiny import tiny_profile

SECTION = tiny_profile()["build_generator"]
AUTOENCODER = Autoencoder.model_validate(SECTION["autoencoder"])
DENOISER = Denoiser.model_validate(SECTION["denoiser"])
TEXT_ENCODER = TextEncoder.model_validate(SECTION["text_encoder"])
TEXTS = [f"{article} {name}" for article in ("a", "the", "one") for name in ("circle", "cross", "square")]


def tiny_autoencoder(image_size: int = 16) -> AutoencoderKL:
    return VariationalAutoencoder(AUTOENCODER, image_size).model.eval()


def tiny_generator(denoiser_section: Denoiser = DENOISER) -> Generator:
    """Initialised at seed 0; 16x16 images. Its last layers are scaled up, so that images vary with seed and text."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(TEXTS)
    denoiser = TextConditionedDenoiser(denoiser_section, TEXT_ENCODER, tokenizer, AUTOENCODER.latent_channels, 8).eval()
    autoencoder = tiny_autoencoder()
    with torch.no_grad():
        denoiser.unet.conv_out.weight.mul_(5)
        for block in denoiser.unet.mid_block.attentions:
            block.proj_out.weight.mul_(20)
        autoencoder.decoder.conv_out.weight.mul_(5)
    return Generator(autoencoder, denoiser, tokenizer, build_scheduler(DENOISER))
