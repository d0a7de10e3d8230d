"""Atomic writes, digests, the resumable scratch and the one-line endings of a stage."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages import artifacts
from stages.artifacts import BadInput

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)


def test_fresh_dir_replaces_whole(tmp_path):
    target = tmp_path / "data" / "real"
    target.mkdir(parents=True)
    (target / "old").touch()
    with artifacts.fresh_dir(target) as folder:
        (folder / "new").touch()
        assert (target / "old").exists()
    assert [p.name for p in target.iterdir()] == ["new"]
    assert [p.name for p in target.parent.iterdir()] == ["real"]


def test_fresh_dir_leaves_nothing_of_a_failure(tmp_path):
    target = tmp_path / "data" / "real"
    with pytest.raises(BadInput), artifacts.fresh_dir(target) as folder:
        (folder / "half").touch()
        raise BadInput("x: wrong; mend it")
    assert list(target.parent.iterdir()) == []


def test_fresh_dir_clears_what_a_killed_run_left(tmp_path):
    (tmp_path / ".real.partial-1").mkdir()
    with artifacts.fresh_dir(tmp_path / "real"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["real"]


def test_write_json_refuses_what_json_lacks(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        artifacts.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_digest_sees_names_and_bytes(tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "a").write_bytes(b"1")
    before = artifacts.digest(folder)
    (folder / "a").rename(folder / "b")
    renamed = artifacts.digest(folder)
    (folder / "b").write_bytes(b"2")
    assert len({before, renamed, artifacts.digest(folder)}) == 3


def test_manifest_lists_files_and_its_absence_is_an_error(tmp_path):
    (tmp_path / "f").mkdir()
    with pytest.raises(BadInput, match=r"f/manifest\.json: not there"):
        artifacts.read_manifest(tmp_path / "f")
    (tmp_path / "f" / "x").write_bytes(b"abc")
    artifacts.write_manifest(tmp_path / "f", kind="test")
    assert artifacts.read_manifest(tmp_path / "f") == {
        "kind": "test",
        "files": {"x": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    }


def test_scratch_survives_failure_and_goes_with_success(tmp_path):
    with pytest.raises(RuntimeError), artifacts.scratch("s", {"a": 1}) as folder:
        (folder / "state").write_text("half")
        raise RuntimeError
    with artifacts.scratch("s", {"a": 2}) as other:
        assert other != folder
        assert not (other / "state").exists()
    with artifacts.scratch("s", {"a": 1}) as again:
        assert (again / "state").read_text() == "half"
    assert not folder.exists()


def test_scratch_is_keyed_by_its_inputs(tmp_path):
    (tmp_path / "in").write_bytes(b"1")
    with artifacts.scratch("s", {}, (tmp_path / "in",)) as one:
        pass
    (tmp_path / "in").write_bytes(b"2")
    with artifacts.scratch("s", {}, (tmp_path / "in",)) as two:
        assert one != two


def test_a_second_start_waits_for_the_first(tmp_path):
    """A killed dvc leaves its child running; when that dies too, the kernel drops the lock."""
    program = (
        "import sys, time; from stages import artifacts\n"
        "with artifacts.scratch('s', {}) as folder:\n"
        "    print('in', flush=True); time.sleep(float(sys.argv[1]))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    first = subprocess.Popen([*command, "60"], env=environment, stdout=subprocess.PIPE)
    assert first.stdout.readline() == b"in\n"
    second = subprocess.Popen(
        [*command, "0"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert "waiting for it to end" in second.stderr.readline()
    time.sleep(0.3)
    assert second.poll() is None
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert second.communicate(timeout=30)[0] == "in\n"
    assert second.returncode == 0


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        ("BadInput('params.yaml: guidance: wrong; mend it')", 2, ["ERROR: params.yaml: guidance: wrong; mend it"]),
        ("OSError(28, 'No space left on device', 'data/real/x')", 2, ["data/real/x", "no space left"]),
    ],
)
def test_bad_input_ends_in_one_line(tmp_path, raised, code, words):
    (tmp_path / "failing.py").write_text(
        f"from stages.artifacts import BadInput, run_stage\ndef main(argv):\n    raise {raised}\nrun_stage(main)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "failing"],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


def test_provenance_holds_what_differs_between_machines(tmp_path):
    artifacts.write_provenance("train_cnn-real", 1.234, device="x")
    content = json.loads((tmp_path / "runs" / "train_cnn-real.json").read_text())
    assert content["seconds"] == 1.23
    assert content["device"] == "x"
    assert content["peak_memory_mib"] > 1
    assert content["versions"]["torch"].startswith("2.")
