"""What this extension asks of a ControlNet, in small questions. Each ControlNet answers them in a file of its own.

``get`` is always a unit's field by the name that it has there: the unit's own, or ControlNet's default where a client
has left it out. A picture, or what is painted over it, is in any form that ``encode.picture.decode`` takes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import NDArray

from ...checkpoint.specs import AdapterSpec

Get = Callable[[str], Any]
Painted = tuple[Any, Any]  # a picture, and what is painted over it or None
Pixels = NDArray[Any]


@dataclass(frozen=True)
class Habits:
    """How its IP-Adapter differs from ours. ``crop`` is the one of ours that does what it does."""

    crop: str
    averages: bool  # it takes the mean of a unit's pictures, and not just the first
    heeds_passes: bool  # it keeps to a unit's option for hires fix
    paints_regions: bool  # what is painted over a picture is where in the result the adapter acts
    has_layers: bool  # its units have weights of single layers
    window: str  # how start and end differ there


@dataclass(frozen=True)
class InstantID:
    """How it does InstantID: its preprocessors for the face and for the points, one of the ``name_parts`` of the
    network of points that it is known by, and what else it wants."""

    face: str
    points: str
    name_parts: tuple[str, ...]
    names_adapter: bool  # the adapter's file must have such a part in its name, too
    side_by_side: bool  # the two units must stand one after the other


class ControlNet(ABC):
    """One ControlNet, which is loaded."""

    title: ClassVar[str]  # in sentences
    its: ClassVar[str]  # the same before a unit of it
    product: ClassVar[str]  # where it is not there
    remedy: ClassVar[str]  # what to do then
    habits: ClassVar[Habits]
    instantid: ClassVar[InstantID]

    @abstractmethod
    def unit_name(self, number: int) -> str:
        """Its unit ``number``, counted from 1, in sentences."""

    @abstractmethod
    def script(self, runner: Any) -> Any | None:
        """Its script in a runner, None where it is switched off."""

    @abstractmethod
    def models(self, *, anew: bool = False) -> Mapping[str, Any]:
        """What it calls its models -> their files; ``anew``: after a look at its folders."""

    @abstractmethod
    def modules(self) -> Sequence[str]:
        """Its preprocessors' names."""

    @abstractmethod
    def feeds(self, spec: AdapterSpec) -> Sequence[str]:
        """The names of preprocessors that feed an adapter, of newer versions first."""

    # Its units

    @abstractmethod
    def unit(self, **fields: Any) -> Any:
        """A unit with these fields, the others at their defaults. Raises whatever it raises for values that it does
        not allow."""

    @abstractmethod
    def names(self, field: str) -> Sequence[str]:
        """The names by which clients may call a field of a unit that they send as an object."""

    @abstractmethod
    def is_ip_adapter(self, module: str) -> bool:
        """Whether the units with this preprocessor are IP-Adapters."""

    @abstractmethod
    def pictures(self, get: Get, *, sent: bool) -> Sequence[Painted]:
        """A unit's own pictures. ``sent``: by a client, none of whose paths is opened. Raises UnitError where they
        cannot be had."""

    @abstractmethod
    def region(self, get: Get) -> Any | None:
        """Where in the result a unit acts, if it says so by a picture of its own."""

    @abstractmethod
    def picture_fields(self, pictures: Sequence[tuple[Pixels, Pixels | None]], region: Pixels | None) -> dict[str, Any]:
        """The fields of a unit with these pictures, and what is painted over each of them; all are [H, W, 3]."""

    @abstractmethod
    def left_out(self, get: Get) -> Sequence[str]:
        """Sentences on settings of an IP-Adapter unit that no unit of ours has."""

    # Its jobs

    @abstractmethod
    def has_begun_batch(self, get: Get) -> bool:
        """Whether a unit that is enabled makes the job one of a batch of files: the units were read before it."""

    @abstractmethod
    def watch(self, script: Any, enabled: int) -> Callable[[], bool]:
        """Call it before the script's ``process``. What is returned tells afterwards whether that has failed at the
        ``enabled`` units; the host swallows what it raises."""

    # Its panel

    @abstractmethod
    def components(self, inputs: Sequence[Any], others: Iterable[Any]) -> dict[str, Any]:
        """A unit's field -> the component that shows it, of those that the unit is made of (``inputs``) and of all
        ``others``, which are known by their ids. Fields without a component are left out."""

    @abstractmethod
    def is_complete(self, components: Mapping[str, Any]) -> bool:
        """Whether a unit can be put into these components."""

    @abstractmethod
    def shown(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """A unit's fields as values of their components."""
