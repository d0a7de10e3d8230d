"""Weights travel: pushed to and pulled from a directory, an SSH server, S3 and a static web server, as README says.

A tiny repository with the study's layout stands in for it; every server listens on 127.0.0.1 and ends with its test.
"""

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

# DVC speaks to servers of this test: neither a proxy nor the machine's own certificates have a part in it.
ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")},
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "DVC_NO_ANALYTICS": "1",
}

PIPELINE = """
stages:
  train_cnn:
    foreach: [real, synthetic]
    do:
      cmd: python train.py ${item}
      deps:
      - train.py
      outs:
      - models/cnn/${item}
"""

TRAIN = """
import pathlib, random, sys
source = sys.argv[1]
folder = pathlib.Path("models/cnn", source)
folder.mkdir(parents=True)
(folder / "model.safetensors").write_bytes(random.Random(source).randbytes(100_000))
(folder / "config.json").write_text('{"source": "%s"}' % source)
"""


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def dvc(folder: Path, *args: str) -> str:
    return run(folder, sys.executable, "-m", "dvc", *args)


def git(folder: Path, *args: str) -> str:
    return run(folder, "git", "-c", "user.name=nobody", "-c", "user.email=nobody@localhost", *args)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_until_open(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"no server on port {port}")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that has run, with everything but its outs in git."""
    folder = tmp_path_factory.mktemp("study")
    git(folder, "init", "--quiet")
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "train.py").write_text(TRAIN)
    (folder / ".gitignore").write_text("/models/\n")
    dvc(folder, "init", "--quiet")
    dvc(folder, "repro")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "The study")
    assert sorted(path.name for path in (folder / "models/cnn").iterdir()) == ["real", "synthetic"]
    return folder


def clone(study: Path, folder: Path) -> Path:
    """A stranger's clone, without anything of DVC's cache."""
    git(study, "clone", "--quiet", str(study), str(folder))
    return folder


def assert_pulls_one_arm(study: Path, folder: Path) -> None:
    """`dvc pull train_cnn@real` brings that arm's weights, byte for byte, and no other's."""
    dvc(folder, "pull", "train_cnn@real")
    assert content(folder / "models/cnn/real") == content(study / "models/cnn/real")
    assert not (folder / "models/cnn/synthetic").exists()


@pytest.fixture(scope="module")
def directory(study: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A clone whose committed default remote is a directory that everything was pushed to; and that directory."""
    store = tmp_path_factory.mktemp("store")
    owner = clone(study, tmp_path_factory.mktemp("owner") / "study")
    shutil.copytree(study / ".dvc/cache", owner / ".dvc/cache")
    dvc(owner, "remote", "add", "--default", "store", str(store))
    git(owner, "commit", "--quiet", "--all", "--message", "Where the weights are")
    dvc(owner, "push")
    return owner, store


@pytest.mark.dvc
def test_directory(study: Path, directory: tuple[Path, Path], tmp_path: Path) -> None:
    owner, _ = directory
    assert_pulls_one_arm(study, clone(owner, tmp_path / "clone"))
    # From outside of any clone, and a whole group in a second clone.
    dvc(tmp_path, "get", str(owner), "models/cnn/real", "--out", "weights")
    assert content(tmp_path / "weights") == content(study / "models/cnn/real")
    group = clone(owner, tmp_path / "group")
    dvc(group, "pull", "train_cnn")
    assert content(group / "models/cnn/synthetic") == content(study / "models/cnn/synthetic")


@pytest.mark.dvc
def test_static_web_server(study: Path, directory: tuple[Path, Path], tmp_path: Path) -> None:
    owner, store = directory
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(store)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_open(port)
        folder = clone(owner, tmp_path / "clone")
        dvc(folder, "remote", "modify", "store", "url", f"http://127.0.0.1:{port}")
        assert_pulls_one_arm(study, folder)
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """An SSH server that lets nobody in but this test's key; its port and that key."""
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("no sshd on this machine (Debian: apt-get install openssh-server)")
    for key in ("host", "user"):
        run(tmp_path, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # asked for by Debian's sshd when root starts it
    port = free_port()
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": tmp_path / "host",
        "AuthorizedKeysFile": tmp_path / "user.pub",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "PermitRootLogin": "prohibit-password",
        "Subsystem": "sftp internal-sftp",
    }
    (tmp_path / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    with (tmp_path / "sshd.log").open("w") as log:
        server = subprocess.Popen([program, "-D", "-e", "-f", str(tmp_path / "sshd_config")], stderr=log)
    try:
        wait_until_open(port)
        yield port, tmp_path / "user"
    finally:
        server.terminate()
        server.wait()


@pytest.mark.dvc
def test_ssh(study: Path, sshd: tuple[int, Path], tmp_path: Path) -> None:
    port, key = sshd
    url = f"ssh://{getpass.getuser()}@127.0.0.1:{port}{tmp_path}/store"
    owner = clone(study, tmp_path / "owner")
    shutil.copytree(study / ".dvc/cache", owner / ".dvc/cache")
    stranger = clone(study, tmp_path / "clone")
    for folder in (owner, stranger):
        dvc(folder, "remote", "add", "--default", "store", url)
        dvc(folder, "remote", "modify", "--local", "store", "keyfile", str(key))
        dvc(folder, "remote", "modify", "--local", "store", "allow_agent", "false")
    dvc(owner, "push")
    assert_pulls_one_arm(study, stranger)


@pytest.mark.dvc
def test_s3(study: Path, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_open(port)
        create = (
            f"import boto3; boto3.client('s3', endpoint_url='http://127.0.0.1:{port}').create_bucket(Bucket='weights')"
        )
        run(tmp_path, sys.executable, "-c", create)
        owner = clone(study, tmp_path / "owner")
        shutil.copytree(study / ".dvc/cache", owner / ".dvc/cache")
        stranger = clone(study, tmp_path / "clone")
        for folder in (owner, stranger):
            dvc(folder, "remote", "add", "--default", "store", "s3://weights/study")
            dvc(folder, "remote", "modify", "store", "endpointurl", f"http://127.0.0.1:{port}")
        dvc(owner, "push")
        assert_pulls_one_arm(study, stranger)
    finally:
        server.terminate()
        server.wait()
