"""Predictions on disk, what is drawn of them, and the verdict over two arms."""

import csv
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from torch import nn

from stages.artifacts import BadInput
from stages.config import load_profile
from stages.evaluation import figures, intervals, verdict
from stages.evaluation.inference import infer
from stages.evaluation.predictions import Predictions, read_predictions, write_predictions
from stages.evaluation.report import Places, write_report
from tests.closure import ROOT

NAMES = ("cat", "dog", "owl")
RESAMPLING = intervals.Resampling(2000, 0, 0.95)


def predictions(seed: int, strength: float = 2.0, count: int = 300) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % 3
    logits = rng.standard_normal((count, 3)).astype(np.float32)
    logits[np.arange(count), labels] += strength
    return Predictions(labels, logits, NAMES)


def read_csv(path):
    with path.open() as stream:
        return list(csv.DictReader(stream))


def test_predictions_come_back_and_equal_ones_have_equal_bytes(tmp_path):
    made = predictions(0)
    write_predictions(tmp_path / "a.parquet", made)
    write_predictions(tmp_path / "b.parquet", predictions(0))
    back = read_predictions(tmp_path / "a.parquet")
    np.testing.assert_array_equal(back.labels, made.labels)
    np.testing.assert_array_equal(back.logits, made.logits)
    assert back.logits.dtype == np.float32
    assert back.class_names == NAMES
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_datasets_reads_predictions_with_class_names(tmp_path):
    write_predictions(tmp_path / "a.parquet", predictions(0))
    table = Dataset.from_parquet(str(tmp_path / "a.parquet"), cache_dir=str(tmp_path / "cache"))
    assert table.features["label"].names == list(NAMES)
    assert len(table[0]["logits"]) == 3


def test_diverged_logits_are_not_written(tmp_path):
    made = predictions(0)
    made.logits[3, 1] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        write_predictions(tmp_path / "a.parquet", made)
    assert not list(tmp_path.iterdir())


def test_bad_predictions_are_named_in_one_line(tmp_path):
    path = tmp_path / "test.parquet"
    bad = {"missing": None, "no parquet": b"PAR1 not really"}
    for content in bad.values():
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(BadInput, match=r"test\.parquet") as caught:
            read_predictions(path)
        assert "\n" not in str(caught.value)
    write_predictions(path, predictions(0))
    table = pq.read_table(path)
    flawed = {
        "without logits": table.drop_columns(["logits"]),
        "without names": table.replace_schema_metadata({}),
        "label 9": table.set_column(0, "label", pa.array([9] * 300)),
        "no rows": table.slice(0, 0),
        "ragged": table.set_column(1, "logits", pa.array([[1.0]] * 300, pa.list_(pa.float32()))),
    }
    for content in flawed.values():
        pq.write_table(content, path)
        with pytest.raises(BadInput, match="holds no predictions"):
            read_predictions(path)


def test_inference_is_in_evaluation_mode_and_cut_into_batches_without_effect():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.BatchNorm1d(12), nn.Linear(12, 5)).train()
    images = torch.randint(0, 256, (11, 3, 2, 2), dtype=torch.uint8)
    whole = infer(network, images, 11, lambda batch: batch.float() / 255)
    parts = infer(network, images, 4, lambda batch: batch.float() / 255)
    assert whole.shape == (11, 5)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole, parts, rtol=1e-6, atol=1e-6)
    assert int(network[2].num_batches_tracked) == 0


def test_a_report_is_whole_and_the_same_again(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    settings = load_profile("digits").evaluate
    chosen, oracle = predictions(0), predictions(1, strength=3)
    written = []
    for run in ("one", "two"):
        places = Places(tmp_path / run / "predictions", tmp_path / run / "metrics.json", tmp_path / run / "plots")
        facts = write_report(places, chosen, oracle, settings)
        files = sorted(p for p in (tmp_path / run).rglob("*") if p.is_file())
        written.append({p.relative_to(tmp_path / run).as_posix(): p.read_bytes() for p in files})
    assert written[0] == written[1]
    assert set(written[0]) == {
        "metrics.json",
        "plots/confusion.csv",
        "plots/reliability.csv",
        "predictions/manifest.json",
        "predictions/oracle.parquet",
        "predictions/test.parquet",
    }
    assert json.loads(written[0]["metrics.json"]) == facts
    assert facts["top1"] == (chosen.logits.argmax(1) == chosen.labels).mean()
    assert facts["oracle_top1"] == (oracle.logits.argmax(1) == oracle.labels).mean()
    assert facts["top1_interval"]["low"] < facts["top1"] < facts["top1_interval"]["high"]
    assert np.mean(list(facts["per_class"].values())) == pytest.approx(facts["top1"])  # equal class sizes
    rows = read_csv(tmp_path / "one" / "plots" / "confusion.csv")
    assert len(rows) == 300
    assert sum(row["actual"] == row["predicted"] for row in rows) / 300 == facts["top1"]
    bins = read_csv(tmp_path / "one" / "plots" / "reliability.csv")
    assert sum(int(row["count"]) for row in bins) == 300


def test_confusion_rows_by_hand():
    rows = figures.confusion_rows([[1, 2], [0, 1]], ("x", "y"))
    assert [(row["actual"], row["predicted"]) for row in rows] == [("x", "x"), ("x", "y"), ("x", "y"), ("y", "y")]


def test_the_verdict_agrees_with_its_parts():
    pairs = {"cnn": (predictions(0, 1.0), predictions(1, 3.0)), "vit": (predictions(2, 2.0), predictions(3, 2.1))}
    found = verdict.summarize(pairs, 15, RESAMPLING)
    hits = {name: [(arm.logits.argmax(1) == arm.labels) for arm in pair] for name, pair in pairs.items()}
    for name, facts in found.items():
        ours, theirs = hits[name]
        assert facts["gap"] == pytest.approx(ours.mean() - theirs.mean())
        assert facts["top1"] == ours.mean()
        assert facts["real_top1"] == theirs.mean()
        assert facts["gap_interval"]["low"] <= facts["gap"] <= facts["gap_interval"]["high"]
        assert facts["mcnemar_p"] == intervals.mcnemar_p(ours, theirs)
        assert facts["scope"] == "these two trained models"
    assert found["cnn"]["mcnemar_p"] < 0.001 < found["vit"]["mcnemar_p"]
    assert found["cnn"]["mcnemar_p_holm"] == 2 * found["cnn"]["mcnemar_p"]
    rows = verdict.per_class_rows(*pairs["cnn"])
    assert [row["class"] for row in rows] == list(NAMES)
    assert np.mean([row["gap"] for row in rows]) == pytest.approx(found["cnn"]["gap"])


def test_real_against_itself_has_no_gap():
    (facts,) = verdict.summarize({"cnn": (predictions(0), predictions(0))}, 15, RESAMPLING).values()
    assert (facts["gap"], facts["mcnemar_p"], facts["mcnemar_p_holm"]) == (0, 1, 1)
    assert facts["gap_interval"] == {"low": 0, "high": 0}


def test_arms_of_different_test_images_are_refused():
    shuffled = predictions(0)
    for other in (
        predictions(0, count=297),
        Predictions(np.roll(shuffled.labels, 1), shuffled.logits, NAMES),
        Predictions(shuffled.labels, shuffled.logits, ("cat", "dog", "elk")),
    ):
        with pytest.raises(BadInput, match="different test images"):
            verdict.compare(predictions(0), other, 15, RESAMPLING)


@pytest.fixture
def study(tmp_path):
    """A working directory that holds settings and both arms' predictions, as `dvc repro` would leave them."""
    for name in ("params.yaml", "profiles"):
        (tmp_path / name).symlink_to(ROOT / name)
    for index, arm in enumerate(("real", "synthetic")):
        write_predictions(tmp_path / "predictions" / "cnn" / arm / "test.parquet", predictions(index))
        write_predictions(tmp_path / "predictions" / "vit" / f"{arm}-random" / "test.parquet", predictions(index + 2))
    return tmp_path


def python(folder, *arguments):
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def imported(stderr):
    """The top-level packages among the lines of `-X importtime`."""
    lines = [line for line in stderr.splitlines() if line.startswith("import time:")]
    return {line.split("|")[-1].strip().split(".")[0] for line in lines}


def test_summarize_imports_neither_torch_nor_transformers(study):
    done = python(study, "-X", "importtime", "-m", "stages.summarize")
    assert done.returncode == 0, done.stderr[-2000:]
    packages = imported(done.stderr)
    assert {"numpy", "sklearn", "pyarrow"} <= packages
    assert not packages & {"torch", "transformers", "diffusers", "datasets", "evaluate", "accelerate"}
    summary = json.loads((study / "metrics" / "summary.json").read_text())
    assert set(summary) == {"headline", "cnn", "vit"}
    assert summary["headline"] == "synthetic"
    assert len(read_csv(study / "plots" / "summarize" / "cnn_per_class.csv")) == 3


def test_summarize_names_missing_predictions_in_one_line(study):
    (study / "predictions" / "vit" / "real-random" / "test.parquet").unlink()
    done = python(study, "-m", "stages.summarize")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("ERROR: predictions/vit/real-random/test.parquet: not there")
    assert not (study / "metrics").exists()


def test_show_results_takes_what_there_is(study):
    (study / "tools").symlink_to(ROOT / "tools")
    assert python(study, "-m", "stages.summarize").returncode == 0
    done = python(study, "-X", "importtime", "-m", "tools.show_results")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "pydantic" in imported(done.stderr)
    assert not imported(done.stderr) & {"torch", "sklearn", "pyarrow"}
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows if row.startswith(("| real", "| synth"))] == [
        "real",
        "synthetic",
        "synthetic",
    ], "two arms and a detector"
    assert any(line.startswith("- CNN: synthetic against real") for line in done.stdout.splitlines())
