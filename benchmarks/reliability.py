"""What comes from outside and is wrong: generated requests, hostile model files, hostile archives of presets.

    .venv/bin/python -m benchmarks.reliability [--requests 3000] [--files 300] [--archives 100] [--seed 0]

Against the miniature WebUI in this process. Requests are drawn field by field from values that are right, at their
limits, of the wrong type, endless, or no numbers; pictures from whole, cut, claiming to be huge, and no pictures.
Files are whole safetensors and PyTorch files of which something is changed: bytes, lengths, offsets, shapes, types,
what a pickle names. Archives are exports of which the same is done. Every answer has to be one of the API's, with a
sentence that is not endless where something is refused; the process has to live; a plain picture after every
hundredth of them has to be bit for bit the one before; and the process's own memory has to come back.

Exits with 1 if anything of that is not so.
"""

from __future__ import annotations

import argparse
import base64
import collections
import contextlib
import io
import json
import os
import pickle
import random
import struct
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.bench.own_memory import own_memory
from demo.start import Host

LONGEST = 3000  # characters of a sentence
MEMORY = 64 << 20  # bytes by which the process may have grown
Answer = tuple[int, Any]  # HTTP status, and what was said


@dataclass
class Tally:
    """What came of it all."""

    answers: collections.Counter[int] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def add(self, answer: Answer, asked: str, seconds: float = 0.0) -> None:
        status, said = answer
        self.answers[status] += 1
        self.slowest = max(self.slowest, seconds)
        detail = said.get("detail") if isinstance(said, dict) else None
        if status >= 500:
            self.wrong.append(f"{status} for {asked[:300]}: {str(said)[:300]}")
        elif status >= 400 and not (isinstance(detail, (str, list)) and len(str(detail)) <= LONGEST):
            self.wrong.append(f"{status} without a sentence, or an endless one, for {asked[:300]}: {str(said)[:200]}")

    def __str__(self) -> str:
        counts = ", ".join(f"{count} x {status}" for status, count in sorted(self.answers.items()))
        return f"{counts}; slowest {self.slowest:.2f} s; wrong: {len(self.wrong)}"


# Pictures


def _file(image: Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def _noise(rng: random.Random, side: int = 48) -> Image.Image:
    pixels = np.random.default_rng(rng.randrange(12)).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _huge_png() -> bytes:
    """A PNG that claims 60,000 x 60,000 pixels and holds none."""
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(head)) + chunk + struct.pack(">I", zlib.crc32(chunk))


def picture(rng: random.Random) -> Any:
    """A picture as a client may send it: whole three times out of four."""
    kind = rng.choice(("PNG", "PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"))
    data = _file(_noise(rng), kind)
    damage = rng.randrange(16)
    if damage == 0:
        data = data[: rng.randrange(len(data))]
    elif damage == 1:
        data = _huge_png()
    elif damage == 2:
        place = rng.randrange(len(data))
        data = data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :]
    elif damage == 3:
        return rng.choice(
            ("", "%%%", "../x.png", "http://127.0.0.1/x.png", 5, True, [], {}, "data:image/png,x", "A" * 9)
        )
    text = base64.b64encode(data).decode()
    return f"data:image/png;base64,{text}" if rng.random() < 0.2 else text


# Requests


def junk(rng: random.Random, depth: int = 0) -> Any:
    """Any value of JSON, and what JSON has no word for but the host's parser takes."""
    kinds: list[Callable[[], Any]] = [
        lambda: None, lambda: rng.random() < 0.5, lambda: rng.choice((0, -1, 1, 10**30, -(10**30), 2**63)),
        lambda: rng.choice((0.0, 1e-320, 1e308, float("nan"), float("inf"), -float("inf"), 0.5)),
        lambda: rng.choice(("", " ", "base", "é", "\ud800", "\x00", "x" * 5000, "1", "nan", "None", "linear")),
    ]  # fmt: skip
    if depth < 3:
        kinds.append(lambda: [junk(rng, depth + 1) for _ in range(rng.randrange(4))])
        kinds.append(lambda: {str(junk(rng, 3))[:40]: junk(rng, depth + 1) for _ in range(rng.randrange(3))})
    return rng.choice(kinds)()


def unit(rng: random.Random, fields: list[str], models: list[str]) -> Any:
    """An API object; one of twenty is no object."""
    if rng.random() < 0.05:
        return junk(rng)
    made: dict[str, Any] = {"model": rng.choice(models), "images": [picture(rng) for _ in range(rng.randrange(3))]}
    for _ in range(rng.randrange(3)):
        name = rng.choice(fields)
        made[name] = rng.choice(
            (junk(rng), rng.uniform(-2, 4), rng.choice(("tile", "hires", "per image", "max", "K+V")))
        )
    if rng.random() < 0.2:
        made["images"] = [{"image": picture(rng), "weight": rng.choice((1, junk(rng))), "mask": picture(rng)}]
    if rng.random() < 0.1:
        made["region_mask"] = picture(rng)
    if rng.random() < 0.1:
        made.pop(rng.choice(list(made)))
    return made


def infotext(rng: random.Random) -> str:
    """Parameters as a picture may bear them."""
    entry = rng.choice((
        "model: base, references: 0123456789ab", "x" * rng.randrange(30_000), 'a: "' * rng.randrange(3000),
        "references: " + "0123456789ab*9e9@0123456789ab " * rng.randrange(500), "model: \\", ":" * rng.randrange(9999),
    ))  # fmt: skip
    return f"a cat\nSteps: 2, Sampler: Euler, Seed: 1, IP-Adapter {rng.randrange(-1, 13)}: {json.dumps(entry)}"


def payload(rng: random.Random, fields: list[str], models: list[str]) -> tuple[str, dict[str, Any]]:
    """A path and a body of the WebUI's API."""
    body: dict[str, Any] = {
        "prompt": "a cat", "seed": 1, "steps": rng.choice((1, 2)), "width": 64, "height": 64, "sampler_name": "Euler",
        "batch_size": rng.choice((1, 1, 2)), "cfg_scale": rng.choice((1, 7)),
    }  # fmt: skip
    count = rng.choice((0, 1, 1, 1, 2, 3, 11, 13))
    body["alwayson_scripts"] = {"IP-Adapter": {"args": [unit(rng, fields, models) for _ in range(count)]}}
    if rng.random() < 0.1:
        body["infotext"] = infotext(rng)
    if rng.random() < 0.1:
        body |= {"enable_hr": True, "denoising_strength": 0.5, "hr_second_pass_steps": 1, "hr_scale": 1.5}
    if rng.random() < 0.2:
        return "img2img", {**body, "init_images": [base64.b64encode(_file(_noise(rng, 64))).decode()]}
    return "txt2img", body


def requests(host: Host, count: int, seed: int, tally: Tally) -> Iterator[None]:
    """Send ``count`` requests; yields after each."""
    from lib_ipadapter.fields import settings_of
    from lib_ipadapter.unit import Unit

    rng, fields = random.Random(seed), [*settings_of(Unit), "image", "images", "negative_images", "swirl"]
    models = ["base", "plus", "base", "plus", "full-face", "wide", "nothing", "faceid"]
    for _ in range(count):
        path, body = payload(rng, fields, models)
        content = json.dumps(body)  # as a client with NaN in it would send it
        started = time.perf_counter()
        answer = host.client.post(
            f"/sdapi/v1/{path}", content=content.encode(), headers={"Content-Type": "application/json"}
        )
        tally.add((answer.status_code, answer.json()), content, time.perf_counter() - started)
        yield


# Files


def _safetensors(rng: random.Random) -> bytes:
    """A small file whose header is right but for one thing."""
    header: dict[str, Any] = {
        f"ip_adapter.{n}.to_k_ip.weight": {"dtype": "F16", "shape": [4, 4], "data_offsets": [32 * n, 32 * n + 32]}
        for n in range(4)
    } | {"image_proj.proj.weight": {"dtype": "F16", "shape": [4, 4], "data_offsets": [128, 160]}}  # fmt: skip
    data, one = bytes(160), header[rng.choice(list(header))]
    change = rng.randrange(12)
    if change == 0:
        one["shape"] = rng.choice(([1] * 5000, [2**62, 2**62], [-1], ["4"], [4.0], [True, 16], None, [0, 0], 16))
    elif change == 1:
        one["data_offsets"] = rng.choice(([0, 10**15], [32, 0], [-32, 0], [1, 33], [0, 160], ["0", "32"], None, []))
    elif change == 2:
        one["dtype"] = rng.choice(("float32", "F" * 100_000, 5, None, "F4", "I128", ""))
    elif change == 3:
        header["__metadata__"] = rng.choice(({"a": "\ud800"}, {"a": 5}, [], "x", {"a": "x" * 100_000}))
    elif change == 4:
        data = data[: rng.randrange(160)]
    elif change == 5:
        header |= {f"extra{n}": one for n in range(3000)}
    elif change == 6:
        header[rng.choice(("\ud800", "x" * 50_000, "", "\0", "__proto__"))] = one
    text = json.dumps(header).encode()
    if change == 7:
        text = text.replace(b"{", b"[" * rng.choice((1, 5000)), 1)
    length = rng.choice((2**63, 10**9, 0, 1, len(text) + 1)) if change == 8 else len(text)
    made = struct.pack("<Q", length) + text + data
    if change >= 9:
        return _turned(made, rng)
    return made


def _turned(data: bytes, rng: random.Random) -> bytes:
    """With some bytes changed, or cut."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 3, 30))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed[: rng.randrange(len(changed)) if rng.random() < 0.3 else len(changed)])


class _Call:
    """Unpickled, it would call; nothing of a file is ever called here."""

    def __reduce__(self) -> Any:
        return (print, ("called",))


def _nested(levels: int) -> Any:
    value: Any = ()
    for _ in range(levels):
        value = (value, value)
    return value


def _torch(rng: random.Random) -> bytes:
    """A zip as torch writes it, with a pickle that is no dict of tensors."""
    what = rng.choice((
        lambda: {_nested(30): 1}, lambda: _Call(), lambda: [[[]]] * 1000, lambda: {"a": b"x" * 100_000},
        lambda: {n: n for n in range(200_000)}, lambda: "x" * 1_000_000, lambda: {"image_proj": {"a": _Call()}},
        lambda: collections.OrderedDict(), lambda: {1.5: None}, lambda: {frozenset((1, 2)): 3},
    ))()  # fmt: skip
    pickled = pickle.dumps(what, protocol=2)
    if rng.random() < 0.3:
        pickled = _turned(pickled, rng)
    buffer = io.BytesIO()
    method = rng.choice(
        (zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    )
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("archive/data.pkl", pickled if rng.random() < 0.9 else bytes(40 << 20))
        archive.writestr("archive/data/0", bytes(64))
    made = buffer.getvalue()
    return _turned(made, rng) if rng.random() < 0.2 else made


def hostile_file(rng: random.Random) -> tuple[str, bytes]:
    """A name and a file."""
    ending = rng.choice((".safetensors", ".safetensors", ".bin", ".pth", ".pt"))
    data = rng.choice((_safetensors, _safetensors, _torch, lambda rng: rng.randbytes(rng.randrange(300))))(rng)
    return f"{rng.randrange(10**9)}{ending}", data


def files(host: Host, folder: Path, count: int, seed: int, tally: Tally, at_once: int = 10) -> Iterator[None]:
    """Put ``count`` files into a folder of adapters, some at once, list them and ask for each; yields after each."""
    rng = random.Random(seed)
    for start in range(0, count, at_once):
        written = []
        for _ in range(min(at_once, count - start)):
            name, data = hostile_file(rng)
            (folder / name).write_bytes(data)
            written.append(folder / name)
        started = time.perf_counter()
        listed = host.client.get("/ip-adapter/models?refresh=true")
        tally.add((listed.status_code, listed.json()), "the list of models", time.perf_counter() - started)
        for path in written:
            one = {"model": path.stem, "images": [base64.b64encode(_file(_noise(rng))).decode()]}
            answer = host.post("txt2img", {"prompt": "a cat", "steps": 1, "width": 64, "height": 64,
                                           "alwayson_scripts": {"IP-Adapter": {"args": [one]}}})  # fmt: skip
            tally.add((answer.status_code, answer.json()), f"{path.name} {path.read_bytes()[:120]!r}")
            if answer.status_code == 200:
                tally.wrong.append(f"a picture came of {path.name}")
            path.unlink()
            yield
    host.client.get("/ip-adapter/models?refresh=true")


# Archives


def hostile_archive(rng: random.Random) -> bytes:
    image = _noise(rng)
    from lib_ipadapter.encode.picture import content_hash

    name = content_hash(image)
    one: dict[str, Any] = {"version": 1, "needs": 1, "name": "a", "units": [{"images": [f"sha256:{name}"]}]}
    change = rng.randrange(10)
    if change == 0:
        one[rng.choice(("version", "needs", "name", "units"))] = junk(rng)
    elif change == 1:
        one["units"] = [
            {rng.choice(("weight", "model", "images", "swirl")): junk(rng)} for _ in range(rng.randrange(12))
        ]
    elif change == 2:
        one["units"][0]["images"] = [f"sha256:{name}"] * rng.choice((64, 65, 5000))
    elif change == 3:
        one["units"][0]["weight"] = _lists(rng.choice((10, 900)))
    elif change == 4:
        one["name"] = rng.choice(("../a", "", "a" * 101, "\ud800", ".", 5))
    presets = rng.choice((junk(rng), [one] * 2)) if change == 5 else [one]
    buffer = io.BytesIO()
    method = (
        rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
        if change == 6
        else zipfile.ZIP_DEFLATED
    )
    png = rng.choice((_huge_png(), _file(image, "WEBP"), _turned(_file(image), rng))) if change == 7 else _file(image)
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("presets.json", json.dumps({"version": 1, "presets": presets}))
        archive.writestr(f"pictures/{name}.png" if change != 8 else f"../{name}.png", png)
    return _turned(buffer.getvalue(), rng) if change == 9 else buffer.getvalue()


def _lists(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def archives(host: Host, count: int, seed: int, tally: Tally) -> Iterator[None]:
    """Import ``count`` archives, and read whatever is there afterwards; yields after each."""
    rng, headers = random.Random(seed), {"Content-Type": "application/zip"}
    for _ in range(count):
        data, started = hostile_archive(rng), time.perf_counter()
        answer = host.client.post("/ip-adapter/presets-import?overwrite=true", content=data, headers=headers)
        tally.add((answer.status_code, answer.json()), f"an archive {data[:80]!r}", time.perf_counter() - started)
        listed = host.client.get("/ip-adapter/presets")
        tally.add((listed.status_code, listed.json()), "the list of presets")
        for name in listed.json().get("presets", []):
            preset = host.client.get(f"/ip-adapter/presets/{name}")
            tally.add((preset.status_code, preset.json()), f"preset {name}")
            host.client.delete(f"/ip-adapter/presets/{name}")
        yield


# All of it


def plain(host: Host) -> list[bytes]:
    return [image.tobytes() for image in host.txt2img(prompt="a cat", width=64, height=64, steps=2).images]


def watched(host: Host, steps: Iterator[None], tally: Tally, every: int = 100) -> None:
    """Go through the ``steps``; after some, a plain picture has to be what it was."""
    with contextlib.redirect_stderr(io.StringIO()) as printed:  # the host prints a traceback for each refusal
        before = plain(host)
        for number, _ in enumerate(steps, 1):
            if number % every == 0:
                printed.seek(0)
                printed.truncate()
                if plain(host) != before:
                    tally.wrong.append(f"after {number}, a plain picture is another one")
                    return
        if plain(host) != before:
            tally.wrong.append("at the end, a plain picture is another one")


def tried(folder: Path, counts: Mapping[str, int], seed: int) -> Iterator[tuple[str, int, Tally, int]]:
    """Each kind in ``counts``: its name, how many, what came of them, and by how many bytes the process has grown."""
    from tests.helpers.host import Hosts

    hosts = Hosts(folder)
    host, adapters = hosts.get("plain"), hosts.adapters()
    kinds: dict[str, Callable[[int, int, Tally], Iterator[None]]] = {
        "requests": lambda count, seed, tally: requests(host, count, seed, tally),
        "files": lambda count, seed, tally: files(host, adapters, count, seed, tally),
        "archives": lambda count, seed, tally: archives(host, count, seed, tally),
    }
    for name, count in counts.items():
        warm, tally = Tally(), Tally()
        # What is loaded and remembered the first time is no leak.
        watched(host, kinds[name](min(count, max(30, count // 10)), seed + 10**6, warm), warm)
        before = own_memory()
        watched(host, kinds[name](count, seed, tally), tally)
        tally.wrong[:0] = warm.wrong
        yield name, count, tally, own_memory() - before
    hosts.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--archives", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts = {name: getattr(options, name) for name in ("requests", "files", "archives")}
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DEMO_HOST_DATA"] = str(Path(folder) / "data")
        for name, count, tally, grown in tried(Path(folder), counts, options.seed):
            print(f"{count} {name}: {tally}; memory {grown / 2**20:+.0f} MiB", flush=True)
            for line in tally.wrong[:20]:
                print("  " + line)
            failed |= bool(tally.wrong or grown > MEMORY)
    sys.exit(failed)


if __name__ == "__main__":
    main()
