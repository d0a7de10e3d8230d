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


def kill(pid: int, moment: float) -> bool:
    """Kills a process after so many seconds; whether it was still running."""
    time.sleep(moment)
    os.kill(pid, signal.SIGKILL)
    return exit_code(pid) == -signal.SIGKILL


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


@pytest.mark.timeout(1800)  # half a minute of CPU, but a stage at a time
def test_killed_at_some_moment_and_started_again(repository, monkeypatch):
    monkeypatch.chdir(repository)
    planned = commands(repository)
    last = {command[0]: command for command, _ in planned}  # of several arms or encoders one is killed
    moments = random.Random(0)
    for command, outs in planned:
        importlib.import_module(command[0])
        started = time.monotonic()
        assert exit_code(start(*command)) == 0, command
        seconds = time.monotonic() - started
        if last[command[0]] != command:
            continue
        expected = {out: digest(Path(out)) for out in outs}
        assert expected
        remove(outs)
        moment = moments.uniform(0, seconds)
        while not kill(start(*command), moment):
            moment /= 2
        remove(outs)
        assert exit_code(start(*command)) == 0, command
        assert {out: digest(Path(out)) for out in outs} == expected, (command, moment, seconds)
        assert not list(Path(".scratch").glob("*/checkpoint.pt"))
        assert not [path for out in outs for path in Path(out).parent.glob(".*.partial-*")]
    assert len(last) >= 12
