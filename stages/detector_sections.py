"""The typed sections of the stages that tell generated images from real ones, a sentence per field.

It holds no default and no formula: every number that can change a result stands in a settings file, where DVC sees
it. Never imports torch.
"""

from typing import Annotated

from pydantic import Field

from stages.sections import Augmentation, Count, Optimization, Positive, Precision, Rate, Section, Seed, Share


class DetectorNetwork(Section):
    """The CNN of the CIFAKE paper: two convolutions and one hidden layer."""

    num_filters: Count
    """Of each convolution (published: 32)."""
    hidden_size: Count
    """Width of the hidden layer (published: 64)."""


class TrainDetector(Section):
    """`train_detector`."""

    network: DetectorNetwork
    """The network."""
    optimization: Optimization
    """Its training."""
    label_smoothing: Share
    """Of the cross-entropy; published: none."""
    augmentation: Augmentation
    """Of the training images; published: none."""
    draw_seed: Seed
    """Of which images are left out where one kind has more of a class, and of which synthetic ones select."""


class StatisticsFloor(Section):
    """The two classifiers of low-level statistics that a detector stands beside."""

    inverse_strength: Positive
    """Inverse of the logistic regression's L2 regularization."""
    max_iterations: Count
    """Of the logistic regression's solver."""
    num_trees: Count
    """Of gradient boosting."""
    learning_rate: Rate
    """Shrinkage of each tree."""
    max_leaves: Annotated[int, Field(ge=2)]
    """Leaves per tree."""


class Attention(Section):
    """Where the detector looks, by Grad-CAM."""

    images_per_class: Count
    """The most images of each class and kind whose attention is measured."""
    pictures_per_class: Count
    """How many of each class and kind are shown: those that the detector is surest of."""


class DetectFakes(Section):
    """`detect_fakes`."""

    batch_size: Count
    """Images per forward pass."""
    precision: Precision
    """Of the matrix products; bfloat16 falls back to float32 where the device lacks it."""
    draw_seed: Seed
    """Of which test images are left out where one kind has more of a class, and of those that are looked at."""
    floor: StatisticsFloor
    """The floor beside it."""
    attention: Attention
    """Where it looks."""
    num_bins: Count
    """Bins of the expected calibration error."""
    num_resamples: Count
    """Bootstrap resamples of the test images."""
    bootstrap_seed: Seed
    """Of the resampling."""
    confidence: Annotated[float, Field(gt=0, lt=1)]
    """Of every interval."""
