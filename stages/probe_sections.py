"""The typed sections of the stages that judge encoders; like `sections`, without default or formula."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from stages.sections import Count, Positive, Precision, Section, Seed

SetName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class FetchTransfer(Section):
    """`fetch_transfer`: the data sets below `transfer_path`, stored in the study's size and codec."""

    val_per_class: Count
    """Images per class of each set held out to choose the penalty on."""
    test_per_class: Count
    """Images per class of each set held out for the figures."""


class Neighbors(Section):
    """Classification by nearest neighbours."""

    num_neighbors: Count
    """Train images that vote (k)."""
    temperature: Positive
    """Of the votes, exp(cosine similarity / temperature)."""


class FewShot(Section):
    """Classification in episodes of few labelled images."""

    num_ways: Annotated[int, Field(ge=2)]
    """Classes of an episode."""
    num_shots: Count
    """Labelled images per class."""
    num_queries: Count
    """Images per class to classify."""
    num_episodes: Count
    """Episodes; the interval is over them."""


class LinearHeads(Section):
    """Linear heads trained by SGD, chosen on the real val split."""

    base_learning_rates: Annotated[list[Positive], Field(min_length=1)]
    """One head each; times batch_size / 256, by a half cosine to zero."""
    num_epochs: Count
    """Passes over the train features."""
    batch_size: Count
    """Images per step."""
    batch_norm: bool
    """Normalise features by batch norm without parameters before the heads."""


class LinearProbe(Section):
    """A linear head fitted by L-BFGS, its penalty chosen on the val split of the images that it is fitted on."""

    log10_lambda_min: Annotated[float, Field(ge=-12, le=12)]
    """Exponent of the weakest penalty; lambda weighs half the squared weights beside the sum of all images' losses."""
    log10_lambda_max: Annotated[float, Field(ge=-12, le=12)]
    """Exponent of the strongest penalty."""
    num_lambdas: Count
    """Penalties to try, evenly spaced between the exponents (45 from -6 to 5 in the transfer protocol)."""
    refit_with_val: bool
    """Fit the chosen penalty again on train and val together, as the transfer protocol does, or keep to train alone."""
    max_iterations: Count
    """Of L-BFGS."""
    tolerance: Positive
    """Largest gradient at which L-BFGS ends."""

    @model_validator(mode="after")
    def exponents_in_order(self) -> Self:
        """The weakest penalty is not the stronger one."""
        if self.log10_lambda_min > self.log10_lambda_max:
            raise ValueError(f"log10_lambda_min: {self.log10_lambda_min} is above log10_lambda_max; swap them")
        return self


class ZeroShot(Section):
    """Classification by texts alone, for encoders that were pretrained beside a text encoder."""

    templates: SetName
    """File of profiles/templates with a sentence per line, `{name}` where a class's name stands."""
    class_names: dict[str, Annotated[list[str], Field(min_length=1)]]
    """For each label the names that go into the templates; its text embedding is the mean over all sentences."""


class ProbeEncoder(Section):
    """`probe_encoder`."""

    batch_size: Count
    """Images per forward pass."""
    precision: Precision
    """Of the matrix products; bfloat16 falls back to float32 where the device lacks it."""
    logistic_regression: LinearProbe
    """The linear probe that `top1` is about."""
    num_permutations: Count
    """Shuffles of the train labels that the control is the mean of."""
    neighbors: Neighbors
    """Classification by the real train split's nearest images."""
    few_shot: FewShot
    """Classification in episodes drawn from the real test split."""
    linear_heads: LinearHeads
    """The linear probe as StableRep's release fits it."""
    zero_shot: ZeroShot
    """Classification by texts alone."""
    transfer: LinearProbe
    """The linear probe of every set of `fetch_transfer`."""
    num_resamples: Count
    """Bootstrap resamples of the test images."""
    bootstrap_seed: Seed
    """Of the resampling, the shuffled labels of the control, the few-shot episodes and the SGD heads."""
    confidence: Annotated[float, Field(gt=0, lt=1)]
    """Of every interval."""
