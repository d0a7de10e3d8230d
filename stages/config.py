"""Settings: `params.yaml` and `profiles/<profile>.yaml` into frozen, typed objects.

The only reader of YAML in the project. It holds no default and no formula: every number that can change a result
stands in a settings file, where DVC sees it. Never imports torch.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator

from stages.artifacts import BadInput
from stages.detector_sections import DetectFakes, TrainDetector
from stages.encoder_sections import PretrainEncoder
from stages.generator_sections import BuildGenerator, GenerateSynthetic, HubGenerator, MixSources, Prompts
from stages.probe_sections import FetchTransfer, ProbeEncoder
from stages.sections import (
    AuditSynthetic,
    Evaluate,
    FetchBackbone,
    FetchData,
    FinetuneVit,
    Section,
    Seed,
    Summarize,
    TrainCnn,
)

PARAMS = Path("params.yaml")
PROFILES = Path("profiles")
PROMPTS = PROFILES / "prompts"
NO_LOCAL_DATASET = PROFILES / "no_local_dataset"
NO_TRANSFER_SETS = PROFILES / "no_transfer_sets"
TEMPLATES = PROFILES / "templates"
NO_LOCAL_GENERATOR = PROFILES / "no_local_generator"
NO_INCEPTION = PROFILES / "no_inception"

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+-]*$")]
Source = Literal["real", "fake", "synthetic", "mixed"]


class Encoder(Section):
    """One row of `encoders`."""

    method: Literal[
        "stablerep", "stablerep+", "supcon", "simclr", "mae", "clip", "byol", "mocov3", "dino", "supervised", "random",
        "pixels",
    ]  # fmt: skip
    """How it is pretrained. `random` is initialised and left untrained, `pixels` is the image itself: controls."""
    source: Source
    """Whose images it sees; for the controls only the image size is taken from it."""


class Profile(Section):
    """One file of profiles/: a section per stage."""

    fetch_data: FetchData
    prompts: Prompts
    build_generator: BuildGenerator
    generate_synthetic: GenerateSynthetic
    mix_sources: MixSources
    train_cnn: TrainCnn
    fetch_backbone: FetchBackbone
    pretrain_encoder: PretrainEncoder
    finetune_vit: FinetuneVit
    evaluate: Evaluate
    audit_synthetic: AuditSynthetic
    fetch_transfer: FetchTransfer
    probe_encoder: ProbeEncoder
    train_detector: TrainDetector
    detect_fakes: DetectFakes
    summarize: Summarize


class Study(Section):
    """The top level of `params.yaml`."""

    profile: Name
    """Which file of profiles/ holds the sections."""
    dataset_path: Annotated[str, Field(min_length=1)]
    """A folder or archive of the user's, a dependency of `fetch_data`."""
    transfer_path: Annotated[str, Field(min_length=1)]
    """A folder with a `class/image` tree per data set that encoders are also judged on."""
    generator_path: Annotated[str, Field(min_length=1)]
    """A Stable Diffusion folder of the user's, a dependency of `build_generator`; it goes before what is fetched."""
    inception_path: Annotated[str, Field(min_length=1)]
    """A file of the user's with the weights of FID's Inception, which `audit_synthetic` then takes FID with."""
    seed: Seed
    """Of initial weights, batch order and augmentation; generator and generation have `data_seed`s of their own."""
    guidance: Annotated[float, Field(ge=1, le=100)]
    """Classifier-free guidance scale w; diffusers treats every w <= 1 as 1, so smaller values are refused."""
    sources: Annotated[list[Source], Field(min_length=1)]
    """The arms to train."""
    encoders: dict[Name, Encoder]
    """The encoders to pretrain and probe."""
    vit_inits: Annotated[list[Name], Field(min_length=1)]
    """What each arm's ViT starts from: names of encoders, or `hub`."""
    detectors: Annotated[list[Literal["fake", "synthetic"]], Field(min_length=1)]
    """Whose images are told from real ones: a detector for each, judged on the images of all."""
    headline: Source
    """The arm that metrics/summary.json shows beside the real one."""

    @model_validator(mode="after")
    def consistent(self) -> Self:
        """Rules between top-level keys."""
        for name, items in (("sources", self.sources), ("vit_inits", self.vit_inits), ("detectors", self.detectors)):
            if len(set(items)) != len(items):
                raise ValueError(f"{name}: lists an item twice; name each once")
        if "real" not in self.sources:
            raise ValueError("sources: must list real, the arm that every other is compared with")
        if self.headline not in self.sources:
            raise ValueError(f"headline: {self.headline} is not among sources {self.sources}; add it there")
        if "random" not in self.vit_inits or getattr(self.encoders.get("random"), "method", None) != "random":
            raise ValueError(
                "vit_inits: must list random (and encoders must hold it, method random), the init of the headline ViTs"
            )
        for init in self.vit_inits:
            if init != "hub" and init not in self.encoders:
                raise ValueError(f"vit_inits: {init} is no encoder; name one of {[*self.encoders, 'hub']}")
            if init in self.encoders and self.encoders[init].method == "pixels":
                raise ValueError(f"vit_inits: {init} has no weights to start from (method pixels); leave it out")
        if "hub" in self.encoders:
            raise ValueError("encoders: hub is the name of the published backbone (fetch_backbone); choose another")
        return self


Model = TypeVar("Model", bound=Section)


def _load(path: Path, kind: type[Model]) -> Model:
    try:
        content: Any = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise BadInput(f"{path}: not there; profile must name a file of {PROFILES}/") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: is no YAML ({str(error).splitlines()[0]}); mend its syntax") from None
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise BadInput(_sentence(path, content, error)) from None


def _sentence(path: Path, content: Any, error: ValidationError) -> str:
    """The first complaint of pydantic as one line that names the file and the key."""
    first = error.errors(include_url=False)[0]
    key = ".".join(_keys(first["loc"], content))
    what = first["msg"].removeprefix("Value error, ")
    what = {"Extra inputs are not permitted": "unknown key; correct its spelling or delete it"}.get(what, what)
    given = first["input"]
    shown = f" (it is {given!r})" if isinstance(given, str | int | float | None) else ""
    more = f"; and {error.error_count() - 1} more" if error.error_count() > 1 else ""
    return f"{path}: {key + ': ' if key else ''}{what}{shown}{more}"


def _keys(location: tuple[int | str, ...], content: Any) -> Iterator[str]:
    """Where a complaint is about, in the file's own keys: pydantic puts the `mode` of a section between them."""
    tagged = False
    for part in location:
        mode = content.get("mode") if isinstance(content, dict) else None
        if part == mode and not tagged:
            tagged = True
            continue
        yield str(part)
        content, tagged = content.get(part) if isinstance(content, dict) else None, False


def load_study() -> Study:
    """Reads and checks `params.yaml`.

    Raises:
        BadInput: a key is unknown, missing, of the wrong type, out of range, or contradicts another.
    """
    return _load(PARAMS, Study)


def load_profile(name: str) -> Profile:
    """Reads and checks `profiles/<name>.yaml`.

    Raises:
        BadInput: as for `load_study`, or there is no such profile.
    """
    return _load(PROFILES / f"{name}.yaml", Profile)


def profile_names() -> list[str]:
    """The names of all profiles, sorted."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def check(study: Study, profile: Profile) -> None:
    """The rules between `params.yaml` and the profile.

    Raises:
        BadInput: a combination that some stage would refuse later, perhaps hours later.
    """
    dataset = profile.fetch_data.dataset
    wanted = {*study.sources, *(encoder.source for encoder in study.encoders.values())}
    if "fake" in wanted and dataset not in ("cifake",):
        raise BadInput(f"{PARAMS}: sources: fake, but the data set {dataset} publishes no fakes; leave fake out")
    if "fake" in study.detectors and dataset not in ("cifake",):
        raise BadInput(f"{PARAMS}: detectors: fake, but the data set {dataset} publishes no fakes; leave fake out")
    for name, encoder in study.encoders.items():
        if encoder.method in ("stablerep", "stablerep+", "clip") and encoder.source != "synthetic":
            raise BadInput(
                f"{PARAMS}: encoders.{name}: method {encoder.method} needs captions, and {encoder.source} images have "
                "none, or not all; use source synthetic or another method"
            )
    local = Path(study.generator_path) != NO_LOCAL_GENERATOR
    if not isinstance(profile.build_generator, HubGenerator):
        if local:
            raise BadInput(
                f"{PARAMS}: generator_path: names a folder, but profile {study.profile} trains its generator; "
                f"set it back to {NO_LOCAL_GENERATOR}, or build_generator to mode hub"
            )
    elif not local and profile.build_generator.model is None:
        raise BadInput(
            f"{PARAMS}: generator_path: names nothing local, and build_generator.model of profile {study.profile} is "
            "null; name one of the two"
        )
    if "hub" in study.vit_inits and profile.fetch_backbone.model is None:
        raise BadInput(
            f"{PARAMS}: vit_inits: hub, but fetch_backbone.model of profile {study.profile} is null; name one"
        )
