"""What the two networks of a latent diffusion model are trained for."""

from collections.abc import Callable

import torch
from torch import nn

Objective = Callable[[nn.Module, dict[str, torch.Tensor]], dict[str, torch.Tensor]]


def reconstruction_objective(kl_weight: float) -> Objective:
    """Mean squared error of the reconstruction plus `kl_weight` times the KL divergence from the standard normal.

    Both are means per pixel value (Kingma and Welling 2014, eq. 10 with a Gaussian decoder, up to constants).
    The batch has "images" (B, 3, H, W) in [-1, 1] and "noise" (B, C, h, w).
    """

    def objective(network: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        images = batch["images"]
        reconstruction, mean, log_variance = (part.float() for part in network(images, batch["noise"]))
        error = (reconstruction - images).square().mean()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum() / images.numel()
        return {"loss": error + kl_weight * divergence, "error": error, "divergence": divergence}

    return objective


def velocity_objective(alphas_cumprod: torch.Tensor, snr_gamma: float) -> Objective:
    """Mean squared error of the predicted velocity, weighted by min-SNR.

    With a² = alphas_cumprod[t] and s² = 1 - a², noisy latents are a·z + s·n and their velocity is a·n - s·z (Salimans
    and Ho 2022, appendix D). The weight min(SNR, gamma) / (SNR + 1), SNR = a²/s², is Hang et al. 2023, section 3.4:
    no timestep dominates the others.

    The batch has "latents" and "noise" (B, C, h, w), "timesteps" (B,) and "tokens" (B, L).

    Args:
        alphas_cumprod: of the noise schedule (T,), on the device.
        snr_gamma: the largest signal-to-noise ratio that counts.
    """

    def objective(network: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        latents, noise, timesteps = batch["latents"], batch["noise"], batch["timesteps"]
        signal = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        noisy = signal.sqrt() * latents + (1 - signal).sqrt() * noise
        velocity = signal.sqrt() * noise - (1 - signal).sqrt() * latents
        error = (network(noisy, timesteps, batch["tokens"]).float() - velocity).square().mean((1, 2, 3))
        ratio = alphas_cumprod[timesteps] / (1 - alphas_cumprod[timesteps])
        weight = ratio.clamp(max=snr_gamma) / (ratio + 1)
        return {"loss": (weight * error).mean(), "error": error.mean()}

    return objective
