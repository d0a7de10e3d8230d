"""`fetch_backbone` as a program, against a loopback hub."""

import json
import subprocess
import sys

import pytest
import torch
import yaml
from transformers import ViTConfig, ViTModel

from stages import fetch_backbone
from stages.artifacts import BadInput
from stages.networks import vit
from tests.closure import ROOT
from tests.loopback_hub import COMMIT, MODEL, environment, files_below, running

PROCESSOR = {"size": {"height": 16, "width": 16}, "image_mean": [0.2] * 3, "image_std": [0.3] * 3, "resample": 3}


@pytest.fixture
def hub(tmp_path):
    """A running hub that publishes a tiny ViT with a pooler, beside files that must not be fetched."""
    config = ViTConfig(
        image_size=16, patch_size=8, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    torch.manual_seed(0)
    ViTModel(config).save_pretrained(tmp_path / "published")
    files = files_below(tmp_path / "published")
    files |= {"preprocessor_config.json": json.dumps(PROCESSOR).encode()}
    files |= {"pytorch_model.bin": b"a pickle", "modeling_tiny.py": b"raise SystemExit"}
    with running(files) as server:
        yield server


def fetch(tmp_path, hub, model, **variables):
    """Runs the stage in a fresh folder; returns what it did and said."""
    folder = tmp_path / "study"
    (folder / "profiles").mkdir(parents=True, exist_ok=True)
    profile = yaml.safe_load((ROOT / "profiles" / "digits.yaml").read_text())
    profile["fetch_backbone"]["model"] = model
    (folder / "profiles" / "digits.yaml").write_text(yaml.safe_dump(profile))
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    command = [sys.executable, "-m", "stages.fetch_backbone"]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(tmp_path / "hf", hub, **variables),
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_pinned_model_arrives_without_its_code_and_becomes_an_init(tmp_path, hub):
    done = fetch(tmp_path, hub, MODEL)
    assert done.returncode == 0, done.stderr
    target = tmp_path / "study" / "models" / "encoder" / "hub"
    files = {path.name for path in target.iterdir()}
    assert files == {"config.json", "model.safetensors", "preprocessor_config.json", "manifest.json"}
    manifest = json.loads((target / "manifest.json").read_text())
    assert (manifest["method"], manifest["model"]) == ("hub", MODEL)
    assert not [path for path in hub.requests if path.endswith((".bin", ".py"))]

    classifier = vit.build_classifier(target, ("a", "b"), 0)
    assert classifier.processing.settings == {"size": 16, "mean": [0.2] * 3, "std": [0.3] * 3, "resample": 3}
    published = ViTModel.from_pretrained(tmp_path / "published", add_pooling_layer=False).state_dict()
    ours = classifier.network.vit.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in published.items())

    again = fetch(tmp_path, None, MODEL, HF_HUB_OFFLINE="1")
    assert again.returncode == 0, f"the cache should do without a network: {again.stderr}"


def test_no_model_is_an_empty_manifest(tmp_path):
    done = fetch(tmp_path, None, None)
    assert done.returncode == 0, done.stderr
    target = tmp_path / "study" / "models" / "encoder" / "hub"
    assert [path.name for path in target.iterdir()] == ["manifest.json"]
    assert json.loads((target / "manifest.json").read_text()) == {"files": {}, "method": "hub", "model": None}


@pytest.mark.parametrize(
    ("error", "complaint"),
    [
        ((404, "RepoNotFound"), "the hub has no owner/tiny; check repo_id"),
        ((404, "RevisionNotFound"), f"owner/tiny has no revision {COMMIT}; give"),
        ((403, "GatedRepo"), "owner/tiny is gated; accept its terms"),
        (None, "can't fetch owner/tiny"),
    ],
)
def test_what_the_hub_denies_is_said_in_one_line(tmp_path, hub, error, complaint):
    hub.error = error
    done = fetch(tmp_path, hub if error else None, MODEL)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    assert complaint in line
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "study" / "models" / "encoder" / "hub").exists()


def test_what_can_not_be_used_is_refused(tmp_path, hub):
    def refused(complaint):
        with pytest.raises(BadInput, match=complaint):
            fetch_backbone.check(folder, "owner/tiny")

    folder = tmp_path / "published"
    config = json.loads((folder / "config.json").read_text())
    refused("has no preprocessor_config.json")
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    fetch_backbone.check(folder, "owner/tiny")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused("has no safetensors at this revision")
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling_tiny.Tiny"}}))
    refused("wants to run code of its own")
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    refused("is a bert model; name a vit")
    (folder / "config.json").unlink()
    refused("has no config.json")
