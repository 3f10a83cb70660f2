"""A stand-in of the hub: an HTTP server on this machine that answers what huggingface_hub asks for a file."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lib_ipadapter.downloads import published
from lib_ipadapter.downloads.published import Published

REVISION = "0123456789abcdef0123456789abcdef01234567"
PIECE = 64 * 1024


def small(name: str, data: bytes, base: str = "SD1.5", **more: Any) -> Published:
    """A file of the table, with these contents."""
    found = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), **more}
    return Published(name, "a small file", base, source=("maker/files", REVISION), path=f"models/{name}", **found)


def listed(monkeypatch: pytest.MonkeyPatch, *files: Published) -> None:
    """Let the table have these files, and no others."""
    monkeypatch.setattr(published, "PUBLISHED", files)
    monkeypatch.setattr(published, "BY_NAME", {file.name: file for file in files})


class Hub:
    """``files`` by their paths in the repository. ``asked`` are the requests that came, ``sent`` the bytes that went.

    ``status`` is answered in the place of a file; ``stop_after`` is how many bytes of an answer go before the
    connection ends, or, with ``hold``, before nothing more comes until ``go`` is set.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str, str]] = []  # method, path, range
        self.tokens: list[str] = []
        self.sent = 0
        self.status: int | None = None
        self.error_code = ""
        self.stop_after: int | None = None
        self.hold = False
        self.go = threading.Event()

    def gets(self) -> list[str]:
        """The ranges of the requests for a file."""
        return [span for method, _, span in self.asked if method == "GET"]


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.respond()

        def do_GET(self) -> None:
            self.respond()

        def respond(self) -> None:
            span = self.headers.get("Range", "")
            hub.asked.append((self.command, self.path, span))
            hub.tokens.append(self.headers.get("Authorization", ""))
            data = hub.files.get(self.path.partition(f"/resolve/{REVISION}/")[2])
            if data is None or hub.status is not None:
                self.refuse(hub.status or 404, hub.error_code or "EntryNotFound")
                return
            start = int(span.removeprefix("bytes=").partition("-")[0]) if span else 0
            if start >= len(data):
                self.refuse(416, "")
                return
            self.send_response(206 if span else 200)
            for name, value in {
                "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
                "X-Repo-Commit": REVISION,
                "X-Linked-Size": str(len(data)),
                "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"',
                "Accept-Ranges": "bytes",
                "Content-Length": str(len(data) - start),
                **({"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if span else {}),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.give(data[start:])

        def give(self, data: bytes) -> None:
            limit = len(data) if hub.stop_after is None else min(hub.stop_after, len(data))
            for begin in range(0, limit, PIECE):
                part = data[begin : min(begin + PIECE, limit)]
                self.wfile.write(part)
                hub.sent += len(part)
            self.wfile.flush()
            if limit < len(data):
                if hub.hold:
                    hub.go.wait(60)
                    hub.hold = False
                    self.give(data[limit:])
                    return
                with contextlib.suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    return Handler


@contextlib.contextmanager
def serving() -> Iterator[tuple[Hub, str]]:
    """A hub, and its address."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # who breaks off is no error here
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        hub.go.set()
        server.shutdown()
        server.server_close()
