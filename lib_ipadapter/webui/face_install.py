"""Face analysis is installed where a person asks for it: in the settings, by a client, or by a flag."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, HTTPException
from modules import shared

from ..encode.faces import packages
from ..errors import CheckpointError, IPAdapterError, printable
from .process import faces

log = logging.getLogger("ip-adapter")

THREAD = "IP-Adapter: installing face analysis"
_busy = threading.Lock()


def install() -> str:
    """Install the packages unless they are there; the folder that they are in. Raises IPAdapterError: pip has failed,
    is at work already, or this WebUI is open to others and lets nobody install extensions either."""
    if getattr(shared.cmd_opts, "disable_extension_access", False):
        raise CheckpointError(
            "this WebUI can be reached by others and installs nothing, be it from its page or for a client: start it "
            f"once with {packages.FLAG}, or with --enable-insecure-extension-access."
        )
    return _install()


def install_if_told() -> None:
    """Install them in the background where the WebUI was started with the flag and ``install.py`` has not seen it: it
    is only told of flags in COMMANDLINE_ARGS."""
    if getattr(shared.cmd_opts, "ip_adapter_install_faces", False) and not packages.is_current(packages.own_folder()):
        threading.Thread(target=_install_quietly, name=THREAD, daemon=True).start()


def add_install_route(app: FastAPI, guards: Sequence[Any]) -> None:
    @app.post("/ip-adapter/faces-install", dependencies=list(guards))
    def post_install() -> dict[str, str]:
        try:
            return {"folder": printable(install())}
        except IPAdapterError as error:
            raise HTTPException(error.status_code, error.detail) from None


def _install() -> str:
    if not _busy.acquire(blocking=False):
        raise CheckpointError("face analysis is being installed already: the console says how far it is.")
    try:
        folder = packages.own_folder()
        if packages.is_current(folder):
            packages.sweep(folder)
        else:  # a process at work would keep its files: there is none while the new ones take their place
            packages.install_packages(folder, lambda line: print(f"IP-Adapter: {line}", flush=True), faces().ended)
        return str(folder)
    finally:
        _busy.release()


def _install_quietly() -> None:
    try:
        _install()
    except IPAdapterError as error:
        log.error("IP-Adapter: %s", error.detail)
