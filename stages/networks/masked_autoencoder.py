"""The masked autoencoder: a ViT encoder that sees some patches, and a light decoder that paints the others."""

import torch
from torch import nn
from transformers.models.vit_mae.configuration_vit_mae import ViTMAEConfig
from transformers.models.vit_mae.modeling_vit_mae import ViTMAEForPreTraining

from stages.encoder_sections import Mae
from stages.networks.vit import MLP_RATIO, ViTEncoder

INITIAL_DEVIATION = 0.02
"""Of the mask token."""
LONGEST_WAVE = 10_000
"""Of the position embeddings, in patches over 2 pi."""


def sine_positions(side: int, width: int) -> torch.Tensor:
    """Fixed position embeddings of a CLS token and side x side patches (MAE, `util/pos_embed.py`).

    Args:
        side: patches per row and per column.
        width: a multiple of 4; a quarter each holds sines and cosines of the column, then of the row.

    Returns:
        (1 + side**2, width), zeros first.
    """
    frequencies = LONGEST_WAVE ** -(torch.arange(width // 4) / (width // 4))
    angles = torch.arange(side)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, width / 2)
    patches = torch.cat([waves.repeat(side, 1), waves.repeat_interleave(side, dim=0)], dim=1)
    return torch.cat([torch.zeros(1, width), patches])


class MaskedAutoencoder(nn.Module):
    """MAE (He et al. 2022): the decoder of `transformers` over our encoder, which is trained in place.

    As in the paper, position embeddings are fixed sines and cosines, the encoder's too, and the decoder's matrices
    start as in its release. transformers 5.23 leaves the former at zero, where equal mask tokens reach a layer norm as
    zeros and gradients explode, and draws the latter from N(0, 0.02), too small for a narrow decoder to start on.
    """

    def __init__(self, encoder: ViTEncoder, settings: Mae) -> None:
        super().__init__()
        self.encoder = encoder
        config = encoder.network.config
        mae = ViTMAEForPreTraining(
            ViTMAEConfig(
                image_size=config.image_size,
                patch_size=config.patch_size,
                hidden_size=config.hidden_size,
                num_hidden_layers=0,
                num_attention_heads=config.num_attention_heads,
                decoder_hidden_size=settings.decoder_size,
                decoder_num_hidden_layers=settings.decoder_layers,
                decoder_num_attention_heads=settings.decoder_heads,
                decoder_intermediate_size=MLP_RATIO * settings.decoder_size,
                attn_implementation=config._attn_implementation,
            )
        )
        self.decoder = mae.decoder
        self.patch_size = config.patch_size
        side = config.image_size // config.patch_size
        _initialize(self.decoder)
        for positions in (self.decoder.decoder_pos_embed, encoder.network.embeddings.position_embeddings):
            positions.data.copy_(sine_positions(side, positions.shape[2]))
            positions.requires_grad_(False)
        self.num_visible = int(side**2 * (1 - settings.mask_ratio))

    def forward(self, images: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Predicts all patches from those whose noise is lowest.

        Args:
            images: (B, 3, H, W) in [-1, 1].
            noise: (B, patches), the order in which patches are kept.

        Returns:
            Predicted and actual patches, both (B, patches, 3 * patch_size**2), and the mask (B, patches): True where
            the encoder saw nothing.
        """
        images = self.encoder.processing(images)
        order = noise.argsort(dim=1)
        network = self.encoder.network
        embeddings = network.embeddings
        tokens = embeddings.patch_embeddings(images) + embeddings.position_embeddings[:, 1:]
        visible = order[:, : self.num_visible, None].expand(-1, -1, tokens.shape[2])
        summary = (embeddings.cls_token + embeddings.position_embeddings[:, :1]).expand(len(images), -1, -1)
        hidden = torch.cat([summary, tokens.gather(1, visible)], dim=1)
        for layer in network.layers:
            hidden = layer(hidden)
        places = order.argsort(dim=1)
        predictions = self.decoder(network.layernorm(hidden), places).logits
        return predictions, self.patches_of(images), places >= self.num_visible

    def patches_of(self, images: torch.Tensor) -> torch.Tensor:
        """Cuts (B, 3, H, W) into (B, patches, patch_size**2 * 3), row by row, colours last."""
        size = self.patch_size
        cut = images.unfold(2, size, size).unfold(3, size, size)  # (B, 3, rows, columns, size, size)
        return cut.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


def _initialize(decoder: nn.Module) -> None:
    """Matrices by Xavier, biases zero, the mask token from N(0, 0.02): `models_mae.py` of the release."""
    for module in decoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.normal_(decoder.get_parameter("mask_token"), std=INITIAL_DEVIATION)
