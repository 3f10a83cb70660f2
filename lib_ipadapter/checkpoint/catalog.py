"""The adapters and image encoders on disk: found by content, remembered by path, size and time."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import stat
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ..errors import CheckpointError
from . import identify as rules
from . import load
from .identify import PAIRS, PROJ, AdapterSpec, EncoderSpec, RefusedAdapter, TextSpec, UNetSpec

ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")  # of two files alike but for it, the first is meant
CHECKPOINT = (
    "This file is a Stable Diffusion checkpoint, not an adapter: put it into models/Stable-diffusion and choose it as "
    "the checkpoint."
)


class _Wanted(NamedTuple):
    """An encoder to get: its kind, the file to download, and the name to save it under."""

    kind: str
    file: str
    save_as: str


_H = _Wanted("ViT-H-14", "models/image_encoder/model.safetensors from h94/IP-Adapter", "CLIP-ViT-H-14.safetensors")
_BIG_G = _Wanted(
    "ViT-bigG-14", "sdxl_models/image_encoder/model.safetensors from h94/IP-Adapter", "CLIP-ViT-bigG-14.safetensors"
)
_L = _Wanted("ViT-L-14", "model.safetensors from openai/clip-vit-large-patch14", "CLIP-ViT-L-14.safetensors")
# Which published encoder puts out embeddings of which source and width.
PUBLISHED = {
    ("pooled", 1024): _H,
    ("pooled", 1280): _BIG_G,
    ("pooled", 768): _L,
    ("penultimate", 1280): _H,
    ("penultimate", 1664): _BIG_G,
    ("penultimate", 1024): _L,
}


_WITH_WORDS = {
    "ViT-H-14": "open_clip_pytorch_model.bin from laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    "ViT-bigG-14": "open_clip_pytorch_model.bin from laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
    "ViT-L-14": "model.safetensors from openai/clip-vit-large-patch14",
    "ViT-L-14-336": "pytorch_model.bin from openai/clip-vit-large-patch14-336",
}
"""The files that hold a published encoder with its text tower, both in one."""


@dataclass(frozen=True)
class Entry:
    """A file that may be a model: its name in the lists, its path, and which of the searched folders it lies in."""

    name: str
    path: Path
    folder: Path
    size: int


@dataclass(frozen=True)
class AdapterEntry(Entry):
    """A usable adapter."""

    spec: AdapterSpec


@dataclass(frozen=True)
class EncoderEntry(Entry):
    """A usable image encoder."""

    spec: EncoderSpec


@dataclass(frozen=True)
class UnusableEntry(Entry):
    """A file of no use here; ``problem`` says why and what to do.

    ``refused`` marks what is an adapter all the same, only none for here, or not a whole one.
    """

    problem: str
    refused: bool = False


_Kind = TypeVar("_Kind", bound=Entry)


class Catalog:
    """The files below ``adapter_folders`` and ``encoder_folders``; one that lies in either kind of folder is usable.

    ``memory`` is a JSON file in which recognised files stay known across restarts. Thread-safe.
    """

    def __init__(
        self, adapter_folders: Sequence[Path], encoder_folders: Sequence[Path], memory: Path | None = None
    ) -> None:
        self.adapter_folders = tuple(map(Path, adapter_folders))
        self.encoder_folders = tuple(map(Path, encoder_folders))
        self._memory = _Memory(memory)
        self._lock = threading.Lock()
        self._entries: tuple[Entry, ...] = ()

    @property
    def folders(self) -> list[Path]:
        """All folders that are searched, each once."""
        return list(dict.fromkeys((*self.adapter_folders, *self.encoder_folders)))

    @property
    def adapters(self) -> list[AdapterEntry]:
        """Usable adapters by name."""
        return [entry for entry in self._entries if isinstance(entry, AdapterEntry)]

    @property
    def encoders(self) -> list[EncoderEntry]:
        """Usable image encoders by name."""
        return [entry for entry in self._entries if isinstance(entry, EncoderEntry)]

    @property
    def foreign(self) -> list[UnusableEntry]:
        """Adapters of no use here, each with its ``problem``."""
        return [entry for entry in self.problems if entry.refused]

    @property
    def problems(self) -> list[UnusableEntry]:
        """Every file of no use here, each with its ``problem``: foreign adapters, LoRAs, damaged files, …"""
        return [entry for entry in self._entries if isinstance(entry, UnusableEntry)]

    def refresh(self) -> None:
        """Look at the disk again. Files known by path, size and time are not opened; others' headers are read."""
        with self._lock:
            seen: set[str] = set()
            entries = [
                self._memory.recall(found) for folder in self.folders for found in _model_files(folder, folder, seen)
            ]
            groups = [
                [entry for entry in entries if isinstance(entry, kind)]
                for kind in (AdapterEntry, EncoderEntry, UnusableEntry)
            ]
            self._entries = tuple(entry for group in groups for entry in _named(group))
            self._memory.save()

    def find(self, name: str) -> AdapterEntry:
        """The adapter of that name: upper or lower case, with or without file ending and folder.

        The name is only looked up in the list, never on the disk. Raises CheckpointError for a name that is not
        there, that means several files, or that means a file of no use (with that file's own reason).
        """
        wanted = str(name).strip().replace("\\", "/").casefold()
        usable = self.adapters
        if (adapter := _matching(usable, wanted)) is not None:
            return adapter
        if (encoder := _matching(self.encoders, wanted)) is not None:
            raise CheckpointError(
                f"{encoder.name} is an image encoder, not an adapter: choose an adapter as the model."
            )
        if (unusable := _matching(self.problems, wanted)) is not None:
            raise CheckpointError(f"{unusable.name} cannot be used. {unusable.problem}")
        folders = ", ".join(map(str, self.adapter_folders)) or "no folder at all"
        near = difflib.get_close_matches(wanted, names := [e.name.casefold() for e in usable], n=3, cutoff=0.5)
        if near:
            like = " or ".join(usable[names.index(n)].name for n in near)
            raise CheckpointError(f"no adapter is called {_shown(name)}: did you mean {like}? (Looked in {folders}.)")
        raise CheckpointError(
            f"no adapter is called {_shown(name)}: put its file into one of the folders searched ({folders}) and "
            "refresh the list of models."
        )

    def find_encoder(
        self, width: int, source: str, folder_hint: Path | str | None = None, *, trained_with: str | None = None
    ) -> EncoderEntry:
        """The image encoder whose ``source`` ("pooled" or "penultimate") is ``width`` wide.

        An adapter that names what it was ``trained_with`` fits that encoder alone, and an encoder with such a name
        fits no other adapter: equal widths do not make two encoders one. Of several, the published one for that job
        counts first, then the name. Raises CheckpointError if there is none; it names the file to get and the folder
        for it: ``folder_hint``, or else the first encoder folder.
        """
        size = {"pooled": "projection", "penultimate": "width"}[source]
        wanted = PUBLISHED.get((source, width))
        fitting = [
            entry for entry in self.encoders
            if getattr(entry.spec, size) == width and entry.spec.image_encoder == trained_with
        ]  # fmt: skip
        if fitting:
            return min(fitting, key=lambda entry: wanted is None or entry.spec.kind != wanted.kind)
        folder = folder_hint or next(iter(self.encoder_folders or self.adapter_folders), "models/clip_vision")
        if trained_with is not None:
            raise CheckpointError(
                f"the image encoder {_shown(trained_with)}, which the adapter was trained with, is missing: get it "
                f"from where the adapter came from, put it into {folder}, and refresh the list of models."
            )
        if wanted is None:
            raise CheckpointError(
                f"no image encoder here puts out {source} embeddings {width} wide, and no published one does: put the "
                f"encoder that the adapter was trained with into {folder} and refresh the list of models."
            )
        raise CheckpointError(
            f"the image encoder {wanted.kind} is missing ({source} embeddings {width} wide): download {wanted.file}, "
            f"put it into {folder} as {wanted.save_as}, and refresh the list of models."
        )

    def find_text_tower(self, encoder: EncoderEntry) -> EncoderEntry:
        """The file with the text tower that was trained together with the image encoder ``encoder``.

        That is the encoder's own file where it holds both towers, else another one with the same image tower; text and
        image meet in the space of one training only. Raises CheckpointError if there is none; it names the file to get
        and the folder for it.
        """
        if encoder.spec.text is not None:
            return encoder
        same = ("kind", "projection", "image_encoder")
        for entry in self.encoders:
            alike = all(getattr(entry.spec, name) == getattr(encoder.spec, name) for name in same)
            if entry.spec.text is not None and alike and _same_image_tower(entry, encoder):
                return entry
        file = _WITH_WORDS.get(encoder.spec.kind) if encoder.spec.image_encoder is None else None
        file = file or f"the whole CLIP model that {encoder.name} was taken from"
        raise CheckpointError(
            f"the image encoder {encoder.name} has no text encoder, which gives words their meaning: download {file}, "
            f"put it into {encoder.folder}, and refresh the list of models."
        )


def _same_image_tower(one: EncoderEntry, other: EncoderEntry) -> bool:
    try:
        return load.same_image_tower(one.path, other.path)
    except CheckpointError:  # gone or changed since it was listed
        return False


def _shown(name: str) -> str:
    text = repr(str(name))
    return text if len(text) <= 100 else f"{text[:97]}…"


# --- the disk -------------------------------------------------------------------------------------------------------


class _Found(NamedTuple):
    """A file with a model's ending. ``problem`` is there if it is plain without opening it that it is no use."""

    path: Path
    folder: Path
    size: int
    mtime_ns: int
    problem: str | None = None


def _model_files(directory: Path, root: Path, seen: set[str]) -> Iterator[_Found]:
    """Model files below ``directory``. ``seen``: directories visited, links resolved, so that links cannot loop and
    folders within folders are not listed twice."""
    real = os.path.realpath(directory)
    if real in seen:
        return
    seen.add(real)
    try:
        with os.scandir(directory) as listing:
            items = sorted(listing, key=lambda item: item.name)
    except OSError:  # a folder that is not there, or not for us, has no models
        return
    for item in items:
        is_model = os.path.splitext(item.name)[1].lower() in ENDINGS
        path = directory / item.name
        try:
            status = item.stat()
        except OSError as error:
            if is_model:
                what = "a link to a file that is not there" if item.is_symlink() else f"not readable ({error.strerror})"
                yield _Found(path, root, 0, 0, f"This file is {what}: download the model again.")
            continue
        if stat.S_ISDIR(status.st_mode):
            if is_model:
                yield _Found(path, root, 0, 0, "This is a folder with a model's name: look for the file inside it.")
            yield from _model_files(path, root, seen)
        elif is_model and not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            yield _Found(path, root, 0, 0, "This is a pipe or a device, not a file: put the model's file here.")
        elif is_model:
            yield _Found(path, root, status.st_size, status.st_mtime_ns)


# --- what is known --------------------------------------------------------------------------------------------------

_Record = dict[str, Any]  # what is kept of a file, as it stands in the JSON file


class _Memory:
    """(path, size, time) -> what a file was recognised as, in a JSON file where ``path`` is given.

    The rules' own source is part of the key: what an older version recognised is looked at again.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.known = self._read()
        self.used: dict[str, Any] = {}

    def recall(self, found: _Found) -> Entry:
        """The entry of a file, from memory if it has not changed, else from its header. Its name is yet to come."""
        if found.problem is not None:
            return UnusableEntry("", found.path, found.folder, found.size, found.problem)
        key = str(found.path)
        try:
            size, mtime_ns, record = facts = self.known[key]
            if (size, mtime_ns) == (found.size, found.mtime_ns):
                entry = _from_record(found, record)
                self.used[key] = facts
                return entry
        except (TypeError, ValueError, KeyError, AttributeError):  # not there, or written by somebody else
            pass
        try:
            record = _recognise(found.path)
        except CheckpointError as error:
            record = {"problem": error.detail, "refused": isinstance(error, RefusedAdapter)}
            if isinstance(error.__cause__, OSError):  # permissions can change without a trace in size or time
                return _from_record(found, record)
        self.used[key] = [found.size, found.mtime_ns, record]
        return _from_record(found, record)

    def save(self) -> None:
        """Keep what was used since the last time, and drop the rest. A disk that cannot be written is no trouble."""
        changed = self.used != self.known
        self.known, self.used = self.used, {}
        if self.path is None or not changed:
            return
        temporary = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", dir=self.path.parent, prefix=f".{self.path.name}.", delete=False
            ) as file:
                temporary = file.name
                json.dump({"rules": _rules(), "files": self.known}, file, separators=(",", ":"))
            os.replace(temporary, self.path)
        except OSError:
            if temporary is not None and os.path.exists(temporary):
                os.unlink(temporary)

    def _read(self) -> dict[str, Any]:
        try:
            memory = json.loads(self.path.read_bytes()) if self.path is not None else {}
            return dict(memory["files"]) if memory.get("rules") == _rules() else {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return {}


@lru_cache(maxsize=1)
def _rules() -> str:
    """Stands for the code that recognises files."""
    digest = hashlib.sha256()
    for module in (rules.__file__, load.__file__, __file__):
        digest.update(Path(module).read_bytes())
    return digest.hexdigest()[:16]


def _recognise(path: Path) -> _Record:
    """The record of a file, from its header. Raises CheckpointError."""
    slots = load.read_slots(path)
    spec = rules.identify({key: slot.shape for key, slot in slots.items()})
    if isinstance(spec, UNetSpec):
        raise CheckpointError(CHECKPOINT)
    spec = replace(spec, image_encoder=load.read_metadata(path).get("image_encoder"))
    if isinstance(spec, EncoderSpec):
        return {"kind": "encoder", "spec": asdict(spec)}
    if spec.alternatives:
        spec = _untied(path, spec, slots)
    return {"kind": "adapter", "spec": asdict(spec)}


def _untied(path: Path, spec: AdapterSpec, slots: dict[str, load.Slot]) -> AdapterSpec:
    """``spec`` with its tie broken by the file's name, dtypes, or hash."""
    names = rules.normalise_keys(slots)
    dtypes = [{slots[key].dtype for name, key in names.items() if name.startswith(half)} for half in (PROJ, PAIRS)]
    # Only a FaceID-Plus whose name says nothing is read whole, once: dtypes tell the other tie's published files apart.
    silent = spec.projection == "FaceIDPlus" and rules.named_variant(spec, path.stem) is None
    return rules.tie_break(spec, path.stem, _sha256(path) if silent else None, mixed_dtypes=dtypes[0] != dtypes[1])


def _sha256(path: Path) -> str | None:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:  # a hash is a hint: do without
        return None
    return digest.hexdigest()


def _from_record(found: _Found, record: _Record) -> Entry:
    """The entry of a file. Raises TypeError, ValueError, KeyError or AttributeError for what is no record."""
    place = ("", found.path, found.folder, found.size)
    if "problem" in record:
        return UnusableEntry(*place, str(record["problem"]), bool(record["refused"]))
    kind = record["kind"]
    facts: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in record["spec"].items()
    }
    if kind == "adapter":
        return AdapterEntry(*place, AdapterSpec(**facts))
    if kind != "encoder":
        raise KeyError(kind)
    if facts.get("text") is not None:
        facts["text"] = TextSpec(**facts["text"])
    return EncoderEntry(*place, EncoderSpec(**facts))


# --- names ----------------------------------------------------------------------------------------------------------


def _names(entry: Entry) -> list[str]:
    """What a file may be called, from its stem to its whole path."""
    inside = entry.path.relative_to(entry.folder)
    names = [inside.stem, inside.with_suffix("").as_posix(), inside.name, inside.as_posix()]
    above = ""
    for part in reversed(entry.folder.parts):
        above = f"{part.strip(os.sep)}/{above}"
        names.append(f"{above}{inside.with_suffix('').as_posix()}")
        names.append(f"{above}{inside.as_posix()}")
    return [name.encode("utf-8", "replace").decode().strip() for name in names]


def _named(entries: Sequence[_Kind]) -> list[_Kind]:
    """The entries by name, each under its shortest name that no other has."""
    choices = [_names(entry) for entry in entries]
    bearers = Counter(name for names in choices for name in {name.casefold() for name in names})
    named = []
    for entry, names in zip(entries, choices, strict=True):
        unique = next((name for name in names if bearers[name.casefold()] == 1), names[-1])
        named.append(replace(entry, name=unique))
    return sorted(named, key=lambda entry: (entry.name.casefold(), entry.name))


def _matching(entries: Sequence[_Kind], wanted: str) -> _Kind | None:
    """The entry that ``wanted`` (in lower case) means. CheckpointError if it could be one of several folders'."""
    for entry in entries:
        if entry.name.casefold() == wanted:
            return entry
    found = [entry for entry in entries if wanted in map(str.casefold, _names(entry))]
    if len({entry.path.with_suffix("") for entry in found}) > 1:
        raise CheckpointError(
            f"{wanted} means several files: choose one of {', '.join(entry.name for entry in found)}."
        )
    return min(found, key=lambda entry: ENDINGS.index(entry.path.suffix.lower()), default=None)
