"""What a pretraining method is given, and what it consists of."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from transformers import CLIPTokenizer

from stages.dataset.tensors import Split
from stages.encoder_sections import PretrainEncoder, Recipe
from stages.networks import heads, vit
from stages.networks.batchnorm import batch_norm_1d
from stages.networks.in_parts import InParts
from stages.networks.language import TextEncoder
from stages.training.loop import Batches, Objective
from stages.training.runtime import Runtime


@dataclass(frozen=True)
class Task:
    """An encoder, the images that it is to learn from, and the settings of all methods."""

    encoder: vit.ViTEncoder
    """Trained in place."""
    split: Split
    """The source's train split."""
    source: Path
    """The folder that it was read from."""
    section: PretrainEncoder
    """The profile's."""
    runtime: Runtime
    """Device and processes."""
    seed: int
    """Of the views."""

    def num_things(self, num_views: int) -> int:
        """How many different things a batch shows (n), each in `num_views` views."""
        return self.section.optimization.batch_size // num_views

    def norm(self, images_per_view: int) -> heads.Norm:
        """Makes a head's batch norms, over a view or over the global batch."""
        batch_size = self.section.optimization.batch_size
        group = images_per_view if self.section.projection.norm_over == "view" else batch_size
        return functools.partial(batch_norm_1d, group=group, batch_size=batch_size)

    def encoder_in_parts(self) -> InParts:
        """The encoder for losses that compare a whole batch: it sees a micro-batch at a time."""
        return InParts(self.encoder, self.section.optimization.micro_batch_size)

    @property
    def shared_recipe(self) -> Recipe:
        """The learning rate, weight decay and augmentation of StableRep and SupCon."""
        o = self.section.optimization
        return Recipe(
            learning_rate=o.learning_rate,
            weight_decay=o.weight_decay,
            beta2=o.beta2,
            augmentation=self.section.augmentation,
        )


@dataclass(frozen=True)
class TextSide:
    """What a language method leaves beside the encoder for zero-shot classification."""

    encoder: TextEncoder
    """Texts to where they meet images."""
    tokenizer: CLIPTokenizer
    """Of its captions."""
    visual_projection: nn.Linear
    """The encoder's features to the same place."""


LabelsSeen = Literal["none", "captions", "classes"]


def nothing_else(optimizer: torch.optim.Optimizer) -> None:
    """For methods whose steps are the optimizer's alone."""


@dataclass(frozen=True)
class Method:
    """A method on a task, ready to train."""

    labels_seen: LabelsSeen
    """What the encoder learned from, for its row in every table."""
    recipe: Recipe
    """Learning rate, weight decay and augmentation."""
    batches: Batches
    """Its views and what goes with them."""
    network: nn.Module
    """What learns: the encoder under a head, with a target, a decoder or a text encoder where there is one."""
    objective: Objective
    """What it minimises."""
    compares_images: bool
    """Whether the loss compares images, so that a process's share of the batch must go through it as a whole."""
    share_multiple: int = 1
    """What a process's share of the batch must be a multiple of."""
    attach: Callable[[torch.optim.Optimizer], None] = nothing_else
    """What each step of the optimizer also does."""
    teacher: vit.ViTEncoder | None = None
    """The encoder to keep where it is not the one that learns by gradients."""
    text: TextSide | None = None
    """The text encoder to keep beside it."""
