"""Folders of references: which of them may be read, and what a job takes of them.

None may unless the setting “Folders for references” names it or one above it. A path is compared with these as text
before the disk is asked, so that nothing tells what else is there.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, NamedTuple

from ..checkpoint.names import shown
from ..encode.folders import (
    MAX_ENTRIES,
    MAX_PICTURES,
    FolderFile,
    FolderMark,
    FolderPictures,
    Listed,
    fingerprint,
    listed,
    natural,
    order_of,
    pictures_of,
)
from ..errors import IPAdapterError, UnitError, errors_name_unit
from ..reference import MAX_REFERENCES, Folder, Reference, called
from . import options, process

if TYPE_CHECKING:
    from ..unit import Unit

Check = Callable[[], None]
MAX_OFFERED = 200
MAX_PASTED = 20  # folders that are looked into for the parameters of one picture
PASTE_SECONDS = 30.0  # in which they are
_NUMBER = re.compile(r" \(\d{1,2}\)$")


class Walk(NamedTuple):
    """The pictures of a job that see a reference each: how many come before them, in img2img's batch of files for
    example, and how many they are."""

    first: int = 0
    pictures: int = MAX_PICTURES


EVERY = Walk()  # where there is no job
SIDE_BY_SIDE = Walk(pictures=MAX_REFERENCES)  # where a few are enough


class Found(NamedTuple):
    """An allowed folder, by its real path, and what it is called: from the allowed one's name on."""

    path: Path
    name: str


class Root(NamedTuple):
    """An allowed folder, where it really is, and its name, which has a number behind it where another of that name
    comes before it."""

    path: Path
    real: Path
    name: str


def _roots() -> list[Root]:
    roots: list[Root] = []
    for path in options.reference_folders():
        with suppress(OSError, ValueError):
            names, number = {one.name for one in roots}, 1
            while (name := path.name if number == 1 else f"{path.name} ({number})") in names and path.name:
                number += 1
            roots.append(Root(path, Path(os.path.realpath(path)), name))
    return roots


def find(text: str) -> Found:
    """The folder that a path means, or a name that ``Found`` has given. Raises UnitError for one that the setting does
    not allow, or that is not there: it does not say which."""
    if found := next(_candidates(text), None):
        return found
    setting = f"the setting “{options.REFERENCE_FOLDERS.label}” (Settings > IP-Adapter)"
    wrong = [str(number) for number in options.no_whole_paths()]
    also = f" Passed over there, because a folder has its whole path: line {', '.join(wrong)}." if wrong else ""
    if not options.reference_folders():
        raise UnitError(f"no folder of references may be read: name the folders that may in {setting}.{also}")
    raise UnitError(
        f"the folder {shown(text)} is not there, or not below one that {setting} names: correct it, or add it "
        f"there.{also}"
    )


def _candidates(text: str) -> Iterator[Found]:
    """The folders that ``text`` may mean, each once: by a path or a root's own name first, then by the last name of any
    of them. What no system takes for a name is not there."""
    roots, seen = _roots(), set()
    for is_own in (True, False):
        for root in roots:
            with suppress(OSError, ValueError):
                found = _below(text, root, is_own)
                if found is not None and found.path not in seen:
                    seen.add(found.path)
                    yield found


def _below(text: str, root: Root, is_own: bool) -> Found | None:
    path = _meant(text, root, is_own)
    inside = None if path is None else _inside(path, root.path) or _inside(path, root.real)
    if inside is None:
        return None
    found = Path(os.path.realpath(root.real / inside))
    if _inside(found, root.real) is None or not found.is_dir():
        return None
    name = "/".join((*[root.name] * bool(root.name), *found.relative_to(root.real).parts))
    name.encode()  # what cannot be written down has no name
    return Found(found, name)


def _meant(text: str, root: Root, is_own: bool) -> PurePath | None:
    """What a text means beside an allowed folder: the path itself, or the name of that folder and what is below it.
    ``is_own``: the name that it has here, else the last one of its path, without the number that it had elsewhere."""
    path = PurePath(os.path.expanduser(text))
    if path.is_absolute():
        return PurePath(os.path.normpath(path))
    parts = PurePath(text).parts
    if not root.path.name:
        return PurePath(os.path.normpath(root.path / text))
    name = "".join(parts[:1])
    means_it = name == root.name if is_own else _NUMBER.sub("", name) == root.path.name
    return PurePath(os.path.normpath(root.path.joinpath(*parts[1:]))) if means_it else None


def _inside(path: PurePath, root: Path) -> PurePath | None:
    """What leads from ``root`` to ``path``, None where that is not below it."""
    with suppress(ValueError):
        return path.relative_to(root)
    return None


def _is_allowed(path: Path) -> bool:
    return any(_inside(path, root.real) is not None for root in _roots())


def with_folders(units: Sequence[Unit], walk: Walk, check: Check = lambda: None) -> list[Unit]:
    """The units with what the job takes of their folders: all pictures where they become one or act side by side, and
    those that the job's pictures see where each sees its own. Lists of pictures are turned to begin with the reference
    of the job's first picture.

    ``check`` is called before each file and may raise. Raises IPAdapterError (unit and reference named).
    """
    done = []
    for unit in units:
        with errors_name_unit(unit.number):
            done.append(_with_folders(unit, walk, check))
    return done


def _with_folders(unit: Unit, walk: Walk, check: Check) -> Unit:
    if len(unit.references) == 1 and (folder := unit.references[0].folder) is not None and folder.only is not None:
        return replace(unit, references=(_only(unit.references[0], folder, folder.only, check),))
    folders = [i for i, one in enumerate(unit.references) if one.folder is not None and one.image is None]
    if unit.batch == "same":
        references = list(unit.references)
        for i in folders:
            references[i] = _read(references[i], called(i, len(references)), None, check)
        return replace(unit, references=tuple(references)) if folders else unit
    if folders and len(unit.references) > 1:
        raise UnitError(
            f"{called(folders[0], 2)}a folder stands beside other references, and {unit.called('batch')} is “per "
            "image”: put the others into the folder, or into another unit."
        )
    if folders:
        return replace(unit, references=(_read(unit.references[0], called(0, 1), walk, check),))
    if any(one.repeats for one in unit.references):  # start pictures, which have their places already
        return unit
    turned = [unit.references[(walk.first + i) % len(unit.references)] for i in range(len(unit.references))]
    if len(turned) > MAX_REFERENCES:  # the others are seen by none of the job's pictures
        turned = [replace(one, alone=True) for one in turned[: walk.pictures]]
    return replace(unit, references=tuple(turned))


def _only(reference: Reference, folder: Folder, place: int, check: Check) -> Reference:
    """The one picture of a folder that is meant, as a reference by itself."""
    there = _listed(found := find(folder.path), check)
    if place >= len(there.files):
        raise UnitError(
            f"{called(0, 1)}the X/Y/Z plot wants picture {place + 1} of the folder {shown(found.name)}, which has "
            f"{len(there.files)} by now: put it back, or take the number out."
        )
    file = there.files[order_of(len(there.files), folder.order, folder.seed)[place]]
    (picture,), _ = pictures_of([file], process.known_files(), check)
    return replace(reference, image=picture, folder=None)


def _read(reference: Reference, where: str, walk: Walk | None, check: Check) -> Reference:
    """A reference with what its folder holds for the job; where it is walked, it starts with the job's first."""
    assert reference.folder is not None
    try:
        folder, found = reference.folder, find(reference.folder.path)
        there = _listed(found, check)
        places = order_of(len(there.files), folder.order, folder.seed)
        if walk is None:
            folder = replace(folder, start=0)
        else:
            folder = replace(folder, start=(folder.start + walk.first) % len(places))
            count = min(walk.pictures, len(places))
            places = [places[(folder.start + i) % len(places)] for i in range(count)]
        known = process.known_files()
        mark = FolderMark(fingerprint(there.files, known, check), found.name, folder.order, folder.seed, folder.start)
        pictures, names = pictures_of([there.files[place] for place in places], known, check)
    except IPAdapterError as error:
        raise type(error)(f"{where}{error.detail}") from None
    return replace(reference, folder=folder, image=FolderPictures(mark, pictures, names, tuple(there.notes)))


def _listed(found: Found, check: Check) -> Listed:
    """Raises UnitError for a folder without any picture."""
    there = listed(found.path, _is_allowed, process.known_files(), check)
    if not there.files:
        raise UnitError(f"the folder {shown(found.name)} has no picture in it: put some there, or choose another.")
    return there


def first(folder: Folder, at_most: int, walks: bool) -> tuple[int, list[FolderFile], list[str]]:
    """How many pictures a folder has, the first of them in its order, and notes on it. ``walks``: it begins where a
    walk through it does. Raises IPAdapterError."""
    there = _listed(find(folder.path), lambda: None)
    places = order_of(len(there.files), folder.order, folder.seed)
    begin = folder.start if walks else 0
    shown_places = [places[(begin + i) % len(places)] for i in range(min(at_most, len(places)))]
    return len(places), [there.files[place] for place in shown_places], there.notes


def offered() -> list[str]:
    """The names of folders that may be read: of those that the setting names, and of those directly in them."""
    names: list[str] = []
    for root in _roots():
        with suppress(OSError, ValueError):
            inside = sorted(_folders_in(root.path), key=natural)
            names += [*[root.name] * bool(root.name), *(f"{root.name}/{one}".removeprefix("/") for one in inside)]
        if len(names) > MAX_OFFERED:
            break
    return [*dict.fromkeys(names)][:MAX_OFFERED]


def _folders_in(folder: Path) -> Iterator[str]:
    """The names of folders among the first entries of one; links and hidden ones aside."""
    with os.scandir(folder) as entries:
        for entry in islice(entries, MAX_ENTRIES):
            with suppress(OSError, ValueError):
                if not entry.name.startswith(".") and entry.name.encode() and is_folder(entry):
                    yield entry.name


def is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


class _Over(Exception):
    """No time is left."""


def pasted() -> Callable[[FolderMark], tuple[str, str] | None]:
    """For the parameters of one picture: what gives the name of a folder that they mark, and the hash of its content
    now, "" where that takes too long; None where it is not there, or not allowed any more. Of several folders of that
    name it is the one that holds what it did."""
    until, left = time.monotonic() + PASTE_SECONDS, MAX_PASTED

    def check() -> None:
        if time.monotonic() > until:
            raise _Over

    def found(mark: FolderMark) -> tuple[str, str] | None:
        nonlocal left
        first: tuple[str, str] | None = None
        try:
            for one in _candidates(mark.name):
                check()
                if left <= 0:
                    raise _Over
                left -= 1
                with suppress(IPAdapterError):
                    now = one.name, fingerprint(_listed(one, check).files, process.known_files(), check)
                    if now[1].startswith(mark.content_hash):
                        return now
                    first = first or now
        except _Over:
            return one.name, ""
        return first

    return found


def opened(references: Sequence[Reference], at_most: int) -> tuple[Reference, ...]:
    """The references with the first pictures of folders in the place of these, to be looked at."""
    found: list[Reference] = []
    for one in references:
        if isinstance(one.image, FolderPictures):
            found += [Reference(picture, one.weight) for picture in one.image.pictures[:at_most]]
        else:
            found.append(one)
    return tuple(found)
