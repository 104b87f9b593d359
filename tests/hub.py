"""A Hugging Face Hub on 127.0.0.1 with one model: the routes that huggingface_hub asks of it.

Knows files and how to break a download. Knows nothing of who asks: processes find it by
`HF_ENDPOINT`.
"""

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import attrs

COMMIT = "c" * 40
WEIGHTS = "model.safetensors"


@attrs.define(eq=False)
class Hub:
    """What it serves, how it misbehaves, and what it was asked for."""

    repository: str
    files: dict[str, bytes]
    # Bytes of the weights after which each connection, in turn, is dropped.
    drops: list[int] = attrs.field(factory=list)
    # Bytes of the weights after which they wait for `released`; None sends them all.
    held_after: int | None = None
    held: threading.Event = attrs.field(factory=threading.Event)
    released: threading.Event = attrs.field(factory=threading.Event)
    refusal: HTTPStatus | None = None  # to whoever asks for the weights
    # First byte of each answer with a file's content, by file.
    begun: list[tuple[str, int]] = attrs.field(factory=list)
    url: str = ""

    def begun_at(self, name: str) -> list[int]:
        """The first bytes of the answers with a file."""
        return [first for file, first in self.begun if file == name]

    def entry(self, name: str) -> dict[str, Any]:
        """A file in a listing."""
        content = self.files[name]
        found: dict[str, Any] = {"size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        if name == WEIGHTS:
            found["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 134}
        return found


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextlib.contextmanager
def hub_of(directory: Path, repository: str) -> Iterator[Hub]:
    """A Hub with the files of a model directory; gone at the end."""
    files = {path.name: path.read_bytes() for path in directory.iterdir() if path.name[0] != "."}
    hub = Hub(repository, files)
    server = _Server(("127.0.0.1", 0), type("Asked", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Say nothing of connections whose other end is gone."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _route(self) -> None:
        path, name = unquote(urlsplit(self.path).path), self.hub.repository
        siblings = [self._sibling(file) for file in self.hub.files]
        if path == f"/api/models/{name}/revision/main":
            self._json({"id": name, "sha": COMMIT, "siblings": siblings})
        elif path == f"/api/models/{name}/tree/{COMMIT}":
            self._json(
                [{"type": "file", "path": file} | self.hub.entry(file) for file in self.hub.files]
            )
        elif (file := path.removeprefix(f"/{name}/resolve/{COMMIT}/")) in self.hub.files:
            self._file(file)
        else:
            self.send_response(HTTPStatus.NOT_FOUND)
            self.send_header("X-Error-Code", "RepoNotFound")
            self._end(b"{}")

    def _sibling(self, name: str) -> dict[str, Any]:
        entry = self.hub.entry(name)
        found = {"rfilename": name, "size": entry["size"], "blobId": entry["oid"]}
        if "lfs" in entry:
            found["lfs"] = {"sha256": entry["lfs"]["oid"]} | entry["lfs"]
        return found

    def _json(self, value: object) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self._end(json.dumps(value).encode())

    def _end(self, body: bytes) -> None:
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _file(self, name: str) -> None:
        content, entry = self.hub.files[name], self.hub.entry(name)
        if name == WEIGHTS and self.command == "GET" and self.hub.refusal is not None:
            self.send_response(self.hub.refusal)
            self._end(b"")
            return
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(asked[1]) if asked else 0
        self.send_response(HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]}"')
        self.send_header("Content-Length", str(len(content) - first))
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            self.hub.begun.append((name, first))
            self._send(name, content, first)

    def _send(self, name: str, content: bytes, first: int) -> None:
        last = len(content)
        if name == WEIGHTS and self.hub.drops:
            last, self.close_connection = self.hub.drops.pop(0), True
        pause = last if name != WEIGHTS or self.hub.held_after is None else self.hub.held_after
        with contextlib.suppress(ConnectionError):  # whoever asked may be killed
            self.wfile.write(content[first:pause])
            if pause < last:
                self.hub.held.set()
                self.hub.released.wait()
                self.wfile.write(content[max(first, pause) : last])
