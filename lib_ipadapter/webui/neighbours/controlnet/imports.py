"""ControlNet's IP-Adapter units as ours."""

from __future__ import annotations

from typing import Any

from ....checkpoint.catalog import Catalog
from ....checkpoint.entries import AdapterEntry
from ....errors import CheckpointError, IPAdapterError, UnitError
from .models import PASSES, Translated, adapter
from .units import ControlNetPicture, ControlNetUnitView


def imported(view: ControlNetUnitView, catalog: Catalog) -> Translated:
    """One of ControlNet's IP-Adapter units as our API object.

    Raises UnitError for a unit of another type, and IPAdapterError for an adapter or picture that is not usable here.
    """
    entry, habits = _adapter(view, catalog), view.home.habits
    try:
        given, region = view.pictures(), view.region
    except IPAdapterError as error:
        raise type(error)(f"{view}: {error.detail}") from None
    pictures = view.fed(given)
    settings: dict[str, Any] = {
        "model": entry.name,
        "images": [_item(picture) for picture in pictures],
        "weight": view.number_of("weight", 1.0),
        "start": view.number_of("guidance_start", 0.0),
        "end": view.number_of("guidance_end", 1.0),
        "enabled": view.enabled,
    }
    _import_layers(view, settings)
    if (passes := PASSES.get(str(view.get("hr_option")), "both")) != "both":
        settings["hires"] = passes
    if len(pictures) > 1:
        settings["combine"] = "average"
    if any(picture.image.width != picture.image.height for picture in pictures):
        settings["crop"] = habits.crop
    if region is not None:
        settings["region_mask"] = region
    return Translated(settings, [f"{view}: {note}" for note in _notes(view, settings, len(given))])


def _adapter(view: ControlNetUnitView, catalog: Catalog) -> AdapterEntry:
    if not view.is_ip_adapter:
        raise UnitError(f"{view} is no IP-Adapter unit but “{view.module}”: choose another one.")
    chosen = str(view.get("model") or "None")
    entry = adapter(chosen, catalog)
    if entry is None:
        raise CheckpointError(
            f"{view} uses the model “{chosen}”, which is not among the adapters here: refresh the list of models, or "
            "choose its model there again."
        )
    return entry


def _item(picture: ControlNetPicture) -> dict[str, Any]:
    """One of a unit's ``images``."""
    return {"image": picture.image} if picture.mask is None else {"image": picture.image, "mask": picture.mask}


def _import_layers(view: ControlNetUnitView, settings: dict[str, Any]) -> None:
    """Advanced weights stand in the place of the weight there; here they are factors of it."""
    weights = view.get("advanced_weighting")
    if weights and view.home.habits.has_layers:
        settings["weight"] = 1.0
        settings["layer_weights"] = [max(0.0, float(weight)) for weight in weights]


def _notes(view: ControlNetUnitView, settings: dict[str, Any], taken: int) -> list[str]:
    """What differs here, or could not come along."""
    home, start, end, count = view.home, settings["start"], settings["end"], len(settings["images"])
    notes = {
        f"its hires option counts here; {home.its} IP-Adapter acts in both passes whatever it says.": (
            "hires" in settings and not home.habits.heeds_passes
        ),
        f"{home.title} takes the mean of several pictures' tokens; here it is the mean of their embeddings.": count > 1,
        f"the first of its {taken} pictures is here, the only one that acts there.": taken > count,
        home.habits.window: start > 0 or end < 1,
        "no step lies between its start and end: move them apart.": start >= end,
        "it has no picture: add one.": count == 0,
    }
    return [*(note for note, holds in notes.items() if holds), *home.left_out(view.get)]
