"""The text encoder of CLIP beside an image encoder, and its standard folder."""

import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTokenizer
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModelWithProjection

from stages.encoder_sections import Language
from stages.networks.vit import MLP_RATIO, quiet

INITIAL_TEMPERATURE = 0.07
"""Of the learned temperature between images and texts (Radford et al. 2021, section 2.5)."""
TEXT_FOLDER = "text"
VISUAL_PROJECTION = "visual_projection.safetensors"


class TextEncoder(nn.Module):
    """CLIP's: a causal transformer, of which the token that ends the text is kept, normed and projected."""

    def __init__(self, settings: Language, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.network = CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=settings.hidden_size,
                intermediate_size=MLP_RATIO * settings.hidden_size,
                projection_dim=settings.projection_size,
                num_hidden_layers=settings.num_layers,
                num_attention_heads=settings.num_heads,
                max_position_embeddings=settings.context_length,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Maps token ids (T, length), padded behind their end, to features (T, projection_size).

        What follows the end is of no account, since attention is causal.
        """
        features: torch.Tensor = self.network(input_ids=tokens).text_embeds
        return features


class ImageTextModel(nn.Module):
    """An image encoder and a text encoder with a projection each to where they meet, and a learned temperature.

    StableRep+ has a head over the images beside these, under which they are compared with one another.
    """

    def __init__(
        self, image_encoder: nn.Module, width: int, text_encoder: nn.Module, settings: Language, head: nn.Module | None
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.visual_projection = nn.Linear(width, settings.projection_size, bias=False)
        nn.init.normal_(self.visual_projection.weight, std=width**-0.5)
        self.head = head
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / INITIAL_TEMPERATURE)))

    def forward(self, images: torch.Tensor, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """Maps images and texts to where they are compared.

        Args:
            images: (B, 3, H, W) in [-1, 1].
            tokens: int64 (T, length).

        Returns:
            `images` (B, projection_size), `texts` (T, projection_size), both of any length; `log_scale`, a scalar; and
            with a head `features` (B, output_size).
        """
        summary = self.image_encoder(images)
        outputs = {
            "images": self.visual_projection(summary),
            "texts": self.text_encoder(tokens),
            "log_scale": self.log_scale,
        }
        if self.head is not None:
            outputs["features"] = self.head(summary)
        return outputs


def save(folder: Path, text_encoder: TextEncoder, tokenizer: CLIPTokenizer, visual_projection: nn.Linear) -> None:
    """Writes what zero-shot classification needs beside an image encoder.

    `text/` is a standard folder of `CLIPTextModelWithProjection` with its tokenizer; `visual_projection.safetensors`
    holds `weight`, (projection_size, width). Text features are the model's `text_embeds`, image features the
    projection of the CLS token, both to be normalised.
    """
    with quiet():
        text_encoder.network.save_pretrained(folder / TEXT_FOLDER)
        tokenizer.save_pretrained(folder / TEXT_FOLDER)
    save_file({"weight": visual_projection.weight.detach().contiguous()}, folder / VISUAL_PROJECTION)
