"""``POST /ip-adapter/preview``: what the image encoder sees of a unit's references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import Body, FastAPI, HTTPException

from ..checkpoint.catalog import Catalog
from ..errors import IPAdapterError, UnitError
from ..unit import Unit
from .guards import wants
from .panel.reference_cards import seen
from .picture_text import base64_of


def preview(settings: object, catalog: Catalog) -> dict[str, list[str]]:
    """One unit as an API object -> PNGs in base64, one for each reference. Raises IPAdapterError."""
    unit = Unit.parse(settings)
    if any(reference.controlnet is not None for reference in unit.references):
        raise UnitError("ControlNet's pictures are only known while a picture is made: give the picture itself.")
    return {"images": [base64_of(picture) for picture in seen(unit, catalog)]}


def add_preview_route(app: FastAPI, catalog: Callable[[], Catalog], guards: Sequence[Any]) -> None:
    """``guards``: the dependencies of the other routes, which ask for the WebUI's API password."""

    @app.post("/ip-adapter/preview", dependencies=[*guards, wants("application/json")])
    def post_preview(unit: Any = Body()) -> dict[str, list[str]]:  # noqa: B008 (FastAPI's form)
        try:
            return preview(unit, catalog())
        except IPAdapterError as error:
            raise HTTPException(error.status_code, error.in_unit(1).detail) from None
