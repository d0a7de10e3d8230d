"""What StableRep+ and CLIP share: batches of images with their captions, and the text encoder."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import CLIPTokenizer

from stages.dataset.captions import load_captions
from stages.dataset.multiview import caption_views
from stages.diffusion.tokenizer import build_tokenizer
from stages.methods.method import Task, TextSide
from stages.methods.views import RowsOf
from stages.networks.in_parts import InParts
from stages.networks.language import ImageTextModel, TextEncoder

Rows = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Captioned:
    """Captions as tokens, and the batches that show n of them in m images each."""

    tokenizer: CLIPTokenizer
    rows_of: RowsOf
    texts_of: Callable[[range, torch.Tensor], Rows]
    """What a batch of image rows at some positions holds of texts: `tokens`, `text_captions`, `image_captions`."""


def captioned(task: Task, images_per_caption: int) -> Captioned:
    """Reads the captions of the source.

    Raises:
        BadInput: some images have none, or batches can't be made of them.
    """
    texts = load_captions(task.source, "train")
    tokenizer = build_tokenizer([*texts.values()])
    tokenizer.model_max_length = task.section.language.context_length
    ids = torch.tensor(sorted(texts))
    tokens = tokenizer([texts[i] for i in ids.tolist()], padding=True, truncation=True, return_tensors="pt").input_ids
    captions, m = task.split.caption_ids, images_per_caption
    rows_of = caption_views(captions, task.num_things(m), m, task.seed)

    def texts_of(positions: range, rows: torch.Tensor) -> Rows:
        # Process r of R has the images of the r-th share of positions; it takes as large a share of the captions.
        shown = captions[rows[: len(rows) // m]][positions.start // m : positions.stop // m]
        return {
            "tokens": tokens[torch.searchsorted(ids, shown)],
            "text_captions": shown,
            "image_captions": captions[rows[positions.start : positions.stop]],
        }

    return Captioned(tokenizer, rows_of, texts_of)


def image_text_model(task: Task, tokenizer: CLIPTokenizer, head: nn.Module | None) -> tuple[ImageTextModel, TextSide]:
    """The encoder beside a fresh text encoder, and what of it is kept."""
    settings, micro_batch_size = task.section.language, task.section.optimization.micro_batch_size
    text = TextEncoder(settings, tokenizer)
    model = ImageTextModel(
        task.encoder_in_parts(), task.section.backbone.hidden_size, InParts(text, micro_batch_size), settings, head
    )
    return model, TextSide(text, tokenizer, model.visual_projection)
