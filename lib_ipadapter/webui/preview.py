"""``POST /ip-adapter/preview``: what the image encoder sees of a unit's references, and the faces in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from fastapi import Body, FastAPI, HTTPException

from ..encode.picture import Mask, Picture
from ..errors import IPAdapterError, UnitError
from ..jobs.resources import Resources
from ..unit import Unit
from .guards import wants
from .panel.face_cards import face_look
from .panel.reference_cards import seen
from .picture_text import base64_of
from .reference_folders import SIDE_BY_SIDE, opened
from .start_pictures import check_is_known

MAX_SHOWN = 16  # pictures of a folder
SHOWN = 1024  # pixels of the longer side of a photo in an answer


def preview(settings: object, resources: Resources) -> dict[str, list[Any]]:
    """One unit as an API object -> PNGs in base64, one for each reference; of an adapter for faces also the photos with
    the faces marked, and where these are. Raises IPAdapterError."""
    from .job import decoded  # loaded by the first that looks: a start needs nothing of it

    unit = Unit.parse(settings, 1)
    check_is_known(unit)
    (unit,) = decoded([unit], walk=SIDE_BY_SIDE)
    unit = replace(unit, references=opened(unit.references, MAX_SHOWN))
    pictures = [Picture.of(reference.image) for reference in unit.references]
    if any(picture.carries_embeddings for picture in pictures):
        raise UnitError("embeddings are nothing to look at: give pictures.")
    look = face_look(unit, resources)
    if look is None:
        return {"images": [base64_of(picture) for picture in seen(unit, resources.catalog)]}
    answer: dict[str, list[Any]] = {"images": [], "photos": [], "faces": []}
    for i, (picture, reference) in enumerate(zip(pictures, unit.references, strict=True)):
        mask = None if reference.mask is None else Mask.of(reference.mask)
        try:
            faces = look.at(picture, mask)
        except IPAdapterError as error:
            raise type(error)(f"images[{i}]: {error.detail}") from None
        if faces.meant is None:
            raise UnitError(f"images[{i}]: {faces.problem}")
        image = picture.image
        answer["images"].append(base64_of(faces.cut(image, None if mask is None else mask.image, look.size)))
        marked = faces.marked(image)
        marked.thumbnail((SHOWN, SHOWN))
        answer["photos"].append(base64_of(marked))
        answer["faces"].append(faces.told())
    return answer


def add_preview_route(app: FastAPI, resources: Callable[[], Resources], guards: Sequence[Any]) -> None:
    """``guards``: the dependencies of the other routes, which ask for the WebUI's API password."""

    @app.post("/ip-adapter/preview", dependencies=[*guards, wants("application/json")])
    def post_preview(unit: Any = Body()) -> dict[str, list[Any]]:  # noqa: B008 (FastAPI's form)
        try:
            return preview(unit, resources())
        except IPAdapterError as error:
            raise HTTPException(error.status_code, error.in_unit(1).detail) from None
