"""tools/repro.py on a small repository of shell stages: order, side by side, failure, second run, interruption."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from tools.repro import Pipeline, Runner

RUNNER = Path(__file__).parent.parent / "tools" / "repro.py"

# left and right each wait for a sign of the other, so they end well only if they run at the same time. wide stands
# after both: nothing may be started beside it, although what stands after the same two could. (late could have been
# started before it, and so may see its sign.)
PIPELINE = """
stages:
  first:
    cmd: cat source > first
    deps: [source]
    outs: [first]
  left:
    cmd: touch left.sign; timeout 200 sh -c 'until test -e right.sign; do sleep 0.05; done' && cat first > left
    deps: [first]
    outs: [left]
  right:
    cmd: touch right.sign; timeout 200 sh -c 'until test -e left.sign; do sleep 0.05; done' && wc -c < first > right
    deps: [first]
    outs: [right]
  wide:
    cmd: touch wide.sign; sleep 1; cat left right > wide; rm wide.sign
    deps: [left, right]
    outs: [wide]
    meta: {slots: all}
  last:
    cmd: cat wide > last; echo "said by last"
    deps: [wide]
    outs: [last]
  next:
    cmd: test ! -e wide.sign && cat left right > next
    deps: [left, right]
    outs: [next]
  late:
    cmd: cat right > late
    deps: [right]
    outs: [late]
"""


def dvc(folder: Path, *args: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "dvc", *args], cwd=folder, check=True, capture_output=True, text=True
    ).stdout


def repro(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RUNNER), "--jobs", "2", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=400)


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def started(run: subprocess.CompletedProcess[str]) -> list[str]:
    return [line.split()[0] for line in run.stdout.splitlines() if "| Running stage" in line]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    (tmp_path / "source").write_text("abc\n")
    dvc(tmp_path, "init", "--no-scm", "--quiet")
    return tmp_path


@pytest.mark.dvc
def test_stages_run_side_by_side_in_order_and_only_when_stale(repository: Path) -> None:
    run = repro(repository)
    assert run.returncode == 0, run.stdout + run.stderr
    assert set(started(run)) == {"first", "left", "right", "wide", "last", "next", "late"}
    assert started(run)[0] == "first"
    assert started(run).index("wide") < started(run).index("last")
    assert (repository / "last").read_text() == "abc\n4\n"
    assert "last  | said by last" in run.stdout
    assert "up to date" in dvc(repository, "status")

    again = repro(repository)
    assert again.returncode == 0
    assert started(again) == []
    assert again.stdout == "All 7 stages are up to date.\n"

    # Same length: right is run again and comes out the same, so late, which reads nothing else, is not even started.
    (repository / "source").write_text("xyz\n")
    edited = repro(repository)
    assert edited.returncode == 0, edited.stdout + edited.stderr
    assert set(started(edited)) == {"first", "left", "right", "wide", "last", "next"}
    assert (repository / "last").read_text() == "xyz\n4\n"

    # What ran before comes back from DVC's run cache.
    (repository / "source").write_text("abc\n")
    (repository / "left.sign").unlink()
    (repository / "right.sign").unlink()
    assert repro(repository).returncode == 0
    assert not (repository / "left.sign").exists()
    assert (repository / "last").read_text() == "abc\n4\n"


def test_nothing_is_started_beside_a_stage_that_spreads() -> None:
    runner = Runner(Pipeline({"wide": set(), "next": set()}, {"wide", "next"}, {"wide"}), [None, None])
    free: list[str | None] = [None, None]
    assert len(runner.take("wide", free, set())) == 2
    assert not free
    assert runner.take("next", [None], {"wide"}) == []
    assert runner.take("next", [None], {"late"}) == [None]
    assert runner.take("wide", [None], {"late"}) == [None], "it starts on the first slot that is free"


@pytest.mark.dvc
def test_a_failing_stage_ends_the_run_with_its_words(repository: Path) -> None:
    text = PIPELINE.replace("cat first > left", "echo 'no such digit' >&2; exit 3")
    (repository / "dvc.yaml").write_text(text)
    run = repro(repository)
    assert run.returncode == 1
    assert "wide" not in started(run)
    assert "left failed" in run.stderr
    assert "no such digit" in run.stderr
    assert (repository / "right").exists(), "a stage that was running is let run to its end"

    (repository / "dvc.yaml").write_text(PIPELINE)
    mended = repro(repository)
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert "first" not in started(mended)


@pytest.mark.dvc
def test_each_of_the_stages_side_by_side_has_a_gpu_of_its_own(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = (
        'cmd: \'touch {0}.sign; timeout 200 sh -c "until test -e {1}.sign; do sleep 0.05; done" && '
        "echo $CUDA_VISIBLE_DEVICES > {0}', outs: [{0}], meta: {{slots: all}}"
    )
    stages = ", ".join(f"{a}: {{{stage.format(a, b)}}}" for a, b in (("left", "right"), ("right", "left")))
    (repository / "dvc.yaml").write_text(f"stages: {{{stages}}}\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    run = repro(repository)
    assert run.returncode == 0, run.stdout + run.stderr
    assert {(repository / name).read_text() for name in ("left", "right")} == {"3\n", "5\n"}


@pytest.mark.dvc
def test_ctrl_c_takes_the_running_stages_down(repository: Path) -> None:
    (repository / "dvc.yaml").write_text("stages: {long: {cmd: 'echo $$ > pid; exec sleep 300', outs: [out]}}\n")
    # As from a terminal: what starts the tests in the background has them ignore Ctrl-C.
    command = ["env", "--default-signal=INT", sys.executable, str(RUNNER)]
    with subprocess.Popen(
        command, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as runner:
        pid = repository / "pid"
        deadline = time.monotonic() + 60
        while not (pid.exists() and pid.read_text().strip()) and time.monotonic() < deadline:
            time.sleep(0.05)
        stage = int(pid.read_text())
        runner.send_signal(signal.SIGINT)
        output = runner.communicate(timeout=60)[0]
    assert runner.returncode == 130
    assert "Stopped" in output
    assert "Traceback" not in output
    deadline = time.monotonic() + 10
    while is_running(stage) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(stage)


@pytest.mark.dvc
def test_a_broken_pipeline_file_is_named(repository: Path) -> None:
    (repository / "dvc.yaml").write_text("stages: {a: {cmd: 'true', dep: [x]}}\n")
    run = repro(repository)
    assert run.returncode != 0
    assert "stages -> a -> dep, line 1" in run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr


@pytest.mark.dvc
def test_settings_are_changed_first_and_a_wrong_one_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("guidance: 2\nsources: [real]\n")
    stage = {"cmd": "cat params.yaml > seen", "params": ["guidance", "sources"], "outs": ["seen"]}
    (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": {"only": stage}}))
    dvc(tmp_path, "init", "--no-scm", "-q")

    wrong = repro(tmp_path, "-S", "gidance=8")
    assert wrong.returncode == 2
    assert len(wrong.stderr.splitlines()) == 1
    assert "gidance" in wrong.stderr
    assert not (tmp_path / "seen").exists()
    assert (tmp_path / "params.yaml").read_text() == "guidance: 2\nsources: [real]\n"

    assert repro(tmp_path, "-S", "guidance=8", "-S", "sources=[real,fake]").returncode == 0
    assert yaml.safe_load((tmp_path / "seen").read_text()) == {"guidance": 8, "sources": ["real", "fake"]}
    assert started(repro(tmp_path)) == []
