"""Downloads of published files: who may order them, and the routes by which a client does. What fetches them is loaded
when somebody first asks."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastapi import Body, FastAPI, HTTPException
from modules import shared

from ..errors import IPAdapterError, UnitError
from . import options
from .guards import wants
from .host import folders
from .process import resources

if TYPE_CHECKING:
    from ..downloads.desk import Desk

SETTING = "“Adapters and image encoders can be downloaded” in Settings, IP-Adapter"
OPEN = ("share", "listen", "ngrok", "server_name")  # flags with which others can reach a WebUI


_building = threading.Lock()


def desk() -> Desk:
    """Where this process orders its downloads: one, however many ask first at the same time."""
    with _building:
        return _made()


def is_used() -> bool:
    """Whether somebody has asked for ``desk``."""
    return _made.cache_info().currsize > 0


def forget() -> None:
    """Begin with a new ``desk``."""
    _made.cache_clear()


@functools.cache
def _made() -> Desk:
    from ..downloads.desk import Desk

    def arrived() -> None:
        resources().catalog.refresh()

    return Desk(lambda file: folders.downloads(encoders=file.is_encoder), arrived)


def is_open_to_others() -> bool:
    """Whether others can reach this WebUI, and it does not say that they may install what they like."""
    flags = shared.cmd_opts
    if getattr(flags, "enable_insecure_extension_access", False):
        return False
    return any(getattr(flags, name, None) for name in OPEN)


def refusal(*, by_api: bool = False) -> str:
    """Why nothing may be downloaded from the panel, or by a client of the API; empty where it may."""
    by_itself, panel, api, nowhere = options.DOWNLOAD_CHOICES
    choice = options.downloads()
    if choice == nowhere:
        return f"Downloads are switched off: set {SETTING}, or put the files into their folders by hand."
    if by_api:
        return "" if choice == api else f"Downloads through the API are switched off: set {SETTING} to “{api}”."
    if choice == by_itself and is_open_to_others():
        return (
            f"Others can reach this WebUI, so nothing is downloaded from its page: set {SETTING} to “{panel}”, or put "
            "the files into their folders by hand."
        )
    return ""


def names(body: Any) -> list[str]:
    """The files that a request asks for. Raises UnitError where it does not say so as it should."""
    listed = body.get("file", body.get("files")) if isinstance(body, dict) and len(body) == 1 else None
    listed = [listed] if isinstance(listed, str) else listed
    if not isinstance(listed, list) or not listed or not all(isinstance(name, str) for name in listed):
        raise UnitError('The body of a download is {"file": name} or {"files": [name, …]}: send one of them.')
    return listed


def add_routes(app: FastAPI, guards: Sequence[Any]) -> None:
    path, both = "/ip-adapter/downloads", list(guards)

    @app.get(path, dependencies=both)
    def get_downloads() -> dict[str, Any]:
        return desk().state()

    @app.post(path, dependencies=[*both, wants("application/json")])
    def post_downloads(body: Any = Body(...)) -> dict[str, Any]:  # noqa: B008
        if why := refusal(by_api=True):
            raise HTTPException(403, why)
        try:
            desk().start(names(body))
        except IPAdapterError as error:
            raise HTTPException(error.status_code, error.detail) from None
        return desk().state()

    @app.delete(path, dependencies=both)
    def delete_downloads() -> dict[str, Any]:
        desk().cancel()
        return desk().state()
