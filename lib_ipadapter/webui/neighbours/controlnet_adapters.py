"""ControlNet's IP-Adapter units and ours: one read as the other, and what happens where both ask for the same."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ...checkpoint.catalog import AdapterEntry, Catalog
from ...checkpoint.identify import AdapterSpec
from ...encode.picture import decode, decode_mask, fingerprint
from ...errors import CheckpointError, IPAdapterError, UnitError
from ...unit import Unit
from ...weighting import LAYOUTS, peak, spread
from ..options import SAME_CHOICES
from . import controlnet
from .controlnet import Slot

log = logging.getLogger("ip-adapter")
ADD, SKIP, TAKE = SAME_CHOICES
NOTE = "IP-Adapter and ControlNet"  # the entry in a picture's parameters
PASSES = {"Both": "both", "Low res only": "base", "High res only": "hires"}
MAX_WEIGHT = 2.0
LATE = "ControlNet counts steps one behind, so start and end come one step later there."
# Preprocessors by what feeds the adapter and how wide that is; the names of older versions last.
PREPROCESSORS = {
    ("pooled", 1024): ("ip-adapter_clip_h", "ip-adapter_clip_sd15"),
    ("penultimate", 1280): ("ip-adapter_clip_h", "ip-adapter_clip_sd15"),
    ("pooled", 1280): ("ip-adapter_clip_g", "ip-adapter_clip_sdxl"),
    ("penultimate", 1664): ("ip-adapter_clip_g", "ip-adapter_clip_sdxl"),
}


# Models


def label_hash(file: Path) -> str | None:
    """The 8 digits that ControlNet's list shows behind a file's name: the WebUI's old, partial hash."""
    try:
        with open(file, "rb") as stream:
            stream.seek(0x100000)
            return hashlib.sha256(stream.read(0x10000)).hexdigest()[:8]
    except OSError:
        return None


def _parts(label: str) -> tuple[str, str | None]:
    """ "Name [01234567]" -> name in lower case, hash."""
    found = re.fullmatch(r"(.*?)(?:\s*\[([0-9a-fA-F]+)\])?", label.strip(), re.DOTALL)
    name, digits = found.groups() if found else (label, None)
    return name.strip().casefold(), digits and digits.casefold()


def adapter(label: str, catalog: Catalog) -> AdapterEntry | None:
    """The adapter that ControlNet calls ``label``, None if it is not in the catalogue: same name, same hash."""
    stem, digits = _parts(label)
    named = [entry for entry in catalog.adapters if entry.path.stem.casefold() == stem]
    return next((entry for entry in named if digits is None or label_hash(entry.path) == digits), None)


def label(file: Path, labels: Sequence[str]) -> str | None:
    """What ControlNet calls a file of ours, None if it does not list it."""
    named = [one for one in labels if _parts(one)[0] == file.stem.casefold()]
    digits = label_hash(file) if named else None
    return next((one for one in named if _parts(one)[1] in (None, digits)), None)


# ControlNet's -> ours


@dataclass(frozen=True)
class Translated:
    """Settings for the other side, and sentences on what could not come along."""

    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def imported(slot: Slot, catalog: Catalog) -> Translated:
    """One of ControlNet's IP-Adapter units as our API object.

    Raises UnitError for a unit of another type, and IPAdapterError for an adapter or picture that is not usable here.
    """
    if not slot.is_ip_adapter:
        raise UnitError(f"{slot} is no IP-Adapter unit but “{slot.module}”: choose another one.")
    chosen = str(slot.get("model") or "None")
    found = adapter(chosen, catalog)
    if found is None:
        raise CheckpointError(
            f"{slot} uses the model “{chosen}”, which is not among the adapters here: refresh the list of models, or "
            "choose its model there again."
        )
    try:
        pictures = slot.pictures()
    except IPAdapterError as error:
        raise type(error)(f"{slot}: {error.detail}") from None
    notes: list[str] = []
    settings: dict[str, Any] = {
        "model": found.name,
        "images": [picture.as_item() for picture in pictures],
        "weight": slot.number_of("weight", 1.0),
        "start": slot.number_of("guidance_start", 0.0),
        "end": slot.number_of("guidance_end", 1.0),
        "enabled": slot.enabled,
    }
    _import_layers(slot, settings)
    if (passes := PASSES.get(str(slot.get("hr_option")), "both")) != "both":
        settings["hires"] = passes
        notes.append("its hires option counts here; ControlNet's IP-Adapter acts in both passes whatever it says.")
    if len(pictures) > 1:
        settings["combine"] = "average"
        notes.append("ControlNet takes the mean of several pictures' tokens; here it is the mean of their embeddings.")
    if any(picture.image.width != picture.image.height for picture in pictures):
        settings["crop"] = "stretch"  # what ControlNet does
    if settings["start"] > 0 or settings["end"] < 1:
        notes.append(LATE)
    if settings["start"] >= settings["end"]:
        notes.append("no step lies between its start and end: move them apart.")
    if not pictures:
        notes.append("it has no picture: add one.")
    if (region := slot.get("effective_region_mask")) is not None:
        settings["region_mask"] = region
    if slot.get("ipadapter_input") is not None:
        notes.append("its embedding from the API is left out: give the picture.")
    if found.spec.source == "face":
        notes.append("its adapter is fed with a recognised face, which this version cannot do.")
    return Translated(settings, [f"{slot}: {note}" for note in notes])


def _import_layers(slot: Slot, settings: dict[str, Any]) -> None:
    """Advanced weights stand in the place of the weight there; here they are factors of it."""
    weights = slot.get("advanced_weighting")
    if weights:
        settings["weight"] = 1.0
        settings["layer_weights"] = [max(0.0, float(weight)) for weight in weights]


# ours -> ControlNet's


def exported(unit: Unit, spec: AdapterSpec, file: Path) -> Translated:
    """A unit of ours, of the adapter ``file`` that is ``spec``, as fields of a unit of ControlNet's.

    Raises UnitError where ControlNet is absent, does not list the adapter, or cannot feed it.
    """
    module = controlnet.api()
    if module is None:
        raise UnitError("ControlNet is not there: install or enable sd-webui-controlnet.")
    model = label(file, module.get_models())
    if model is None:
        raise UnitError(f"ControlNet does not list {file.name}: put it into models/ControlNet, and refresh its models.")
    known = module.get_modules()
    fitting = PREPROCESSORS.get((spec.source, spec.embedding_width), ())
    preprocessor = next((name for name in fitting if name in known), None)
    if preprocessor is None:
        raise UnitError(f"ControlNet has no preprocessor that feeds {file.name}: export another adapter's unit.")
    notes = []
    wanted = peak(unit.weight)
    weight = min(MAX_WEIGHT, max(0.0, wanted))
    if weight != wanted:
        notes.append(f"weight {wanted:g} became {weight:g}: ControlNet allows 0 to {MAX_WEIGHT:g}.")
    if wanted is not unit.weight:
        notes.append(f"its curve of weights became {weight:g} in every step: ControlNet has no curves.")
    pictures = [decode(reference.image) for reference in unit.references]
    masks = [None if reference.mask is None else decode_mask(reference.mask) for reference in unit.references]
    if len(pictures) > 1 and unit.combine != "average":
        notes.append(f"ControlNet takes the mean of several pictures; {unit.combine} is not known there.")
    if any(reference.weight != 1 for reference in unit.references):
        notes.append("weights of single references are left out: ControlNet has none.")
    if unit.crop != "stretch" and any(picture.width != picture.height for picture in pictures):
        notes.append(f"ControlNet squeezes a picture into a square; here its crop is “{unit.crop}”.")
    left_out = {
        "embeds_scaling": unit.embeds_scaling != "V only", "negative_images": bool(unit.negative_references),
        "subtract_prompt": bool(unit.subtract_prompt), "noise": unit.noise > 0,
        "region_feather": unit.region_mask is not None and unit.region_feather > 0,
    }  # fmt: skip
    notes += [f"{name} is left out: it is not known to ControlNet." for name, used in left_out.items() if used]
    if unit.start > 0 or unit.end < 1:
        notes.append(LATE)
    if unit.hires != "both":
        notes.append("ControlNet's IP-Adapter acts in both passes of hires fix, whatever its hires option says.")
    if unit.batch != "same":
        notes.append("one reference for each picture of a batch is not known to ControlNet.")
    settings = {
        "enabled": True,
        "module": preprocessor,
        "model": model,
        "weight": weight,
        "image": [
            {"image": np.asarray(picture), "mask": None if mask is None else _painted(mask)}
            for picture, mask in zip(pictures, masks, strict=True)
        ],
        "guidance_start": unit.start,
        "guidance_end": unit.end,
        "hr_option": {ours: theirs for theirs, ours in PASSES.items()}[unit.hires],
    }
    if unit.region_mask is not None:
        settings["effective_region_mask"] = np.asarray(decode_mask(unit.region_mask).convert("RGB"))
    if unit.layer_weights is not None or unit.weight_type != "linear":
        settings["advanced_weighting"] = _exported_layers(unit, spec, wanted, notes)
    return Translated(settings, notes)


def _painted(mask: Image.Image) -> NDArray[Any]:
    """[H, W, 3]: what ControlNet calls a mask is what does not count."""
    return np.asarray(ImageOps.invert(mask).convert("RGB"))


def _exported_layers(unit: Unit, spec: AdapterSpec, weight: float, notes: list[str]) -> list[float]:
    """One number for each transformer, as ControlNet wants them: the whole weight, nothing below 0."""
    count = next(n for n in LAYOUTS if (n == 11) == (spec.base == "SDXL"))
    made = spread(unit.weight_type, count, unit.composition_weight, unit.boost, unit.layer_weights)
    if made.inverted:
        notes.append(f"{unit.weight_type} turns the reference against some blocks, which ControlNet cannot do.")
    weights = [0.0 if t in made.inverted else made.at(t, weight) for t in range(count)]
    if any(number < 0 for number in weights):
        notes.append("negative weights of layers became 0: ControlNet allows none.")
    return [max(0.0, number) for number in weights]


# The same in both


@dataclass(frozen=True)
class Pair:
    """Unit ``number`` of ours and a unit of ControlNet's with the same adapter and the same pictures."""

    number: int
    slot: Slot


def _marks(slot: Slot, start_picture: Any) -> frozenset[str] | None:
    """The fingerprints of what a unit of ControlNet's feeds its adapter with; None where that cannot be told, or where
    a mask makes it another picture. Without a picture of its own it takes img2img's."""
    if slot.get("input_mode", "simple") == "batch" or slot.get("ipadapter_input") is not None:
        return None
    try:
        pictures = slot.pictures()
        images = [picture.image for picture in pictures] or ([decode(start_picture)] if start_picture else [])
    except IPAdapterError:
        return None
    if not images or any(picture.mask is not None for picture in pictures):
        return None
    return frozenset(map(fingerprint, images))


def pairs(p: Any, units: Sequence[Unit], catalog: Catalog) -> list[Pair]:
    """Which of our units ControlNet is asked for as well: enabled, of a weight, same adapter, same pictures."""
    theirs = [
        slot for slot in controlnet.slots(p) or ()
        if slot.enabled and slot.is_ip_adapter and slot.number_of("weight", 1.0) != 0
    ]  # fmt: skip
    if not theirs:
        return []
    start_picture = next(iter(getattr(p, "init_images", None) or ()), None)
    marks: dict[int, frozenset[str] | None] = {}
    found = []
    for unit in units:
        entry = _entry(unit.model, catalog)
        if entry is None or peak(unit.weight) == 0:
            continue
        for slot in theirs:
            if adapter(str(slot.get("model")), catalog) != entry:
                continue
            if slot.number not in marks:
                marks[slot.number] = _marks(slot, start_picture)
            if marks[slot.number] is not None and marks[slot.number] == _our_marks(unit):
                found.append(Pair(unit.number, slot))
    return found


def _entry(name: str, catalog: Catalog) -> AdapterEntry | None:
    try:
        return catalog.find(name)
    except CheckpointError:
        return None  # its own sentence is told when the unit is prepared


def _our_marks(unit: Unit) -> frozenset[str] | None:
    if any(reference.mask is not None for reference in unit.references):
        return None
    try:
        return frozenset(fingerprint(decode(reference.image)) for reference in unit.references)
    except IPAdapterError:
        return None


def settle(p: Any, units: list[Unit], catalog: Catalog, choice: str = ADD) -> list[Unit]:
    """What the job does where ControlNet is asked for the same as one of our units; returns the units left to us.

    "add": both act. "skip ours": ControlNet's acts. "take over": ours acts, with our unit's settings, and ControlNet's
    is off for this run; in one of its batches of files, which it has begun by then, ours is skipped instead. Whatever
    it is stands in the log, in the picture's parameters and among the job's comments.
    """
    p.extra_generation_params.pop(NOTE, None)  # of an earlier run of the same job
    found = pairs(p, units, catalog)
    if not found:
        return units
    if choice == TAKE and controlnet.already_read(p):
        choice = SKIP  # the nearest to it: one of the two acts
    both = ", ".join(f"IP-Adapter {pair.number} = ControlNet's unit {pair.slot.number}" for pair in found)
    said = {ADD: "both act", SKIP: "ControlNet's acts", TAKE: "ours acts"}[choice]
    p.extra_generation_params[NOTE] = f"{both}: {said}"
    comment = {
        ADD: "they both act, and their effects add up.",
        SKIP: "ours is skipped.",
        TAKE: "ControlNet's is off for this run.",
    }[choice]
    for pair in found:
        sentence = (
            f"IP-Adapter unit {pair.number} and {pair.slot} have the same adapter and the same picture: {comment} "
            "(Settings, IP-Adapter)"
        )
        log.info("%s", sentence)
        p.comment(sentence)
    if choice == TAKE:
        controlnet.replace(p, {pair.slot.number: controlnet.off(pair.slot.value) for pair in found})
    if choice == SKIP:
        skipped = {pair.number for pair in found}
        return [unit for unit in units if unit.number not in skipped]
    return units
