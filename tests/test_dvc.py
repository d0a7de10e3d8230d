"""What a user types, run for real on a tiny repository: one repro is shared, and what would run is asked by dry run."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.tiny import make_repository, run

pytestmark = pytest.mark.dvc

GUIDED = {  # what depends on guidance in the tiny study
    "generate_synthetic",
    "audit_synthetic",
    "mix_sources",
    "train_cnn@synthetic",
    "pretrain_encoder@stablerep-synthetic",
    "finetune_vit@real-stablerep-synthetic",
    "finetune_vit@synthetic-random",
    "finetune_vit@synthetic-stablerep-synthetic",
    "evaluate@synthetic",
    "evaluate_vit@real-stablerep-synthetic",
    "evaluate_vit@synthetic-random",
    "evaluate_vit@synthetic-stablerep-synthetic",
    "probe_encoder@random",
    "probe_encoder@stablerep-synthetic",
    "train_detector@synthetic",
    "detect_fakes@synthetic-synthetic",
    "summarize",
}


def would_run(repository: Path, *options: str) -> set[str]:
    return set(re.findall(r"Running stage '([^']+)'", run(repository, "dvc", "repro", "--dry", *options)))


def hashes(repository: Path) -> dict[str, list]:
    stages = yaml.safe_load((repository / "dvc.lock").read_text())["stages"]
    return {name: [(out["path"], out["md5"]) for out in stage.get("outs", [])] for name, stage in stages.items()}


def reset(repository: Path) -> None:
    run(repository, "git", "checkout", "-q", ".")
    run(repository, "dvc", "checkout", "-q")


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """The tiny study, run once from nothing by the side-by-side runner and committed."""
    folder = tmp_path_factory.mktemp("understudy") / "repository"
    make_repository(folder)
    run(folder, "python", "tools/repro.py")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-q", "-m", "first run")
    return folder


@pytest.fixture
def clean(repository):
    yield repository
    reset(repository)


def test_everything_ran_and_git_holds_no_image(repository):
    tracked = run(repository, "git", "ls-files").split()
    assert "dvc.lock" in tracked
    assert "metrics/summary.json" in tracked
    assert not [name for name in tracked if name.split("/")[0] in ("data", "models", "predictions", "plots", "runs")]
    assert {path.parent.name for path in (repository / ".scratch").glob("*/*")} == {"features"}
    assert len(hashes(repository)) == 28


def test_a_second_repro_runs_nothing(repository):
    assert "Data and pipelines are up to date" in run(repository, "dvc", "repro")


def test_guidance_reruns_what_depends_on_it(clean):
    """A dry run tells which stages changed themselves; what follows from them, it tells if forced."""
    params = clean / "params.yaml"
    params.write_text(re.sub(r"guidance: .*", "guidance: 8", params.read_text()))
    assert would_run(clean) == {"check_settings", "generate_synthetic"}
    assert would_run(clean, "--force", "--downstream", "generate_synthetic") == GUIDED


def test_guidance_for_real_and_back_from_the_run_cache(clean):
    before = hashes(clean)
    out = run(clean, "dvc", "exp", "run", "-n", "strong", "-S", "guidance=8")
    assert set(re.findall(r"Running stage '([^']+)'", out)) <= GUIDED | {"check_settings"}
    after = hashes(clean)
    assert after["generate_synthetic"] != before["generate_synthetic"]
    unguided = set(before) - GUIDED
    assert {name: after[name] for name in unguided} == {name: before[name] for name in unguided}
    run(clean, "git", "checkout", "-q", "params.yaml")
    out = run(clean, "dvc", "repro")
    assert "Running stage" not in out
    assert "is cached - skipping run" in out
    assert hashes(clean) == before


def test_headline_experiments_and_their_difference(clean):
    for arm in ("real", "synthetic"):
        out = run(clean, "dvc", "exp", "run", "-n", arm, "-S", f"headline={arm}")
        ran = set(re.findall(r"Running stage '([^']+)'", out))
        assert ran <= {"check_settings", "summarize"}
    shown = json.loads(run(clean, "dvc", "metrics", "diff", "real", "synthetic", "--json"))
    changes = shown["metrics/summary.json"]
    assert changes.pop("headline") == {"old": "real", "new": "synthetic"}
    assert {name.split(".")[0] for name in changes} <= {"cnn", "vit"}
    assert "cnn.ece" in changes  # top-1 may agree on so few test images


@pytest.mark.parametrize("sweep", ["guidance=1,2,4,8", "profiles/tiny.yaml:mix_sources.real_fraction=0.1,0.25,0.5,1"])
def test_a_sweep_is_queued(clean, sweep):
    run(clean, "dvc", "exp", "run", "--queue", "-S", sweep)
    assert run(clean, "dvc", "queue", "status").count("Queued") == 4
    run(clean, "dvc", "queue", "remove", "--all")


def test_sources_on_the_command_line(clean):
    out = run(clean, "dvc", "exp", "run", "-n", "two", "-S", "sources=[real,synthetic]")
    assert "Running stage 'train_cnn" not in out


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("guidance=abc", ["params.yaml: guidance", "abc"]),
        ("guidance=-1", ["params.yaml: guidance", "-1"]),
        ("sources=[real,fake]", ["params.yaml: headline"]),
        ("headline=mixed", ["params.yaml: headline: mixed"]),
        ("vit_inits=[random,imagenet]", ["params.yaml: vit_inits: imagenet"]),
        ("profiles/tiny.yaml:train_cnn.label_smoothing=2", ["profiles/tiny.yaml: train_cnn.label_smoothing"]),
    ],
)
def test_bad_settings_end_at_once(clean, override, words):
    before = hashes(clean)
    out = run(clean, "dvc", "exp", "run", "-S", override, code=255)
    (line,) = [line for line in out.splitlines() if line.startswith("ERROR: p")]
    for word in words:
        assert word in line
    assert hashes(clean) == before


def test_plots_open_without_internet(repository):
    run(repository, "dvc", "plots", "show", "-o", "shown")
    page = repository / "shown" / "index.html"
    assert not re.findall(r"""(?:src|href)=["']https?://""", page.read_text())
    complaints = [line for line in run(repository, "dvc", "plots", "show").splitlines() if "WARNING" in line]
    assert complaints == []
    run(repository, "dvc", "plots", "diff", "HEAD", "-o", "differences")


def test_pull_pieces_in_a_fresh_clone(repository, tmp_path):
    clone, store = tmp_path / "clone", tmp_path / "store"
    run(repository, "dvc", "remote", "add", "--local", "-f", "-d", "store", str(store))
    run(repository, "dvc", "push")
    run(tmp_path, "git", "clone", "-q", str(repository), str(clone))
    run(clone, "dvc", "remote", "add", "--local", "-d", "store", str(store))
    run(clone, "dvc", "pull", "train_cnn@real")
    assert [p.name for p in (clone / "models" / "cnn").iterdir() if p.is_dir()] == ["real"]
    run(clone, "dvc", "pull", "finetune_vit")
    assert len([p for p in (clone / "models" / "vit").iterdir() if p.is_dir()]) == 4
    out = run(clone, "dvc", "repro", "--pull", "--allow-missing", "evaluate@real")
    assert "Running stage" not in out
    run(clone, "dvc", "pull", "data/test")
    metrics = clone / "metrics" / "evaluate" / "real.json"
    committed = metrics.read_bytes()
    metrics.unlink()
    run(clone, "python", "-m", "stages.evaluate", "real")
    assert metrics.read_bytes() == committed


@pytest.mark.parametrize("seconds", [2.0, 5.0])
def test_a_killed_stage_is_started_again(clean, seconds):
    before = hashes(clean)
    command = [sys.executable, "-m", "dvc", "repro", "-f", "-s", "train_cnn@synthetic"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(command, cwd=clean, env={**os.environ, "PATH": path}, start_new_session=True)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    run(clean, "dvc", "repro", "-s", "train_cnn@synthetic")
    assert hashes(clean) == before


@pytest.mark.parametrize(
    "stage",
    ["build_generator", "generate_synthetic", "train_cnn@synthetic", "pretrain_encoder@stablerep-synthetic"],
)
def test_forced_again_gives_the_same_hashes(clean, stage):
    before = hashes(clean)
    run(clean, "dvc", "repro", "-f", "-s", stage)
    assert hashes(clean) == before
