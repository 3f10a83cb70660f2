"""The adapters, image encoders and ControlNets for keypoints on disk: found by content, remembered by path, size and
time."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import CheckpointError
from . import instantid
from .entries import AdapterEntry, EncoderEntry, Entry, KeypointsEntry, UnusableEntry
from .folders import model_files
from .load import same_image_tower
from .memory import Memory
from .names import few, matching, named, shown
from .reading import Reading
from .specs import CLIP
from .wanted import PUBLISHED, WITH_TEXT_TOWER, missing_encoder

AUTO = "auto"  # in the place of an image encoder's name
WIDTHS = {"pooled": "projection", "penultimate": "width", "last": "width"}  # of what an encoder puts out


class Catalog:
    """The files below ``adapter_folders`` and ``encoder_folders``; one that lies in either kind of folder is usable.

    ``memory`` is a JSON file in which recognised files stay known across restarts. ``runs_flux`` says whether adapters
    for FLUX are of use where the catalogue is: they are listed either way. Thread-safe.
    """

    def __init__(
        self,
        adapter_folders: Sequence[Path],
        encoder_folders: Sequence[Path],
        memory: Path | None = None,
        runs_flux: Callable[[], bool] = lambda: False,
    ) -> None:
        self.runs_flux = runs_flux
        self.adapter_folders = tuple(map(Path, adapter_folders))
        self.encoder_folders = tuple(map(Path, encoder_folders))
        self._memory = Memory(memory)
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
    def keypoints_networks(self) -> list[KeypointsEntry]:
        """ControlNets for SDXL by name: InstantID's network of keypoints, and others that have its shapes."""
        return [entry for entry in self._entries if isinstance(entry, KeypointsEntry)]

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
            found = [file for folder in self.folders for file in model_files(folder, folder, seen)]
            known = [self._memory.recall(file) for file in found]
            with Reading(file.path for file, entry in zip(found, known, strict=True) if entry is None) as reading:
                entries = [
                    self._memory.recognise(file, reading) if entry is None else entry
                    for file, entry in zip(found, known, strict=True)
                ]
            groups = [
                [entry for entry in entries if isinstance(entry, kind)]
                for kind in (AdapterEntry, EncoderEntry, KeypointsEntry, UnusableEntry)
            ]
            self._entries = tuple(entry for group in groups for entry in named(group))
            self._memory.save()

    def find(self, name: str) -> AdapterEntry:
        """The adapter of that name: upper or lower case, with or without file ending and folder.

        The name is only looked up in the list, never on the disk. Raises CheckpointError for a name that is not
        there, that means several files, or that means a file of no use (with that file's own reason).
        """
        wanted = str(name).strip().replace("\\", "/").casefold()
        usable = self.adapters
        if (adapter := matching(usable, wanted)) is not None:
            return adapter
        if (encoder := matching(self.encoders, wanted)) is not None:
            raise CheckpointError(
                f"{encoder.name} is an image encoder, not an adapter: choose an adapter as the model."
            )
        if (network := matching(self.keypoints_networks, wanted)) is not None:
            raise CheckpointError(f"{network.name} is a ControlNet, not an adapter: choose an adapter as the model.")
        if (unusable := matching(self.problems, wanted)) is not None:
            raise CheckpointError(f"{unusable.name} cannot be used. {unusable.problem}")
        folders = ", ".join(map(str, self.adapter_folders)) or "no folder at all"
        near = difflib.get_close_matches(wanted, names := [e.name.casefold() for e in usable], n=3, cutoff=0.5)
        if near:
            like = " or ".join(usable[names.index(n)].name for n in near)
            raise CheckpointError(f"no adapter is called {shown(name)}: did you mean {like}? (Looked in {folders}.)")
        raise CheckpointError(
            f"no adapter is called {shown(name)}: put its file into one of the folders searched ({folders}) and "
            "refresh the list of models."
        )

    def find_keypoints_network(self, name: str = AUTO) -> KeypointsEntry:
        """InstantID's network of keypoints: the ControlNet of that ``name``, or the one whose own name says it.

        Raises CheckpointError if there is none, or several may be it; it names the file to get and the folder for it.
        """
        networks = self.keypoints_networks
        if name == AUTO:
            return instantid.chosen(networks, self.problems, next(iter(self.adapter_folders), "models/ControlNet"))
        entry = matching(networks, name.replace("\\", "/").casefold())
        if entry is not None:
            return entry
        there = f"choose {few([one.name for one in networks])}, or leave" if networks else "leave"
        raise CheckpointError(f"no ControlNet for SDXL is called {shown(name)}: {there} it at “{AUTO}”.")

    def fitting_encoders(self, width: int, source: str, family: str = CLIP) -> list[EncoderEntry]:
        """The image encoders of that ``family`` whose ``source`` (one of WIDTHS) is ``width`` wide, by name."""
        size = WIDTHS[source]
        return [entry for entry in self.encoders if entry.spec.family == family and getattr(entry.spec, size) == width]

    def find_encoder(
        self, width: int, source: str, *, trained_with: str | None = None, name: str = AUTO, family: str = CLIP
    ) -> EncoderEntry:
        """The image encoder of that ``family`` whose ``source`` (one of WIDTHS) is ``width`` wide: the one of that
        ``name``, or the one that the adapter is for.

        An adapter that names what it was ``trained_with`` fits that encoder alone, and an encoder with such a name
        fits no other adapter: equal widths do not make two encoders one. Nor does one with a published one's sizes and
        another activation fit, unless it is named. Of several, the published one for that job counts first, then the
        name. Raises CheckpointError if there is none; it names the file to get and the folder for it.
        """
        fitting = self.fitting_encoders(width, source, family)
        if name != AUTO:
            return self._named_encoder(name, width, source, family, fitting)
        wanted = PUBLISHED.get((source, width))
        own = [entry for entry in fitting if entry.spec.image_encoder == trained_with]
        any_training = wanted is None or trained_with is not None
        meant = [entry for entry in own if any_training or not entry.spec.retrained]
        if meant:
            return min(meant, key=lambda entry: wanted is None or entry.spec.kind != wanted.kind)
        folder = next(iter(self.encoder_folders or self.adapter_folders), "models/clip_vision")
        raise CheckpointError(missing_encoder(width, source, trained_with, folder, self._entries))

    def _named_encoder(
        self, name: str, width: int, source: str, family: str, fitting: Sequence[EncoderEntry]
    ) -> EncoderEntry:
        """The image encoder that a unit asks for by its name. Raises CheckpointError for one that does not fit."""
        entry = matching(self.encoders, name.replace("\\", "/").casefold())
        if entry in fitting and entry is not None:
            return entry
        what = f"no image encoder is called {shown(name)}"
        if entry is not None and entry.spec.family != family:
            what = f"the image encoder {entry.name} is {entry.spec.kind}, where the adapter takes a {family} encoder"
        elif entry is not None:
            made = getattr(entry.spec, WIDTHS[source])
            what = (
                f"the image encoder {entry.name} ({entry.spec.kind}) makes {source} embeddings {made} wide, where the "
                f"adapter takes {width}"
            )
        instead = f"choose {few([one.name for one in fitting])}, or leave" if fitting else "leave"
        raise CheckpointError(f"{what}: {instead} the unit's encoder at “{AUTO}”.")

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
        file = WITH_TEXT_TOWER.get(encoder.spec.kind) if encoder.spec.image_encoder is None else None
        file = file or f"the whole CLIP model that {encoder.name} was taken from"
        raise CheckpointError(
            f"the image encoder {encoder.name} has no text encoder, which gives words their meaning: download {file}, "
            f"put it into {encoder.folder}, and refresh the list of models."
        )


def _same_image_tower(one: EncoderEntry, other: EncoderEntry) -> bool:
    try:
        return same_image_tower(one.path, other.path)
    except CheckpointError:  # gone or changed since it was listed
        return False


__all__ = ["PUBLISHED", "AdapterEntry", "Catalog", "EncoderEntry", "Entry", "KeypointsEntry", "UnusableEntry"]
