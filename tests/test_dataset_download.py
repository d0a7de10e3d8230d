"""Downloads against a loopback server: resumed, checksummed, and refused in words."""

import contextlib
import hashlib
import http.server
import json
import socket
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from kagglesdk import kaggle_env

from stages.artifacts import BadInput
from stages.dataset import download as module
from stages.dataset.download import DownloadError, Published, download, obtain

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.content` by range, and breaks off after each of `server.cuts` bytes in turn."""

    def do_GET(self):
        state = self.server
        state.requests.append(dict(self.headers))
        if state.status != 200:
            self.send_error(state.status)
            return
        start, status = 0, 200
        wanted = self.headers.get("Range")
        same = self.headers.get("If-Range") in (None, state.etag)
        if wanted and state.ranges and same:
            start, status = int(wanted.removeprefix("bytes=").removesuffix("-")), 206
        if start >= len(state.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(state.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = state.content[start:]
        self.send_response(status)
        self.send_header("Content-Type", state.content_type)
        if state.etag:
            self.send_header("ETag", state.etag)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}")
        cut = state.cuts.pop(0) if state.cuts else len(body)
        if state.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(f"{len(body):x}\r\n".encode() + body[:cut])
            if cut >= len(body):
                self.wfile.write(b"\r\n0\r\n\r\n")
        else:
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:cut])
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(handler, **state):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        vars(server).update(state)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    state = {"content": CONTENT, "content_type": "application/gzip", "etag": '"v1"', "ranges": True}
    with served(Handler, **state, cuts=[], chunked=False, status=200, requests=[]) as server:
        server.url = f"http://127.0.0.1:{server.server_port}/a.tar.gz"
        yield server


def fetch(server, tmp_path: Path, sha256: str | None = SHA256) -> Path:
    return download(server.url, tmp_path / "archive", sha256, pause_seconds=0)


def test_a_file_arrives_whole_and_alone(server, tmp_path):
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == ["archive"]


@pytest.mark.parametrize("sha256", [SHA256, None])
def test_broken_connections_are_continued_where_they_broke(server, sha256, tmp_path):
    server.cuts = [100_000, 150_000]
    assert fetch(server, tmp_path, sha256).read_bytes() == CONTENT
    assert [r.get("Range") for r in server.requests] == [None, "bytes=100000-", "bytes=250000-"]
    assert server.requests[1]["If-Range"] == '"v1"'


def test_a_later_start_of_the_program_goes_on(server, tmp_path):
    server.cuts = [100_000, 0, 0, 0, 0]
    with pytest.raises(DownloadError, match=r"broke off, 4 times in a row; start again to go on from 100000 bytes"):
        fetch(server, tmp_path)
    server.requests.clear()
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.requests[0]["Range"] == "bytes=100000-"


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, tmp_path):
    server.cuts = [100_000, 0, 0, 0, 0]
    with pytest.raises(DownloadError):
        fetch(server, tmp_path, None)
    server.content, server.etag = CONTENT[::-1], '"v2"'
    assert fetch(server, tmp_path, None).read_bytes() == CONTENT[::-1]


def test_without_validator_or_checksum_nothing_is_glued_together(server, tmp_path):
    server.etag, server.cuts = "", [100_000]
    assert fetch(server, tmp_path, None).read_bytes() == CONTENT
    assert all("Range" not in request for request in server.requests)


@pytest.mark.parametrize("chunked", [True, False])
def test_a_server_without_ranges_is_asked_again_from_the_start(server, chunked, tmp_path):
    server.ranges, server.chunked, server.cuts = False, chunked, [100_000]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_killed_between_the_last_byte_and_the_renaming(server, tmp_path):
    (tmp_path / "archive.partial").write_bytes(CONTENT)
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_download_that_was_finished_before_is_taken(server, tmp_path):
    first = fetch(server, tmp_path).stat()
    assert fetch(server, tmp_path).stat().st_mtime_ns == first.st_mtime_ns
    assert len(server.requests) == 1
    (tmp_path / "archive").write_bytes(b"something else")
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_wrong_checksum_is_refused_and_deleted(server, tmp_path):
    with pytest.raises(DownloadError, match=f"SHA-256 is {SHA256}, not 000"):
        fetch(server, tmp_path, "0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_a_web_page_is_refused(server, tmp_path):
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(DownloadError, match="web page"):
        fetch(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("status", "attempts"), [(404, 1), (403, 1), (503, 4)])
def test_refusals_are_final_and_outages_are_not(server, status, attempts, tmp_path):
    server.status = status
    with pytest.raises(DownloadError, match=f"HTTP {status}"):
        fetch(server, tmp_path)
    assert len(server.requests) == attempts


@pytest.mark.parametrize("chunked", [True, False])
def test_a_server_that_sends_too_much_is_left(server, chunked, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "MAX_BYTES", 200_000)
    server.chunked = chunked
    with pytest.raises(DownloadError, match="200000"):
        fetch(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_when_no_way_works_all_three_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/a.tar.gz"
        with pytest.raises(BadInput) as caught:
            obtain(Published("CIFAKE", None, url, None), tmp_path)
    line = str(caught.value)
    assert "\n" not in line
    for part in ("dataset_path", "zip", "kagglehub", "token", url, "refused"):
        assert part in line


class KaggleHandler(http.server.BaseHTTPRequestHandler):
    """As much of Kaggle as a public data set's download needs."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.tokens.append(self.headers.get("Authorization"))
        body, kind = self.server.archive, "application/zip"
        if self.path.endswith("GetDataset"):
            body, kind = json.dumps({"currentVersionNumber": 3}).encode(), "application/json"
        self.send_response(self.server.status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("status", [200, 403])
def test_kaggle_by_kagglehub_with_the_users_token(status, monkeypatch, tmp_path, capfd, caplog):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "TEST")
    monkeypatch.setenv("KAGGLE_USERNAME", "somebody")
    monkeypatch.setenv("KAGGLE_KEY", "not-for-logs")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    with zipfile.ZipFile(tmp_path / "kaggle.zip", "w") as archive:
        archive.writestr("train/REAL/0000.jpg", b"x")
    state = {"archive": (tmp_path / "kaggle.zip").read_bytes(), "tokens": [], "status": status}
    with served(KaggleHandler, **state) as server:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.TEST, endpoint)
        published = Published("CIFAKE", "owner/cifake", None, None)
        if status == 200:
            folder = obtain(published, tmp_path / "scratch")
            assert (folder / "train/REAL/0000.jpg").read_bytes() == b"x"
            assert folder.is_relative_to(tmp_path / "cache")
        else:
            with pytest.raises(BadInput, match="Kaggle: ") as caught:
                obtain(published, tmp_path / "scratch")
            assert "not-for-logs" not in str(caught.value)
    assert any(server.tokens), "the user's token was sent"
    out = capfd.readouterr()
    assert "not-for-logs" not in out.out + out.err + caplog.text
    kept = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert bool(kept)
    assert all(b"not-for-logs" not in p.read_bytes() for p in kept)
