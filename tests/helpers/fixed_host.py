"""A host that answers after a fixed time, with pictures that follow from the request alone: batches are tried on
many of them, and killed, without a model.

    python tests/helpers/fixed_host.py --port 7000 --seconds 0.2 --log FILE

It answers one request at a time, as a WebUI does. The log has a line for each: what, and when. Prompts may ask for
troubles: "refuse", "fail", "fail once", "half". Standard library only, so that it starts at once.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import json
import os
import struct
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHECKPOINTS = ("one", "two")
PRESET = [{"model": "adapter", "weight": 0.7, "images": [base64.b64encode(b"a reference of a preset").decode()]}]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(colour: bytes, texts: dict[str, str], side: int = 16) -> bytes:
    """A picture of one colour (three bytes)."""
    rows = (b"\0" + colour * side) * side
    written = b"".join(chunk(b"tEXt", f"{name}\0{text}".encode("latin1", "replace")) for name, text in texts.items())
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + written + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def safetensors(content: bytes) -> bytes:
    header = json.dumps({"a": {"dtype": "U8", "shape": [len(content)], "data_offsets": [0, len(content)]}}).encode()
    return struct.pack("<Q", len(header)) + header + content


class FixedHost(ThreadingHTTPServer):
    """``seconds`` for a picture; ``checkpoints`` it has."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, port: int, seconds: float, log: str = "", auth: str = "", checkpoints: tuple[str, ...] = CHECKPOINTS
    ) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.seconds, self.log, self.auth, self.checkpoints = seconds, log, auth, checkpoints
        self.turn = threading.Lock()
        self.models_status = 200
        self.registering = 0  # questions for which it does not have the extension yet
        self.waiting = 0  # requests that it has not answered
        self.failed: set[str] = set()

    def note(self, **what: Any) -> None:
        if self.log:
            with open(self.log, "ab", buffering=0) as file:
                file.write(json.dumps({**what, "pid": os.getpid(), "at": time.time()}).encode() + b"\n")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FixedHost

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        answers = {
            "/sdapi/v1/sd-models": [{"title": f"{name}.ckpt", "model_name": name} for name in self.server.checkpoints],
            "/sdapi/v1/options": {"sd_model_checkpoint": f"{self.server.checkpoints[0]}.ckpt"},
            "/ip-adapter/models": {
                "adapters": [{"name": "adapter", "variant": "base", "base": "SD1.5"}], "encoders": [], "folders": [],
            },
            "/sdapi/v1/progress?skip_current_image=true": {"state": {"job_count": self.server.waiting}},
            "/ip-adapter/presets/kept": {"units": PRESET},
        }  # fmt: skip
        if not self._is_allowed():
            return
        if self.path == "/ip-adapter/models" and self.server.registering:
            self.server.registering -= 1
            self._answer(404, b'{"detail": "Not Found"}')
        elif self.path == "/ip-adapter/models" and self.server.models_status != 200:
            self._answer(self.server.models_status, b'{"detail": "Not Found"}')
        elif self.path in answers:
            self._answer(200, json.dumps(answers[self.path]).encode())
        else:
            self._answer(404, b'{"detail": "there is no preset of that name."}')

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._is_allowed():
            return
        body = json.loads(data)
        self.server.waiting += 1
        with self.server.turn:
            begun = time.monotonic()
            status, answer = self._made(body, data)
            time.sleep(max(0.0, self.server.seconds - (time.monotonic() - begun)))
            self.server.waiting -= 1
        self._answer(status, answer)

    def _made(self, body: dict[str, Any], data: bytes) -> tuple[int, bytes]:
        if self.path == "/ip-adapter/embeddings":
            self.server.note(encoded=hashlib.sha256(data).hexdigest())
            if "refuse" in body["model"] or b"refuse" in base64.b64decode(body["images"][0]["image"]):
                return 422, b'{"detail": "IP-Adapter unit 1: images[0]: this is no picture."}'
            return 200, safetensors(hashlib.sha256(data).digest())
        prompt, seed = str(body.get("prompt", "")), body.get("seed")
        self.server.note(row=prompt, seed=seed, checkpoint=body.get("override_settings", {}).get("sd_model_checkpoint"))
        if "refuse" in prompt:
            return 422, b'{"detail": "IP-Adapter unit 1: it cannot be done: leave it."}'
        if prompt.startswith("status "):
            return int(prompt.split()[1]), b'{"detail": "as asked"}'
        if "fail" in prompt and not ("once" in prompt and prompt in self.server.failed):
            self.server.failed.add(prompt)
            return 500, b'{"error": "RuntimeError", "detail": "", "errors": "out of luck"}'
        digest = hashlib.sha256(data).digest()
        text = f"{prompt}\nSteps: 1, Seed: {seed}, Size: 16x16"
        count = int(body.get("batch_size", 1)) * int(body.get("n_iter", 1))
        pictures = [png(digest[i : i + 3], {"parameters": text}) for i in range(count)]
        if "bare" in prompt:
            pictures = [png(digest[:3], {})]
        if "half" in prompt:
            pictures = [pictures[0][:-20]]
        images = [base64.b64encode(one).decode() for one in pictures]
        info = json.dumps({"infotexts": [text] * len(images)})
        return 200, json.dumps({"images": images, "parameters": {}, "info": info}).encode()

    def _is_allowed(self) -> bool:
        told = base64.b64encode(self.server.auth.encode()).decode()
        if not self.server.auth or self.headers.get("Authorization") == f"Basic {told}":
            return True
        self._answer(401, b'{"detail": "Incorrect username or password"}')
        return False

    def _answer(self, status: int, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # nobody waits for it any more
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--log", default="")
    parser.add_argument("--auth", default="")
    parser.add_argument("--checkpoints", default=",".join(CHECKPOINTS))
    given, _ = parser.parse_known_args()
    host = FixedHost(given.port, given.seconds, given.log, given.auth, tuple(given.checkpoints.split(",")))
    host.note(started=given.port)
    host.serve_forever(0.05)


if __name__ == "__main__":
    main()
