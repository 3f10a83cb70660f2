"""The extension's routes, behind the same authentication as the WebUI's own API."""

from __future__ import annotations

from typing import Any

from fastapi import Body, FastAPI, HTTPException, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from ..checkpoint.catalog import Catalog
from ..checkpoint.entries import AdapterEntry
from ..checkpoint.wanted import encoder_wanted
from ..errors import errors_name_unit, printable
from ..presets.document import check_storable
from ..presets.looks import with_files
from ..presets.store import MAX_ARCHIVE, PresetError, Store, checked_name
from . import process
from .face_install import add_install_route
from .guards import answered, guards_of, wants

JSON = ("application/json",)
ZIP = ("application/zip", "application/x-zip-compressed", "application/octet-stream")


def _adapter(entry: AdapterEntry) -> dict[str, Any]:
    spec = entry.spec
    return {
        "name": entry.name,
        "variant": spec.variant,
        "base": spec.base,
        "encoder": encoder_wanted(spec),
        "tokens": spec.tokens,
        "parameters": spec.parameters,
        "file": entry.file,
    }


def models(catalog: Catalog, refresh: bool = False) -> dict[str, Any]:
    """The answer of ``GET /ip-adapter/models``."""
    if refresh:
        catalog.refresh()
    return {
        "adapters": [_adapter(entry) for entry in catalog.adapters],
        "encoders": [{"name": e.name, "kind": e.spec.kind, "file": e.file} for e in catalog.encoders],
        "folders": [printable(str(folder)) for folder in catalog.folders],
    }


def _add_preset_routes(app: FastAPI, store: Store, guards: list[Any]) -> None:
    @app.get("/ip-adapter/presets", dependencies=guards)
    def get_presets() -> dict[str, list[str]]:
        with answered():
            return {"presets": store.names(), "recent": store.recent()}

    @app.get("/ip-adapter/presets/{name}", dependencies=guards)
    def get_preset(name: str) -> dict[str, Any]:
        with answered():
            return {"units": store.load_base64(name)}

    @app.put("/ip-adapter/presets/{name}", dependencies=[*guards, wants(*JSON)])
    def put_preset(name: str, body: Any = Body(...), overwrite: bool = True) -> dict[str, str]:  # noqa: B008
        with answered():
            if not isinstance(body, dict) or set(body) != {"units"}:
                raise PresetError('The body of a preset is {"units": […]}: send an object with units, and only them.')
            check_storable(body["units"])
            store.save(name, _with_looks(body["units"]), overwrite=overwrite)
        return {"preset": checked_name(name)}

    @app.delete("/ip-adapter/presets/{name}", dependencies=guards)
    def delete_preset(name: str) -> dict[str, str]:
        with answered():
            store.delete(name)
        return {"preset": checked_name(name)}

    @app.get("/ip-adapter/presets-export", dependencies=guards, response_class=Response)
    def export_presets(name: list[str] | None = Query(None)) -> Response:  # noqa: B008
        with answered():
            data = store.export(name)
        headers = {"Content-Disposition": 'attachment; filename="ip-adapter-presets.zip"'}
        return Response(data, media_type="application/zip", headers=headers)

    @app.post("/ip-adapter/presets-import", dependencies=[*guards, wants(*ZIP)])
    async def import_presets(request: Request, overwrite: bool = False) -> dict[str, list[str]]:
        data = bytearray()
        async for chunk in request.stream():
            data += chunk
            if len(data) > MAX_ARCHIVE:  # an import would say so too, but the memory is better left alone
                raise HTTPException(413, f"The file is larger than {MAX_ARCHIVE >> 30} GiB: import fewer presets.")
        with answered():
            return {"presets": await run_in_threadpool(store.import_, bytes(data), overwrite=overwrite)}


def _with_looks(units: Any) -> Any:
    """The units of a preset with looks whole, which stays when these are gone. Raises UnitError (unit named)."""
    if not isinstance(units, list):
        return units  # for the store to refuse
    done = []
    for number, unit in enumerate(units, 1):
        with errors_name_unit(number):
            done.append(with_files(unit, process.looks()) if isinstance(unit, dict) else unit)
    return done


def add_routes(app: FastAPI, catalog: Catalog, store: Store | None = None) -> list[Any] | None:
    """Called when the WebUI's app has started, and again after each reload of its page. Without an API of the
    WebUI's own there is none of ours. Without a ``store`` there are no presets.
    Returns what guards the routes, for routes that others add; None where there is no API."""
    guards = guards_of(app)
    if guards is None:
        return None

    @app.get("/ip-adapter/models", dependencies=guards)
    def get_models(refresh: bool = False) -> dict[str, Any]:
        return models(catalog, refresh)

    add_install_route(app, guards)
    if store is not None:
        _add_preset_routes(app, store, guards)
    return guards
