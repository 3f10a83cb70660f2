"""The WebUI over its API: what it has, and pictures with the seconds they took."""

from __future__ import annotations

import base64
import json
import os
import re
import time
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from .errors import Trouble

AUTH = "WEBUI_API_AUTH"
API = "start the WebUI with --api and give its address, such as --webui http://127.0.0.1:7860"
MODELS = ("sd_model_name", "sd_model_hash", "sd_vae_name", "clip_skip")
"""What an answer tells of the models that have made its picture."""
OPTIONS = (
    "sd_vae", "forge_additional_modules", "CLIP_stop_at_last_layers", "randn_source", "eta_noise_seed_delta",
    "eta_ddim", "emphasis", "s_min_uncond", "token_merging_ratio", "ip_adapter_instantid",
)  # fmt: skip
"""Settings of the WebUI, Forge and this extension that change what the requests made here give."""


class Session(Protocol):
    """What requests and test clients have in common."""

    def request(self, method: str, url: str, **how: Any) -> Any: ...


@dataclass(frozen=True)
class Made:
    """A picture's file as the WebUI has sent it, the seconds of the request, the WebUI's version, and ``MODELS``."""

    png: bytes
    seconds: float
    version: str
    models: dict[str, Any]


class WebUI:
    def __init__(self, url: str, session: Session | None = None, timeout: float = 900.0, advice: str = "") -> None:
        """``session`` is for tests; otherwise requests', with the password in the address, which goes no further, or
        in the environment's WEBUI_API_AUTH. ``timeout`` is in seconds, for one request; ``advice`` is what to do where
        one takes longer. Raises Trouble."""
        bare = without_password(url)
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
        except ValueError:  # brackets that do not close, a port that is no number
            usable = False
        if not usable:
            raise Trouble(f"--webui {bare} is no address: {API}.")
        self.url, self.timeout, self.advice = bare.rstrip("/"), timeout, advice
        auth = None if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))
        self._session = session if session is not None else _session(parts.hostname, auth)

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        """The answer's JSON, None where it is none. Raises Trouble for everything but 200."""
        from requests import RequestException  # a session is there, so it is

        how = {"json": body} if body is not None else {}
        try:
            answer = self._session.request(method, self.url + path, timeout=self.timeout, **how)
        except RequestException as error:
            raise Trouble(
                f"The WebUI at {self.url} does not answer ({type(error).__name__}): {API}. A picture may take "
                f"{self.timeout:g} seconds{self.advice}."
            ) from error
        if answer.status_code == 401:
            raise Trouble(f"The WebUI at {self.url} asks for a password: set the environment's {AUTH}=user:password.")
        try:
            said = json.loads(answer.text)
        except ValueError:
            said = None
        if answer.status_code != 200:
            detail = (said.get("detail") or said.get("errors")) if isinstance(said, dict) else None
            raise Refused(answer.status_code, str(detail or answer.text[:300]), f"{self.url}{path}")
        return said

    def _part(self, said: Any, path: str, name: str, kind: type, of: type = object) -> Any:
        """``said[name]``, which is of ``kind`` and, in a list, holds things ``of`` one kind. Raises Trouble."""
        try:
            found = said[name]
        except (TypeError, KeyError):
            found = None
        if not isinstance(found, kind) or (isinstance(found, list) and not all(isinstance(one, of) for one in found)):
            raise Trouble(f"{self.url}{path} answers what is no answer of its API (its {name!r}): {API}.")
        return found

    def _optional(self, path: str, missing: str) -> Any:
        try:
            return self._ask("GET", path)
        except Refused as error:
            raise (Trouble(missing) if error.status == 404 else error) from None

    def checkpoint(self) -> str:
        """The name of the checkpoint that is chosen there, without ending and hash: the WebUI adds these when it has
        loaded it, and a run that is taken up again would not know it."""
        return _bare(self._part(self._options(), "/sdapi/v1/options", "sd_model_checkpoint", str))

    def chosen(self) -> dict[str, Any]:
        """What requests do not say and pictures depend on: ``OPTIONS``, and the checkpoint's hash, None before it was
        ever loaded and with --no-hashing."""
        options = self._options()
        name = _bare(self._part(options, "/sdapi/v1/options", "sd_model_checkpoint", str))
        path, digest = "/sdapi/v1/sd-models", ""
        for one in self._part({"checkpoints": self._ask("GET", path)}, path, "checkpoints", list, dict):
            if _bare(self._part(one, path, "title", str)) == name:
                digest = one.get("hash")
        return {**{option: options.get(option) for option in OPTIONS}, "hash": digest}

    def _options(self) -> dict[str, Any]:
        said = self._optional("/sdapi/v1/options", f"{self.url} has no API: {API}.")
        return dict(said) if isinstance(said, dict) else {}

    def adapters(self) -> list[dict[str, Any]]:
        """The adapters as the extension lists them, with a name each."""
        path = "/ip-adapter/models?refresh=true"
        said = self._optional(
            path, f"The WebUI at {self.url} has no routes of this extension: install it there, and start with --api."
        )
        listed = self._part(said, path, "adapters", list, dict)
        for one in listed:
            self._part(one, path, "name", str)
        return [dict(one) for one in listed]

    def adapter(self, name: str | None) -> dict[str, Any]:
        """The adapter called so as the extension lists it; the only one where ``name`` is None."""
        listed = self.adapters()
        names = ", ".join(one["name"] for one in listed)
        if not listed:
            raise Trouble(f"The WebUI at {self.url} has no adapter: put one into its models/ipadapter.")
        if name is None:
            if len(listed) > 1:
                raise Trouble(f"Name one of the WebUI's adapters with --adapter: {names}.")
            return listed[0]
        wanted = name.lower().removesuffix(".safetensors")
        for one in listed:
            if one["name"].lower() == wanted:
                return one
        raise Trouble(f"The WebUI at {self.url} has no adapter called {name!r}: give --adapter one of {names}.")

    def controlnet(
        self, adapter: dict[str, Any], model: str | None = None, module: str | None = None, options: bool = False
    ) -> tuple[str, str]:
        """ControlNet's label of ``model``, else of the file that ``adapter`` is, and its preprocessor for that adapter,
        else ``module``. Raises Trouble where it lacks one of them; ``options``: both can be named at the terminal."""
        model = model or adapter["name"].rpartition("/")[2]  # ControlNet's labels name no folders
        missing = f"The WebUI at {self.url} has no sd-webui-controlnet: install it there."
        paths = ("/controlnet/model_list", "/controlnet/module_list?alias_names=true", "/controlnet/module_list")
        labels, *modules = (
            self._part(self._optional(path, missing), path, name, list, str)
            for path, name in zip(paths, ("model_list", "module_list", "module_list"), strict=True)
        )
        known = [*modules[0], *modules[1]]
        label = next((one for one in labels if one == model or one.partition(" [")[0].lower() == model.lower()), None)
        if label is None:
            like = [one for one in labels if "ip-adapter" in one.lower() or "ip_adapter" in one.lower()] or labels
            named = f"give --controlnet-model one of {', '.join(like)}, or " if options else ""
            raise Trouble(f"ControlNet has no model called {model!r}: {named}put the file into its models/ControlNet.")
        wanted = _modules(adapter) if module is None else [module]
        for name in wanted:
            if name in known:
                return label, name
        some = ", ".join(dict.fromkeys(one for one in known if "ip-adapter" in one))
        raise Trouble(
            f"ControlNet has no module {' or '.join(wanted)}: "
            + (f"give --controlnet-module one of {some or 'its own'}." if options else "install its newest version.")
        )

    def picture(self, request: dict[str, Any]) -> Made:
        """The first picture of a txt2img request. Raises Refused, with the extension's own sentence, and Trouble for
        one that somebody has interrupted there: it is of fewer steps, and its answer does not tell."""
        began, path = time.monotonic(), "/sdapi/v1/txt2img"
        answer = self._ask("POST", path, request)
        seconds = time.monotonic() - began
        images = self._part(answer, path, "images", list, str)
        if self._was_interrupted():
            raise Trouble(
                f"Somebody has interrupted a picture in the WebUI at {self.url}, which does not count: let it finish "
                "what is asked of it, and give the same command again."
            )
        if not images:
            raise Trouble(f"The WebUI at {self.url} has sent no picture: look at its console.")
        try:
            info = json.loads(self._part(answer, path, "info", str))
        except ValueError:
            info = None
        info = self._part({"info": info}, path, "info", dict)
        try:
            png = base64.b64decode(images[0].rpartition(",")[2])
        except ValueError:
            png = b""  # which is no picture
        return Made(png, seconds, str(info.get("version", "")), {name: info.get(name) for name in MODELS})

    def _was_interrupted(self) -> bool:
        """Whether the last picture was interrupted or skipped, which the WebUI says until its next one. False where it
        does not tell."""
        try:
            said = self._ask("GET", "/sdapi/v1/progress?skip_current_image=true")
        except Refused:
            return False
        state = said.get("state") if isinstance(said, dict) else None
        return isinstance(state, dict) and bool(state.get("interrupted") or state.get("skipped"))


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


def without_password(text: str) -> str:
    """An address, or an argument that holds one, without what stands before its host."""
    return re.sub(r"(?<=//).*@", "", text)


def _bare(title: str) -> str:
    return re.sub(r"\.(safetensors|ckpt)$", "", re.sub(r"\s*\[[0-9a-f]+\]$", "", title))


def _session(host: str | None, auth: tuple[str, str] | None = None) -> Any:
    try:
        import requests
    except ImportError:
        raise Trouble("requests is not installed: python -m pip install requests.") from None
    session = requests.Session()
    session.trust_env = host not in ("localhost", "127.0.0.1", "::1")  # a proxy of the environment cannot reach these
    given = os.environ.get(AUTH)
    if auth is not None:
        session.auth = auth
    elif given:
        user, colon, password = given.partition(":")
        if not colon:
            raise Trouble(f"The environment's {AUTH} is user:password, with a colon between them.")
        session.auth = (user, password)
    return session
