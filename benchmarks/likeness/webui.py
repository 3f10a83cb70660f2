"""The WebUI over its API: what it has, and pictures with the seconds they took."""

from __future__ import annotations

import base64
import json
import os
import re
import time
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from .errors import Trouble

AUTH = "WEBUI_API_AUTH"
API = "start the WebUI with --api and give its address, such as --webui http://127.0.0.1:7860"


class Session(Protocol):
    """What requests and test clients have in common."""

    def request(self, method: str, url: str, **how: Any) -> Any: ...


@dataclass(frozen=True)
class Made:
    """A picture's file as the WebUI has sent it, the seconds of the request, and the WebUI's version."""

    png: bytes
    seconds: float
    version: str


class WebUI:
    def __init__(self, url: str, session: Session | None = None, timeout: float = 900.0) -> None:
        """``session`` is for tests; otherwise requests', with the password in the environment's WEBUI_API_AUTH."""
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise Trouble(f"--webui {url} is no address: {API}.")
        self.url, self.timeout = url.rstrip("/"), timeout
        self._session = session if session is not None else _session(urlsplit(url).hostname)

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        """The answer's JSON. Raises Trouble for everything but 200."""
        how = {"json": body} if body is not None else {}
        try:
            answer = self._session.request(method, self.url + path, timeout=self.timeout, **how)
        except Exception as error:  # of requests, urllib3 or a test client
            raise Trouble(
                f"The WebUI at {self.url} does not answer ({type(error).__name__}): {API}; --timeout (now "
                f"{self.timeout:g} seconds) is how long a picture may take. What was made stays, and the same command "
                "goes on from there."
            ) from error
        if answer.status_code == 401:
            raise Trouble(f"The WebUI at {self.url} asks for a password: set the environment's {AUTH}=user:password.")
        try:
            said = json.loads(answer.text)
        except ValueError:
            said = {}
        if answer.status_code != 200:
            detail = (said.get("detail") or said.get("errors")) if isinstance(said, dict) else None
            raise Refused(answer.status_code, str(detail or answer.text[:300]), f"{self.url}{path}")
        return said

    def _optional(self, path: str, missing: str) -> Any:
        try:
            return self._ask("GET", path)
        except Refused as error:
            raise (Trouble(missing) if error.status == 404 else error) from None

    def checkpoint(self) -> str:
        """The name of the checkpoint that is chosen there, without ending and hash: the WebUI adds these when it has
        loaded it, and a run that is taken up again would not know it."""
        options = self._optional("/sdapi/v1/options", f"{self.url} has no API: {API}.")
        title = re.sub(r"\s*\[[0-9a-f]+\]$", "", str(options.get("sd_model_checkpoint")))
        return re.sub(r"\.(safetensors|ckpt)$", "", title)

    def adapter(self, name: str | None) -> dict[str, Any]:
        """The adapter called so as the extension lists it; the only one where ``name`` is None."""
        listed = self._optional(
            "/ip-adapter/models?refresh=true",
            f"The WebUI at {self.url} has no routes of this extension: install it there, and start with --api.",
        )["adapters"]
        names = ", ".join(one["name"] for one in listed)
        if not listed:
            raise Trouble(f"The WebUI at {self.url} has no adapter: put one into its models/ipadapter.")
        if name is None:
            if len(listed) > 1:
                raise Trouble(f"Name one of the WebUI's adapters with --adapter: {names}.")
            return dict(listed[0])
        wanted = name.lower().removesuffix(".safetensors")
        for one in listed:
            if one["name"].lower() == wanted:
                return dict(one)
        raise Trouble(f"The WebUI at {self.url} has no adapter called {name!r}: give --adapter one of {names}.")

    def controlnet(self, adapter: dict[str, Any], model: str | None, module: str | None) -> tuple[str, str]:
        """ControlNet's label of ``model``, else of the file that ``adapter`` is, and its preprocessor for that adapter,
        else ``module``. Raises Trouble where it lacks one of them."""
        model = model or adapter["name"]
        missing = f"The WebUI at {self.url} has no sd-webui-controlnet: install it, or leave out --against controlnet."
        labels = self._optional("/controlnet/model_list", missing)["model_list"]
        known = self._optional("/controlnet/module_list?alias_names=true", missing)["module_list"]
        known += self._optional("/controlnet/module_list", missing)["module_list"]
        label = next((one for one in labels if one == model or one.partition(" [")[0].lower() == model.lower()), None)
        if label is None:
            like = [one for one in labels if "ip-adapter" in one.lower() or "ip_adapter" in one.lower()] or labels
            raise Trouble(
                f"ControlNet has no model called {model!r}: give --controlnet-model one of {', '.join(like)}, or put "
                "the file into its models/ControlNet."
            )
        wanted = _modules(adapter) if module is None else [module]
        for name in wanted:
            if name in known:
                return label, name
        some = ", ".join(dict.fromkeys(one for one in known if "ip-adapter" in one))
        raise Trouble(
            f"ControlNet has no module {' or '.join(wanted)}: give --controlnet-module one of {some or 'its own'}."
        )

    def picture(self, request: dict[str, Any]) -> Made:
        """The first picture of a txt2img request. Raises Refused, with the extension's own sentence."""
        began = time.monotonic()
        answer = self._ask("POST", "/sdapi/v1/txt2img", request)
        seconds = time.monotonic() - began
        info = json.loads(answer.get("info") or "{}")
        if not answer.get("images"):
            raise Trouble(f"The WebUI at {self.url} has sent no picture: look at its console.")
        png = base64.b64decode(str(answer["images"][0]).rpartition(",")[2])
        return Made(png, seconds, str(info.get("version", "")))


class Refused(Trouble):
    """The WebUI's own no."""

    def __init__(self, status: int, detail: str, where: str) -> None:
        super().__init__(f"The WebUI has refused a request ({status}, {where}): {detail}")
        self.status = status


def _modules(adapter: dict[str, Any]) -> list[str]:
    """ControlNet's names, older and newer, of the preprocessor that feeds an adapter. Its "ip-adapter-auto" knows files
    by their published names alone, and then does nothing, so that is left to adapters that want a face."""
    if str(adapter.get("variant", "")).startswith(("faceid", "instantid")):
        return ["ip-adapter-auto"]
    if "bigG" in str(adapter.get("encoder", "")):
        return ["ip-adapter_clip_sdxl", "ip-adapter_clip_g"]
    return ["ip-adapter_clip_sd15", "ip-adapter_clip_h"]


def _session(host: str | None) -> Any:
    try:
        import requests
    except ImportError:
        raise Trouble("requests is not installed: python -m pip install requests.") from None
    session = requests.Session()
    session.trust_env = host not in ("localhost", "127.0.0.1", "::1")  # a proxy of the environment cannot reach these
    given = os.environ.get(AUTH)
    if given:
        user, colon, password = given.partition(":")
        if not colon:
            raise Trouble(f"The environment's {AUTH} is user:password, with a colon between them.")
        session.auth = (user, password)
    return session
