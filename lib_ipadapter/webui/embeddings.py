"""``POST /ip-adapter/embeddings``: a unit's references as a file that comes in their place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import Body, FastAPI, HTTPException, Response

from ..errors import IPAdapterError, UnitError
from ..jobs.embeddings import embeddings_of
from ..jobs.resources import Resources
from ..unit import Unit
from . import host, options
from .guards import wants
from .start_pictures import check_is_known

MEDIA_TYPE = "application/octet-stream"


def embeddings(settings: object, resources: Resources) -> bytes:
    """One unit as an API object -> a safetensors file. Raises IPAdapterError."""
    from .job import decoded  # loaded by the first that computes: a start needs nothing of it

    unit = Unit.parse(settings, 1)
    if not unit.enabled:
        raise UnitError("it is disabled, so there is nothing to embed: enable it.")
    check_is_known(unit)
    (unit,) = decoded([unit])
    with host.current().alone():
        try:
            return embeddings_of(unit, resources, host.current().device())
        finally:
            if not options.keep_encoder():
                resources.release_encoder()


def add_embeddings_route(app: FastAPI, resources: Callable[[], Resources], guards: Sequence[Any]) -> None:
    """``guards``: the dependencies of the other routes, which ask for the WebUI's API password."""

    @app.post("/ip-adapter/embeddings", dependencies=[*guards, wants("application/json")], response_class=Response)
    def post_embeddings(unit: Any = Body()) -> Response:  # noqa: B008 (FastAPI's form)
        try:
            file = embeddings(unit, resources())
        except IPAdapterError as error:
            raise HTTPException(error.status_code, error.in_unit(1).detail) from None
        headers = {"Content-Disposition": 'attachment; filename="ip-adapter-embeddings.safetensors"'}
        return Response(file, media_type=MEDIA_TYPE, headers=headers)
