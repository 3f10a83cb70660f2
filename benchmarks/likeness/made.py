"""Pictures, kept in a folder by what was asked for, so that a second run makes only what is missing."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from lib_ipadapter.encode.picture import content_hash

from ..errors import Trouble
from ..webui import Made, WebUI
from .plan import CONTROLNET, OURS, PLAIN, Cell, Plan


@dataclass(frozen=True)
class Settings:
    """What all requests have in common, and with which models."""

    steps: int
    width: int
    height: int
    sampler: str
    guidance: float
    negative: str
    checkpoint: str
    adapter: dict[str, Any]  # as the extension lists it
    controlnet: tuple[str, str] | None = None  # label of the model, name of the module
    chosen: dict[str, Any] = field(default_factory=dict)  # in the WebUI: its checkpoint's hash, and its settings

    def request(self, cell: Cell) -> dict[str, Any]:
        body: dict[str, Any] = {
            "prompt": cell.prompt, "negative_prompt": self.negative, "seed": cell.seed, "steps": self.steps,
            "width": self.width, "height": self.height, "cfg_scale": self.guidance, "sampler_name": self.sampler,
            "batch_size": 1, "n_iter": 1, "save_images": False,
        }  # fmt: skip
        if cell.method == PLAIN:
            return body
        image = cell.reference.sent()
        if cell.method == OURS:
            unit = {"model": self.adapter["name"], "images": [image], "weight": cell.weight}
            return {**body, "alwayson_scripts": {"IP-Adapter": {"args": [unit]}}}
        assert cell.method == CONTROLNET and self.controlnet is not None
        model, module = self.controlnet
        unit = {"enabled": True, "module": module, "model": model, "image": image, "weight": cell.weight,
                "resize_mode": "Crop and Resize", "control_mode": "Balanced", "pixel_perfect": False,
                "guidance_start": 0.0, "guidance_end": 1.0, "save_detected_map": False}  # fmt: skip
        return {**body, "alwayson_scripts": {"ControlNet": {"args": [unit]}}}

    def key(self, cell: Cell) -> str:
        """Equal for equal requests to a WebUI with equal settings, and equal references, whatever these are called.
        Adapters and ControlNet's models are known by what is listed of them: their names."""
        models = {OURS: self.adapter, CONTROLNET: self.controlnet}.get(cell.method)
        common = {name: value for name, value in asdict(self).items() if name not in ("adapter", "controlnet")}
        told = [common, models, cell.method, cell.prompt, cell.seed, cell.weight, cell.reference.digest]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:24]


class Kept:
    """``pictures/KEY.png`` and a line for each in ``pictures.jsonl``. A picture counts when both are whole."""

    def __init__(self, folder: Path) -> None:
        self._pictures, self._lines = folder / "pictures", folder / "pictures.jsonl"
        self._pictures.mkdir(parents=True, exist_ok=True)
        self.notes: dict[str, dict[str, Any]] = {}
        lines = self._lines.read_bytes().split(b"\n") if self._lines.exists() else []
        for line in lines:
            try:
                note = json.loads(line)
                self.notes[str(note["key"])] = {**note, "seconds": float(note["seconds"]), "session": note["session"]}
            except (ValueError, TypeError, KeyError):  # cut off by a kill, or damaged
                continue

    def path(self, key: str) -> Path:
        return self._pictures / f"{key}.png"

    def __contains__(self, key: str) -> bool:
        if key not in self.notes:
            return False
        try:
            self.image(key)
        except Exception:  # whatever a decoder raises
            return False
        return True

    def add(self, key: str, png: bytes, **note: Any) -> None:
        part = self.path(key).with_suffix(".part")
        part.write_bytes(png)
        part.replace(self.path(key))
        self.notes[key] = {"key": key, **note}
        line = json.dumps(self.notes[key]) + "\n"
        with self._lines.open("a+b") as file:
            file.seek(0, io.SEEK_END)
            if file.tell():
                file.seek(-1, io.SEEK_END)
                if file.read(1) != b"\n":  # what a kill has cut off keeps its own line
                    line = "\n" + line
            file.write(line.encode())

    def image(self, key: str) -> Image.Image:
        with Image.open(self.path(key)) as image:
            return image.convert("RGB")


def make(
    webui: WebUI, plan: Plan, settings: Settings, kept: Kept, tell: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> int:  # fmt: skip
    """Make what is missing; returns how many pictures that were. Raises Trouble.

    Before the first of them the models are loaded, by pictures that do not count: one of each method.
    """
    cells = [*plan.cells()]
    missing = [cell for cell in cells if settings.key(cell) not in kept]
    tell(f"{len(cells)} pictures, {len(cells) - len(missing)} of them there already, {len(missing)} to make")
    if not missing:
        return 0
    there = (kept.notes[key].get("models") for key in map(settings.key, cells) if key in kept.notes)
    first = _warm_up(webui, plan, settings, missing, next(filter(None, there), None))
    session, began = f"{time.time_ns()}", clock()
    for number, cell in enumerate(missing, 1):
        made = webui.picture(settings.request(cell))
        _pixels(webui, made)
        _same(webui, made.models, first)
        kept.add(
            settings.key(cell), made.png, seconds=round(made.seconds, 4), session=session, version=made.version,
            models=made.models, checkpoint=settings.checkpoint, method=cell.method, weight=cell.weight, seed=cell.seed,
            prompt=cell.prompt, reference=cell.reference.name,
        )  # fmt: skip
        left = (clock() - began) / number * (len(missing) - number)
        tell(f"{number} of {len(missing)}: {described(cell)}, {made.seconds:.1f} s; {duration(left)} left")
    return len(missing)


def _warm_up(
    webui: WebUI, plan: Plan, settings: Settings, missing: Sequence[Cell], before: dict[str, Any] | None
) -> dict[str, Any]:
    """Load the models that ``missing`` need, and tell which the WebUI says they are. Raises Trouble where they are not
    those of ``before``, and where ControlNet does nothing, which it tells its console alone."""
    scene, seed = plan.scenes[0], plan.seeds[0]
    methods, strongest = {cell.method for cell in missing}, max(plan.weights, key=abs)
    first = webui.picture(settings.request(plan.plain(scene, seed)))
    plain = _pixels(webui, first)
    _same(webui, first.models, before or first.models)
    for method in plan.methods:
        if method in methods:
            cell = plan.cell(scene, seed, method, strongest)
            made = _pixels(webui, webui.picture(settings.request(cell)))
            if method == CONTROLNET and strongest and content_hash(made) == content_hash(plain):
                raise Trouble(
                    f"ControlNet has made the plain picture with {' and '.join(settings.controlnet or ())} at weight "
                    f"{strongest:g}: the WebUI's console says why; give another --controlnet-module or "
                    "--controlnet-model, or leave out --against."
                )
    return first.models


def _same(webui: WebUI, models: dict[str, Any], first: dict[str, Any]) -> None:
    """Raises Trouble where a picture was made with other models than the first."""
    for name, value in models.items():
        if value != first.get(name):
            raise Trouble(
                f"The WebUI at {webui.url} was changed between the pictures: {name} is {value}, and was "
                f"{first.get(name)}. What was made stays: set it back and give the same command, or name another --out."
            )


def load(webui: WebUI, settings: Settings, plan: Plan) -> None:
    """The checkpoint, by one step of a plain picture. Raises Trouble."""
    first = settings.request(plan.plain(plan.scenes[0], plan.seeds[0]))
    _pixels(webui, webui.picture({**first, "steps": 1}))


def _pixels(webui: WebUI, made: Made) -> Image.Image:
    try:
        with Image.open(io.BytesIO(made.png)) as image:
            return image.convert("RGB")
    except Exception as error:  # whatever a decoder raises
        raise Trouble(
            f"The WebUI at {webui.url} has sent something that is no picture: look at its console."
        ) from error


def described(cell: Cell) -> str:
    weight = "" if cell.weight is None else f" {cell.weight:g}"
    return f"{cell.method}{weight}, {cell.reference.name}, seed {cell.seed}"


def duration(seconds: float) -> str:
    """As people say it: 12 s, 3 min, 1 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
