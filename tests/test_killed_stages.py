"""Every kind of stage, killed with SIGKILL at some moment and started again, leaves the bytes of a run in peace."""

import importlib
import os
import random
import shutil
import signal
import time
import traceback
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from stages.artifacts import digest
from tests.tiny import commands, make_repository


def start(module: str, *argv: str) -> int:
    """Runs a stage in a forked process, which spares it the imports; returns its pid."""
    main = importlib.import_module(module).main
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            AcceleratorState._reset_state(True)
            main([*argv])
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def remove(outs: list[str]) -> None:
    """As DVC does before it runs a stage."""
    for out in map(Path, outs):
        if out.is_dir():
            shutil.rmtree(out)
        else:
            out.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("understudy") / "repository"
    make_repository(folder)
    return folder


def test_killed_at_some_moment_and_started_again(repository, monkeypatch):
    monkeypatch.chdir(repository)
    planned = commands(repository)
    last = {command[0]: command for command, _ in planned}  # of several arms or encoders one is killed
    moments, killed = random.Random(0), 0
    for command, outs in planned:
        started = time.monotonic()
        assert exit_code(start(*command)) == 0, command
        seconds = time.monotonic() - started
        if last[command[0]] != command:
            continue
        expected = {out: digest(Path(out)) for out in outs}
        assert expected
        remove(outs)
        pid, moment = start(*command), moments.uniform(0, seconds)
        time.sleep(moment)
        os.kill(pid, signal.SIGKILL)
        killed += exit_code(pid) == -signal.SIGKILL
        remove(outs)
        assert exit_code(start(*command)) == 0, command
        assert {out: digest(Path(out)) for out in outs} == expected, (command, moment, seconds)
        assert not list(Path(".scratch").glob("*/checkpoint.pt"))
        assert not [path for out in outs for path in Path(out).parent.glob(".*.partial-*")]
    assert len(last) >= 12
    assert killed > len(last) / 2  # the others had ended a little earlier than before
