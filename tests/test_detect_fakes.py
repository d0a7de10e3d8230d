"""`train_detector` and `detect_fakes` on a tiny study whose generated images are paler than its real ones."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from stages import config, detect_fakes, train_detector
from stages.artifacts import BadInput, digest
from stages.dataset.augment import normalize
from stages.dataset.pairing import KINDS, load_test, load_train_and_val
from stages.dataset.shards import Row, read_rows, write_shards
from stages.evaluation.calibration import fit_temperature
from stages.evaluation.predictions import read_predictions
from stages.networks import detector
from tests.closure import ROOT
from tests.tiny import CLASSES
from tests.tiny_arms import SIZE, change, make_study, rows

OUTS = ("models/detector/fake", "metrics/train_detector/fake.json", "plots/train_detector/fake")
SCORES = {"accuracy", "accuracy_interval", "roc_auc", "precision", "recall", "f1", "ece"}


def paler(images, strength):
    """Rows whose pixels are drawn towards gray: what gives these fakes away."""
    for row in images:
        pixels = np.asarray(Image.open(io.BytesIO(row.image)), np.float32)
        content = io.BytesIO()
        Image.fromarray((128 + (pixels - 128) * strength).astype(np.uint8)).save(content, "png")
        yield Row(content.getvalue(), row.path, row.label, row.caption, row.caption_id)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Fakes at half contrast, two of whose test images are also train images; and a detector for either source."""
    folder = tmp_path_factory.mktemp("detection") / "study"
    make_study(folder, detectors=["fake", "synthetic"])
    data, rng = folder / "data", np.random.default_rng(7)
    write_shards(data / "test", "test", rows(rng, 10, 1, False), CLASSES)
    train = list(paler(rows(rng, 12, 1, False), 0.5))
    test = list(paler(rows(rng, 8, 1, False), 0.5))
    write_shards(data / "fake", "train", train, CLASSES)
    write_shards(data / "fake", "val", paler(rows(rng, 4, 1, False), 0.5), CLASSES)
    write_shards(data / "fake", "test", [*train[:2], *test[2:]], CLASSES)
    change(folder, "train_detector", optimization={"num_steps": 60, "evaluate_every_steps": 20, "learning_rate": 0.02})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for source in ("fake", "synthetic"):
            train_detector.main([source])
        detect_fakes.main(["fake", "fake"])
    return folder


@pytest.fixture
def study(made, tmp_path, monkeypatch):
    """A copy that a test may damage."""
    folder = tmp_path / "study"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    return folder


def facts(study, name):
    return json.loads((study / "metrics" / f"{name}.json").read_text())


def test_planted_fakes_are_found_by_the_network_and_by_its_floor(study):
    found = facts(study, "detect_fakes/fake-fake")
    assert set(found) == {
        "cnn", "gradient_boosting", "logistic_regression", "spectrum",
        "cnn_against_statistics", "leaks", "border_density", "num_images",
    }  # fmt: skip
    for name in ("cnn", "gradient_boosting", "logistic_regression", "spectrum"):
        assert set(found[name]) >= SCORES
    assert found["cnn"]["accuracy"] > 0.9
    assert found["logistic_regression"]["accuracy"] > 0.9
    assert found["num_images"] == 48
    assert set(found["cnn"]["per_class"]) == set(CLASSES)
    assert found["leaks"]["images"] == 2
    plots = study / "plots" / "detect_fakes" / "fake-fake"
    assert sorted(p.name for p in plots.iterdir()) == [
        "attention.csv", "attention.png", "per_class.csv", "reliability.csv",
    ]  # fmt: skip
    assert len((plots / "attention.csv").read_text().splitlines()) == 1 + SIZE // 2


def test_predictions_are_the_networks_own(study):
    test = load_test("fake", 0)
    network, _ = detector.load(study / "models" / "detector" / "fake", SIZE)
    found = read_predictions(study / "predictions" / "detector" / "fake-fake" / "cnn.parquet")
    with torch.no_grad():
        np.testing.assert_allclose(found.logits, network(normalize(test.images)), rtol=1e-4, atol=1e-4)
    assert np.array_equal(found.labels, test.kinds.numpy())
    assert found.class_names == KINDS
    right = (found.logits.argmax(1) == found.labels).mean()
    assert facts(study, "detect_fakes/fake-fake")["cnn"]["accuracy"] == pytest.approx(right)


def test_weights_and_temperature_are_chosen_on_validation_images(study):
    _, val = load_train_and_val("fake", 0)
    network, temperature = detector.load(study / "models" / "detector" / "fake", SIZE)
    with torch.no_grad():
        logits = network(normalize(val.images))
    figures = facts(study, "train_detector/fake")
    assert figures["temperature"] == temperature
    assert temperature == pytest.approx(fit_temperature(val.kinds.numpy(), logits.numpy()), rel=1e-2)
    assert figures["val_accuracy"] == float((logits.argmax(1) == val.kinds).double().mean())
    curve = (study / "plots" / "train_detector" / "fake" / "plots" / "metrics" / "val_top1.tsv").read_text()
    scores = {int(step): float(value) for step, value in (row.split("\t") for row in curve.splitlines()[1:])}
    assert list(scores) == [20, 40, 60]
    assert figures["best_step"] == min(step for step, score in scores.items() if score == max(scores.values()))


def test_detectors_are_judged_on_each_others_images(study):
    for pair in (["fake", "synthetic"], ["synthetic", "fake"]):
        detect_fakes.main(pair)
    across, back = facts(study, "detect_fakes/fake-synthetic"), facts(study, "detect_fakes/synthetic-fake")
    assert across["cnn"]["recall"] < 0.5, "these synthetic images are no paler than real ones"
    assert (across["num_images"], back["num_images"]) == (36, 48)
    assert across["leaks"] == back["leaks"] == {"images": 0}
    assert across["cnn"] != back["cnn"]
    for name in ("fake-synthetic", "synthetic-fake"):
        assert (study / "predictions" / "detector" / name / "gradient_boosting.parquet").is_file()


def test_a_second_run_writes_the_same(study):
    places = [study / name / "detect_fakes" / item for name, item in (("metrics", "fake-fake.json"), ("plots", "."))]
    places.append(study / "predictions" / "detector")
    before = [digest(place) for place in places]
    detect_fakes.main(["fake", "fake"])
    assert [digest(place) for place in places] == before


def test_training_is_blind_to_test_images(study):
    before = [digest(study / out) for out in OUTS]
    shutil.rmtree(study / "data" / "test")
    (study / "data" / "fake" / "test-00000-of-00001.parquet").unlink()
    for out in OUTS:
        place = study / out
        place.unlink() if place.is_file() else shutil.rmtree(place)
    train_detector.main(["fake"])
    assert [digest(study / out) for out in OUTS] == before


def test_what_is_fitted_owes_nothing_to_the_test(study):
    """Other test images change nothing about how the floor judges those that stay."""
    place = study / "data" / "fake"
    kept = [row for row in read_rows(place, "test") if row.label != 1]
    before = read_predictions(study / "predictions" / "detector" / "fake-fake" / "gradient_boosting.parquet")
    labels = load_test("fake", 0).labels.numpy()
    write_shards(place, "test", kept, CLASSES)
    detect_fakes.main(["fake", "fake"])
    after = read_predictions(study / "predictions" / "detector" / "fake-fake" / "gradient_boosting.parquet")
    np.testing.assert_allclose(after.logits, before.logits[labels != 1], rtol=1e-6)


def test_killed_for_real_and_started_again_it_leaves_the_same_bytes(study):
    change(study, "train_detector", optimization={"num_steps": 200})
    train_detector.main(["fake"])
    expected = [digest(study / out) for out in OUTS]
    for folder in ("models", "metrics", "plots"):
        shutil.rmtree(study / folder)
    command = [sys.executable, "-m", "stages.train_detector", "fake"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment)
    while process.poll() is None and not list((study / ".scratch").glob("train_detector-fake-*/checkpoint.pt")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not any((study / out).exists() for out in OUTS)
    train_detector.main(["fake"])
    assert [digest(study / out) for out in OUTS] == expected


def test_settings_reach_the_figures(study):
    before = facts(study, "detect_fakes/fake-fake")
    change(study, "detect_fakes", batch_size=5)
    detect_fakes.main(["fake", "fake"])
    assert facts(study, "detect_fakes/fake-fake")["cnn"]["roc_auc"] == pytest.approx(before["cnn"]["roc_auc"])
    change(study, "detect_fakes", num_bins=3, attention={"images_per_class": 1}, floor={"num_trees": 1})
    detect_fakes.main(["fake", "fake"])
    after = facts(study, "detect_fakes/fake-fake")
    assert after["cnn"]["ece"] != before["cnn"]["ece"]
    assert after["border_density"] != before["border_density"]
    assert after["gradient_boosting"]["ece"] != before["gradient_boosting"]["ece"]


@pytest.mark.parametrize(
    ("stage", "argv", "words"),
    [
        (train_detector, [], "takes one source"),
        (train_detector, ["mixed"], "data/mixed"),
        (detect_fakes, ["fake"], "takes two sources"),
        (detect_fakes, ["real", "fake"], "models/detector/real/config.json: not there"),
        (detect_fakes, ["fake", "mixed"], "data/mixed"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(study, stage, argv, words):
    for folder in ("metrics", "plots", "predictions"):
        shutil.rmtree(study / folder)
    with pytest.raises(BadInput, match=words) as caught:
        stage.main(argv)
    assert "\n" not in str(caught.value)
    assert not any((study / folder).exists() for folder in ("metrics", "plots", "predictions"))


def test_fakes_are_asked_for_only_where_there_are_some(study):
    (study / "data" / "fake").rename(study / "data" / "elsewhere")
    for name in ("train", "val", "test"):
        write_shards(study / "data" / "fake", name, [], CLASSES)
    with pytest.raises(BadInput, match=r"data/fake: has no images"):
        train_detector.main(["fake"])
    with pytest.raises(BadInput, match=r"detectors: fake, but the data set folder publishes no fakes"):
        config.check(config.load_study(), config.load_profile("tiny"))
