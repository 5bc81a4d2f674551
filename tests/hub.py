"""A hub that answers on this machine, and fetching from it in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote

REVISION = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """As much of the hub's protocol as its clients take: the file list, and each file with its commit and hash.

    Attributes:
        files: content by name.
        asked: names of the files that were fetched.
        refuses: status and error code of every answer; None to answer.
        breaks_off: whether connections end in the middle of a file.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.asked: list[str] = []
        self.refuses: tuple[int, str] | None = None
        self.breaks_off = False

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def listed(self) -> list[dict[str, Any]]:
        """Return all folders and files."""
        folders = {str(parent) for name in self.files for parent in PurePosixPath(name).parents} - {"."}
        return [{"type": "directory", "path": name, "oid": "0" * 40} for name in sorted(folders)] + [
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for name, content in self.files.items()
        ]


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        fields = json.loads(body) if body.startswith("{") else parse_qs(body)
        wanted = [fields["paths"]] if isinstance(fields["paths"], str) else fields["paths"]
        self.answer(json.dumps([entry for entry in self.server.listed() if entry["path"] in wanted]).encode())

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        name = path.partition(f"/resolve/{REVISION}/")[2]
        if self.server.refuses is not None:
            self.refuse(*self.server.refuses)
        elif name in self.server.files:
            if self.command == "GET":
                self.server.asked.append(name)
            self.answer(self.server.files[name])
        elif name:
            self.refuse(404, "EntryNotFound")
        elif f"/tree/{REVISION}" in path:
            folder = PurePosixPath(path.partition(f"/tree/{REVISION}")[2].strip("/"))
            deep = "recursive=true" in self.path.lower()
            entries = [
                entry
                for entry in self.server.listed()
                for parents in [PurePosixPath(entry["path"]).parents]
                if (folder in parents if deep else folder == parents[0])
            ]
            self.answer(json.dumps(entries).encode())
        elif path.endswith(f"/revision/{REVISION}"):
            siblings = [{"rfilename": name} for name in self.server.files]
            self.answer(json.dumps({"id": "me/mine", "sha": REVISION, "siblings": siblings}).encode())
        else:
            self.refuse(404, "RevisionNotFound")

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.server.breaks_off and "/resolve/" in self.path:
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        else:
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def started() -> Iterator[Hub]:
    with Hub({}) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


FETCH = """
import json, sys
from pathlib import Path, PurePosixPath
from intaglio.errors import UserError
from intaglio.study.sources import HubSource
from intaglio.reading.fetch import fetch
try:
    fetch(HubSource.model_validate(json.loads(sys.argv[1])), sys.argv[2], Path(sys.argv[3]))
except UserError as error:
    print(error)
    sys.exit(1)
"""


def fetch_hub(source: dict[str, Any], what: str, output: Path, **environment: str) -> str:
    """Fetch in a process of its own, as the hub's library reads its environment once; return the refusal or ''."""
    path = {"PYTHONPATH": str(Path(__file__).parents[1] / "workflow"), "HF_HOME": str(output.parent / "hf")}
    entry = json.dumps({"kind": "hub", "repo": "me/mine", "revision": REVISION, **source})
    done = subprocess.run(
        [sys.executable, "-c", FETCH, entry, what, str(output)],
        env={**os.environ, "HF_HUB_OFFLINE": "0", **path, **environment}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    assert (done.returncode == 0) == output.exists()
    assert done.stdout.count("\n") == done.returncode, done.stdout + done.stderr
    return done.stdout
