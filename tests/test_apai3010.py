"""The tool that measures the apai3010 study both ways, at tiny size."""

import base64
import json
import re

import numpy as np
import pytest
import torch
import yaml

from stages import config
from tests.closure import ROOT
from tests.test_dataset_cifake import make_zip, small_set
from tools import apai3010

TINY = {"num_steps": 6, "batch_size": 8, "micro_batch_size": 8, "evaluate_every_steps": 2}
CHANGES = [f"optimization.{key}={value}" for key, value in TINY.items()] + ["network.norm_group=8", "network.width=8"]


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A project with the shipped profile, at the size of a set of three training images per class."""
    profile = yaml.safe_load((ROOT / "profiles" / "apai3010.yaml").read_text())
    profile["fetch_data"].update(train_per_class=2, val_per_class=1)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "apai3010.yaml").write_text(yaml.safe_dump(profile))
    files = dict(small_set())
    files["test/FAKE/0000.jpg"] = files["train/FAKE/0000.jpg"]
    monkeypatch.chdir(tmp_path)
    return make_zip(tmp_path / "cifake.zip", files)


@pytest.fixture
def section():
    return apai3010.changed(config.load_profile("apai3010").train_cnn, CHANGES)


def test_the_sets_are_as_published_and_leak_free(archive):
    section = config.load_profile("apai3010").fetch_data
    published, leak_free = (apai3010.read_set(name, archive, section) for name in apai3010.SETS)
    sizes = {key: len(labels) for key, (_, labels) in published.items()}
    assert sizes == {"real": 30, "fake": 30, "test real": 20, "test fake": 20}
    sizes = {key: len(labels) for key, (_, labels) in leak_free.items()}
    assert sizes == {"real": 20, "fake": 20, "val real": 10, "val fake": 10, "test real": 20, "test fake": 19}
    again = apai3010.read_set("published", archive.with_name("gone.zip"), section)
    assert torch.equal(again["fake"][0], published["fake"][0])


def test_one_training_is_judged_by_both_protocols(archive, section):
    images = apai3010.read_set("leak-free", archive, config.load_profile("apai3010").fetch_data)
    facts = apai3010.run(section, images, "fake", 0, apai3010.SCRATCH / "a")
    last, curve = facts["last"], facts["curve"]
    assert curve["step"] == [2, 4, 6]
    assert facts["best_by_cropped"]["cropped"] == max(curve["cropped"])
    assert facts["best_by_val"]["step"] in curve["step"]
    assert last["test real"] == curve["test real"][-1] == np.mean(last["per_class"])
    bits = np.unpackbits(np.frombuffer(base64.b64decode(last["correct"]), np.uint8))
    assert bits.sum() == 20 * last["test real"]
    assert len(last["cropped test real"]) == len(last["cropped test fake"]) == 5
    again = apai3010.run(section, images, "fake", 0, apai3010.SCRATCH / "a")  # from its checkpoint
    assert again["last"] == last
    assert again["train_cpu_seconds"] is None
    other = apai3010.run(section, images, "fake", 1, apai3010.SCRATCH / "b")
    assert other["curve"] != curve


def test_crops_are_drawn_anew_and_whole_images_are_not(archive, section):
    images = apai3010.read_set("published", archive, config.load_profile("apai3010").fetch_data)
    plan = apai3010.Plan.of(section.optimization, select=())
    runtime = apai3010.open_runtime(0)
    judge = apai3010.Judge(images, "real", plan, runtime, 0)
    seen = []

    def network(inputs):
        seen.append(inputs)
        return torch.zeros(len(inputs), 10)

    for draw in (None, None, 1, 1, 2):
        judge.correct(network, "test real", draw)
    whole, whole_again, crop, crop_again, other = seen
    assert torch.allclose(whole, images["test real"][0] / 127.5 - 1, atol=1e-6)
    assert torch.equal(whole, whole_again)
    assert torch.equal(crop, crop_again)
    assert not torch.equal(crop, other)
    assert not torch.equal(crop, whole)


def test_a_run_that_is_there_is_not_done_again(archive, monkeypatch, capsys):
    arguments = ["apai3010", str(archive), "--set", "published", "--arm", "real", "--seed", "0"]
    for change in CHANGES:
        arguments += ["--change", change]
    monkeypatch.setattr("sys.argv", arguments)
    apai3010.main()
    table = capsys.readouterr().out
    results = apai3010.RESULTS.read_text()
    assert "| published | real | 1 |" in table
    apai3010.main()
    assert apai3010.RESULTS.read_text() == results
    monkeypatch.setattr("sys.argv", [*arguments, "--change", "label_smoothing=0.1"])
    apai3010.main()
    (first, second) = json.loads(apai3010.RESULTS.read_text())["runs"]
    assert first["settings"] != second["settings"]
    monkeypatch.setattr("sys.argv", ["apai3010"])
    capsys.readouterr()
    apai3010.main()
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_the_page_names_tests_that_are_there():
    page = (ROOT / "docs" / "apai3010.md").read_text()
    named = re.findall(r"`(tests/\w+\.py)(?:::(\w+))?`", page)
    assert len(named) >= 30
    for file, name in named:
        assert re.search(rf"^def {name or 'test_.*'}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{name}"
