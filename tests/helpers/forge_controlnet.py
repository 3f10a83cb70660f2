"""The stand-in of Forge's built-in ControlNet as tests use it. What is the same as beside sd-webui-controlnet is in
``controlnet.py``."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from tests.helpers.controlnet import SQUARE, text

VIT_H = "CLIP-ViT-H (IPAdapter)"


def its_module(name: str = "external_code") -> Any:
    return sys.modules[f"lib_controlnet.{name}"]


def its_script(tab: str = "txt2img") -> Any:
    from modules import scripts

    runner = getattr(scripts, f"scripts_{tab}")
    return next(one for one in runner.alwayson_scripts if one.title() == "ControlNet")


def label(name: str) -> str:
    known = its_module("global_state").controlnet_filename_dict
    return next(one for one in known if one.startswith(f"{name} ["))


def theirs(seed: int = 0, model: str = "base", **fields: Any) -> dict[str, Any]:
    """An IP-Adapter unit as a client sends it."""
    return {"enabled": True, "module": VIT_H, "model": label(model), "image": text(seed), **fields}


def drawn(image: Image.Image) -> Any:
    """A picture as its canvas gives it: RGBA."""
    return np.asarray(image.convert("RGBA"))


def layer(rows: int, size: tuple[int, int] = SQUARE) -> Any:
    """What is drawn over a picture: black strokes over its upper ``rows``."""
    made = np.zeros((size[1], size[0], 4), dtype=np.uint8)
    made[:rows, :, 3] = 255
    return made


def job(*units: Any, tab: str = "txt2img") -> Any:
    """A processing object with ``units`` in ControlNet's arguments, the others off."""
    from modules import scripts

    runner, script = getattr(scripts, f"scripts_{tab}"), its_script(tab)
    count = script.args_to - script.args_from
    off = [its_module().ControlNetUnit(enabled=False) for _ in range(count - len(units))]
    arguments = ["before"] * script.args_from + [*units, *off] + ["after"] * 3
    comments: list[str] = []
    return SimpleNamespace(scripts=runner, script_args=tuple(arguments), extra_generation_params={}, comments=comments,
                           comment=comments.append)  # fmt: skip


def view(unit: Any) -> Any:
    from lib_ipadapter.webui.neighbours import controlnet

    return controlnet.units_of(job(unit))[0]
