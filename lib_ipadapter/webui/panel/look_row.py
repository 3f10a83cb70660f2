"""Looks in the panel: what its strip (javascript/opened/looks.js) asks for and orders.

The strip asks through the box of the shelf: ``{"ask": "looks"}``. Orders come through the box of the preset bar, and
what needs a name or a yes is asked for in its line of notes: ``{"ask": "keep look"}``, and ``{"ask": "delete look"}``
or ``{"do": "export look"}`` with its ``name``. A yes to keeping one has the number of the ``unit`` that it is
about. A look comes into a unit as ``look:`` and its name in the place of a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...encode.look_files import head_of
from ...encode.picture import Picture
from ...errors import IPAdapterError, UnitError
from ...kinds import Wording
from ...presets.store import PresetExists
from .. import looks, process
from ..picture_text import jpeg_url
from . import html_controls

if TYPE_CHECKING:
    from pathlib import Path

    from .exchanged_files import ExchangedFiles

KEEP, KEEP_OVER, DELETE, EXPORT = "keep look", "keep look over", "delete look", "export look"
ORDERS = (KEEP, KEEP_OVER, DELETE, EXPORT)
FILE = "ip-adapter-look.safetensors"
PREFIX = "look:"
# action -> (question about a look, button)
QUESTIONS = {
    KEEP: ("Keep the references of unit {unit} as the look", "Keep"),
    KEEP_OVER: ("“{name}” exists. Overwrite it?", "Overwrite"),
    DELETE: ("Delete the look “{about}”?", "Delete"),
}
OPENER = "Looks: references kept as one style under a name, for any unit"


def told() -> dict[str, Any]:
    """What the strip shows."""
    return {"looks": [_told(look) for look in process.looks().all()]}


def _told(look: Any) -> dict[str, Any]:
    small = look.head.thumbnail
    return {
        "name": look.name,
        "picture": jpeg_url(small) if small else "",
        "kind": look.head.adapter or ", ".join(look.head.holds),
    }


def picture(name: str) -> bytes:
    """The file of a look, which is taken for a picture. Raises IPAdapterError where it is not there."""
    return process.looks().file(name)


def asked(
    elem_id: Callable[[str], str], order: Mapping[str, Any], shown: int, unit: Callable[[int], Mapping[str, Any]]
) -> str:
    """HTML: the question. ``shown`` is the number of the unit that is shown, ``unit`` gives one by its number."""
    if order["ask"] == DELETE:
        return _question(elem_id, DELETE, {"about": str(order.get("name", "")), "name": ""})
    return _question(elem_id, KEEP, {"about": "", "name": _only_look(unit, shown)}, shown)


def _only_look(unit: Callable[[int], Mapping[str, Any]], number: int) -> str:
    """The name of the look that is a unit's only reference, "" where none is."""
    try:
        images: Sequence[Any] = unit(number).get("images") or ()
        image = images[0].get("image") if len(images) == 1 and isinstance(images[0], Mapping) else None
        if isinstance(image, Picture) and image.carries_embeddings:
            from ...encode.carriers import carried

            return head_of(carried(image.image)).name
    except IPAdapterError:
        pass  # keeping it says why it cannot be
    return ""


def _question(elem_id: Callable[[str], str], action: str, names: Mapping[str, str], number: int = 0) -> str:
    """``number`` is that of the unit that the question is about; another one may be shown when it is answered."""
    text, button = QUESTIONS[action]
    about = {**names, "unit": number} if number else names
    question = text.format(**names, unit=number)
    return html_controls.question(elem_id, question, button, {"do": action, **about}, is_named=action == KEEP)


def followed(
    elem_id: Callable[[str], str],
    order: Mapping[str, Any],
    count: int,
    unit: Callable[[int], Mapping[str, Any]],
    files: ExchangedFiles,
) -> tuple[str, list[str], Path | None]:
    """What has come of an order: HTML of a question, sentences, and the file that was asked for. The panel has
    ``count`` units, and ``unit`` gives one by its number."""
    number = 0
    action, name, about = order["do"], str(order.get("name") or "").strip(), str(order.get("about") or "")
    try:
        if action == EXPORT:
            files.delete_old()
            return "", [], files.write(FILE, process.looks().file(name))
        if action == DELETE:
            process.looks().delete(about)
            return "", [f"Deleted the look “{about}”."], None
        number = _number(order, count)
        settings = {**unit(number), "enabled": True}
        if not settings.get("images"):
            raise UnitError("it has no reference picture: add one, and keep the look then.").in_unit(number)
        kept = looks.keep(
            settings, name, process.resources(), overwrite=action == KEEP_OVER, number=number, wording=Wording.PANEL
        )
        return "", [f"Kept the look “{kept}”."], None
    except PresetExists:
        return _question(elem_id, KEEP_OVER, {"about": "", "name": name}, number), [], None
    except (IPAdapterError, OSError) as error:
        again = _question(elem_id, action, {"about": about, "name": name}, number) if action == DELETE or number else ""
        return again, [str(error)], None


def _number(order: Mapping[str, Any], count: int) -> int:
    """Of the unit that was asked about. Raises IPAdapterError where there is none such."""
    number = order.get("unit")
    if type(number) is int and 1 <= number <= count:
        return number
    raise IPAdapterError("The panel has no such unit any more: press Keep as look at the unit that you mean.")
