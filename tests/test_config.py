"""Settings: every shipped file is sound, and every mistake is one line that names file and key."""

from pathlib import Path

import pytest
import yaml

from stages import config
from stages.artifacts import BadInput

ROOT = Path(__file__).parent.parent


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """A copy of the shipped settings to damage; `settings(file, edit)` rewrites one file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "profiles").mkdir()
    for name in ("params.yaml", *(f"profiles/{p.name}" for p in (ROOT / "profiles").glob("*.yaml"))):
        (tmp_path / name).write_text((ROOT / name).read_text())

    def edit(name, change):
        content = yaml.safe_load((tmp_path / name).read_text())
        change(content)
        (tmp_path / name).write_text(yaml.safe_dump(content))

    return edit


def check():
    study = config.load_study()
    config.check(study, config.load_profile(study.profile))


def test_every_shipped_profile_is_sound(settings):
    names = config.profile_names()
    assert "digits" in names
    study = config.load_study()
    for name in names:
        profile = config.load_profile(name)
        if name == study.profile:
            config.check(study, profile)


@pytest.mark.parametrize("profile", ["cifake", "cifake-cpu"])
def test_the_published_arms_are_sound(settings, profile):
    arms = {"profile": profile, "sources": ["real", "fake", "synthetic", "mixed"]}
    inits = ["random", "stablerep-synthetic", *(["hub"] if profile == "cifake" else [])]
    settings("params.yaml", lambda p: p.update(arms, vit_inits=inits))
    check()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p.update(guidence=2), ["guidence", "unknown key"]),
        (lambda p: p.update(guidance=-1), ["guidance", "greater than or equal to 1", "-1"]),
        (lambda p: p.update(guidance="abc"), ["guidance", "abc"]),
        (lambda p: p.update(guidance=float("nan")), ["guidance"]),
        (lambda p: p.update(seed=1.5), ["seed"]),
        (lambda p: p.pop("seed"), ["seed", "required"]),
        (lambda p: p.update(sources=["real", "fake"]), ["headline"]),
        (lambda p: p.update(sources=["real", "fake", "synthetic"]), ["fake", "digits"]),
        (lambda p: p.update(sources=["synthetic"]), ["sources", "real"]),
        (lambda p: p.update(sources=["real", "real", "synthetic"]), ["sources", "twice"]),
        (lambda p: p.update(headline="mixed", sources=["real", "synthetic"]), ["headline", "mixed"]),
        (lambda p: p.update(vit_inits=["random", "imagenet"]), ["vit_inits", "imagenet"]),
        (lambda p: p.update(vit_inits=["random", "pixels"]), ["vit_inits", "pixels"]),
        (lambda p: p.update(vit_inits=["random", "hub"]), ["hub", "fetch_backbone"]),
        (lambda p: p.update(vit_inits=["stablerep-synthetic"]), ["vit_inits", "random"]),
        (lambda p: p["encoders"]["random"].update(method="stablerap"), ["encoders.random.method", "stablerap"]),
        (
            lambda p: p["encoders"]["simclr-synthetic"].update(method="clip", source="mixed"),
            ["encoders.simclr-synthetic", "clip needs captions", "mixed"],
        ),
        (lambda p: p.update(generator_path="sd15"), ["generator_path", "digits", "trains its generator"]),
        (lambda p: p.update(profile="typo"), ["profiles/typo.yaml"]),
    ],
)
def test_mistakes_in_params(settings, change, words):
    settings("params.yaml", change)
    with pytest.raises(BadInput) as caught:
        check()
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("section", "change", "words"),
    [
        ("train_cnn", lambda s: s.update(learning_rte=1), ["train_cnn.learning_rte", "unknown key"]),
        ("train_cnn", lambda s: s["optimization"].update(micro_batch_size=7), ["micro_batch_size", "7"]),
        ("train_cnn", lambda s: s["optimization"].update(learning_rate="fast"), ["learning_rate", "fast"]),
        ("prompts", lambda s: s.update(templates=["a photo"]), ["yaml: prompts: templates: ", "{name}"]),
        ("prompts", lambda s: s.update(templates=["{name}, {hyponym}"]), ["{hyponym}", "known are name"]),
        ("prompts", lambda s: s.update(templates=["{name}, {hypernym}"]), ["{hypernym}", "give glossary"]),
        ("prompts", lambda s: s.update(templates=["{name}{"]), ["yaml: prompts: ", "'{'"]),
        ("prompts", lambda s: s.update(glossary="words.tsv"), ["glossary", "no template has a place for it"]),
        ("prompts", lambda s: s.update(glossary="../words.tsv"), ["prompts.glossary", "../words.tsv"]),
        ("prompts", lambda s: s.update(mode="fil"), [": prompts: ", "'from_templates', 'from_file'"]),
        ("pretrain_encoder", lambda s: s.update(images_per_caption=1), ["images_per_caption"]),
        (
            "probe_encoder",
            lambda s: s["transfer"].update(log10_lambda_min=6),
            ["transfer: ", "swap them"],
        ),
        ("probe_encoder", lambda s: s["zero_shot"].update(templates="../x"), ["zero_shot.templates", "../x"]),
        ("mix_sources", lambda s: s.update(real_fraction=2), [": mix_sources.real_fraction: ", "2"]),
        ("mix_sources", lambda s: s.pop("real_fraction"), [": mix_sources.real_fraction: ", "required"]),
        (
            "mix_sources",
            lambda s: s.update(mode="add", real_fraction=0, synthetic_per_real=0),
            [": mix_sources: synthetic_per_real: ", "raise one"],
        ),
        ("mix_sources", lambda s: s.update(mode="add"), [": mix_sources.synthetic_per_real: ", "required"]),
        ("mix_sources", lambda s: s.update(mode="ad"), [": mix_sources: ", "'ad'", "'fraction', 'add'"]),
        ("mix_sources", lambda s: s.update(fraction=1), [": mix_sources.fraction: ", "unknown key"]),
    ],
)
def test_mistakes_in_the_profile(settings, section, change, words):
    settings("profiles/digits.yaml", lambda p: change(p[section]))
    with pytest.raises(BadInput) as caught:
        check()
    for word in ["profiles/digits.yaml", *words]:
        assert word in str(caught.value)


def test_yaml_1_1_floats_are_floats(settings):
    """PyYAML reads `1e-4` as a string, DVC writes it that way."""
    path = Path("profiles/digits.yaml")
    text = path.read_text()
    path.write_text(text.replace("learning_rate: 1.0e-3", "learning_rate: 1e-4"))
    assert path.read_text() != text
    assert config.load_profile("digits").finetune_vit.optimization.learning_rate == 1e-4


def test_broken_yaml_is_one_line(settings):
    Path("params.yaml").write_text("guidance: [1")
    with pytest.raises(BadInput, match=r"^params\.yaml: is no YAML"):
        config.load_study()
