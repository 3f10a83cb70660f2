"""The face packs on disk: where people have them, and what is wrong with one that cannot be used.

A pack is two networks: one finds faces, one recognises them. insightface's own archives hold further ones, which are
not needed. Nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ...errors import CheckpointError

FILES = {"buffalo_l": ("det_10g.onnx", "w600k_r50.onnx"), "antelopev2": ("scrfd_10g_bnkps.onnx", "glintr100.onnx")}
ADDRESS = "https://github.com/deepinsight/insightface/releases/download/v0.7/{name}.zip"
SHAPES = ("{name}", "{name}/{name}", "models/{name}", "models/{name}/{name}", ".")  # of the folders, below each of ours
ZIP_SHAPES = (".", "models", "{name}")
MEMBER_LIMIT = 512 * 2**20  # bytes; the largest network of both packs has 261 MB
CHUNK = 2**20


@dataclass(frozen=True)
class Pack:
    """The two files of a pack that is complete."""

    name: str
    detection: Path
    recognition: Path


def find_pack(name: str, folders: Sequence[Path], cache: Path) -> Pack:
    """The pack ``name`` in one of ``folders``, as files or as the archive that insightface offers: what is needed of an
    archive goes into the folder ``cache``. A complete pack is taken before an archive, the first before others.

    Raises CheckpointError that names the pack, what it lacks, the folder and the address.
    """
    place = _complete(name, folders)
    if place is None:
        archive = _archive(name, folders)
        if archive is None:
            raise missing(name, folders)
        place = _unpacked(archive, name, cache)
    return _pack(place, name)


def pack_identity(name: str, folders: Sequence[Path]) -> Hashable:
    """What is found with the pack ``name`` is remembered by this: the paths, sizes and times of change of its two
    files, or of the archive, as they are now. None where ``find_pack`` finds no pack. Nothing is unpacked."""
    place = _complete(name, folders)
    files = [_archive(name, folders)] if place is None else [place / file for file in FILES[name]]
    known = tuple((str(file), version) for file in files if file is not None and (version := file_version(file)))
    return known or None


def file_version(file: Path) -> tuple[int, int] | None:
    """A file's size in bytes and its time of change in ns; None for one that is not there."""
    try:
        stat = os.stat(file)
    except (OSError, ValueError):
        return None
    return stat.st_size, stat.st_mtime_ns


def address(name: str) -> str:
    return ADDRESS.format(name=name)


def _places(name: str, folders: Sequence[Path]) -> list[Path]:
    return list(dict.fromkeys(folder / shape.format(name=name) for folder in folders for shape in SHAPES))


def _complete(name: str, folders: Sequence[Path]) -> Path | None:
    """The first folder with both files."""
    return next((place for place in _places(name, folders) if not _lacking(place, name)), None)


def _archive(name: str, folders: Sequence[Path]) -> Path | None:
    """The first archive."""
    paths = (folder / shape.format(name=name) / f"{name}.zip" for folder in folders for shape in ZIP_SHAPES)
    return next((path for path in paths if os.path.isfile(path)), None)


def _pack(place: Path, name: str) -> Pack:
    detection, recognition = FILES[name]
    return Pack(name, place / detection, place / recognition)


def _lacking(place: Path, name: str) -> list[str]:
    # Path.is_file would raise where a folder may not be read, such as another user's.
    return [file for file in FILES[name] if not os.path.isfile(place / file)]


def missing(name: str, folders: Sequence[Path] = ()) -> CheckpointError:
    """What to say of a pack that is not in ``folders``, or (without any) is not where the WebUI looks by itself."""
    for place in _places(name, folders):
        lacking = _lacking(place, name)
        if len(lacking) < len(FILES[name]):
            return CheckpointError(
                f"the face pack {name} in {place} lacks {' and '.join(lacking)}: download {address(name)} and put the "
                "file from it there."
            )
    home = folders[0] / "models" / name if folders else Path("models/insightface/models") / name
    return CheckpointError(
        f"the face pack {name} is missing: download {address(name)} and put {' and '.join(FILES[name])} from it into "
        f"{home}, or the archive as it is into {home.parent}."
    )


def _unpacked(archive: Path, name: str, cache: Path) -> Path:
    """The folder with the pack's two files out of ``archive``. Their names are ours: nothing in an archive says where
    anything goes. Raises CheckpointError."""
    try:
        stat = archive.stat()
        known = f"{archive.absolute()} {stat.st_size} {stat.st_mtime_ns}"
        place = cache / f"{name}-{hashlib.sha256(known.encode()).hexdigest()[:16]}"
        if _lacking(place, name):
            cache.mkdir(parents=True, exist_ok=True)
            with _new_folder(cache, place) as made:
                _unpack(archive, name, made)
            _forget_others(place, name)
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        reason = str(error) or type(error).__name__
        raise CheckpointError(
            f"the archive {archive} of the face pack {name} cannot be unpacked ({reason}): download {address(name)} "
            "again."
        ) from None
    return place


def _unpack(archive: Path, name: str, place: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        for file in FILES[name]:
            member = next((one for one in opened.infolist() if _base(one.filename) == file), None)
            if member is None:
                raise CheckpointError(
                    f"the archive {archive} lacks {file} of the face pack {name}: download {address(name)} again."
                )
            with opened.open(member) as source, open(place / file, "wb") as target:
                _copy(source, target)


def _base(filename: str) -> str:
    return filename.replace("\\", "/").rpartition("/")[2]


def _copy(source: IO[bytes], target: IO[bytes]) -> None:
    """Copy, with what an archive says about sizes not believed. Raises OSError beyond the limit."""
    size = 0
    while chunk := source.read(CHUNK):
        size += len(chunk)
        if size > MEMBER_LIMIT:
            raise OSError(f"a file in it is larger than {MEMBER_LIMIT >> 20} MB")
        target.write(chunk)


@contextlib.contextmanager
def _new_folder(parent: Path, place: Path) -> Iterator[Path]:
    """A folder that becomes ``place`` in one go once it is filled; another process may be doing the same."""
    made = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=parent))
    try:
        yield made
        made.chmod(0o755)  # temporary folders are their maker's alone
        try:
            os.replace(made, place)
        except OSError:
            if not os.path.isdir(place):
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _forget_others(place: Path, name: str) -> None:
    """What came out of an archive that has been replaced since goes."""
    for other in place.parent.glob(f"{name}-*"):
        if other != place:
            shutil.rmtree(other, ignore_errors=True)
