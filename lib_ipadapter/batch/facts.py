"""What a WebUI says of itself: adapters, checkpoints, presets, and the fields of its requests."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Protocol
from urllib.parse import quote

from .problems import BatchError, NoAnswer, RowError

ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
ROUTES = ("txt2img", "img2img")
LOOKS = 30  # for a checkpoint that is being loaded
SHOWN = 8  # names that a sentence lists
MAX_NAMES = 100_000
MAX_PRESETS = 1000  # different ones in one run


class Asked(Protocol):
    """Those whose word counts: all WebUIs of a run."""

    def first(self) -> list[str]:
        """All that are ready, one at least."""

    def others(self) -> list[str]:
        """Those that have become ready since; it waits for one. None where all are, or are given up."""

    def ask(self, name: str, route: str) -> Any:
        """A route's JSON. Raises RowError where the WebUI refuses, NoAnswer where there is none."""


class Facts:
    """What all WebUIs of a run have, together. Those that are not ready yet are waited for where something is asked for
    that none of the others has; what nobody has is an error of the row, unless somebody could not be asked."""

    def __init__(self, everybody: Asked, pause: float = 2.0) -> None:
        self._everybody, self._pause = everybody, pause
        self._presets: dict[str, list[dict[str, Any]]] = {}
        self.adapters: dict[str, dict[str, Any]] = {}
        self.checkpoints: dict[str, str] = {}
        self._short: dict[str, set[str]] = {}  # names without folder or hash, and the checkpoints that have them
        self.listed: dict[str, frozenset[str]] = dict.fromkeys(ROUTES, frozenset())
        self._asked: list[str] = []
        self._silent: dict[str, str] = {}  # who could not be asked, and why
        self._without: dict[str, str] = {}  # who does not have the extension
        self._current: str | None = None
        for name in everybody.first():
            self._add(name)
        while not self._asked and self._more():
            pass
        if not self._asked:
            why = "; ".join(f"{name}: {told}" for name, told in {**self._without, **self._silent}.items())
            raise BatchError(f"no WebUI says what it has ({why}): start it with --api, and with this extension.")

    def _add(self, name: str) -> None:
        """What one more WebUI has."""
        try:
            adapters = _objects(self._everybody.ask(name, "/ip-adapter/models"), "adapters", "name")
            checkpoints = _objects(self._everybody.ask(name, "/sdapi/v1/sd-models"), None, "model_name")
            listed = {route: self._fields(name, route) for route in ROUTES}
        except NoAnswer as error:
            self._silent[name] = error.detail
        except RowError as error:
            self._without[name] = error.detail
        else:
            self._asked.append(name)
            self._silent.pop(name, None)
            self.adapters = {**{_key(one["name"]): one for one in adapters}, **self.adapters}
            for one in checkpoints:
                model = str(one["model_name"])
                for known in names_of(one):
                    self.checkpoints.setdefault(known, model)
                for known in short_names_of(one):
                    self._short.setdefault(known, set()).add(model)
            self.listed = {route: self.listed[route] | listed[route] for route in ROUTES}

    def _more(self) -> bool:
        """Whether one more WebUI could be asked."""
        found = self._everybody.others()
        for name in found:
            self._add(name)
        return bool(found)

    def _nobody(self, sentence: str) -> RowError:
        """What nobody has. Raises BatchError where that is not known."""
        if self._silent:
            name, why = next(iter(self._silent.items()))
            raise BatchError(f"{name} could not be asked what it has ({why}) Begin again when it answers.")
        return RowError(sentence)

    @property
    def current(self) -> str:
        """The checkpoint that is loaded. Raises BatchError where there is none."""
        for attempt in range(LOOKS if self._current is None else 0):
            if attempt:
                time.sleep(self._pause)  # one that has just begun loads it
            for name in self._asked:
                with contextlib.suppress(NoAnswer, RowError):
                    options = self._everybody.ask(name, "/sdapi/v1/options")
                    told = options.get("sd_model_checkpoint") if isinstance(options, dict) else None
                    if isinstance(told, str):  # its hash may have been computed since all were asked for their names
                        self._current = self._known(told) or self._known(without_hash(told))
                if self._current is not None:
                    return self._current
        if self._current is None:
            raise BatchError("no WebUI says which checkpoint is loaded: give rows a checkpoint, or load one.")
        return self._current

    def checkpoint(self, name: str) -> str:
        """The name by which a request asks for a checkpoint. Raises RowError."""
        while (found := self._known(name)) is None:
            if not self._more():
                if several := self._short.get(name.strip().casefold()):
                    sentence = f"several checkpoints are called {name[:200]!r}: name one of {_some(several)}."
                    raise self._nobody(sentence)
                listed = _some(self.checkpoints.values())
                raise self._nobody(f"there is no checkpoint {name[:200]!r}: name one of {listed}.")
        return found

    def _known(self, name: str) -> str | None:
        """The checkpoint of this name; none where several have it and it is nobody's whole name."""
        name = name.strip().casefold()
        short = self._short.get(name, set())
        return self.checkpoints.get(name) or (next(iter(short)) if len(short) == 1 else None)

    def adapter(self, name: str) -> Mapping[str, Any]:
        """What the list of models says of an adapter. Raises RowError."""
        while (found := self.adapters.get(_key(name))) is None:
            if not self._more():
                listed = _some(str(one["name"]) for one in self.adapters.values())
                raise self._nobody(f"there is no adapter {name[:200]!r}: name one of {listed}.")
        return found

    def preset(self, name: str) -> list[dict[str, Any]]:
        """A preset's units, references included. Raises RowError."""
        if name not in self._presets:
            if len(self._presets) >= MAX_PRESETS:
                raise RowError(f"the run has more than {MAX_PRESETS} presets: make several runs of it.")
            self._presets[name] = self._asked_preset(name)
        return self._presets[name]

    def _asked_preset(self, name: str) -> list[dict[str, Any]]:
        """The first WebUI's that has it."""
        done, why = 0, ""
        while True:
            for place in self._asked[done:]:
                done += 1
                try:
                    answer = self._everybody.ask(place, f"/ip-adapter/presets/{quote(name, safe='')}")
                    return _objects(answer, "units", None)
                except NoAnswer as error:
                    self._silent[place] = error.detail
                except RowError as error:
                    why = why or error.detail
            if not self._more():
                raise self._nobody(f"preset {name[:200]!r}: {why}")

    def _fields(self, place: str, route: str) -> frozenset[str]:
        """The fields that a WebUI itself lists for a route; none where it has no such list."""
        try:
            told = self._everybody.ask(place, "/openapi.json")
            body = told["paths"][f"/sdapi/v1/{route}"]["post"]["requestBody"]["content"]["application/json"]["schema"]
            name = body["$ref"].rpartition("/")[2]
            return frozenset(told["components"]["schemas"][name]["properties"])
        except (RowError, KeyError, TypeError, AttributeError):
            return frozenset()


def names_of(checkpoint: Mapping[str, Any]) -> set[str]:
    """The names under which the WebUI knows a checkpoint and no other, small."""
    title, model, hashed = (str(checkpoint.get(name) or "") for name in ("title", "model_name", "hash"))
    names = {title, model, hashed, str(checkpoint.get("sha256") or "")}
    if hashed:
        names |= {title.removesuffix(f" [{hashed}]"), f"{_file_of(checkpoint).stem} [{hashed}]"}
    return {name.casefold() for name in names if name}


def short_names_of(checkpoint: Mapping[str, Any]) -> set[str]:
    """Names without its folder or hash, small: another may have them, too."""
    file, title = _file_of(checkpoint), str(checkpoint.get("title") or "")
    return {name.casefold() for name in (file.name, file.stem, without_hash(title)) if name}


def without_hash(title: str) -> str:
    """A title as it is before the WebUI has computed the hash of the file, whose name may have brackets, too."""
    return title.rpartition(" [")[0] if title.endswith("]") and " [" in title else title


def _file_of(checkpoint: Mapping[str, Any]) -> PurePath:
    return PurePath(str(checkpoint.get("filename") or "").replace("\\", "/"))


def has_all(needs: tuple[str, ...], checkpoint: str, adapters: set[str] | None, checkpoints: set[str]) -> bool:
    """Whether a WebUI has what a request needs; ``adapters``: None where it could not be asked, and is believed."""
    has_checkpoint = not checkpoint or checkpoint.casefold() in checkpoints
    return has_checkpoint and (adapters is None or all(_key(name) in adapters for name in needs))


def adapter_keys(answer: Any) -> set[str]:
    return {_key(one["name"]) for one in _objects(answer, "adapters", "name")}


def checkpoint_names(answer: Any) -> set[str]:
    return set().union(*(names_of(one) for one in _objects(answer, None, "model_name")))


def _key(name: Any) -> str:
    text = str(name).strip().casefold()
    return next((text[: -len(ending)] for ending in ENDINGS if text.endswith(ending)), text)


def _objects(answer: Any, name: str | None, wanted: str | None) -> list[dict[str, Any]]:
    listed = answer.get(name) if name is not None and isinstance(answer, dict) else answer
    if not isinstance(listed, list):
        return []
    return [one for one in listed[:MAX_NAMES] if isinstance(one, dict) and (wanted is None or one.get(wanted))]


def _some(names: Any) -> str:
    found = sorted({str(name)[:100] for name in names})
    return (", ".join(found[:SHOWN]) + (" …" if len(found) > SHOWN else "")) if found else "those that it has (none)"
