"""The extension's routes, behind the same authentication as the WebUI's own API."""

from __future__ import annotations

from secrets import compare_digest
from typing import Any

from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from modules import shared

from ..checkpoint.catalog import PUBLISHED, Catalog, Entry
from ..checkpoint.identify import AdapterSpec


def _accounts() -> dict[str, str]:
    """The accounts of --api-auth ("user:password,user2:password2")."""
    pairs = (account.split(":", 1) for account in (shared.cmd_opts.api_auth or "").split(",") if ":" in account)
    return dict(pairs)


def _authenticate(credentials: HTTPBasicCredentials = Depends(HTTPBasic())) -> None:  # noqa: B008 (FastAPI's form)
    password = _accounts().get(credentials.username)
    if password is None or not compare_digest(credentials.password.encode(), password.encode()):
        raise HTTPException(401, "Incorrect username or password", {"WWW-Authenticate": "Basic"})


def _adapter(entry: Entry) -> dict[str, Any]:
    spec = entry.spec
    return {
        "name": entry.name,
        "variant": spec.variant,
        "base": spec.base,
        "encoder": encoder_wanted(spec),
        "tokens": spec.tokens,
        "parameters": spec.parameters,
        "file": entry.path.relative_to(entry.folder).as_posix(),
    }


def encoder_wanted(spec: AdapterSpec) -> str:
    """What an adapter is fed with, in words: "ViT-H-14", "face embedding", …"""
    if spec.image_encoder is not None:
        return spec.image_encoder

    def kind(source: str, width: int | None) -> str:
        published = PUBLISHED.get((source, width))
        return published.kind if published else f"image encoder {width} wide ({source})"

    if spec.source == "face":
        return "face embedding"
    if spec.source == "face+penultimate":
        return f"face embedding and {kind('penultimate', spec.clip_width)}"
    return kind(spec.source, spec.embedding_width)


def models(catalog: Catalog, refresh: bool = False) -> dict[str, Any]:
    """The answer of ``GET /ip-adapter/models``."""
    if refresh:
        catalog.refresh()
    return {
        "adapters": [_adapter(entry) for entry in catalog.adapters],
        "encoders": [
            {"name": e.name, "kind": e.spec.kind, "file": e.path.relative_to(e.folder).as_posix()}
            for e in catalog.encoders
        ],
        "folders": [str(folder) for folder in catalog.folders],
    }


def add_routes(app: FastAPI, catalog: Catalog) -> None:
    """Called when the WebUI's app has started, and again after each reload of its page. Without an API of the
    WebUI's own there is none of ours."""
    if not (shared.cmd_opts.api or shared.cmd_opts.nowebui):
        return
    guards = [Depends(_authenticate)] if shared.cmd_opts.api_auth else []

    @app.get("/ip-adapter/models", dependencies=guards)
    def get_models(refresh: bool = False) -> dict[str, Any]:
        return models(catalog, refresh)
