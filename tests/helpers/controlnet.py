"""ControlNet's stand-in as tests use it."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np

from demo.start import Host
from tests.helpers.files import base64_of, picture

SQUARE = (64, 64)


def stand_in(_host: Host):
    return SimpleNamespace(**vars(sys.modules["internal_controlnet.external_code"]), models=sys.modules[
        "internal_controlnet.external_code"].global_state.cn_models)  # fmt: skip


def its_script(tab: str = "txt2img"):
    from modules import scripts

    return stand_in(None).find_cn_script(getattr(scripts, f"scripts_{tab}"))


def label(name: str) -> str:
    return next(one for one in stand_in(None).models if one.startswith(f"{name} ["))


def theirs(seed: int = 0, model: str = "base", **fields) -> dict:
    settings = {"enabled": True, "module": "ip-adapter_clip_h", "model": label(model), "image": text(seed)}
    return {**settings, **fields}


def text(seed: int) -> str:
    return base64_of(picture(seed, SQUARE))


def ours(seed: int | None = 0, model: str = "base", **fields) -> dict:
    return {"model": model, **({} if seed is None else {"images": [text(seed)]}), **fields}


def ask(host: Host, *units, controlnet=(), path: str = "txt2img", **payload):
    small = {"prompt": "a cat", "negative_prompt": "blurry", "width": 64, "height": 64, "steps": 2, **payload}
    scripts = {"IP-Adapter": {"args": list(units)}, "controlnet": {"args": list(controlnet)}}
    small["alwayson_scripts"] = {name: value for name, value in scripts.items() if value["args"]}
    return getattr(host, path)(**small)


def make(host: Host, *units, **payload) -> np.ndarray:
    return np.asarray(ask(host, *units, **payload).images[0].convert("RGB")).astype(int)


def job(host: Host, *units, tab: str = "txt2img"):
    """A processing object with ``units`` in ControlNet's arguments, as the API makes it."""
    from modules import scripts

    runner = getattr(scripts, f"scripts_{tab}")
    script = stand_in(host).find_cn_script(runner)
    arguments = ["before"] * script.args_from + [None] * (script.args_to - script.args_from) + ["after"] * 3
    filled = [*units, *(stand_in(host).ControlNetUnit() for _ in range(script.args_to - script.args_from))]
    arguments[script.args_from : script.args_to] = filled[: script.args_to - script.args_from]
    comments: list[str] = []
    return SimpleNamespace(scripts=runner, script_args=tuple(arguments), extra_generation_params={}, comments=comments,
                           comment=comments.append)  # fmt: skip


ARRAY = np.asarray(picture(1, SQUARE))
PAINTED = np.zeros_like(ARRAY)
PAINTED[:20] = 255


def same(host: Host, choice: str, *units, controlnet, **payload):
    return ask(host, *units, controlnet=controlnet, override_settings={"ip_adapter_controlnet_same": choice}, **payload)


def array(answer) -> np.ndarray:
    return np.asarray(answer.images[0].convert("RGB")).astype(int)


def slot(host: Host, unit):
    from lib_ipadapter.webui.neighbours import controlnet

    return controlnet.units_of(job(host, unit))[0]
