"""What each step of building the generator sees: pure functions of the step and of rows in its global batch."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from stages.diffusion.captions import Caption

Order = Callable[[int, range], torch.Tensor]
"""Indices of the images at given rows of a step's batch."""
Draws = Callable[[int], torch.Generator]
"""A CPU generator of a step's own."""


class Images(Protocol):
    """Images uint8 (N, 3, H, W): a tensor, or what reads them from disk."""

    @property
    def device(self) -> torch.device:
        """Where they come."""

    @property
    def shape(self) -> torch.Size:
        """(N, 3, H, W)."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, key: torch.Tensor | slice, /) -> torch.Tensor:
        """Those at rows int64 (B,), or at a slice of all."""


class ImageBatches:
    """Batches of the autoencoder: images, and the noise of the posterior."""

    def __init__(self, images: Images, latent_shape: tuple[int, ...], order: Order, draws: Draws, size: int) -> None:
        """Takes images uint8 (N, 3, H, W), latents' shape (C, h, w) and the global batch size."""
        self._images, self._latent_shape = images, latent_shape
        self._order, self._draws, self._size = order, draws, size

    def __call__(self, step: int, rows: range) -> dict[str, torch.Tensor]:
        """{"images": float (B, 3, H, W) in [-1, 1], "noise": float (B, C, h, w)}."""
        device = self._images.device
        images = self._images[self._order(step, rows)].float() / 127.5 - 1
        noise = torch.randn(self._size, *self._latent_shape, generator=self._draws(step))
        return {"images": images, "noise": noise[rows.start : rows.stop].to(device)}


class CaptionedTokens:
    """The token ids of every caption, and a random one for an image of a class."""

    def __init__(self, tokens: torch.Tensor, empty: torch.Tensor, captions: Sequence[Caption], dropout: float) -> None:
        """Takes token ids of the captions (N, L) and of the empty caption (L,), and the share that is left empty."""
        self._tokens = torch.cat([tokens, empty[None]])
        self._dropout = dropout
        labels = torch.tensor([caption.label for caption in captions])
        self._order = labels.argsort(stable=True)
        self._counts = labels.bincount()
        self._starts = self._counts.cumsum(0) - self._counts

    def __call__(self, labels: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Token ids int64 (B, L) for labels (B,), from uniform draws (B, 2): which caption, and whether it is empty."""
        offset = (draws[:, 0] * self._counts[labels]).long()
        chosen = self._order[self._starts[labels] + offset]
        return self._tokens[torch.where(draws[:, 1] < self._dropout, len(self._tokens) - 1, chosen)]


class LatentBatches:
    """Batches of the denoiser: latents, noise, timesteps and captions."""

    def __init__(
        self,
        posterior: tuple[torch.Tensor, torch.Tensor],
        labels: torch.Tensor,
        captioned: CaptionedTokens,
        num_timesteps: int,
        order: Order,
        draws: Draws,
        size: int,
    ) -> None:
        """Takes posterior means and deviations (N, C, h, w) on the device, labels (N,) on the CPU, the batch size."""
        self._means, self._deviations = posterior
        self._labels, self._captioned, self._num_timesteps = labels, captioned, num_timesteps
        self._order, self._draws, self._size = order, draws, size

    def __call__(self, step: int, rows: range) -> dict[str, torch.Tensor]:
        """{"latents", "noise": (B, C, h, w), "timesteps": int64 (B,), "tokens": int64 (B, L)} on the device."""
        device = self._means.device
        generator, mine = self._draws(step), slice(rows.start, rows.stop)
        noise = torch.randn(2, self._size, *self._means.shape[1:], generator=generator)[:, mine].to(device)
        uniform = torch.rand(3, self._size, generator=generator)[:, mine]
        chosen = self._order(step, rows)
        tokens = self._captioned(self._labels[chosen], uniform[:2].T)
        indices = chosen.to(device)
        return {
            "latents": self._means[indices] + self._deviations[indices] * noise[0],
            "noise": noise[1],
            "timesteps": (uniform[2] * self._num_timesteps).long().to(device),
            "tokens": tokens.to(device),
        }
