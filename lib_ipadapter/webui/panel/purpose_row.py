"""The row in which a person says what a unit is for, and the orders that keep a purpose's default.

A purpose is a button with a small picture. What it sets, and which adapters are for faces, stands in the row's
attributes; the page's script (panel/purpose.js) does the rest. Orders come through the box of the preset bar:
``{"do": "keep purpose", "purpose": name, "settings": {field: value}}`` and ``{"do": "forget purpose", …}``.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

from ...checkpoint.entries import AdapterEntry
from ...encode.faces import packages
from ...errors import IPAdapterError
from ...fields import settings_of
from ...flux_fields import FLUX
from ...jobs import choose
from ...presets.purpose_defaults import PurposeDefaults
from ...purposes import FIELDS, PURPOSES, REDUX_FIELDS, STABLE, TELLING, Purpose
from ...unit import Unit
from ...weighting import COMPOSING, INVERTING
from .. import process
from . import html_controls
from .controls import BY_FIELD
from .model_choice import ModelChoice, has_pack

ORDERS = ("keep purpose", "forget purpose")
# What has an effect with some weight types only: fields' needs (fields.py) -> these types.
TYPES = {"composition": COMPOSING, "boost": INVERTING}
NO_FACES = "There is no adapter for faces that fits the loaded checkpoint."
NO_CHECKPOINT = "Which adapter for faces fits is not known before a checkpoint is."
NO_ANALYSIS = "Adapters for faces need face analysis, which is not installed: install it in Settings, under IP-Adapter."

# 36 x 24: a picture with a hill, a sun and a flower in it, as much of it as the purpose takes over.
_FRAME = "<rect x='1' y='1' width='34' height='22' rx='3' fill='{fill}' stroke='currentColor' stroke-opacity='.55'/>"
_EMPTY, _SKY = _FRAME.format(fill="none"), _FRAME.format(fill="#5aa7e0")
_HILLS, _SUN = "M2 19 13 9l8 7 5-4 8 7", "<circle cx='27' cy='7' r='3' {paint}/>"
_FILLED = f"<path d='{_HILLS}v1q0 2-2 2H4q-2 0-2-2z' fill='#4d9a57'/>" + _SUN.format(paint="fill='#ffc93c'")
_OUTLINES = (
    f"<g fill='none' stroke='{{line}}' stroke-width='1.6' stroke-linejoin='round'><path d='{_HILLS}'/>"
    f"{_SUN.format(paint='')}</g>"
)
_FLOWER = (
    "<path d='M12 21v-6' stroke='#1f5f2b' stroke-width='1.6'/><circle cx='12' cy='13' r='3.2' fill='#e4508f'/>"
    "<circle cx='12' cy='13' r='1.2' fill='#fff'/>"
)
_STROKES = (
    "<g fill='none' stroke-width='4' stroke-linecap='round'><path d='M6 18q4-14 9-6' stroke='#5aa7e0'/>"
    "<path d='M13 18q4-13 9-6' stroke='#4d9a57'/><path d='M20 18q4-12 9-7' stroke='#ffc93c'/></g>"
)
_HEAD = (
    "<circle cx='18' cy='12' r='8' fill='#f1b98c'/><path d='M10 11q1-8 8-8t8 8q-4 0-6-4-3 4-10 4z' fill='#6b4226'/>"
    "<g fill='#2b2b2b'><circle cx='15' cy='12.5' r='1.1'/><circle cx='21' cy='12.5' r='1.1'/></g>"
    "<path d='M15 16q3 2.4 6 0' fill='none' stroke='#2b2b2b' stroke-width='1.2' stroke-linecap='round'/>"
)


def _grid(step: int, width: float) -> str:
    """Lines as of a grid of image tokens."""
    lines = [f"M{x} 1v22" for x in range(1 + step, 35, step)] + [f"M1 {y}h34" for y in range(1 + step, 23, step)]
    return f"<path d='{''.join(lines)}' stroke='#fff' stroke-opacity='.8' stroke-width='{width:g}'/>"


_TILES = "".join(
    f"<rect x='{1 + 11.4 * column:.1f}' y='{1 + 7.4 * row:.1f}' width='11.4' height='7.4' fill='#{colour}'/>"
    for row, colours in enumerate(("5aa7e0 79b4d6 e6c968", "6fa79f 55a077 8fb26a", "4d9a57 7d8f62 4d9a57"))
    for column, colour in enumerate(colours.split())
)
PICTURES = {
    "everything": _SKY + _FILLED + _FLOWER,
    "style": _EMPTY + _STROKES,
    "composition": _EMPTY + _OUTLINES.format(line="currentColor"),
    "both": _SKY + _FILLED + _OUTLINES.format(line="#1d2b3a"),
    "face": _EMPTY + _HEAD,
    "whole": _SKY + _FILLED + _FLOWER + _grid(4, 0.4),
    "variation": _SKY + _FILLED + _grid(6, 0.8),
    "mood": _TILES + _EMPTY,
}


def drawn(choice: ModelChoice | None = None) -> str:
    """The row. Without a ``choice``, as when the page is built, no adapter for faces is looked for."""
    defaults, faces = process.purposes(), _faces(choice)
    untouched = {name: settings_of(Unit)[name].default for name in (*FIELDS, *REDUX_FIELDS)}
    about = html_controls.attributes(
        data_untouched=json.dumps(_in_page(untouched)),
        data_types=json.dumps(TYPES),
        data_faces=json.dumps(faces),
        data_kinds=json.dumps(_kinds(choice)),
        data_telling=json.dumps(TELLING),
        **_defaults(defaults),
    )
    buttons = "".join(_button(purpose, str(faces["lacking"]) if purpose.faces else "") for purpose in PURPOSES)
    more = html_controls.attributes(title="All weight types, under Advanced")
    menu = html_controls.attributes(
        title="Keep the present settings as a purpose's default",
        aria_label="Defaults of purposes",
        aria_expanded="false",
    )
    return (
        f"<div class='ip-adapter-purposes' role='group' aria-label='What the references are for'{about}>{buttons}"
        f"<button type='button' class='ip-adapter-purpose-more' aria-pressed='false'{more}>More</button>"
        f"<button type='button' class='ip-adapter-purpose-menu'{menu}>⋯</button>"
        "<small class='ip-adapter-purpose-why' role='status'></small></div>"
    )


def _in_page(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Values of fields in the form that the page has."""
    return {name: BY_FIELD[name].show(value) for name, value in settings.items()}


def _defaults(defaults: PurposeDefaults) -> dict[str, str]:
    """Attributes: each purpose's default, and whose is a person's."""
    shown = {name: _in_page(settings) for name, settings in defaults.all().items()}
    return {"data_defaults": json.dumps(shown), "data_kept": json.dumps([*defaults.kept()])}


def _kinds(choice: ModelChoice | None) -> dict[str, str]:
    """The variants of the adapters for FLUX by their names; the purposes of all others are the same."""
    adapters = () if choice is None else choice.resources.catalog.adapters
    return {one.name: one.spec.variant for one in adapters if one.spec.variant in FLUX}


def _button(purpose: Purpose, lacking: str) -> str:
    """``lacking``: why it cannot be used. It can be reached all the same, to be told that. The page's script shows
    those for the unit's adapter; until it has come, those for Stable Diffusion are in sight."""
    about = html_controls.attributes(
        data_purpose=purpose.name, data_for=json.dumps(purpose.kinds), title=lacking or purpose.about,
        **({"aria_disabled": "true"} if lacking else {}),
        **({"data_begins": ""} if purpose.begins else {}),
        **({} if {*STABLE} & {*purpose.kinds} else {"hidden": ""}),
    )  # fmt: skip
    picture = f"<svg viewBox='0 0 36 24' width='36' height='24' aria-hidden='true'>{PICTURES[purpose.name]}</svg>"
    return (
        f"<button type='button' class='ip-adapter-purpose' aria-pressed='false'{about}>{picture}"
        f"<span>{html.escape(purpose.label)}</span></button>"
    )


def _faces(choice: ModelChoice | None) -> dict[str, Any]:
    """The adapter for faces that "Face" takes and the one that other purposes take in its place, the names of all for
    faces, and what is lacking for "Face", "" for nothing."""
    if choice is None:
        return {"face": None, "other": None, "all": [], "lacking": NO_CHECKPOINT}
    catalog = choice.resources.catalog
    face = choice.chosen(faces=True)
    return {
        "face": face,
        "other": choice.chosen(faces=False),
        "all": [one.name for one in catalog.adapters if choose.is_for_faces(one)],
        "lacking": _lacking(choice) if face is None else NO_ANALYSIS if _cannot_see(catalog.find(face)) else "",
    }


def _lacking(choice: ModelChoice) -> str:
    """Why there is no adapter for faces: none fits, a file is missing for the one that does, or nothing can be said."""
    catalog, topology = choice.resources.catalog, choice.topology
    if topology is None:
        return NO_CHECKPOINT
    for adapter in choose.in_order(catalog, topology, faces=True):
        try:
            choose.check_ready(adapter, catalog, has_pack(choice.resources))
        except IPAdapterError as error:
            return f"Adapter {adapter.name} is here, but {error.detail}"
    return NO_FACES


def _cannot_see(adapter: AdapterEntry) -> bool:
    """Whether faces cannot be found for it."""
    import importlib.util

    if not adapter.spec.source.startswith("face"):
        return False
    return not packages.is_installed(packages.own_folder()) and importlib.util.find_spec("insightface") is None


def _read(settings: object) -> object:
    """What the page has of fields -> what they are parsed from; anything else is left to be refused."""
    if not isinstance(settings, Mapping):
        return settings
    return {name: BY_FIELD[name].read(value) if name in BY_FIELD else value for name, value in settings.items()}


def followed(order: Mapping[str, Any]) -> str:
    """HTML for the line of notes: what has come of an order. The page's script finds the defaults in it."""
    defaults, name = process.purposes(), str(order.get("purpose"))
    try:
        if order["do"] == "keep purpose":
            defaults.keep(name, _read(order.get("settings")))
            said = "The present settings are the purpose’s default from now on."
        else:
            defaults.forget(name)
            said = "The purpose has its published default again."
    except IPAdapterError as error:
        return f"<div>{html.escape(error.detail)}</div>"
    about = html_controls.attributes(**_defaults(defaults))
    return f"<div class='ip-adapter-purposes-now'{about}>{html.escape(said)}</div>"
