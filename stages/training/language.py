"""Images against their captions: CLIP's loss, and StableRep+'s with it (arXiv 2306.00984, section 3.3)."""

import math

import torch
from torch import nn

from stages.training import blockwise
from stages.training.contrastive import Gather, multi_positive_loss

LARGEST_SCALE = 100
"""Of the similarities (Radford et al. 2021, section 2.5)."""


def image_text_loss(
    images: torch.Tensor,
    texts: torch.Tensor,
    image_keys: torch.Tensor,
    text_keys: torch.Tensor,
    scale: torch.Tensor,
    gather: Gather,
) -> torch.Tensor:
    """(L_i2t + L_t2i) / 2: each image finds its one text among all, each text its m images, uniformly.

    With m = 1 this is CLIP's symmetric cross-entropy.

    Args:
        images: (B, D), this process's images, of any length.
        texts: (T, D), this process's texts, each another than those of the other processes.
        image_keys: int64 (B,), which text an image belongs to.
        text_keys: int64 (T,).
        scale: 1 / tau, a scalar.
        gather: see `Gather`; shares must be of equal size.
    """
    block = blockwise.ANCHORS_AT_A_TIME
    to_text = blockwise.matching_loss(images, image_keys, gather(texts), gather(text_keys), scale, block)
    to_image = blockwise.matching_loss(texts, text_keys, gather(images), gather(image_keys), scale, block)
    return (to_text + to_image) / 2


class ClipObjective:
    """An objective for `fit`; the network maps images and tokens to both sides and the logarithm of the scale.

    Batches hold `images` (B, 3, H, W), `tokens` (T, length), and the captions' numbers `image_captions` (B,) and
    `text_captions` (T,).
    """

    def __init__(self, gather: Gather) -> None:
        self.gather = gather

    def __call__(self, network: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Takes a network such as `ImageTextModel`."""
        outputs = network(batch["images"], batch["tokens"])
        return {"loss": self.image_text(outputs, batch)}

    def image_text(self, outputs: dict[str, torch.Tensor], batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The loss between images and texts."""
        images, texts = (_precise(outputs[name]) for name in ("images", "texts"))
        captions = batch["image_captions"], batch["text_captions"]
        return image_text_loss(images, texts, *captions, outputs["log_scale"].exp(), self.gather)


class StableRepPlusObjective(ClipObjective):
    """w1 * L_img + w2 * (L_i2t + L_t2i) / 2; batches also hold `keys` (B,), equal for positives among images."""

    def __init__(self, image_weight: float, text_weight: float, temperature: float, gather: Gather, rank: int) -> None:
        super().__init__(gather)
        self.image_weight = image_weight
        self.text_weight = text_weight
        self.temperature = temperature
        self.rank = rank

    def __call__(self, network: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Takes a network such as `ImageTextModel` with a head."""
        outputs = network(batch["images"], batch["tokens"])
        features = _precise(outputs["features"])
        with torch.autocast(features.device.type, enabled=False):
            values = multi_positive_loss(features, batch["keys"], self.temperature, self.gather, self.rank)
        image_text = self.image_text(outputs, batch)
        loss = self.image_weight * values["loss"] + self.text_weight * image_text
        return {"loss": loss, "image_loss": values["loss"], "image_text_loss": image_text}


def bound_scale(log_scale: nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
    """Has every step of `optimizer` end with the scale in [1, 100]."""

    @torch.no_grad()
    def clamp(*_: object) -> None:
        log_scale.clamp_(0, math.log(LARGEST_SCALE))

    optimizer.register_step_post_hook(clamp)


def _precise(outputs: torch.Tensor) -> torch.Tensor:
    """At least float32: before a gather, whose sums of gradients bfloat16 would round."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))
