"""The typed sections of the stages that make encoders; like `sections`, without default or formula."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.sections import (
    Augmentation,
    Count,
    NonNegative,
    Optimization,
    Positive,
    Rate,
    Section,
    Share,
    Transformer,
)


class Backbone(Section):
    """The ViT that encoders share."""

    patch_size: Count
    """Side of a patch in pixels."""
    hidden_size: Annotated[int, Field(ge=4, multiple_of=4)]
    """Width."""
    num_layers: Count
    """Transformer layers."""
    num_heads: Count
    """Attention heads."""
    initializer_range: Positive
    """Standard deviation of initial weights; transformers' own is 0.02."""


class Projection(Section):
    """The projection head, dropped after pretraining (StableRep: three layers with batch norm)."""

    hidden_size: Count
    """Width of the two hidden layers."""
    output_size: Count
    """Dimension in which images are compared."""
    norm_over: Literal["view", "batch"]
    """What batch norm takes its statistics over: one view of the images (StableRep), or the global batch (SimCLR)."""


class Recipe(Section):
    """What of the optimization is a method's own; the number of steps and of image views is the same for all."""

    learning_rate: Rate
    """Peak learning rate."""
    weight_decay: NonNegative
    """Of AdamW, on matrices only."""
    beta2: Share
    """AdamW's second beta."""
    augmentation: Augmentation
    """Of each view."""


class Mae(Recipe):
    """Masked autoencoder."""

    mask_ratio: Annotated[float, Field(gt=0, lt=1)]
    """Share of patches hidden."""
    normalize_patches: bool
    """Predict each patch less its mean, over its deviation (norm_pix_loss)."""
    decoder_size: Annotated[int, Field(ge=4, multiple_of=4)]
    """Width of the decoder."""
    decoder_layers: Count
    """Its transformer layers."""
    decoder_heads: Count
    """Its attention heads."""


class Byol(Recipe):
    """Bootstrap your own latent."""

    momentum: Share
    """Of the target at the first step; rises to 1 by half a cosine."""


class MocoV3(Recipe):
    """Momentum contrast, version 3."""

    momentum: Share
    """Of the target at the first step; rises to 1 by half a cosine."""
    temperature: Rate
    """Of the contrastive softmax (tau)."""
    freeze_patch_embedding: bool
    """Leave the patch projection at its initial weights, which the paper found to stabilise training."""


class Dino(Recipe):
    """Self-distillation with no labels."""

    momentum: Share
    """Of the teacher at the first step; rises to 1 by half a cosine."""
    final_weight_decay: NonNegative
    """Where the weight decay's half cosine ends."""
    hidden_size: Count
    """Width of the head's two hidden layers."""
    batch_norm: bool
    """Batch norm in these layers (use_bn_in_head; off in the paper's ViTs). It keeps short runs from collapsing."""
    bottleneck_size: Count
    """Dimension in which features meet the prototypes."""
    num_prototypes: Count
    """Outputs."""
    student_temperature: Positive
    """Of the student's softmax."""
    warmup_teacher_temperature: Positive
    """Of the teacher's softmax at the first step."""
    teacher_temperature: Positive
    """Of the teacher's softmax after its warmup."""
    teacher_warmup_steps: Annotated[int, Field(ge=0)]
    """Linear rise of the teacher's temperature."""
    center_momentum: Share
    """Of the mean that is subtracted from the teacher's outputs."""
    freeze_prototypes_steps: Annotated[int, Field(ge=0)]
    """First steps in which the prototypes keep their initial weights."""


class Supervised(Recipe):
    """Classification, the control that sees labels."""

    label_smoothing: Share
    """Of the cross-entropy."""


class Language(Transformer):
    """The text encoder of StableRep+ and CLIP."""

    context_length: Annotated[int, Field(ge=3)]
    """Longest text in tokens, start and end among them; what is longer is cut off."""
    projection_size: Count
    """Dimension in which images meet texts."""
    image_weight: NonNegative
    """Of StableRep+'s loss between images (w1)."""
    text_weight: Positive
    """Of its loss between images and texts (w2)."""


class LocalCrops(Section):
    """Small crops of small parts of the images, beside their views (multi-crop)."""

    num_crops: Count
    """Of each view."""
    size: Count
    """Side in pixels, a multiple of the patch size."""
    scale_min: Annotated[float, Field(gt=0, le=1)]
    """Least area share."""
    scale_max: Annotated[float, Field(gt=0, le=1)]
    """Largest area share."""

    @model_validator(mode="after")
    def scales_in_order(self) -> Self:
        """The least is not the larger one."""
        if self.scale_min > self.scale_max:
            raise ValueError(f"scale_min: {self.scale_min} is above scale_max {self.scale_max}; swap them")
        return self


class Downsample(Section):
    """Some images made coarse on purpose, for transfer to data of low resolution."""

    probability: Share
    """Share of the views."""
    sizes: Annotated[list[Count], Field(min_length=1)]
    """Sides in pixels to which these are resized, equally likely, before they are resized back."""


class PretrainEncoder(Section):
    """`pretrain_encoder`."""

    backbone: Backbone
    """The encoder."""
    projection: Projection
    """Its head during pretraining."""
    temperature: Rate
    """Of the contrastive softmax (tau)."""
    positive_key: Literal["slot", "caption", "class"]
    """StableRep's positives: batch slot (as released), equal caption, or equal class (that is SupCon)."""
    images_per_caption: Annotated[int, Field(ge=2)]
    """Views per caption in a batch (m); SimCLR instead takes two crops of each image, at equal image views."""
    optimization: Optimization
    """Its training; batch_size counts image views. All methods share its steps, batch and precision, not its rates."""
    augmentation: Augmentation
    """Of each view of StableRep and SupCon."""
    simclr: Recipe
    """SimCLR, which needs stronger augmentation: it alone tells two views of an image apart."""
    mae: Mae
    """The rival that sees each image once, at equal image views."""
    byol: Byol
    """A rival on two crops of each image."""
    mocov3: MocoV3
    """A rival on two crops of each image."""
    dino: Dino
    """A rival on two crops of each image."""
    stablerep_plus: Recipe
    """StableRep+, which learns texts as well, at rates that StableRep alone can exceed."""
    clip: Recipe
    """The rival on images and their captions, one image of each caption in a batch."""
    supervised: Supervised
    """The control that sees labels; each image once, at equal image views."""
    language: Language
    """The text encoder of StableRep+ and CLIP."""
    ema_momentum: Share | None
    """Keep a moving average of the encoder, by this momentum at the first step and 1 at the last; null: the last."""
    local_crops: LocalCrops | None
    """Multi-crop for StableRep, SupCon, SimCLR and DINO; the other methods have none. Null for none."""
    downsample: Downsample | None
    """Make some views of every method coarse; null for none."""

    @model_validator(mode="after")
    def whole_captions(self) -> Self:
        """A batch holds a whole number of captions, and more than one, or there are no negatives."""
        views, m = self.optimization.batch_size, self.images_per_caption
        if views % m or views % 2:
            raise ValueError(f"images_per_caption: batch_size {views} must be a multiple of it ({m}) and of 2")
        if views == m:
            raise ValueError(f"images_per_caption: {m} fills the batch with one caption: no negatives; lower it")
        return self

    @model_validator(mode="after")
    def whole_patches(self) -> Self:
        """Local crops are made of patches."""
        if self.local_crops and self.local_crops.size % self.backbone.patch_size:
            raise ValueError(
                f"local_crops.size: {self.local_crops.size} is no multiple of backbone.patch_size "
                f"{self.backbone.patch_size}; make it one"
            )
        return self
