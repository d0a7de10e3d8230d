"""The typed sections of the stages that make and mix synthetic images; like `sections`, without default or formula."""

from string import Formatter
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.sections import (
    Count,
    HubModel,
    NonNegative,
    Optimization,
    Positive,
    Precision,
    Section,
    Seed,
    Share,
    Transformer,
)

Channels = Annotated[int, Field(ge=8, multiple_of=8)]
Words = Annotated[list[str], Field(min_length=1)]
FileName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
"""A file of profiles/prompts."""
SOURCES = {
    "modifier": "modifiers",
    "hypernym": "glossary",
    "definition": "glossary",
    "background": "backgrounds",
}
"""The key of a template's section that each of its places is filled from."""


class Backgrounds(Section):
    """Scenes that prompts place their object in."""

    file: FileName
    """A scene a line."""
    per_text: Count
    """Scenes drawn, uniformly and each once, for every text that has a place for one."""
    data_seed: Seed
    """Of the draws."""


class TemplatePrompts(Section):
    """`write_captions`, from templates: each with every name and modifier of every class."""

    mode: Literal["from_templates"]
    """Captions from the words below."""
    templates: Annotated[list[str], Field(min_length=1)]
    """Sentences with `{name}` where a class's name stands; they may have `{a}` (the article of the word after it),
    `{modifier}`, `{hypernym}`, `{definition}` and `{background}`."""
    class_names: dict[str, Words]
    """For each label the names that prompts use."""
    modifiers: dict[str, Words] | None
    """For each label the words of `{modifier}`, used equally; null where no template has it."""
    glossary: FileName | None
    """A table with the columns class, hypernym and definition; null where no template has the latter two."""
    backgrounds: Backgrounds | None
    """What `{background}` stands for; null where no template has it."""
    val_captions_per_class: Count
    """Captions per class kept for the synthetic arm's own validation split."""

    @model_validator(mode="after")
    def every_place_has_words(self) -> Self:
        """Each template has its place for the class, and each other place has words, which no one leaves unused."""
        words: dict[str, object] = {
            "name": self.class_names,
            "a": self.class_names,
            "modifier": self.modifiers,
            "hypernym": self.glossary,
            "definition": self.glossary,
            "background": self.backgrounds,
        }
        used = set()
        for template in self.templates:
            places = {place for _, place, _, _ in Formatter().parse(template) if place is not None}
            if "name" not in places:
                raise ValueError(f"templates: {template!r} has no {{name}}; write where the class's name goes")
            for place in sorted(places):
                if words.get(place) is None:
                    source = SOURCES.get(place)
                    hint = f"give {source}" if source else f"known are {', '.join(words)}"
                    raise ValueError(f"templates: {template!r} has {{{place}}}, which nothing stands for; {hint}")
            used |= places
        for source in ("modifiers", "glossary", "backgrounds"):
            if getattr(self, source) and not any(SOURCES.get(place) == source for place in used):
                raise ValueError(f"{source}: no template has a place for it; set it to null, or use it")
        return self


class FilePrompts(Section):
    """`write_captions`, from a file of the user's."""

    mode: Literal["from_file"]
    """Captions as they stand in a table."""
    file: FileName
    """A .tsv, .csv or .parquet with the columns caption and label (the name of a class)."""
    val_captions_per_class: Count
    """Captions per class kept for the synthetic arm's own validation split."""


Prompts = Annotated[TemplatePrompts | FilePrompts, Field(discriminator="mode")]


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


class TextEncoder(Transformer):
    """The CLIP text encoder of the small latent diffusion model, trained with the denoiser.

    Its width is also the cross-attention dimension of the UNet.
    """


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


class HubGenerator(Section):
    """`build_generator`, published."""

    mode: Literal["hub"]
    """Take a Stable Diffusion pipeline from the hub, or from `generator_path`."""
    model: HubModel | None
    """What to fetch if `generator_path` names nothing local; null for nothing."""
    variant: Literal["fp16"] | None
    """Weights rounded to half precision, half as large, where the pipeline has such files; null for the full ones."""


BuildGenerator = Annotated[TrainGenerator | HubGenerator, Field(discriminator="mode")]


class GenerateSynthetic(Section):
    """`generate_synthetic`."""

    data_seed: Seed
    """With caption id and sample index, the seed of each image."""
    images_per_caption: Count
    """Train images made from a caption (m), of as many captions of each class as its images need."""
    train_images_per_real: Positive
    """Train images of each class per real one: at 1 all arms have the same number of distinct images."""
    extra_images_per_real: NonNegative
    """Further images per real train image, which no arm but the mixed one sees; spread over all train captions."""
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
    precision: Precision | Literal["float16"]
    """Of denoiser and decoder; falls back to float32 where the device lacks it. Every GPU has float16."""
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
    """`mix_sources`, real images and synthetic ones besides."""

    mode: Literal["add"]
    """Budgets of their own for real and synthetic images, in the same number of steps: for curves over either."""
    data_seed: Seed
    """Of the draw."""
    real_fraction: Share
    """Real images, as a share of all that there are."""
    synthetic_per_real: NonNegative
    """Synthetic images of each class per real train image that there is; `generate_synthetic` must make as many."""

    @model_validator(mode="after")
    def something_to_mix(self) -> Self:
        """There must be images."""
        if not self.real_fraction and not self.synthetic_per_real:
            raise ValueError("synthetic_per_real: 0, and real_fraction is 0 too; raise one of them")
        return self


MixSources = Annotated[MixByFraction | MixByAddition, Field(discriminator="mode")]
