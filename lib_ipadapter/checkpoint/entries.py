"""The files in the catalogue: adapters, image encoders, ControlNets for keypoints, and files of no use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import printable
from .specs import AdapterSpec, EncoderSpec, KeypointsSpec


@dataclass(frozen=True)
class Entry:
    """A file that may be a model: its name in the lists, its path, and which of the searched folders it lies in."""

    name: str
    path: Path
    folder: Path
    size: int

    @property
    def file(self) -> str:
        """Its place in the folder that was searched, as it can be shown and sent."""
        return printable(self.path.relative_to(self.folder).as_posix())

    @property
    def file_name(self) -> str:
        """The file's own name, as it can be shown and sent."""
        return printable(self.path.name)


@dataclass(frozen=True)
class AdapterEntry(Entry):
    """A usable adapter."""

    spec: AdapterSpec


@dataclass(frozen=True)
class EncoderEntry(Entry):
    """A usable image encoder."""

    spec: EncoderSpec


@dataclass(frozen=True)
class KeypointsEntry(Entry):
    """A ControlNet for SDXL, which may be InstantID's network of keypoints."""

    spec: KeypointsSpec


@dataclass(frozen=True)
class UnusableEntry(Entry):
    """A file of no use here; ``problem`` says why and what to do.

    ``refused`` marks what is an adapter all the same, only none for here, or not a whole one.
    """

    problem: str
    refused: bool = False
