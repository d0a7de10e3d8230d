"""The parts of the small latent diffusion model, and the standard diffusers folder that they are saved in."""

import dataclasses
import math
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from stages.artifacts import BadInput
from stages.diffusion.attention import choose_attention
from stages.diffusion.batches import Images
from stages.diffusion.quiet import hide_progress_bars
from stages.generator_sections import Autoencoder, Denoiser, TextEncoder

NORM_GROUPS = 8
MLP_RATIO = 4
PIPELINE_MULTIPLE = 8
"""`StableDiffusionPipeline` makes images whose side is a multiple of this, whatever the autoencoder."""


def check_image_size(image_size: int, autoencoder: Autoencoder, denoiser: Denoiser) -> None:
    """Holds the side of the images to what halving it at every resolution allows.

    Raises:
        BadInput: the side is no such multiple.
    """
    halvings = len(autoencoder.block_channels) + len(denoiser.block_channels) - 2
    multiple = math.lcm(PIPELINE_MULTIPLE, 2**halvings)
    if image_size % multiple:
        raise BadInput(
            f"data/real: its images are {image_size} pixels wide, and the generator's block_channels need a multiple "
            f"of {multiple}; change fetch_data.image_size or the blocks"
        )


class VariationalAutoencoder(nn.Module):
    """An `AutoencoderKL` whose forward pass gives all that its objective needs."""

    def __init__(self, section: Autoencoder, image_size: int) -> None:
        super().__init__()
        depth = len(section.block_channels)
        self.model = AutoencoderKL(
            sample_size=image_size,
            latent_channels=section.latent_channels,
            block_out_channels=tuple(section.block_channels),
            layers_per_block=section.layers_per_block,
            down_block_types=("DownEncoderBlock2D",) * depth,
            up_block_types=("UpDecoderBlock2D",) * depth,
            norm_num_groups=NORM_GROUPS,
            mid_block_add_attention=False,
            scaling_factor=1.0,
        )

    def forward(self, images: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Encodes, samples and decodes.

        Args:
            images: (B, 3, H, W) in [-1, 1].
            noise: standard normal (B, C, H/f, W/f).

        Returns:
            The reconstruction (B, 3, H, W), and mean and log variance of the posterior (B, C, H/f, W/f).
        """
        posterior = self.model.encode(images).latent_dist
        latents = posterior.mean + posterior.std * noise
        return self.model.decode(latents).sample, posterior.mean, posterior.logvar


class TextConditionedDenoiser(nn.Module):
    """Text encoder and UNet, trained as one."""

    def __init__(
        self, section: Denoiser, text_section: TextEncoder, tokenizer: CLIPTokenizer, channels: int, latent_size: int
    ) -> None:
        """For latents of `channels` x `latent_size` x `latent_size`."""
        super().__init__()
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=text_section.hidden_size,
                intermediate_size=MLP_RATIO * text_section.hidden_size,
                projection_dim=text_section.hidden_size,
                num_hidden_layers=text_section.num_layers,
                num_attention_heads=text_section.num_heads,
                max_position_embeddings=tokenizer.model_max_length,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        depth = len(section.block_channels)
        self.unet = UNet2DConditionModel(
            sample_size=latent_size,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=tuple(section.block_channels),
            layers_per_block=section.layers_per_block,
            # The text enters at the lowest resolution alone (the mid block's cross-attention), where it is cheapest.
            down_block_types=("DownBlock2D",) * depth,
            up_block_types=("UpBlock2D",) * depth,
            cross_attention_dim=text_section.hidden_size,
            attention_head_dim=section.num_heads,  # which diffusers reads as the number of heads
            norm_num_groups=NORM_GROUPS,
        )
        choose_attention(self.unet)

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The prediction (B, C, h, w) from noisy latents (B, C, h, w), timesteps (B,) and token ids (B, L)."""
        hidden = self.text_encoder(tokens).last_hidden_state
        prediction: torch.Tensor = self.unet(latents, timesteps, encoder_hidden_states=hidden).sample
        return prediction


def build_scheduler(section: Denoiser) -> DPMSolverMultistepScheduler:
    """The noise schedule of Stable Diffusion at the section's numbers, for velocity prediction."""
    return DPMSolverMultistepScheduler(
        num_train_timesteps=section.num_train_timesteps,
        beta_start=section.beta_start,
        beta_end=section.beta_end,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        steps_offset=1,
    )


@torch.no_grad()
def encode_images(autoencoder: AutoencoderKL, images: Images, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the posterior of every image, float32 (N, C, h, w) each, on their device.

    Args:
        autoencoder: in eval mode.
        images: uint8 (N, 3, H, W).
        batch_size: images per forward pass.
    """
    slices = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
    parts = [autoencoder.encode(part.float() / 127.5 - 1).latent_dist for part in slices]
    return torch.cat([part.mean for part in parts]), torch.cat([part.std for part in parts])


@torch.no_grad()
def standardize_latents(autoencoder: AutoencoderKL, means: torch.Tensor) -> None:
    """Gives each latent channel zero mean and unit variance, in place, without changing any reconstruction.

    Stable Diffusion divides its latents by their overall standard deviation (Rombach et al. 2022, appendix G); here
    each channel's own mean and deviation go into the 1x1 convolutions on either side of the latents, so that
    `scaling_factor` is 1 and every pipeline does the right thing.

    Args:
        autoencoder: trained.
        means: posterior means (N, C, h, w) of the images to measure on.
    """
    shift = means.mean((0, 2, 3))
    scale = means.std((0, 2, 3))
    channels = len(shift)
    into, out_of = autoencoder.quant_conv, autoencoder.post_quant_conv
    into.bias[:channels] -= shift
    into.bias[:channels] /= scale
    into.weight[:channels] /= scale[:, None, None, None]
    into.bias[channels:] -= 2 * scale.log()  # the log variance
    out_of.bias += out_of.weight[:, :, 0, 0] @ shift
    out_of.weight *= scale[:, None, None]


@dataclasses.dataclass(frozen=True)
class Generator:
    """All parts of a trained text-to-image model."""

    autoencoder: AutoencoderKL
    denoiser: TextConditionedDenoiser
    tokenizer: CLIPTokenizer
    scheduler: DPMSolverMultistepScheduler

    def save(self, folder: Path) -> None:
        """Writes a folder that `AutoPipelineForText2Image.from_pretrained` opens, with safetensors weights."""
        hide_progress_bars()
        pipeline = StableDiffusionPipeline(
            vae=self.autoencoder,
            text_encoder=self.denoiser.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.denoiser.unet,
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.save_pretrained(folder, safe_serialization=True)
