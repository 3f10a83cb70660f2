"""Looks of this WebUI: what units name comes in their place; what references become is kept; and the routes."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, HTTPException, Request, Response
from PIL.Image import Image, composite
from PIL.Image import new as new_image
from starlette.concurrency import run_in_threadpool

from ..encode.carriers import MAX_FILE, carrier
from ..encode.look_files import small_picture_of
from ..encode.picture import Mask, Picture, content_hash
from ..errors import IPAdapterError, UnitError, errors_name_unit
from ..kinds import Wording
from ..presets import thumbnails
from ..presets.document import PresetError, PresetExists, checked_name, key
from ..presets.looks import found
from ..unit import Reference, Unit
from . import host, options, process
from .guards import answered, wants
from .reference_folders import opened
from .start_pictures import check_is_known

if TYPE_CHECKING:
    from ..jobs.resources import Resources
    from ..presets.looks import Look

JSON, FILE = "application/json", "application/octet-stream"
GREY = (128, 128, 128)
MAX_UNIT = 1 << 30  # bytes of a unit with its pictures


# What units name


def with_looks(units: Sequence[Unit]) -> list[Unit]:
    """The units with the files of looks in the place of their names. Raises UnitError (unit named) for one that is not
    there."""
    done = []
    for unit in units:
        with errors_name_unit(unit.number):
            references = _with_files(unit.references, "images")
            negatives = _with_files(unit.negative_references, "negative_images")
        done.append(replace(unit, references=references, negative_references=negatives))
    return done


def _with_files(references: tuple[Reference, ...], field: str) -> tuple[Reference, ...]:
    return tuple(
        one if one.look is None else replace(one, image=found(process.looks(), one.look, f"{field}[{i}]: "), look=None)
        for i, one in enumerate(references)
    )


def as_picture(name: str) -> tuple[str, Image] | None:
    """The look of that name as a picture, with its content hash; None where it is not there."""
    with suppress(IPAdapterError):
        picture = carrier(process.looks().file(name))
        return content_hash(picture), picture
    return None


# Keeping


def keep(
    settings: object,
    name: str,
    resources: Resources,
    *,
    overwrite: bool = False,
    number: int = 1,
    wording: Wording = Wording.API,
) -> str:
    """Keep what the references of unit ``number`` (an API object) become as the look of that ``name``, which is
    returned. Raises IPAdapterError."""
    from ..jobs.embeddings import look_of
    from .job import decoded  # loaded by the first that computes: a start needs nothing of it

    looks, name = process.looks(), checked_name(name, "look")
    if not overwrite and any(
        key(one.name) == key(name) for one in looks.all()
    ):  # told before the work; asked again after it
        raise PresetExists(f"There is a look “{name}” already: choose another name, or overwrite it.")
    with errors_name_unit(number):
        unit = Unit.parse(settings, number, wording)
        if not unit.enabled:
            raise UnitError("it is disabled, so there is nothing to keep: enable it.")
        check_is_known(unit)
        (unit,) = decoded([unit])
    with host.current().alone():
        try:
            file = look_of(unit, name, partial(_board, unit.references), resources, host.current().device())
        finally:
            if not options.keep_encoder():
                resources.release_encoder()
    return looks.save(name, file, overwrite=overwrite)


def _board(references: Sequence[Reference], seen: Sequence[Image]) -> bytes:
    """The small picture of a look: of what was ``seen``, or, of looks, theirs."""
    if seen:
        return thumbnails.board(seen[: thumbnails.ON_BOARD])
    return _of_looks([one for one in references if one.weight])


def small(references: Sequence[Reference]) -> bytes:
    """A small JPEG file of decoded references, b"" where there is nothing to be seen. A look shows its own."""
    references = opened(references, thumbnails.ON_BOARD)
    seen = [one for one in references if isinstance(one.image, Picture) and not one.image.carries_embeddings]
    if seen:
        return thumbnails.board([_as_it_counts(one) for one in seen[: thumbnails.ON_BOARD]])
    return _of_looks(references)


def _of_looks(references: Sequence[Reference]) -> bytes:
    """That of the first look that has one."""
    carriers = (one.image for one in references if isinstance(one.image, Picture))
    return next((jpeg for picture in carriers if (jpeg := small_picture_of(picture))), b"")


def _as_it_counts(reference: Reference) -> Image:
    """A decoded reference, grey where its mask hides it: a file that is given away shows no more than it has used."""
    picture: Image = reference.image.image
    if not isinstance(reference.mask, Mask):
        return picture
    mask = reference.mask.image.resize(picture.size)
    return composite(picture, new_image("RGB", picture.size, GREY), mask)


# Routes


def told(look: Look) -> dict[str, Any]:
    """What a client is told of a look."""
    head = look.head
    return {
        "name": look.name, "adapter": head.adapter, "holds": head.holds, "references": head.count,
        "thumbnail": b64encode(head.thumbnail).decode() if head.thumbnail else None,
    }  # fmt: skip


def add_routes(app: FastAPI, resources: Callable[[], Resources], guards: Sequence[Any]) -> None:
    """``guards``: the dependencies of the other routes, which ask for the WebUI's API password."""

    @app.get("/ip-adapter/looks", dependencies=[*guards])
    def get_looks() -> dict[str, Any]:
        with answered():
            return {"looks": [told(look) for look in process.looks().all()]}

    @app.get("/ip-adapter/looks/{name}", dependencies=[*guards], response_class=Response)
    def get_look(name: str) -> Response:
        with answered():
            file = process.looks().file(name)
        headers = {"Content-Disposition": 'attachment; filename="ip-adapter-look.safetensors"'}
        return Response(file, media_type=FILE, headers=headers)

    @app.put("/ip-adapter/looks/{name}", dependencies=[*guards, wants(JSON, FILE)])
    async def put_look(name: str, request: Request, overwrite: bool = True) -> dict[str, str]:
        is_file = request.headers["content-type"].partition(";")[0].strip().lower() == FILE
        with answered():
            checked_name(name, "look")
            body = await _body(request, MAX_FILE if is_file else MAX_UNIT)
            if is_file:
                kept = await run_in_threadpool(process.looks().save, name, body, overwrite=overwrite)
            else:
                kept = await run_in_threadpool(keep, _unit(body), name, resources(), overwrite=overwrite)
        return {"look": kept}

    @app.delete("/ip-adapter/looks/{name}", dependencies=[*guards])
    def delete_look(name: str) -> dict[str, str]:
        with answered():
            process.looks().delete(name)
            return {"look": checked_name(name, "look")}


async def _body(request: Request, limit: int) -> bytes:
    """The whole of it. Raises HTTPException 413 where it is larger, before it has come."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > limit:
            raise HTTPException(413, f"The body is larger than {limit >> 20} MB: keep fewer references in one look.")
    return bytes(data)


def _unit(body: bytes) -> Any:
    """The unit in a body. Raises PresetError for another one."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or set(content) != {"unit"}:
        raise PresetError(
            f'The body of a look is {{"unit": {{…}}}}, or the file of a look as {FILE}: send an object with unit, and '
            "only it, or a file."
        )
    return content["unit"]
