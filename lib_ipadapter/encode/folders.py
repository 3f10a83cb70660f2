"""A folder of references: which of its files are pictures, in which order, and each picture read from its file whenever
it is looked at, so that one of them is in memory at a time.

Files are recognised by their content. Hidden files, folders inside it, links that lead out, and what is no picture that
can be read here are passed over.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import stat
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from ..checkpoint.names import shown
from ..errors import IPAdapterError, PictureError, UnitError
from ..reference import MAX_PATH
from .formats import FORMATS, HEAD, kind_of
from .picture import Picture

MAX_ENTRIES = 20_000  # files of a folder that are looked at
MAX_PICTURES = 5_000
MAX_FILE = 256 * 2**20  # bytes of a picture's file
MAX_BYTES = 32 * 2**30  # bytes of all of them
KEPT_FACTS = 50_000  # files that are remembered
HASH_LENGTH = 12  # hexadecimal digits of a content hash that parameters have
PLAIN = " /!#$&'()+,;=@[]^`{}"  # what stands in a folder's name as it is, beside letters and digits
OPENED = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class FolderFile(NamedTuple):
    """A file as it was seen: ``stamp`` is its device, number, size and time of change."""

    path: Path
    stamp: tuple[int, int, int, int]

    def read(self, limit: int = MAX_FILE) -> bytes:
        """The file, or its first ``limit`` bytes. Raises PictureError where it is gone, or another one by now."""
        name = shown(self.path.name)
        try:
            with os.fdopen(os.open(self.path, OPENED), "rb") as opened:
                about = os.fstat(opened.fileno())
                if not stat.S_ISREG(about.st_mode) or stamp_of(about) != self.stamp:
                    raise PictureError(f"The file {name} has changed meanwhile: make the picture again.")
                return opened.read(limit)
        except OSError as error:
            raise PictureError(
                f"The file {name} cannot be read ({error.strerror}): check it, or take it out."
            ) from error


def stamp_of(about: os.stat_result) -> tuple[int, int, int, int]:
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns


@dataclass
class Facts:
    """What is known of a file: whether it is a picture, the SHA-256 of the file, and what a Picture is known by."""

    is_picture: bool
    digest: str | None = None
    of_picture: dict[str, Any] | None = None


class KnownFiles:
    """What files were found to be, for any number of threads: none is read twice while it stays as it is."""

    def __init__(self) -> None:
        self._known: dict[FolderFile, Facts] = {}
        self._lock = threading.Lock()

    def of(self, file: FolderFile) -> Facts:
        with self._lock:
            found = self._known.get(file)
        if found is None:
            found = Facts(kind_of(file.read(HEAD)) in FORMATS)
            with self._lock:
                while len(self._known) >= KEPT_FACTS:
                    self._known.pop(next(iter(self._known)))
                self._known[file] = found
        return found

    def digest(self, file: FolderFile) -> str:
        """SHA-256 of the file, in hex."""
        facts = self.of(file)
        if facts.digest is None:
            facts.digest = hashlib.sha256(file.read()).hexdigest()
        return facts.digest

    def picture(self, file: FolderFile) -> Picture:
        """The picture in a file, which is read whenever its image is asked for. Raises PictureError."""
        facts = self.of(file)
        if facts.of_picture is None:
            data = file.read()
            facts.digest = facts.digest or hashlib.sha256(data).hexdigest()
            facts.of_picture = Picture.facts_of(data)
        return Picture.known(file.read, facts.of_picture)


@dataclass(frozen=True)
class Listed:
    """A folder's pictures by their names, and how many of its files were passed over for what reason."""

    files: tuple[FolderFile, ...]
    no_pictures: int = 0
    leading_out: int = 0

    @property
    def notes(self) -> list[str]:
        found = []
        if self.no_pictures:
            found.append(f"passed over {self.no_pictures} of its files, in which there is no picture to be read here.")
        if self.leading_out:
            found.append(f"passed over {self.leading_out} of its links, which lead out of what is allowed.")
        return found


def listed(
    folder: Path, is_allowed: Callable[[Path], bool], known: KnownFiles, check: Callable[[], None] = lambda: None
) -> Listed:
    """The pictures of ``folder`` by name, as people sort: 2 before 10. ``is_allowed`` says of a file that a link leads
    to whether it may be read; ``check`` is called before each file and may raise.

    Raises UnitError where the folder cannot be read, has no picture, or too much.
    """
    files, no_pictures, leading_out, total = [], 0, 0, 0
    for path in _entries(folder):
        check()
        real = Path(os.path.realpath(path)) if path.is_symlink() else path
        if real != path and not is_allowed(real):
            leading_out += 1
            continue
        try:
            about = real.lstat()
            file = FolderFile(real, stamp_of(about))
            if not stat.S_ISREG(about.st_mode):
                continue
            if about.st_size > MAX_FILE or not known.of(file).is_picture:
                no_pictures += 1
                continue
        except (OSError, PictureError):
            no_pictures += 1
            continue
        files.append((path.name, file))
        total += about.st_size
        if len(files) > MAX_PICTURES:
            raise UnitError(f"the folder has more than {MAX_PICTURES:,} pictures: split it into several.")
        if total > MAX_BYTES:
            raise UnitError(f"the folder's pictures take more than {MAX_BYTES >> 30} GB: scale them down, or split it.")
    files.sort(key=lambda one: natural(one[0]))
    return Listed(tuple(file for _, file in files), no_pictures, leading_out)


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, hidden files aside."""
    found: list[Path] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if len(found) == MAX_ENTRIES:
                    raise UnitError(f"the folder has more than {MAX_ENTRIES:,} files: split it into several.")
                found.append(folder / entry.name)
    except OSError as error:
        raise UnitError(f"the folder cannot be read ({error.strerror}): check its permissions.") from error
    return sorted(found)


def natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """What names are sorted by, with numbers in them as numbers and letters in any case."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    numbers = [(0, int(one[:1000]), "") if one[0] in "0123456789" else (1, 0, one.casefold()) for one in parts]
    return numbers, name


def order_of(count: int, order: str, seed: int) -> list[int]:
    """The places of ``count`` files in an order: "name", or "shuffle", which is one and the same for a ``seed``. The
    global random generators are left alone."""
    places = [*range(count)]
    if order == "shuffle":
        random.Random(seed).shuffle(places)
    return places


def fingerprint(files: Sequence[FolderFile], known: KnownFiles, check: Callable[[], None] = lambda: None) -> str:
    """SHA-256 over what the files hold, in hex: of a folder whose files are in the order of their names."""
    digest = hashlib.sha256()
    for file in files:
        check()
        digest.update(known.digest(file).encode())
    return digest.hexdigest()


_MARK = re.compile(r"([0-9a-f]{12,64})(?:~(\d{1,16}))?(?:\+(\d{1,16}))? (.+)", re.IGNORECASE)


@dataclass(frozen=True)
class FolderMark:
    """What parameters say of a folder: the hash of its content, its name, and how it is walked."""

    content_hash: str
    name: str
    order: str = "name"
    seed: int = 0
    start: int = 0

    @property
    def text(self) -> str:
        """ "0123456789ab~7+12 styles/oil": the content hash, a shuffle's seed behind ~, the place of the first picture
        behind +, and the name."""
        seed, start = f"~{self.seed}" * (self.order == "shuffle"), f"+{self.start}" * bool(self.start)
        return f"{self.content_hash[:HASH_LENGTH]}{seed}{start} {quote(self.name, safe=PLAIN)}"

    @classmethod
    def of_text(cls, text: str) -> FolderMark | None:
        """What ``text`` gave, with what that has of the content hash; None for anything else."""
        found = _MARK.fullmatch(text)
        if found is None:
            return None
        content_hash, seed, start, name = found.groups()
        order = "name" if seed is None else "shuffle"
        name = unquote(name)
        if not 1 <= len(name.strip()) <= MAX_PATH or "\0" in name:
            return None
        return cls(content_hash.lower(), name, order, int(seed or 0), int(start or 0))

    @property
    def item(self) -> dict[str, Any]:
        """The reference that it was, as the API has it."""
        found: dict[str, Any] = {"folder": self.name}
        found |= {"order": self.order, "seed": self.seed} if self.order == "shuffle" else {}
        return found | ({"start": self.start} if self.start else {})

    def gone(self, now: str | None) -> str:
        """The sentence for one that does not hold any more what it did: of what its content's hash is ``now``, "" where
        nobody has looked, None where it is not there."""
        if now == "":
            return (
                f"the folder “{self.name}” was not compared with what it held, which takes too long: paste again, or "
                "go on with it."
            )
        if now is not None:
            return f"the folder “{self.name}” holds other pictures than it did: put those back, or go on with these."
        return (
            f"the folder “{self.name}” is not here, or not among those that the setting “Folders for references” "
            "allows: add it there, or add pictures."
        )


@dataclass(frozen=True)
class FolderPictures:
    """The pictures of a folder that a job uses, in their order, with their files' names; and ``notes`` about it."""

    mark: FolderMark
    pictures: tuple[Picture, ...] = field(repr=False)
    names: tuple[str, ...] = field(repr=False)
    notes: tuple[str, ...] = ()


def pictures_of(
    files: Sequence[FolderFile], known: KnownFiles, check: Callable[[], None] = lambda: None
) -> tuple[tuple[Picture, ...], tuple[str, ...]]:
    """The pictures in files, and these files' names. Raises PictureError, which names the file."""
    pictures = []
    for file in files:
        check()
        try:
            pictures.append(known.picture(file))
        except IPAdapterError as error:
            raise type(error)(f"{shown(file.path.name)}: {error.detail}") from None
    return tuple(pictures), tuple(shown(file.path.name) for file in files)
