"""HTTP to one WebUI: bounded answers, no detours, and passwords that no log shows."""

from __future__ import annotations

import json
import os
import re
import threading
from typing import Any
from urllib.parse import urlsplit

from ..errors import printable
from .problems import BatchError
from .say import plain

MAX_ANSWER = 512 << 20  # bytes
CONNECT = 10.0  # seconds
AUTH = "IP_ADAPTER_BATCH_AUTH"
SHOWN = 20  # complaints of one answer
# A proxy before a WebUI that is not there, the last four from Cloudflare; and one that has not waited for its answer.
ABSENT = (502, 503, 521, 522, 523, 530)
GIVEN_UP = (504, 524)


class Away(Exception):
    """The WebUI is not there, or went away."""


class Late(Exception):
    """It has not answered in time."""


class Rejected(Exception):
    """It wants a password, or another one."""


class TooLarge(ValueError):
    """It has answered with more than is taken."""


class Answer:
    """``status``, and ``data`` in bytes."""

    def __init__(self, status: int, data: bytes) -> None:
        self.status, self.data = status, data

    def json(self) -> Any:
        """Raises ValueError."""
        try:
            return json.loads(self.data)
        except RecursionError:
            raise ValueError("nested too deeply") from None

    @property
    def sentence(self) -> str:
        """What an answer that is an error says of it."""
        try:
            told = self.json()
        except ValueError:
            told = None
        detail = told.get("detail") or told.get("errors") or told.get("error") if isinstance(told, dict) else None
        if isinstance(detail, list):  # FastAPI's own complaints
            detail = "; ".join(_complaint(one) for one in detail[:SHOWN])
        return plain(str(detail))[:2000] if detail else f"the WebUI answers {self.status}."


def _complaint(one: Any) -> str:
    """One of FastAPI's: where, and what."""
    if not isinstance(one, dict):
        return str(one)[:200]
    where = one.get("loc")
    place = ".".join(map(str, where[1:])) if isinstance(where, list) else ""
    return f"{place}: {one.get('msg', '')}" if place else str(one.get("msg", ""))


class Client:
    """``auth``: ``user:password``, or "". May be used from several threads."""

    def __init__(self, url: str, auth: str = "", timeout: float = 600.0) -> None:
        self.url, self._timeout = url.rstrip("/"), timeout
        self._auth = tuple(auth.partition(":")[::2]) if auth else None
        self._own = threading.local()

    def get(self, route: str, timeout: float | None = None) -> Answer:
        return self._ask("GET", route, None, timeout or self._timeout)

    def post(self, route: str, body: Any, timeout: float | None = None) -> Answer:
        return self._ask("POST", route, json.dumps(body).encode(), timeout or self._timeout)

    def _ask(self, method: str, route: str, data: bytes | None, timeout: float) -> Answer:
        """Raises Away, Late, Rejected and TooLarge."""
        import requests

        headers = {} if data is None else {"Content-Type": "application/json"}
        try:
            with self._session().request(
                method, self.url + route, data=data, headers=headers, auth=self._auth, stream=True,
                timeout=(CONNECT, timeout), allow_redirects=False,
            ) as answer:  # fmt: skip
                found = Answer(answer.status_code, _bounded(answer))
        except requests.ConnectTimeout:
            raise Away("it does not answer") from None
        except requests.Timeout:
            raise Late(f"it has not answered within {timeout:.0f} s: raise --timeout, or ask for less") from None
        except (requests.RequestException, OSError) as error:
            raise Away(f"the connection is gone ({type(error).__name__})") from None
        if found.status in GIVEN_UP and method == "POST":
            raise Late(
                f"a proxy before it has waited no longer ({found.status}): raise its timeout, or name the WebUI itself"
            )
        if found.status in (*ABSENT, *GIVEN_UP):
            raise Away(f"it answers {found.status}")
        if found.status in (401, 403):
            raise Rejected(f"it answers {found.status}: put user:password into {variable(self.url)} or {AUTH}.")
        return found

    def _session(self) -> Any:
        if not hasattr(self._own, "session"):
            import requests

            self._own.session = requests.Session()
            self._own.session.trust_env = False  # no proxy and no .netrc: what is named is spoken to, and nobody else
        return self._own.session


def _bounded(answer: Any) -> bytes:
    data = bytearray()
    for chunk in answer.iter_content(1 << 20):
        data += chunk
        if len(data) > MAX_ANSWER:
            raise TooLarge(f"the answer is larger than {MAX_ANSWER >> 20} MiB")
    return bytes(data)


def checked_url(text: str) -> str:
    """An endpoint as it was named, without a slash at its end. Raises BatchError."""
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = parts.port
    except ValueError:
        raise BatchError(f"--endpoint {printable(text)[:200]} is no address: write http://host:port.") from None
    if parts.username or parts.password or "@" in parts.netloc:
        raise BatchError(f"--endpoint holds a password, which everybody could read: put user:password into {AUTH}.")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise BatchError(f"--endpoint {printable(text)[:200]} is no address: write http://host:port.")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path.rstrip('/')}"


def variable(url: str) -> str:
    """The variable of the environment that holds the password of this endpoint alone."""
    parts = urlsplit(url)
    return f"{AUTH}_" + re.sub(r"[^A-Z0-9]", "_", f"{parts.hostname}_{parts.port or parts.scheme}".upper())


def auth_of(url: str) -> str:
    """The endpoint's own password, or the one for all."""
    return os.environ.get(variable(url)) or os.environ.get(AUTH) or ""
