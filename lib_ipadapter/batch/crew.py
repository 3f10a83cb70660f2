"""What a run knows of those who do the work: what it gives them, and what they tell. Whether Ray is behind it, or a
simulation, is no matter here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

MAKE, ENCODE = "make", "encode"
# What has become of a piece of work.
DONE, REFUSED, FAILED, LATE, LOST, LACKING = "done", "refused", "failed", "late", "lost", "lacking"


@dataclass(frozen=True)
class Work:
    """A request for a WebUI. ``files``: what the sources in ``body`` hold; ``references``: the embeddings that it
    needs, by key. ``name``: what its pictures' files begin with."""

    kind: str
    position: int
    route: str
    body: Mapping[str, Any]
    name: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    references: Sequence[str] = ()
    needs: tuple[str, ...] = ()
    checkpoint: str = ""


@dataclass(frozen=True)
class Part:
    """A picture, or a file of embeddings, that came whole. ``coming``: its name in the run's folder of what is coming,
    where the worker sees that; else ``data``."""

    ending: str
    sha256: str
    size: int
    infotext: str = ""
    coming: str = ""
    data: bytes = b""


@dataclass(frozen=True)
class Outcome:
    """What has become of a piece of work, or why there is none; ``sentence`` is for people."""

    kind: str
    sentence: str = ""
    seconds: float = 0.0
    parts: Sequence[Part] = ()


@dataclass(frozen=True)
class Landed:
    """A piece of work is back."""

    endpoint: str
    work: Work
    outcome: Outcome


@dataclass(frozen=True)
class Up:
    """A WebUI is ready, for the first time or again."""

    endpoint: str


@dataclass(frozen=True)
class Down:
    """A WebUI has gone, or its worker; it is waited for."""

    endpoint: str
    sentence: str = ""


@dataclass(frozen=True)
class Gone:
    """A WebUI that is waited for no more. Of several that go together, the last one says why."""

    endpoint: str
    sentence: str = ""


Event = Landed | Up | Down | Gone


class Crew(Protocol):
    """Those who do the work."""

    def names(self) -> Sequence[str]:
        """All WebUIs that are there or waited for."""

    def send(self, endpoint: str, work: Work) -> None:
        """Give a WebUI a piece of work; ``wait`` tells what becomes of it, in every case."""

    def wait(self) -> Sequence[Event]:
        """What has happened; none after a while in which nothing has."""
