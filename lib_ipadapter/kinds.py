"""The kinds of settings that a unit has: which values each takes, how they are written, and how they are refused."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import Any, ClassVar

from .bases import blocks_of_each
from .errors import UnitError
from .weighting import Curve, LayerWeights, as_text


class Wording(Enum):
    """Whose words a sentence uses: the API's names and JSON, or the panel's labels and what is typed there."""

    API = "API"
    PANEL = "panel"

    def shown(self, value: object) -> str:
        """A value as its reader wrote it, cut off where it is long."""
        text = f"“{value}”" if self is Wording.PANEL and isinstance(value, str) else repr(value)
        return text if len(text) <= 60 else f"{text[:57]}…"


def is_number(value: object, low: float, high: float) -> bool:
    """Whether it is one from ``low`` to ``high``; NaN and infinities are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def pairs_of(text: str) -> list[list[float]]:
    """ "0:1 0.6:0.2", or "1, 0.5": the numbers of each word. Raises ValueError for what is none."""
    return [[float(part) for part in word.split(":")] for word in text.replace(",", " ").split()]


class Kind:
    """What values a field takes.

    ``is_value`` says whether these are numbers and texts, which are kept and written as they are; pictures and an
    adapter's name have ways of their own. ``axis`` is the type of the values on a plot's axis, None where there is no
    such axis.
    """

    is_value: ClassVar[bool] = True
    axis: ClassVar[type | None] = None

    def parse(self, value: Any, name: str, wording: Wording = Wording.API) -> Any:
        """The checked value. Raises UnitError, which calls the field ``name``."""
        raise NotImplementedError

    def to_text(self, value: Any) -> str:
        """The value in one line of text."""
        return str(value)

    def from_text(self, text: str) -> Any:
        """What ``parse`` takes, from a line of text; the text itself where it cannot be understood."""
        return text

    def to_json(self, value: Any) -> Any:
        """The value as a client of the API would send it."""
        return value

    @property
    def values(self) -> str:
        """The values in the words of the documentation."""
        return ""

    @staticmethod
    def _wrong(value: object, name: str, wording: Wording, remedy: str) -> UnitError:
        return UnitError(f"{name} is {wording.shown(value)}: {remedy}.")


def _limit(number: float) -> str:
    return f"{number:g}".replace("-", "−")


@dataclass(frozen=True)
class Number(Kind):
    """A number from ``low`` to ``high``. ``empty`` is what None means, where it is allowed."""

    axis: ClassVar[type | None] = float
    low: float
    high: float
    empty: str | None = None

    def parse(self, value: Any, name: str, wording: Wording = Wording.API) -> float | None:
        if value is None and self.empty is not None:
            return None
        if not is_number(value, self.low, self.high):
            raise self._wrong(value, name, wording, f"give a number from {self.low:g} to {self.high:g}")
        return float(value)

    def to_text(self, value: float | None) -> str:
        return "" if value is None else as_text(value)

    def from_text(self, text: str) -> Any:
        if self.empty is not None and not text.strip():
            return None
        with contextlib.suppress(ValueError):
            return float(text)
        return text

    @property
    def values(self) -> str:
        limits = f"{_limit(self.low)} to {_limit(self.high)}"
        return limits if self.empty is None else f"{limits}, or `null`: {self.empty}"


@dataclass(frozen=True)
class Whole(Number):
    """A whole number from ``low`` to ``high``."""

    axis = int  # whole steps between the values of a range

    def parse(self, value: Any, name: str, wording: Wording = Wording.API) -> int | None:
        if value is None and self.empty is not None:
            return None
        if not is_number(value, self.low, self.high) or value != int(value):
            raise self._wrong(value, name, wording, f"give a whole number from {self.low:g} to {self.high:g}")
        return int(value)

    @property
    def values(self) -> str:
        return f"whole number from {super().values}"


@dataclass(frozen=True)
class Weight(Number):
    """A number, or a curve of numbers over the steps."""

    def parse(self, value: Any, name: str, wording: Wording = Wording.API) -> Any:
        if is_number(value, self.low, self.high):
            return float(value)
        points = value
        if isinstance(value, str):
            try:
                points = pairs_of(value)
            except ValueError:
                points = None
            if points and len(points[0]) == 1:  # a number as text is a slip, as in every other field
                points = None
        if not self._is_curve(points):
            raise self._wrong(value, name, wording, self._remedy(value, wording))
        curve: Curve = tuple((float(share), float(weight)) for share, weight in points)
        if any(later[0] < earlier[0] for earlier, later in pairwise(curve)):
            raise self._wrong(value, name, wording, "give the points of the curve from the first step to the last")
        return curve[0][1] if len({weight for _, weight in curve}) == 1 else curve

    def _is_curve(self, points: Any) -> bool:
        return isinstance(points, (list, tuple)) and len(points) > 0 and all(
            isinstance(point, (list, tuple)) and len(point) == 2
            and is_number(point[0], 0, 1) and is_number(point[1], self.low, self.high)
            for point in points
        )  # fmt: skip

    def _remedy(self, value: object, wording: Wording) -> str:
        if wording is Wording.API:
            return (
                f"give a number from {self.low:g} to {self.high:g}, or a curve of such over the steps, such as "
                "[[0, 1.0], [0.6, 0.2]]"
            )
        if isinstance(value, str):
            return (
                "give points step:weight such as 0:1 0.6:0.2, with steps from 0 to 1 and weights from "
                f"{self.low:g} to {self.high:g}"
            )
        return f"give a number from {self.low:g} to {self.high:g}"

    def to_json(self, value: float | Curve) -> Any:
        return [list(point) for point in value] if isinstance(value, tuple) else value

    @property
    def values(self) -> str:
        return f"{super().values}, or a curve over the steps, `[[0, 1.0], [0.6, 0.2]]`, straight between its points"


@dataclass(frozen=True)
class BlockFactors(Kind):
    """A number from ``low`` to ``high`` for each transformer block, or for some; None for none."""

    axis = str
    low: float
    high: float

    def parse(self, value: Any, name: str, wording: Wording = Wording.API) -> LayerWeights | None:
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        wrong = self._wrong(value, name, wording, self._remedy(wording))
        try:
            words = pairs_of(value) if isinstance(value, str) else self._words(value)
        except (ValueError, TypeError):
            raise wrong from None
        if not words or len({len(word) for word in words}) > 1 or not all(
            is_number(word[-1], self.low, self.high) for word in words
        ):  # fmt: skip
            raise wrong
        if len(words[0]) == 1:
            return tuple(float(factor) for (factor,) in words)
        if len(words[0]) > 2 or not all(is_number(block, 0, 1000) and block == int(block) for block, _ in words):
            raise wrong
        return dict(sorted((int(block), float(factor)) for block, factor in words))

    @staticmethod
    def _words(value: Any) -> list[list[Any]]:
        if isinstance(value, Mapping):
            return [[int(str(block)), factor] for block, factor in value.items()]
        return [[factor] for factor in value]

    def _remedy(self, wording: Wording) -> str:
        numbers = f"a number from {self.low:g} to {self.high:g} for each transformer block ({blocks_of_each()})"
        if wording is Wording.API:
            return f'give a list with {numbers}, or some of them as {{"5": 0.4, "6": 1.0}}'
        return f"give {numbers}, or for some of them, as 5:0.4 6:1"

    def to_text(self, value: LayerWeights | None) -> str:
        return "" if value is None else as_text(value)

    def to_json(self, value: LayerWeights | None) -> Any:
        if isinstance(value, Mapping):
            return {str(block): factor for block, factor in value.items()}
        return value if value is None else list(value)

    @property
    def values(self) -> str:
        limits = f"{_limit(self.low)} to {_limit(self.high)}"
        numbers = f"a list with a number from {limits} for each block ({blocks_of_each()})"
        return f'{numbers}, some of them as `{{"5": 0.4}}`, or `null`'


@dataclass(frozen=True)
class Choice(Kind):
    """One of some texts. ``table`` is where the documentation lists them, if it does so elsewhere."""

    axis = str
    choices: tuple[str, ...]
    table: str = ""

    def parse(self, value: Any, name: str, wording: Wording = Wording.API) -> str:
        if not isinstance(value, str) or value not in self.choices:
            listed = ", ".join(map(wording.shown, self.choices))
            raise self._wrong(value, name, wording, f"choose one of {listed}")
        return value

    @property
    def values(self) -> str:
        return self.table or ", ".join(f'`"{choice}"`' for choice in self.choices)


@dataclass(frozen=True)
class Among(Kind):
    """One of some whole numbers, each with what the panel shows of it."""

    axis = int
    choices: Mapping[int, str]

    def parse(self, value: Any, name: str, wording: Wording = Wording.API) -> int:
        if not isinstance(value, (int, float)) or isinstance(value, bool) or value not in self.choices:
            raise self._wrong(value, name, wording, f"choose one of {', '.join(map(str, self.choices))}")
        return int(value)

    def from_text(self, text: str) -> Any:
        return int(text) if text.strip() in map(str, self.choices) else text

    @property
    def values(self) -> str:
        return ", ".join(f"`{choice}`" for choice in self.choices)


@dataclass(frozen=True)
class Flag(Kind):
    """True or false."""

    def parse(self, value: Any, name: str, wording: Wording = Wording.API) -> bool:
        if not isinstance(value, bool):
            raise self._wrong(value, name, wording, "give true or false")
        return value

    def from_text(self, text: str) -> Any:
        return {"true": True, "false": False}.get(text.lower(), text)

    @property
    def values(self) -> str:
        return "`true`, `false`"


@dataclass(frozen=True)
class Text(Kind):
    """A text of at most ``longest`` characters, without the blanks around it."""

    axis = str
    longest: int

    def parse(self, value: Any, name: str, wording: Wording = Wording.API) -> str:
        if not isinstance(value, str) or len(value) > self.longest:
            raise self._wrong(value, name, wording, f"give a text of at most {self.longest} characters")
        return value.strip()

    @property
    def values(self) -> str:
        return f"text of at most {self.longest} characters"


@dataclass(frozen=True)
class FaceNumber(Kind):
    """Which of a picture's faces: "largest", or a number from left to right, from 1 on."""

    axis = str
    largest: ClassVar[str] = "largest"
    last: ClassVar[int] = 100

    def parse(self, value: Any, name: str, wording: Wording = Wording.API) -> int | str:
        if isinstance(value, str):
            value = value.strip().lower()
            value = int(value) if value.isdecimal() and len(value) <= len(str(self.last)) else value
        if value == self.largest or (value == "" and wording is Wording.PANEL):
            return self.largest
        if not is_number(value, 1, self.last) or value != int(value):
            largest = wording.shown(self.largest)
            remedy = f"give {largest}, or the face's number from left to right, 1 to {self.last}"
            raise self._wrong(value, name, wording, remedy)
        return int(value)

    @property
    def values(self) -> str:
        return f'`"{self.largest}"`, or a whole number from 1 to {self.last}'


@dataclass(frozen=True)
class EncoderName(Text):
    """The name of an image encoder; ``empty`` stands for the one that an adapter is for."""

    empty: str = "auto"

    def parse(self, value: Any, name: str, wording: Wording = Wording.API) -> str:
        return super().parse(value, name, wording) or self.empty

    @property
    def values(self) -> str:
        return f'`"{self.empty}"`, or the name of an image encoder'


@dataclass(frozen=True)
class ModelName(Kind):
    """The name of an adapter."""

    is_value = False
    axis = str

    @property
    def values(self) -> str:
        return "the name of an adapter"

    def parse(self, value: Any, name: str, wording: Wording = Wording.API) -> str:
        remedy = (
            "name an adapter as the list of models shows it"
            if wording is Wording.API
            else "choose an adapter in the unit's list of models"
        )
        if value is None or (isinstance(value, str) and not value.strip()):
            raise UnitError(f"model is missing: {remedy}.")
        if not isinstance(value, str):
            remedy = "give the name of an adapter as the list of models shows it"
            raise self._wrong(value, name, wording, remedy)
        return value.strip()


@dataclass(frozen=True)
class PictureKind(Kind):
    """A picture or mask that is not decoded yet, or None."""

    is_value = False

    def parse(self, value: Any, name: str, wording: Wording = Wording.API) -> Any:
        remedy = "give a picture as base64, or leave it out"
        if isinstance(value, str) and not value.strip():
            raise UnitError(f"{name} is empty: {remedy}.")
        if isinstance(value, (bool, int, float, list, tuple, Mapping)):
            raise self._wrong(value, name, wording, remedy)
        return value

    @property
    def values(self) -> str:
        return "a base64 picture, or `null`"
