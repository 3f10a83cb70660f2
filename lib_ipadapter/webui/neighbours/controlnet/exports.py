"""Units of ours as ControlNet's IP-Adapter units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from .... import bases
from ....checkpoint.specs import AdapterSpec
from ....encode.carriers import carries
from ....encode.picture import decode, decode_mask
from ....errors import UnitError
from ....unit import Unit
from ....weighting import peak, spread
from ... import host
from ...host import ControlNet
from .models import MAX_WEIGHT, PASSES, Translated, label


def exported(unit: Unit, spec: AdapterSpec, file: Path) -> Translated:
    """A unit of ours, of the adapter ``file`` that is ``spec``, as fields of a unit of ControlNet's.

    Raises UnitError where ControlNet is absent, does not list the adapter, or cannot feed it.
    """
    home = host.current().controlnet()
    if home is None:
        expected = host.current().expected_controlnet()
        raise UnitError(f"{expected.title} is not there: {expected.remedy}.")
    model, preprocessor = _names(home, spec, file)
    notes: list[str] = []
    weight = _weight(home, unit, notes)
    if any(reference.folder is not None for reference in unit.references):
        raise UnitError("a folder of references cannot go to ControlNet: give its pictures.")
    pictures = [decode(reference.image) for reference in unit.references]
    if any(map(carries, pictures)):
        raise UnitError("embeddings cannot go to ControlNet: give the pictures that they were made of.")
    masks = [None if reference.mask is None else decode_mask(reference.mask) for reference in unit.references]
    region = None if unit.region_mask is None else np.asarray(decode_mask(unit.region_mask).convert("RGB"))
    notes += _picture_notes(home, unit, pictures) + _other_notes(home, unit)
    settings = {
        "enabled": True,
        "module": preprocessor,
        "model": model,
        "weight": weight,
        "guidance_start": unit.start,
        "guidance_end": unit.end,
        "hr_option": {ours: theirs for theirs, ours in PASSES.items()}[unit.hires],
        **home.picture_fields(
            [
                (np.asarray(picture), None if mask is None else _painted(mask))
                for picture, mask in zip(pictures, masks, strict=True)
            ],
            region,
        ),
    }
    if unit.layer_weights is not None or unit.weight_type != "linear":
        if home.habits.has_layers:
            settings["advanced_weighting"] = _layers(home, unit, spec, notes)
        else:
            notes.append(f"the weights of its blocks are left out: {home.title} has none.")
    return Translated(settings, notes)


def _names(home: ControlNet, spec: AdapterSpec, file: Path) -> tuple[str, str]:
    """What ControlNet calls the adapter, and the preprocessor that feeds it."""
    model = label(file, home.models())
    if model is None:
        raise UnitError(
            f"{home.title} does not list {file.name}: put it into models/ControlNet, and refresh its models."
        )
    known = home.modules()
    preprocessor = next((name for name in home.feeds(spec) if name in known), None)
    if preprocessor is None:
        raise UnitError(f"{home.title} has no preprocessor that feeds {file.name}: export another adapter's unit.")
    return model, preprocessor


def _weight(home: ControlNet, unit: Unit, notes: list[str]) -> float:
    wanted = peak(unit.weight)
    weight = min(MAX_WEIGHT, max(0.0, wanted))
    if weight != wanted:
        notes.append(f"weight {wanted:g} became {weight:g}: {home.title} allows 0 to {MAX_WEIGHT:g}.")
    if isinstance(unit.weight, tuple):
        notes.append(f"its curve of weights became {weight:g} in every step: {home.title} has no curves.")
    return weight


CROPS = {"stretch": "squeezes a picture into a square", "center": "takes the middle of a picture"}


def _picture_notes(home: ControlNet, unit: Unit, pictures: list[Image.Image]) -> list[str]:
    notes, habits = [], home.habits
    if len(pictures) > 1 and not habits.averages:
        notes.append(f"the first of its {len(pictures)} references is there: {home.title} takes one picture.")
    elif len(pictures) > 1 and unit.combine != "average":
        notes.append(f"{home.title} takes the mean of several pictures; {unit.combine} is not known there.")
    if any(reference.weight != 1 for reference in unit.references):
        notes.append(f"weights of single references are left out: {home.title} has none.")
    if habits.paints_regions and any(reference.mask is not None for reference in unit.references):
        notes.append(f"masks of references are left out: in {home.title} a mask is where the adapter acts.")
    if any(reference.region is not None for reference in unit.references):
        notes.append(f"regions of single references are left out: {home.title} has none.")
    if len(unit.references) > 1 and any(reference.at is not None for reference in unit.references):
        notes.append(f"where references stand over time is left out: {home.title} has no keyframes.")
    if unit.crop != habits.crop and any(picture.width != picture.height for picture in pictures):
        notes.append(f"{home.title} {CROPS[habits.crop]}; here its crop is “{unit.crop}”.")
    return notes


def _other_notes(home: ControlNet, unit: Unit) -> list[str]:
    left_out = {
        "embeds_scaling": unit.embeds_scaling != "V only", "negative_images": bool(unit.negative_references),
        "subtract_prompt": bool(unit.subtract_prompt), "noise": unit.noise > 0, "encoder": unit.encoder != "auto",
        "resolution": unit.resolution is not None, "acts_in": unit.acts_in != "as set",
        "detailer_tab": unit.detailer_tab is not None,
        "region_feather": unit.region_mask is not None and unit.region_feather > 0,
    }  # fmt: skip
    notes = [f"{name} is left out: it is not known to {home.title}." for name, used in left_out.items() if used]
    if unit.start > 0 or unit.end < 1:
        notes.append(home.habits.window)
    if unit.hires != "both" and not home.habits.heeds_passes:
        notes.append(f"{home.its} IP-Adapter acts in both passes of hires fix, whatever its hires option says.")
    if unit.batch != "same":
        notes.append(f"one reference for each picture of a batch is not known to {home.title}.")
    return notes


def _painted(mask: Image.Image) -> NDArray[Any]:
    """[H, W, 3]: what ControlNet calls a mask is what does not count."""
    return np.asarray(ImageOps.invert(mask).convert("RGB"))


def _layers(home: ControlNet, unit: Unit, spec: AdapterSpec, notes: list[str]) -> list[float]:
    """One number for each transformer, as ControlNet wants them: the whole weight, nothing below 0."""
    base = bases.by_name(spec.base) or bases.SD15
    strengths = spread(unit.weight_type, base.blocks, unit.composition_weight, unit.boost, unit.layer_weights)
    if strengths.inverted:
        notes.append(f"{unit.weight_type} turns the reference against some blocks, which {home.title} cannot do.")
    weight = peak(unit.weight)
    weights = [0.0 if t in strengths.inverted else strengths.at(t, weight) for t in base.all_blocks]
    if any(number < 0 for number in weights):
        notes.append(f"negative weights of layers became 0: {home.title} allows none.")
    return [max(0.0, number) for number in weights]
