"""One row -> one request: its fields checked, its pictures found, its references named by what they will be encoded to.

In a request, ``{"$file": source}`` stands for a picture's base64, and ``{"$reference": key}`` for that of a file of
embeddings which the run makes once.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import IPAdapterError
from ..unit import MAX_UNITS, Unit
from .facts import Facts
from .fields import ONLY_IMG2IMG, OWN, checked
from .given import Sources
from .odd import check_values
from .paths import WILD
from .problems import BatchError, RowError, unreadable

SCRIPT = "IP-Adapter"
FILE, REFERENCE = "$file", "$reference"
# What of a unit decides what its references are encoded to.
ENCODING = ("model", "crop", "resolution", "encoder", "variant", "face_index")
PICTURES = ("image", "mask", "region")  # of an item
UNIT_PICTURES = ("region_mask", "keypoints_image")
COLUMN = re.compile(r"unit(\d*)\.([a-z_0-9]+)")
LOOKS_LIKE_EMBEDDINGS = "AAAAAAAAAAB7"
MAX_ID = 200
MAX_REQUEST = 8 << 20  # bytes as JSON, pictures aside
MAX_SENTENCES = 20  # of one row


class Kept(dict[str, str]):
    """A picture of a preset: what no row can say."""


@dataclass
class Request:
    """What is sent for a row. ``body``: all but the seed. ``references``: key -> what to ask to be encoded;
    ``sha256``: of the other files that it is made of."""

    route: str
    body: dict[str, Any]
    checkpoint: str = ""
    models: tuple[str, ...] = ()
    references: dict[str, dict[str, Any]] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    seed: int | None = None
    id: str = ""

    @property
    def group(self) -> str:
        """What rows have in common that are made one after the other."""
        keys = ",".join(sorted(self.references))
        return f"{','.join(self.models)}|{hashlib.sha256(keys.encode()).hexdigest() if keys else ''}"

    def stored(self) -> str:
        body = {"route": self.route, "body": self.body, "needs": self.models, "checkpoint": self.checkpoint}
        return json.dumps({**body, "sha256": self.sha256, "references": sorted(self.references)}, separators=(",", ":"))


class Reader:
    """Makes requests of rows."""

    def __init__(self, facts: Facts, sources: Sources) -> None:
        self._facts, self._sources = facts, sources

    def read(self, row: Mapping[str, Any]) -> tuple[Request, list[str]]:
        """The request, and every sentence on what is wrong with it."""
        request = Request("img2img" if row.get("init_images") else "txt2img", {})
        try:
            check_values(row)
            return request, self._read(row, request)[:MAX_SENTENCES]
        except BatchError:
            raise  # no fault of the row
        except RowError as error:
            return request, [error.detail]
        except Exception as error:  # whatever it is, the other rows can be made
            return Request(request.route, {}), [unreadable(error)]

    def _read(self, row: Mapping[str, Any], request: Request) -> list[str]:
        problems: list[str] = []
        if _has_marks(row):
            return [f"{FILE} and {REFERENCE} are the run's own words: write a path in their place."]
        for step in (self._fields, self._own, self._pictures, self._units):
            try:
                problems += step(row, request) or []
            except BatchError:
                raise
            except IPAdapterError as error:
                problems.append(error.detail)
        if not problems:
            request.sha256 = {source: self._sources.sha256(source) for source in sources_in(request.body)}
        if not problems and len(request.stored()) > MAX_REQUEST:
            problems.append(f"it is larger than {MAX_REQUEST >> 20} MiB: give pictures as paths.")
        return problems

    def _fields(self, row: Mapping[str, Any], request: Request) -> list[str]:
        problems = []
        for name, value in row.items():
            if name in OWN or COLUMN.fullmatch(name):
                continue
            try:
                if name in ONLY_IMG2IMG and request.route == "txt2img":
                    raise RowError(f"{name} belongs to img2img: give init_images too, or leave it out.")
                request.body[name] = checked(name, value, self._facts.listed[request.route])
            except RowError as error:
                problems.append(error.detail)
        seed = request.body.pop("seed", None)
        request.seed = None if seed is None or seed < 0 else seed
        return problems

    def _own(self, row: Mapping[str, Any], request: Request) -> list[str]:
        request.id = str(row.get("id", ""))
        if len(request.id) > MAX_ID:
            raise RowError(f"id has more than {MAX_ID} characters: shorten it.")
        overrides = dict(request.body.get("override_settings", {}))
        named = row.get("checkpoint", overrides.get("sd_model_checkpoint"))
        if named is not None and "checkpoint" in row and "sd_model_checkpoint" in overrides:
            raise RowError("checkpoint and override_settings' sd_model_checkpoint are both given: leave one out.")
        request.checkpoint = self._facts.current if named is None else self._facts.checkpoint(str(named))
        if request.checkpoint:  # also the one that is loaded: another row may have another
            request.body["override_settings"] = {**overrides, "sd_model_checkpoint": request.checkpoint}
        return []

    def _pictures(self, row: Mapping[str, Any], request: Request) -> list[str]:
        if request.route == "img2img":
            given = row["init_images"]
            items = given if isinstance(given, list) else [given]
            request.body["init_images"] = [{FILE: one} for item in items for one in self._found(item, "init_images")]
            if row.get("mask"):
                request.body["mask"] = {FILE: self._one(row["mask"], "mask")}
        elif row.get("mask"):
            raise RowError("mask belongs to img2img: give init_images too, or leave it out.")
        return []

    # units

    def _units(self, row: Mapping[str, Any], request: Request) -> list[str]:
        units = self._given_units(row)
        if not units:
            return []
        scripts = request.body.setdefault("alwayson_scripts", {})
        if any(str(name).casefold() == SCRIPT.casefold() for name in scripts):
            raise RowError(f"units and alwayson_scripts' {SCRIPT} are both given: leave one out.")
        if len(units) > MAX_UNITS:
            raise RowError(f"it has {len(units)} units: give at most {MAX_UNITS}.")
        problems, done = [], []
        for number, unit in enumerate(units, 1):
            try:
                done.append(self._unit(unit, number, request))
            except BatchError:
                raise
            except IPAdapterError as error:
                problems.append(error.in_unit(number).detail)
        scripts[SCRIPT] = {"args": done}
        return problems

    def _given_units(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The preset's units with what differs, or the row's own."""
        given = row.get("units", [])
        given = [given] if isinstance(given, Mapping) else given
        if not isinstance(given, list) or not all(isinstance(one, Mapping) for one in given):
            raise RowError("units is no list of objects: write it as in the API.")
        own = dict(enumerate((dict(one) for one in given), 1))
        for name, value in row.items():
            if found := COLUMN.fullmatch(name):
                number = int(found[1] or 1)
                if not 1 <= number <= MAX_UNITS:
                    raise RowError(f"{name}: units have numbers from 1 to {MAX_UNITS}: correct it.")
                own.setdefault(number, {})[found[2]] = value
        units: dict[int, dict[str, Any]] = {}
        if row.get("preset"):
            units = dict(enumerate(map(self._of_preset, self._facts.preset(str(row["preset"]))), 1))
            if missing := sorted(set(own) - set(units)):
                raise RowError(f"the preset has {len(units)} units, and the row changes unit {missing[0]}: correct it.")
        for number, changes in own.items():
            base = units.get(number, {})
            if {"image", "images"} & set(changes):
                base = {name: value for name, value in base.items() if name not in ("image", "images")}
            units[number] = {**base, **changes}
        if units and set(units) != set(range(1, len(units) + 1)):
            raise RowError(f"unit {max(units)} is given, and one before it is not: number them from 1 on.")
        return [units[number] for number in sorted(units)]

    def _of_preset(self, unit: Mapping[str, Any]) -> dict[str, Any]:
        """A unit whose pictures are texts, with sources in their place."""
        done = dict(unit)
        for name in UNIT_PICTURES:
            if isinstance(done.get(name), str):
                done[name] = Kept({FILE: self._sources.keep(done[name], name)})
        for name in ("images", "negative_images"):
            if isinstance(done.get(name), list):
                done[name] = [self._of_item(item) for item in done[name]]
        return done

    def _of_item(self, item: Any) -> Any:
        item = dict(item) if isinstance(item, Mapping) else {"image": item}
        for name in (*PICTURES, "embeddings"):
            if isinstance(item.get(name), str):
                item[name] = Kept({FILE: self._sources.keep(item[name], name)})
        return item

    def _unit(self, unit: Mapping[str, Any], number: int, request: Request) -> dict[str, Any]:
        done = dict(unit)
        if "image" in done and "images" not in done:
            done["images"] = [done.pop("image")]
        for name in ("images", "negative_images"):
            if name in done:
                items = done[name] if isinstance(done[name], list) else [done[name]]
                done[name] = [one for item in items for one in self._items(item, name)]
        for name in UNIT_PICTURES:
            if done.get(name) is not None:
                done[name] = {FILE: self._one(done[name], name)}
        parsed = Unit.parse(_placeholders(done), number)
        if parsed.enabled:
            variant = str(self._facts.adapter(parsed.model).get("variant", ""))
            request.models = (*request.models, parsed.model)
            if _can_be_encoded(parsed, variant):
                for name in ("images", "negative_images"):
                    done[name] = [self._encoded(item, done, request) for item in done.get(name, [])]
        return done

    def _items(self, item: Any, where: str) -> Iterable[dict[str, Any]]:
        """A path, a pattern, or an object with one -> items with sources in the place of paths."""
        if not isinstance(item, Mapping):
            for source in self._found(item, where):
                yield {("embeddings" if source.endswith(".safetensors") else "image"): {FILE: source}}
            return
        done = dict(item)
        for name in (*PICTURES, "embeddings"):
            if done.get(name) is not None and not (name == "image" and _is_pattern(done[name])):
                done[name] = {FILE: self._one(done[name], f"{where}' {name}")}
        if _is_pattern(done.get("image")):
            for source in self._found(done["image"], where):
                yield {**done, "image": {FILE: source}}
            return
        yield done

    def _encoded(self, item: dict[str, Any], unit: Mapping[str, Any], request: Request) -> dict[str, Any]:
        """A picture among the references, as the file of embeddings that will be made of it."""
        if not item.get("image"):
            return item
        asked = {name: unit[name] for name in ENCODING if unit.get(name) is not None}
        shown = {name: item[name][FILE] for name in ("image", "mask") if item.get(name)}
        hashes = {name: self._sources.sha256(source) for name, source in shown.items()}
        text = json.dumps([sorted(asked.items()), sorted(hashes.items())])
        key = hashlib.sha256(text.encode()).hexdigest()
        request.references[key] = {"unit": asked, "sources": shown, "sha256": hashes}
        kept = {name: value for name, value in item.items() if name not in ("image", "mask")}
        return {**kept, "embeddings": {REFERENCE: key}}

    def _one(self, value: Any, where: str) -> str:
        found = self._found(value, where)
        if len(found) != 1:
            raise RowError(f"{where} finds {len(found)} files: name one.")
        return found[0]

    def _found(self, value: Any, where: str) -> list[str]:
        if isinstance(value, Kept):
            return [value[FILE]]
        if not isinstance(value, str):
            raise RowError(f"{where} is no path: name a file below the jobs file's folder.")
        if value.startswith("data:"):
            return [self._sources.keep(value, where)]
        return self._sources.files.find(value)


def sources_in(value: Any) -> Iterator[str]:
    """The files that a body stands for."""
    if isinstance(value, Mapping):
        if FILE in value:
            yield value[FILE]
        for one in value.values():
            yield from sources_in(one)
    elif isinstance(value, list):
        for one in value:
            yield from sources_in(one)


def _has_marks(value: Any) -> bool:
    """Whether a row holds what stands for a file in a request: it would be read from anywhere."""
    if isinstance(value, Mapping):
        return bool({FILE, REFERENCE} & set(value)) or any(map(_has_marks, value.values()))
    return isinstance(value, list) and any(map(_has_marks, value))


def _is_pattern(value: Any) -> bool:
    return isinstance(value, str) and not value.startswith("data:") and any(mark in value for mark in WILD)


def _can_be_encoded(unit: Unit, variant: str) -> bool:
    """Noise is made of pixels, InstantID's points stand in the photo, and tiles of several pictures that take turns
    would be references of their own."""
    points = variant == "instantid" and unit.keypoints_image is None
    return not unit.noise and not points and not (unit.crop == "tile" and unit.batch == "per image")


def _placeholders(unit: Mapping[str, Any]) -> dict[str, Any]:
    """The unit as the API has it, with texts in the place of pictures."""

    def of(item: Mapping[str, Any]) -> dict[str, Any]:
        is_mark = {name for name, one in item.items() if isinstance(one, Mapping) and FILE in one}
        return {name: _stand_in(name) if name in is_mark else one for name, one in item.items()}

    done = of(unit)
    for name in ("images", "negative_images"):
        if name in unit:
            done[name] = [of(item) for item in unit[name]]
    return done


def _stand_in(name: str) -> str:
    return LOOKS_LIKE_EMBEDDINGS if name == "embeddings" else "picture"
