"""Who may use the extension's routes: whoever may use the WebUI's own, and no page of another site.

A browser sends what a foreign page asks for with whatever the person is logged in with. It says where a request comes
from: in ``Sec-Fetch-Site`` over https and on the machine itself, in ``Origin`` wherever something is sent. Programs say
neither.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, HTTPException, Request
from modules import shared

from ..errors import IPAdapterError

if TYPE_CHECKING:
    import gradio as gr

log = logging.getLogger("ip-adapter")

HOST_ROUTE = "/sdapi/v1/txt2img"
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def guards_of(app: FastAPI) -> list[Any] | None:
    """What guards the WebUI's own routes (they ask for the password of ``--api-auth``), and a guard against other
    sites; None where there is no API, or it cannot be told how it is guarded."""
    route = next((route for route in app.routes if getattr(route, "path", None) == HOST_ROUTE), None)
    if route is None:
        return None
    guards = list(getattr(route, "dependencies", ()))
    if shared.cmd_opts.api_auth and not guards:
        log.error("IP-Adapter: this WebUI asks for its API's password in an unknown way: the extension has no routes.")
        return None
    return [*guards, Depends(refuse_other_sites)]


def refuse_other_sites(request: Request) -> None:
    """A dependency of routes. Raises HTTPException 403 for what another site's page sends, unless the WebUI was
    started to allow that site. Reading changes nothing and is the browser's own matter."""
    origin = request.headers.get("origin", "")
    if request.method in ("GET", "HEAD", "OPTIONS") or _allowed(origin):
        return
    site = request.headers.get("sec-fetch-site")
    if site in ("same-origin", "none") or (site is None and (not origin or _host(origin) in _own_hosts(request))):
        return
    raise HTTPException(
        403,
        f"This request comes from another site ({origin[:200] or 'it does not say which'}): start the WebUI with "
        "--cors-allow-origins and that address if it is yours.",
    )


def refuse_other_pages(event: gr.Request) -> None:
    """As ``refuse_other_sites``, for an event that passes gradio's queue by; raises IPAdapterError.

    One that only tells of a request, as those in the queue do, could tell anything: gradio 3 believes it.
    """
    try:
        if event.request is None:
            raise IPAdapterError("This request does not say where it comes from: use the WebUI's page, and reload it.")
        refuse_other_sites(event.request)
    except HTTPException as error:
        raise IPAdapterError(error.detail) from None


def wants(*content_types: str) -> Any:
    """A dependency of routes. 415 for a body that does not say it is one of ``content_types``: other types can be sent
    by any page without the browser's asking first."""

    def check(request: Request) -> None:
        told = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if told not in content_types:
            raise HTTPException(415, f"The body's type is {told[:100] or 'missing'}: send it as {content_types[0]}.")

    return Depends(check)


def _allowed(origin: str) -> bool:
    """Whether the WebUI was started to allow pages of ``origin``."""
    allowed = (shared.cmd_opts.cors_allow_origins or "").split(",")
    pattern = shared.cmd_opts.cors_allow_origins_regex
    return bool(origin) and (origin in allowed or "*" in allowed or bool(pattern and re.fullmatch(pattern, origin)))


def _host(origin: str) -> str:
    """ "example.org:8080" of "http://example.org:8080"; the port that goes without saying is left out."""
    scheme, host, *_ = urlsplit(origin)
    return host.lower().removesuffix(_DEFAULT_PORTS.get(scheme, ""))


def _own_hosts(request: Request) -> set[str]:
    """The names by which the request reached us, those that a proxy before us has passed on included. A page cannot
    send such headers to another site."""
    forwarded = re.findall(r'host="?([^";,\s]+)', request.headers.get("forwarded", "")[:2000], re.IGNORECASE)
    told = [request.headers.get("host", ""), *request.headers.get("x-forwarded-host", "")[:2000].split(","), *forwarded]
    return {_host(f"{scheme}://{host.strip()}") for host in told if host.strip() for scheme in _DEFAULT_PORTS}


@contextmanager
def answered() -> Iterator[None]:
    """Errors as the WebUI's own routes give them: {"detail": sentence} and their status, without a traceback."""
    try:
        yield
    except IPAdapterError as error:
        raise HTTPException(error.status_code, error.detail) from None
