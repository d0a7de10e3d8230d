"""A hub on this machine: one repository, `owner/tiny`, at one commit, by the hub's tree and resolve addresses."""

import contextlib
import hashlib
import http.server
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.closure import ROOT

COMMIT = "3f49326eb077187dfe1c2a2bb15fbd74e6ab91e3"
MODEL = {"repo_id": "owner/tiny", "revision": COMMIT}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        files, error = self.server.files, self.server.error
        path = self.path.partition("?")[0]
        self.server.requests.append(path)
        content, headers, status = b"", {}, 404
        name = path.removeprefix(f"/owner/tiny/resolve/{COMMIT}/")
        if error and COMMIT in path:
            status, headers = error[0], {"X-Error-Code": error[1]}
        elif path.startswith(f"/api/models/owner/tiny/tree/{COMMIT}"):
            tree = [
                {"type": "file", "path": path, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
                for path, body in files.items()
            ]
            status, content = 200, json.dumps(tree).encode()
        elif name in files:
            content = files[name]
            status, headers = 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET  # noqa: N815 - http.server's name

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def running(files: Mapping[str, bytes]) -> Iterator[http.server.ThreadingHTTPServer]:
    """Serves files by their paths in the repository; `error` (status, hub's code) and `requests` are the server's."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.error, server.requests = dict(files), None, []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its path in it."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def environment(cache: Path, server: http.server.ThreadingHTTPServer | None, **variables: str) -> dict[str, str]:
    """Of a process that finds the project, an empty hub cache and the server (or a closed port) as its hub."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    port = server.server_address[1] if server else 9
    address = {"HF_HOME": str(cache), "HF_ENDPOINT": f"http://127.0.0.1:{port}"}
    return {**own, "PYTHONPATH": str(ROOT), **address, **variables}
