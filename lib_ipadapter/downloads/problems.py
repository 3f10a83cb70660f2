"""What a person is told of a download that did not go well: what is wrong, and what to do."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from ..checkpoint.names import size
from ..errors import CheckpointError, printable
from .published import SITE, Published

AGAIN = "try again"  # in the panel by its button, as a client by another request
HOST = re.compile(r"[A-Za-z0-9.:\[\]-]{1,100}")


class DownloadError(CheckpointError):
    """A download that did not come to its end."""


def host() -> str:
    """The name of the machine that is asked, without what an address may hold beside it (a login)."""
    try:
        found = urlsplit(os.environ.get("HF_ENDPOINT") or SITE).hostname or ""
    except ValueError:
        found = ""
    return found if HOST.fullmatch(found) else "the mirror that HF_ENDPOINT names"


def by_hand(file: Published, folder: Path) -> str:
    """How a person gets a file without us."""
    return f"download {file.link} in a browser and save it as {printable(str(folder / file.name))}"


def sentence(word: str, told: str, file: Published, folder: Path, done: int = 0) -> str:
    """About a download of ``file`` into ``folder`` that ended with ``done`` bytes, 0 where it brought none of
    them. ``word`` and ``told`` are what the process that fetches said."""
    others = f"{AGAIN}, and if that does not help, {by_hand(file, folder)}."
    known = _sentences(told, file, folder, done)
    found = known.get("broken" if word == "connection" and done else word)
    return f"{file.name}: {found or f'it could not be fetched ({told or word}): {others}'}"


def _sentences(told: str, file: Published, folder: Path, done: int) -> dict[str, str]:
    where, hand = printable(str(folder)), by_hand(file, folder)
    others = f"{AGAIN}, and if that does not help, {hand}."
    return {
        "wrong": f"what came from {host()} is not the published file (another SHA-256) and has been deleted: {others}",
        "large": f"what comes from {host()} is larger than the published file and has been deleted: {others}",
        "taken": f"another file of this name lies in {where}, and is not the published one: move it away or delete it, "
        f"then {AGAIN}.",
        "library": f"the WebUI's huggingface_hub cannot be used (its part {told or 'huggingface_hub'} is missing): "
        f"install it again, or {hand}.",
        "full": f"the disk with {where} is full: make room, then {AGAIN}; what has come stays.",
        "login": f"{host()} gives this file only to who is logged in (it answered {told}): set HF_TOKEN to a token "
        f"that may read {file.repo}, and start the WebUI again, or {hand}.",
        "missing": f"{host()} has no {file.path} in {file.repo} (it answered 404): set HF_ENDPOINT to another mirror "
        f"or to {SITE}, or {hand}.",
        "server": f"{host()} cannot give the file now (it answered {told}): {AGAIN} in a few minutes.",
        "offline": "this WebUI was started in offline mode (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set): start it "
        f"without, or {hand}.",
        "connection": f"{host()} cannot be reached, or breaks off at once: see that this machine is online "
        f"(HTTPS_PROXY names a proxy, HF_ENDPOINT a mirror), then {AGAIN}.",
        "broken": f"the connection to {host()} broke off after {size(done)}: {AGAIN}, and it goes on from there.",
        "folder": f"{where} cannot be written ({told}): let the WebUI write there, then {AGAIN}.",
        "ended": f"the process that fetches it has ended ({told}): {AGAIN}, and it goes on from there.",
        "start": f"no process can be started to fetch it ({told}): {hand}.",
    }


def no_room(needed: int, free: int, folder: Path) -> str:
    """Said before anything is fetched."""
    return (
        f"{size(needed)} are needed in {printable(str(folder))}, and its disk has {size(free)} left: make room, or "
        "choose fewer files."
    )
