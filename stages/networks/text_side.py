"""The text encoder that stands beside an image encoder pretrained with captions, read from its standard folder."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTokenizer
from transformers.models.clip.modeling_clip import CLIPTextModelWithProjection

from stages.artifacts import BadInput
from stages.networks.language import TEXT_FOLDER, VISUAL_PROJECTION
from stages.networks.vit import quiet


class TextSide(nn.Module):
    """Texts to embeddings, and image features to embeddings that can be compared with them."""

    def __init__(
        self, network: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer, projection: torch.Tensor
    ) -> None:
        super().__init__()
        self.network = network
        self.tokenizer = tokenizer
        self.projection: torch.Tensor
        self.register_buffer("projection", projection)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """(texts, d) of any length; what exceeds the text encoder's positions is cut off."""
        length = self.network.config.max_position_embeddings
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        embedded: torch.Tensor = self.network(**tokens.to(self.projection.device)).text_embeds
        return embedded.float()

    def embed_images(self, features: torch.Tensor) -> torch.Tensor:
        """(images, width) to (images, d), of any length."""
        return features.to(self.projection) @ self.projection.T


def load_text_side(folder: Path) -> TextSide:
    """Reads what `language.save` wrote beside an encoder.

    Raises:
        BadInput: a part is missing, or the two don't fit together.
    """
    for part in (folder / TEXT_FOLDER / "config.json", folder / VISUAL_PROJECTION):
        if not part.exists():
            raise BadInput(f"{part}: not there, but the manifest says zero_shot; pretrain the encoder again")
    with quiet():
        network = CLIPTextModelWithProjection.from_pretrained(
            folder / TEXT_FOLDER, dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
        tokenizer = CLIPTokenizer.from_pretrained(folder / TEXT_FOLDER, local_files_only=True)
    projection = load_file(folder / VISUAL_PROJECTION)["weight"]
    if projection.shape[0] != network.config.projection_dim:
        raise BadInput(
            f"{folder / VISUAL_PROJECTION}: maps to {projection.shape[0]} dimensions, texts have "
            f"{network.config.projection_dim}; pretrain the encoder again"
        )
    return TextSide(network.eval(), tokenizer, projection)
