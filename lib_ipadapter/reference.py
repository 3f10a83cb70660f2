"""Reference: one of a unit's pictures, with its weight, its mask, and the region where it acts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import UnitError
from .fields import PanelPlace
from .kinds import Kind, Number, PictureKind, Wording

MAX_REFERENCES = 64  # of one unit: their tokens meet in every attention layer
MAX_PICTURES = 1000  # of one unit that makes one reference of them, or shows each to a picture of its own
START = "start_picture"  # the word that stands in the place of the start picture
WEIGHT = Number(-1, 3)  # what the weight of a unit or of a reference may be
AT = Number(0, 1)
MASK = PictureKind()
PARTS = ("image", "controlnet", "embeddings", "look", START, "folder")  # what an item has one of
OWN = ("weight", "mask", "region", "at")  # and what it may have beside that
ORDERS = ("name", "shuffle")  # of a folder's pictures
OF_FOLDER = ("order", "seed", "start")  # what else an item with a folder has
MAX_PATH = 4096  # characters
FOLDER = "folder"  # the panel's control
FOLDER_PLACE = PanelPlace(
    "Folder of references",
    "Its pictures are references, too: averaged, or one for each picture.",
    place="strip",
    key=FOLDER,
)
MAX_LOOK_NAME = 100  # characters
SAFETENSORS = "AAB7"  # in base64, the end of the length of a header of less than 2**48 bytes, and its first brace


@dataclass(frozen=True)
class Folder:
    """A folder of references as it was asked for: by its path, or by the name that parameters have for it. ``seed`` is
    that of the order "shuffle"; ``start`` is the place of the first picture where they are walked. ``only``: the place
    of the only picture that is meant, as an X/Y/Z plot's cell says it."""

    path: str
    order: str = ORDERS[0]
    seed: int = 0
    start: int = 0
    only: int | None = None

    @classmethod
    def parse(cls, item: Mapping[str, Any], where: str) -> Folder:
        others = [name for name in (*PARTS, "mask") if name != "folder" and item.get(name) is not None]
        if others:
            raise UnitError(f"{where}folder is given beside {others[0]}: leave one out.")
        if item.get("at") is not None:
            raise UnitError(f"{where}a folder is no keyframe: give its pictures one by one, each with its at.")
        path, order = item["folder"], item.get("order") or ORDERS[0]
        if not isinstance(path, str) or not 1 <= len(path.strip()) <= MAX_PATH or "\0" in path:
            raise UnitError(f"{where}folder is {Wording.API.shown(path)}: give the path of a folder with pictures.")
        if order not in ORDERS:
            raise UnitError(f"{where}order is {Wording.API.shown(order)}: choose one of {', '.join(ORDERS)}.")
        numbers = [_whole(0 if item.get(name) is None else item[name], f"{where}{name}") for name in OF_FOLDER[1:]]
        return cls(path.strip(), order, *numbers)

    def to_item(self) -> dict[str, Any]:
        found = {"folder": self.path, "order": self.order, "seed": self.seed, "start": self.start}
        return {name: value for name, value in found.items() if value not in (ORDERS[0], 0)}


def _whole(number: Any, name: str) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 2**53:
        raise UnitError(f"{name} is {Wording.API.shown(number)}: give a whole number from 0 on.")
    return number


def references_at_most(settings: Mapping[str, Any]) -> int:
    """How many references a unit of these settings may have: more where they do not act side by side."""
    side_by_side = settings.get("combine") in (None, "concat") and settings.get("batch") in (None, "same")
    return MAX_REFERENCES if side_by_side else MAX_PICTURES


def called(place: int, count: int) -> str:
    """What sentences about one of ``count`` items among images begin with."""
    return "the reference: " if count == 1 else f"images[{place}]: "


@dataclass(frozen=True)
class Reference:
    """One reference picture: base64 text from the API, a picture from the panel, or a decoded one.

    ``mask``: None, or a picture that is white where the reference counts. ``region``: None, or one that is white where
    in the unit's region the reference acts. ``controlnet``: the number of the ControlNet
    unit whose picture it takes when a job begins; ``look``: the name of a kept look, whose file it takes then;
    ``image`` is None then. A file of embeddings is a picture, too. With a ``folder``, ``image`` is None until somebody
    has looked into it, and then what it holds for the job.
    ``start_picture``: it is what img2img begins with, of that the part which is sampled; ``image`` is None until a job
    begins. Where the pictures of a batch begin with different ones, ``picture`` is the one that sees it, and all but
    the first are ``repeats`` of what was asked for.
    ``at``: None, or where it stands as a keyframe, from 0, the first picture or frame, to 1, the last.
    ``alone``: it is one of a list of more than can act side by side, of which each picture sees one.
    """

    image: Any
    weight: float = 1.0
    controlnet: int | None = None
    mask: Any = None
    look: str | None = None
    start_picture: bool = False
    picture: int | None = None
    repeats: bool = False
    region: Any = None
    folder: Folder | None = None
    at: float | None = None
    alone: bool = False

    @classmethod
    def parse(cls, item: object, where: str) -> Reference:
        """``item``: a picture, or ``{"image": …, "weight": 1.0, "mask": …, "region": …, "at": 0.5}``, or the same with
        ``"controlnet": 1``, ``"embeddings": …``, ``"look": name``, ``"start_picture": true`` or ``"folder": path`` in
        the picture's place.

        ``where`` begins the sentence of an error.
        """
        if not isinstance(item, Mapping):
            item = {"image": item}
        more = OF_FOLDER if item.get("folder") is not None else ()
        unknown = sorted(map(str, set(item) - {*PARTS, *OWN, *more}))
        if unknown:
            name = Wording.API.shown(unknown[0])
            raise UnitError(
                f"{where}unknown field {name}: a reference has image (or {', or '.join(PARTS[1:])}), "
                f"{', '.join(OWN[:-1])} and {OWN[-1]}."
            )
        image, weight = item.get("image"), WEIGHT.parse(item.get("weight", 1.0), f"{where}weight")
        assert weight is not None
        mask, region = (MASK.parse(item.get(name), f"{where}{name}") for name in ("mask", "region"))
        own = {"region": region, "at": None if item.get("at") is None else AT.parse(item["at"], f"{where}at")}
        if item.get("embeddings") is not None:
            image = cls._embeddings(item["embeddings"], item, where)
        if more:
            return cls(None, weight, folder=Folder.parse(item, where), region=region)
        if item.get(START) is not None:
            return cls(None, weight, None, mask, start_picture=cls._start(item, where), **own)
        if item.get("look") is not None:
            return cls(None, weight, look=cls._look(item, where), **own)
        if item.get("controlnet") is not None:
            return cls(None, weight, cls._controlnet(item["controlnet"], image, where), mask, **own)
        if image is None or (isinstance(image, str) and not image.strip()):
            raise UnitError(f"{where}the picture is missing: give a PNG, JPEG or WebP as base64.")
        return cls(image, weight, None, mask, **own)

    @staticmethod
    def _embeddings(file: Any, item: Mapping[str, Any], where: str) -> Any:
        if item.get("image") is not None or item.get("controlnet") is not None:
            raise UnitError(f"{where}embeddings are given beside a picture: leave one out.")
        text = file.partition(",")[2] if isinstance(file, str) and file.startswith("data:") else file
        if not isinstance(text, str) or text.strip()[8:12] != SAFETENSORS:
            raise UnitError(f"{where}embeddings is no file of POST /ip-adapter/embeddings: give that, as base64.")
        return file

    @staticmethod
    def _look(item: Mapping[str, Any], where: str) -> str:
        others = [name for name in (*PARTS[:3], START, "mask") if item.get(name) is not None]
        if others:
            raise UnitError(f"{where}look is given beside {others[0]}: leave one out.")
        if not isinstance(item["look"], str) or not 1 <= len(item["look"].strip()) <= MAX_LOOK_NAME:
            shown = Wording.API.shown(item["look"])
            raise UnitError(f"{where}look is {shown}: give a name that GET /ip-adapter/looks lists.")
        return item["look"].strip()

    @staticmethod
    def _controlnet(number: Any, image: Any, where: str) -> int:
        if image is not None:
            raise UnitError(f"{where}image and controlnet are both given: leave one out.")
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            shown = Wording.API.shown(number)
            raise UnitError(f"{where}controlnet is {shown}: give the number of a ControlNet unit, from 1 on.")
        return number

    @staticmethod
    def _start(item: Mapping[str, Any], where: str) -> bool:
        if item[START] is not True:
            raise UnitError(f"{where}{START} is {Wording.API.shown(item[START])}: give true, or leave it out.")
        if any(item.get(name) is not None for name in PARTS if name != START):
            raise UnitError(f"{where}{START} is given beside a picture: leave one out.")
        return True

    def to_item(self) -> Any:
        """What ``parse`` makes this reference of."""
        parts = {name: getattr(self, name) for name in ("image", "controlnet", "look", *OWN[1:])}
        if self.start_picture:
            parts = {START: True, **{name: getattr(self, name) for name in OWN[1:]}}
        given = {name: value for name, value in parts.items() if value is not None}
        if self.folder is not None:
            given = self.folder.to_item() | ({} if self.region is None else {"region": self.region})
        if self.weight != 1:
            given["weight"] = self.weight
        return self.image if set(given) == {"image"} else given


def as_picture(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item with its embeddings in the place of a picture, where it has some: whoever decodes pictures knows both."""
    if item.get("embeddings") is None or item.get("image") is not None:
        return dict(item)
    return {**{name: value for name, value in item.items() if name != "embeddings"}, "image": item["embeddings"]}


@dataclass(frozen=True)
class References(Kind):
    """A list of references; the API calls it ``plural``, and a lone picture ``single`` where one may come alone, and
    where an enabled unit must have one."""

    is_value = False
    plural: str
    single: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The API's names, those of a lone picture first."""
        return (self.single, self.plural) if self.single else (self.plural,)

    def parse_all(self, settings: Mapping[str, Any], enabled: bool) -> tuple[Reference, ...]:
        """The references in an API object, none of a unit that is not enabled. Raises UnitError."""
        plural, single = self.plural, self.single
        lone = settings.get(single) if single else None
        items = settings.get(plural, None if single else [])
        if lone is not None and items is not None:
            raise UnitError(f"{single} and {plural} are both given: put every picture into {plural}.")
        is_lone = bool(single) and items is None
        if is_lone:
            items = [] if lone is None else [lone]
        if not isinstance(items, (list, tuple)):
            more = f", or a single one as {single}" if single else ""
            raise UnitError(f"{plural} is {Wording.API.shown(items)}: give a list of pictures{more}.")
        if single and not items and enabled:
            raise UnitError(f"it has no reference picture: add one to {plural}, or disable the unit.")
        self._check_count(len(items), settings)
        if not enabled:
            return ()
        found = tuple(Reference.parse(item, "" if is_lone else f"{plural}[{i}]: ") for i, item in enumerate(items))
        if not single and any(one.start_picture for one in found):
            raise UnitError(
                f"the start picture is among {plural}, and a picture cannot move away from what it begins with: give "
                "it among images, or leave it out."
            )
        placed = [f"{plural}[{i}]" for i, one in enumerate(found) if one.region is not None]
        if placed and not single:
            raise UnitError(f"{placed[0]}: negative references act as far as the unit does: leave the region out.")
        if not single and any(one.folder is not None for one in found):
            raise UnitError(f"{plural} holds a folder, which only images may: give pictures.")
        timed = [f"{plural}[{i}]" for i, one in enumerate(found) if one.at is not None]
        if timed and not single:
            raise UnitError(f"{timed[0]}: negative references are the same in every picture: leave at out.")
        return found

    def _check_count(self, count: int, settings: Mapping[str, Any]) -> None:
        """Raises UnitError for too many. More may be given where they do not act side by side."""
        at_most = references_at_most(settings) if self.single else MAX_REFERENCES
        if count > at_most:
            many = f"; up to {MAX_PICTURES} with combine “average”, or batch “per image”" if self.single else ""
            remedy = f"give at most {at_most}{many if at_most == MAX_REFERENCES else ''}."
            raise UnitError(f"{self.plural} holds {count} pictures: {remedy}")

    @property
    def values(self) -> str:
        region, more = "", ""
        if self.single:
            region, more = ', "region": …, "at": 0.5', ', or `{"folder": path, "weight": 1.0}`'
        picture = f'`{{"image": …, "weight": 1.0, "mask": …{region}}}`'
        return f'base64 pictures, or {picture}, or `{{"look": name, "weight": 1.0}}`{more}'
