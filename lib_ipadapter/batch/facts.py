"""What a WebUI says of itself: adapters, checkpoints, presets, and the fields of its requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from .problems import BatchError, RowError

Ask = Callable[[str], Any]  # a route -> its JSON; raises RowError where the WebUI refuses
ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
SHOWN = 8  # names that a sentence lists
MAX_NAMES = 100_000
MAX_PRESETS = 1000  # different ones in one run


class Facts:
    """``ask`` puts a question to the WebUI."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._presets: dict[str, list[dict[str, Any]]] = {}
        answer = self._must("/ip-adapter/models")
        self.adapters = {_key(one["name"]): one for one in _objects(answer, "adapters", "name")}
        self.checkpoints: dict[str, str] = {}
        for one in _objects(self._must("/sdapi/v1/sd-models"), None, "model_name"):
            self.checkpoints.update(dict.fromkeys(names_of(one), str(one["model_name"])))
        self.listed = {route: self._fields(route) for route in ("txt2img", "img2img")}
        options = self._must("/sdapi/v1/options")
        current = options.get("sd_model_checkpoint") if isinstance(options, dict) else None
        self.current = self.checkpoints.get(current.casefold(), "") if isinstance(current, str) else ""

    def checkpoint(self, name: str) -> str:
        """The name by which a request asks for a checkpoint. Raises RowError."""
        found = self.checkpoints.get(name.strip().casefold())
        if found is None:
            raise RowError(f"there is no checkpoint {name[:200]!r}: name one of {_some(self.checkpoints.values())}.")
        return found

    def adapter(self, name: str) -> Mapping[str, Any]:
        """What the list of models says of an adapter. Raises RowError."""
        found = self.adapters.get(_key(name))
        if found is None:
            listed = _some(str(one["name"]) for one in self.adapters.values())
            raise RowError(f"there is no adapter {name[:200]!r}: name one of {listed}.")
        return found

    def preset(self, name: str) -> list[dict[str, Any]]:
        """A preset's units, references included. Raises RowError."""
        if name not in self._presets:
            if len(self._presets) >= MAX_PRESETS:
                raise RowError(f"the run has more than {MAX_PRESETS} presets: make several runs of it.")
            try:
                answer = self._ask(f"/ip-adapter/presets/{quote(name, safe='')}")
            except RowError as error:
                raise RowError(f"preset {name[:200]!r}: {error.detail}") from None
            self._presets[name] = _objects(answer, "units", None)
        return self._presets[name]

    def _must(self, route: str) -> Any:
        try:
            return self._ask(route)
        except RowError as error:
            raise BatchError(
                f"the WebUI does not answer {route} ({error.detail}): start it with --api, and with this extension."
            ) from None

    def _fields(self, route: str) -> frozenset[str]:
        """The fields that the WebUI itself lists for a route; none where it has no such list."""
        try:
            told = self._ask("/openapi.json")
            body = told["paths"][f"/sdapi/v1/{route}"]["post"]["requestBody"]["content"]["application/json"]["schema"]
            name = body["$ref"].rpartition("/")[2]
            return frozenset(told["components"]["schemas"][name]["properties"])
        except (RowError, KeyError, TypeError, AttributeError):
            return frozenset()


def names_of(checkpoint: Mapping[str, Any]) -> set[str]:
    """The names under which the WebUI knows a checkpoint, small."""
    title, model, hashed = (str(checkpoint.get(name) or "") for name in ("title", "model_name", "hash"))
    file = PurePath(str(checkpoint.get("filename") or "").replace("\\", "/")).name
    names = {title, title.partition(" [")[0], model, hashed, file, str(checkpoint.get("sha256") or "")}
    return {name.casefold() for name in names if name}


def has_all(needs: tuple[str, ...], checkpoint: str, adapters: set[str], checkpoints: set[str]) -> bool:
    """Whether a WebUI has what a request needs; of what it could not be asked, it is believed to have all."""
    has_checkpoint = not checkpoint or not checkpoints or checkpoint.casefold() in checkpoints
    return has_checkpoint and (not adapters or all(_key(name) in adapters for name in needs))


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
