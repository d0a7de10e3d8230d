"""`fetch_backbone` as a program, against a loopback hub."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading

import pytest
import torch
import yaml
from transformers import ViTConfig, ViTModel

from stages import fetch_backbone
from stages.artifacts import BadInput
from stages.networks import vit
from tests.closure import ROOT

COMMIT = "3f49326eb077187dfe1c2a2bb15fbd74e6ab91e3"
PROCESSOR = {"size": {"height": 16, "width": 16}, "image_mean": [0.2] * 3, "image_std": [0.3] * 3, "resample": 3}


class Hub(http.server.BaseHTTPRequestHandler):
    """One repository, `owner/tiny-vit`: what the hub's tree and resolve addresses answer."""

    def do_GET(self):
        files, error = self.server.files, self.server.error
        self.server.requests.append(self.path.partition("?")[0])
        content, headers, status = b"", {}, 404
        if error and COMMIT in self.path:
            status, headers = error[0], {"X-Error-Code": error[1]}
        elif self.path.startswith(f"/api/models/owner/tiny-vit/tree/{COMMIT}"):
            tree = [
                {"type": "file", "path": path, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
                for path, body in files.items()
            ]
            status, content = 200, json.dumps(tree).encode()
        elif self.path.startswith(f"/owner/tiny-vit/resolve/{COMMIT}/"):
            content = files[self.path.rpartition("/")[2]]
            status, headers = 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET  # noqa: N815 - http.server's name

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path):
    """A running hub that publishes a tiny ViT with a pooler, beside files that must not be fetched."""
    config = ViTConfig(
        image_size=16, patch_size=8, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    torch.manual_seed(0)
    ViTModel(config).save_pretrained(tmp_path / "published")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files = {path.name: path.read_bytes() for path in (tmp_path / "published").iterdir()}
    server.files |= {"preprocessor_config.json": json.dumps(PROCESSOR).encode()}
    server.files |= {"pytorch_model.bin": b"a pickle", "modeling_tiny.py": b"raise SystemExit"}
    server.error, server.requests = None, []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(tmp_path, hub, model, **variables):
    """Runs the stage in a fresh folder; returns what it did and said."""
    folder = tmp_path / "study"
    (folder / "profiles").mkdir(parents=True, exist_ok=True)
    profile = yaml.safe_load((ROOT / "profiles" / "digits.yaml").read_text())
    profile["fetch_backbone"]["model"] = model
    (folder / "profiles" / "digits.yaml").write_text(yaml.safe_dump(profile))
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "PYTHONPATH": str(ROOT),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}" if hub else "http://127.0.0.1:9",
        **variables,
    }
    command = [sys.executable, "-m", "stages.fetch_backbone"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


MODEL = {"repo_id": "owner/tiny-vit", "revision": COMMIT}


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
        ((404, "RepoNotFound"), "the hub has no owner/tiny-vit; check repo_id"),
        ((404, "RevisionNotFound"), f"owner/tiny-vit has no revision {COMMIT}; give"),
        ((403, "GatedRepo"), "owner/tiny-vit is gated; accept its terms"),
        (None, "can't fetch owner/tiny-vit"),
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
            fetch_backbone.check(folder, "owner/tiny-vit")

    folder = tmp_path / "published"
    config = json.loads((folder / "config.json").read_text())
    refused("has no preprocessor_config.json")
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    fetch_backbone.check(folder, "owner/tiny-vit")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused("has no safetensors at this revision")
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling_tiny.Tiny"}}))
    refused("wants to run code of its own")
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    refused("is a bert model; name a vit")
    (folder / "config.json").unlink()
    refused("has no config.json")
