"""The miniature WebUI in this process, and what tests ask of it.

One process runs one host. Tests say by a mark in which setup they want it (``pytest.mark.host("controlnet")``), and
stand together by setup, so that each is started once in each process.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from demo import files
from demo.start import WEBUI, Answer, Host, host_start
from tests.helpers.files import write_adapter, write_encoder
from tests.helpers.flux import write_flux_adapters
from tests.helpers.paths import ROOT, STAND_INS
from tests.helpers.unets import sd_unet, sdxl_unet

SAME, FAR = 0.05, 1.0  # levels of 255 in the mean: the same picture but for rounding, and clearly another one
SETTINGS = {
    "sd_model_checkpoint": "demo-sd15", "sd_checkpoints_limit": 6, "live_previews_enable": False,
    "batch_cond_uncond": True, "pad_cond_uncond": False, "s_min_uncond": 0.0, "skip_early_cond": 0.0,
    "return_mask": False, "return_mask_composite": False, "ip_adapter_save_influence_maps": False,
}  # fmt: skip
"""What the settings file holds. Models stay in memory: a test that is about changing them sets another limit."""


class Hosts:
    """The host of this process, started anew where a test wants another setup."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.face = WEBUI
        self._name: tuple[str, str] | None = None
        self._host: Host | None = None
        self._close: Callable[[], None] = lambda: None
        self._references: dict[str, list[np.ndarray]] = {}
        self.guest: Any = None  # who uses the running host, and what makes him leave before it is closed
        self.leave: Callable[[], None] = lambda: None

    def get(self, name: str, face: str = WEBUI) -> Host:
        if (name, face) != self._name:
            self.close()
            self.face = face
            with torch.enable_grad():
                self._host, self._close = SETUPS[name](self)
            self._name = name, face
        # The models that were used last are each test's own.
        (Path(os.environ["DEMO_HOST_DATA"]) / "ip-adapter" / "used-models.json").unlink(missing_ok=True)
        assert self._host is not None
        return self._host

    def close(self) -> None:
        self.leave()
        self._close()
        self.__init__(self.folder)

    def reference(self, *units: dict, **payload: Any) -> list[np.ndarray]:
        """Pictures of the running host as it makes them as long as nothing is left in it; made once."""
        assert self._host is not None
        key = json.dumps([units, payload], sort_keys=True)
        if key not in self._references:
            self._references[key] = make(self._host, *units, **payload)
        return self._references[key]

    def adapters(self) -> Path:
        """A folder with an adapter of each kind, and their encoder."""
        folder = self.folder / "adapters"
        if not folder.exists():
            narrow, wide = sd_unet(), sdxl_unet()
            for kind in ("base", "plus", "full-face", "faceid"):
                write_adapter(folder / f"{kind}.safetensors", narrow, kind)
            write_adapter(folder / "a, b: c.safetensors", narrow, "plus")
            write_adapter(folder / "two.safetensors", sd_unet(1024))
            write_adapter(folder / "wide.safetensors", wide)
            write_adapter(folder / "instant" / "instant-id.safetensors", wide, "instantid")
            write_encoder(folder / "encoder.safetensors")
        return folder

    def extension(self, folder: str, **scripts: str) -> Path:
        """An extension in a folder of this name, its scripts copied from the stand-ins; a name that comes before ours
        is loaded first."""
        extension = self.folder / "extensions" / folder
        (extension / "scripts").mkdir(parents=True, exist_ok=True)
        for name, stand_in in scripts.items():
            shutil.copy(STAND_INS / f"{stand_in}.py", extension / "scripts" / f"{name}.py")
        return extension


Setup = tuple[Host, Callable[[], None]]


def _plain(hosts: Hosts, *flags: str) -> Setup:
    started = host_start([ROOT], SETTINGS, ["--ip-adapter-dir", str(hosts.adapters()), *flags], face=hosts.face)
    return started, started.close


def _flux_folder(hosts: Hosts) -> Path:
    folder = hosts.folder / "flux"
    if not folder.exists():
        folder.mkdir()
        for file in ("base", "encoder"):
            shutil.copy(hosts.adapters() / f"{file}.safetensors", folder)
        write_flux_adapters(folder)
    return folder


def _flux(hosts: Hosts) -> Setup:
    """With adapters for the FLUX of Forge's face, and X/Y/Z plot."""
    plot = hosts.extension("plot", xyz_grid="xyz")
    started = host_start([plot, ROOT], SETTINGS, ["--ip-adapter-dir", str(_flux_folder(hosts))], face=hosts.face)
    return started, started.close


def _flux_page(hosts: Hosts) -> Setup:
    """The same with a port."""
    port, options = _free_port(), {"sd_model_checkpoint": "demo-sd15", "live_previews_enable": False}
    flags = ["--ip-adapter-dir", str(_flux_folder(hosts))]
    started = host_start([ROOT], {**SETTINGS, **options}, flags, port=port, face=hosts.face)
    started.address = f"http://127.0.0.1:{port}"

    def close() -> None:
        started.blocks.server.force_exit = True  # not when the page's last connection has timed out
        started.blocks.close(verbose=False)
        started.close()

    return started, close


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _guarded(hosts: Hosts) -> Setup:
    return _plain(hosts, "--api-auth", "anna:secret,bob:x")


def _plot(hosts: Hosts) -> Setup:
    plot = hosts.extension("plot", xyz_grid="xyz")
    options = {**SETTINGS, "ip_adapter_unit_count": 2}
    started = host_start([plot, ROOT], options, ["--ip-adapter-dir", str(hosts.adapters())], face=hosts.face)
    return started, started.close


def _tiling(hosts: Hosts) -> Setup:
    tiling = hosts.extension("tiling", tiling="tiling")
    started = host_start([tiling, ROOT], SETTINGS, ["--ip-adapter-dir", str(hosts.adapters())], face=hosts.face)
    return started, started.close


def _neighbours(hosts: Hosts) -> Setup:
    # The name of the one of them that metadata.ini has to put after us, whatever our own folder is called.
    extension = hosts.extension("stable-diffusion-webui-distributed", neighbours="neighbours")
    options = {**SETTINGS, "ip_adapter_adetailer": False}
    started = host_start([extension, ROOT], options, ["--ip-adapter-dir", str(hosts.adapters())], face=hosts.face)

    def close() -> None:
        started.close()
        sys.modules.pop("neighbours_stand_in", None)

    return started, close


def _controlnet(hosts: Hosts, name: str = "sd-webui-controlnet") -> Setup:
    folder = hosts.folder / "controlnet"  # of its own: tests put more into it
    folder.mkdir(exist_ok=True)
    for file in ("base", "plus", "encoder"):
        shutil.copy(hosts.adapters() / f"{file}.safetensors", folder)
    extension = hosts.extension(name, controlnet="controlnet")
    options = {**SETTINGS, "ip_adapter_controlnet_same": "add"}
    started = host_start([extension, ROOT], options, ["--ip-adapter-dir", str(folder)])
    from lib_ipadapter.webui.neighbours.controlnet.models import label_hash

    models = sys.modules["internal_controlnet.external_code"].global_state.cn_models
    models.update({f"{file.stem} [{label_hash(file)}]": str(file) for file in folder.glob("*.safetensors")})

    def close() -> None:
        started.close()
        sys.modules.pop("internal_controlnet.external_code", None)

    return started, close


def _controlnet_later(hosts: Hosts) -> Setup:
    return _controlnet(hosts, "zz-another-name-for-it")


def _forge_controlnet(hosts: Hosts) -> Setup:
    """The ControlNet that Forge has built in, beside the WebUI's own parts."""
    folder = hosts.folder / "controlnet"
    folder.mkdir(exist_ok=True)
    for file in ("base", "plus", "encoder"):
        shutil.copy(hosts.adapters() / f"{file}.safetensors", folder)
    extension = hosts.extension("sd_forge_controlnet", controlnet="forge_controlnet")
    options = {**SETTINGS, "ip_adapter_controlnet_same": "add"}
    started = host_start([extension, ROOT], options, ["--ip-adapter-dir", str(folder)])
    from lib_ipadapter.webui.neighbours.controlnet.models import label_hash

    known = sys.modules["lib_controlnet.global_state"]
    known.looked_for = {f"{file.stem} [{label_hash(file)}]": str(file) for file in folder.glob("*.safetensors")}
    known.update_controlnet_filenames()

    def close() -> None:
        started.close()
        for name in [name for name in sys.modules if name.split(".")[0] == "lib_controlnet"]:
            del sys.modules[name]

    return started, close


def _probe(hosts: Hosts) -> Setup:
    """Tiny extensions that note what the host does with them."""
    probe = hosts.extension("b-probe", probe="probe")
    for path, text in {
        "b-probe/helper_of_probe.py": "",
        "b-probe/preload.py": "def preload(parser):\n    parser.add_argument('--probe-flag', action='append')\n",
        "b-probe/style.css": ".probe { color: red }",
        "b-probe/javascript/probe.js": "// probe",
        "a-later/scripts/later.py": "import sys\nassert 'b-probe' not in str(sys.path[0])\nfrom modules import "
        "script_callbacks\nscript_callbacks.on_cfg_denoised(lambda params: None)",
        "a-later/metadata.ini": "[Extension]\nName = a-later\n\n[scripts]\nAfter = b-probe\n",
        "c-broken/scripts/broken.py": "raise OSError('broken script')",
    }.items():
        file = probe.parent / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    started = host_start(
        [probe, probe.parent / "a-later", probe.parent / "c-broken"],
        {"pad_cond_uncond": False, "s_min_uncond": 0.0, "skip_early_cond": 0.0, "sd_checkpoints_limit": 6},
        ["--probe-flag", "x", "--probe-flag", "y", "--api-auth", "ann:1,bob:2"],
    )
    started.client.auth = ("bob", "2")
    from modules import errors

    started.errors_at_start = [record["exception"] for record in errors.exception_records]
    started.probe = sys.modules["modules.script_loading"].loaded_scripts[str(probe / "scripts" / "probe.py")]
    return started, started.close


def _no_extension(_hosts: Hosts) -> Setup:
    started = host_start([], {"s_min_uncond": 0.0, "sd_checkpoints_limit": 6})
    return started, started.close


def _page(hosts: Hosts) -> Setup:
    """With a port, and files where the WebUI's users put them."""
    data = Path(os.environ["DEMO_HOST_DATA"])
    for left in ("ip-adapter", "browser"):
        shutil.rmtree(data / left, ignore_errors=True)
    files.write_files(data / "models")
    shutil.copy(hosts.adapters() / "instant" / "instant-id.safetensors", data / "models" / "ipadapter")
    extension = hosts.extension("sd-webui-controlnet", controlnet="controlnet")
    port = _free_port()
    options = {"sd_model_checkpoint": "demo-sd15", "live_previews_enable": False, "samples_save": True,
               "outdir_txt2img_samples": str(data / "browser"), "control_net_unit_count": 2,
               "control_net_models_path": str(data / "models" / "ipadapter")}  # fmt: skip
    started = host_start([ROOT, extension], options, port=port)
    started.address = f"http://127.0.0.1:{port}"
    from modules import shared

    assert shared.sd_model is not None  # asked for, so it is loaded: the real host does that when it starts

    def close() -> None:
        started.blocks.server.force_exit = True  # not when the page's last connection has timed out
        started.blocks.close(verbose=False)
        started.close()
        sys.modules.pop("internal_controlnet.external_code", None)
        for folder in ("ipadapter", "clip_vision"):  # other setups' lists are their own
            shutil.rmtree(data / "models" / folder)

    return started, close


SETUPS: dict[str, Callable[[Hosts], Setup]] = {
    "plain": _plain,
    "flux": _flux,
    "guarded": _guarded,
    "plot": _plot,
    "tiling": _tiling,
    "neighbours": _neighbours,
    "controlnet": _controlnet,
    "controlnet, loaded later": _controlnet_later,
    "forge's controlnet": _forge_controlnet,
    "probe": _probe,
    "no extension": _no_extension,
    "page": _page,
    "flux page": _flux_page,
}
ORDER = [*SETUPS]


# --- pictures -------------------------------------------------------------------------------------------------------


def ours(*units: Any) -> dict:
    return {"IP-Adapter": {"args": list(units)}}


def ask(host: Host, *units: Any, path: str = "txt2img", **payload: Any) -> Answer:
    """A small picture with these units."""
    payload = {"prompt": "a cat", "negative_prompt": "blurry", "width": 64, "height": 64, "steps": 3, **payload}
    if units:
        payload["alwayson_scripts"] = ours(*units)
    return getattr(host, path)(**payload)


def make(host: Host, *units: Any, **payload: Any) -> list[np.ndarray]:
    return pixels(ask(host, *units, **payload))


def pixels(answer: Any) -> list[np.ndarray]:
    """Of an answer, or of a list of pictures."""
    return [np.asarray(image.convert("RGB")).astype(int) for image in getattr(answer, "images", answer)]


def difference(a: list[np.ndarray] | np.ndarray, b: list[np.ndarray] | np.ndarray) -> float:
    """Mean absolute difference in levels of 255."""
    assert len(a) == len(b)
    return float(np.mean([np.abs(x - y).mean() for x, y in zip(a, b, strict=True)]))


def unet_in(model: Any) -> torch.nn.Module:
    """The UNet of a loaded checkpoint, as either face has it."""
    return (model.forge_objects.unet.model if hasattr(model, "forge_objects") else model.model).diffusion_model


def loaded_unet() -> torch.nn.Module:
    from modules import shared

    return unet_in(shared.sd_model)


def hooks() -> list[str]:
    """What hangs on a model's UNet, of whichever model is in memory."""
    from modules import sd_models

    data = sd_models.model_data
    return [
        name
        for model in getattr(data, "loaded_sd_models", [data.sd_model])
        for name, module in unet_in(model).named_modules()
        if module._forward_hooks or module._forward_pre_hooks
    ]
