"""The card in the place of a model that is not here: what can be had, how large it is, which licence it has and where
it goes; one button that gets it, and how far that is. Where nothing may be downloaded, it has links instead.

The card is plain HTML, drawn with the line about the model. The page's script (javascript/opened/downloads.js) presses
one hidden button for all it wants: the event's input is an order in JSON, its output the answer.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import gradio as gr
from fastapi import HTTPException

from ...checkpoint.catalog import AUTO, Catalog
from ...checkpoint.names import size
from ...errors import IPAdapterError, printable
from .. import downloads, host
from ..guards import refuse_other_sites
from ..host import folders
from ..host.page import SCRIPT
from .html_controls import attributes

if TYPE_CHECKING:
    from ...attend.layers import Topology
    from ...downloads.published import Link, Published

BUTTON = "txt2img_ip_adapter_downloads"
BASES = ("SD1.5", "SDXL")
UNKNOWN = "unknown size"
# What comes below the files: what went wrong, how far it is, and the buttons.
ENDING = (
    "<p class='ip-adapter-problem' role='alert' hidden></p>"
    "<div class='ip-adapter-download-progress' hidden><progress aria-label='Downloaded'></progress><span></span></div>"
    "<div class='ip-adapter-download-buttons'>"
    "<button type='button' class='primary' data-do='start'>Download</button>"
    "<button type='button' class='primary' data-do='again' hidden>Try again</button>"
    "<button type='button' data-do='cancel' hidden>Cancel</button><small></small></div>"
)


class Offer(NamedTuple):
    """What the card offers: its title, the files in sight, and those behind “More”. ``is_wanted``: without them there
    is no picture with a reference. ``is_ticked``: the files in sight are chosen already."""

    title: str
    files: Sequence[Published]
    more: Sequence[Published | Link] = ()
    is_wanted: bool = True
    is_ticked: bool = True


def add_button() -> None:
    """The button that the script presses; one is enough for a page."""
    button = gr.Button("", visible=False, elem_id=BUTTON)
    button.click(
        follow, button, button, queue=False, show_progress="hidden", **{SCRIPT: "() => [ipAdapter.downloads.order()]"}
    ).then(None, button, None, **{SCRIPT: "(text) => ipAdapter.downloads.answer(text)"})


def follow(order: str, request: gr.Request) -> str:
    """Do what the page's script wants, and say how the downloads are, in JSON with the order's own ``stamp``."""
    wanted = json.loads(order)
    answer: dict[str, Any] = {"stamp": wanted["stamp"]}
    try:
        refuse_other_sites(request.request)
        if wanted["do"] == "start":
            if why := downloads.refusal():
                raise IPAdapterError(why)
            downloads.desk().start(downloads.names({"files": wanted["files"]}))
        elif wanted["do"] != "look":  # what is on its way can always be called off
            downloads.desk().cancel()
    except (IPAdapterError, HTTPException) as error:
        answer["problem"] = error.detail
    return json.dumps({**downloads.desk().state(), **answer})


def card(model: str | None, catalog: Catalog, encoder: str = AUTO) -> str:
    """HTML for a unit with this adapter (None: none is chosen); empty where nothing is to be had."""
    offer = offered(model, catalog, encoder)
    nothing: dict[str, Any] = {"running": False, "files": []}
    state = downloads.desk().state() if downloads.is_used() else nothing
    is_told = state["running"] or any(file["state"] == "failed" for file in state["files"])
    if offer is None:
        if not is_told:
            return ""
        offer = Offer("Downloads", (), is_wanted=False)
    why = downloads.refusal()
    about = {"role": "group", "aria_label": "Get files", "data_state": json.dumps(state)}
    if offer.is_wanted or is_told:
        about["data_active"] = ""
    reason = f"<p>{html.escape(why)}</p>" if why else ""
    ending = ENDING if not why or state["running"] else ""  # what is on its way can be called off
    files, more = _rows(offer.files, why, is_ticked=offer.is_ticked), _rows(offer.more, why)
    if not offer.is_wanted and more:
        inside = f"<details><summary>{html.escape(offer.title)}</summary>{reason}{more}{ending}</details>"
    else:
        folded = f"<details><summary>More …</summary>{more}</details>" if more else ""
        inside = f"<strong>{html.escape(offer.title)}</strong>{reason}{files}{folded}{ending}"
    return f"<div class='ip-adapter-download'{attributes(**about)}>{inside}</div>"


# What is offered

NOTHING = "No adapter is here yet: choose the one for your checkpoints."


def offered(model: str | None, catalog: Catalog, encoder: str = AUTO) -> Offer | None:
    """What a unit with this adapter lacks, or what else there is for the checkpoint; None for a checkpoint for which
    nothing is published."""
    from ...downloads.published import starter
    from ...jobs.fit import fits

    topology = host.current().present_topology()
    if model and (lacking := _lacking_encoder(model, topology, catalog, encoder)):
        return Offer("The image encoder of this adapter is not here yet.", (lacking,))
    if topology is None:
        starters = [found for base in BASES if (found := starter(base))]
        return None if catalog.adapters else Offer(NOTHING, _with_needs(starters, catalog), is_ticked=False)
    first = starter(topology.base)
    if first is None:
        return None
    more = _more(topology.base, catalog)
    if any(fits(adapter, topology) for adapter in catalog.adapters):
        return Offer("Get more adapters …", (), more, is_wanted=False)
    files = _with_needs([first], catalog)
    title = f"No adapter for {topology.base} is here yet."
    return Offer(title, files, [file for file in more if file not in files])


def _lacking_encoder(model: str, topology: Topology | None, catalog: Catalog, encoder: str) -> Published | None:
    """The published encoder that an adapter is fed by, where none that fits is here; None for an adapter that is of no
    use with the checkpoint, whatever it lacks."""
    from ...checkpoint.catalog import PUBLISHED
    from ...downloads.published import BY_NAME
    from ...jobs.fit import encoder_for, fits, image_source

    try:
        adapter = catalog.find(model)
    except IPAdapterError:
        return None
    if topology is not None and not fits(adapter, topology):
        return None
    try:
        encoder_for(adapter, catalog, encoder)
    except IPAdapterError:
        source, trained_with = image_source(adapter.spec), adapter.spec.image_encoder
        wanted = None if source is None or trained_with else PUBLISHED.get(source)
        return BY_NAME.get(wanted.save_as) if wanted and encoder == AUTO else None
    return None


def _with_needs(files: Iterable[Published], catalog: Catalog) -> list[Published]:
    """The files, and those that they are of no use without, unless they are here."""
    from ...downloads.published import named
    from ...jobs.choose import is_here

    found = list(files)
    found += [named(name) for file in found for name in file.needs]
    return [file for file in dict.fromkeys(found) if not is_here(file.name, catalog)]


def _more(base: str, catalog: Catalog) -> list[Published | Link]:
    """What else there is for ``base``."""
    from ...downloads.published import LINKS, PUBLISHED

    files = [file for file in PUBLISHED if file.base == base]
    there: list[Published | Link] = [*_with_needs(files, catalog)]
    return [*there, *(link for link in LINKS if link.base in (base, ""))]


# How it is drawn


def _rows(files: Sequence[Published | Link], why: str, *, is_ticked: bool = False) -> str:
    rows = "".join(f"<li>{_row(file, why, is_ticked)}</li>" for file in files)
    return f"<ul>{rows}</ul>" if rows else ""


def _row(file: Published | Link, why: str, is_ticked: bool) -> str:
    from ...downloads.published import Link

    what = f"<span>{html.escape(file.what)}</span>"
    if isinstance(file, Link):
        return f"<div><a{_opens(file.page)}>{html.escape(file.name)}</a>{what}</div>"
    folder = folders.downloads(encoders=file.is_encoder)
    large = UNKNOWN if file.size is None else size(file.size)
    facts = f"<span>{large}</span><span>{html.escape(file.licence)}</span>"
    if why:
        place = html.escape(printable(str(folder / file.name)))
        link = f"<a{_opens(file.link)}>{html.escape(file.name)}</a>"
        return f"<div>{link}{what}<small>{facts}<code>{place}</code></small></div>"
    place = f"<code title='{html.escape(printable(str(folder)))}'>{folder.parent.name}/{folder.name}</code>"
    data = {"data_file": file.name, "data_size": file.size or 0, "data_needs": json.dumps(file.needs)}
    tick = f"<input type='checkbox'{attributes(**data)}{' checked' if is_ticked else ''}>"
    return f"<label>{tick}<div><b>{html.escape(file.name)}</b>{what}<small>{facts}{place}</small></div></label>"


def _opens(page: str) -> str:
    """Attributes of a link to another site, which opens beside the WebUI and learns nothing of it."""
    return attributes(href=page, target="_blank", rel="noopener noreferrer")
