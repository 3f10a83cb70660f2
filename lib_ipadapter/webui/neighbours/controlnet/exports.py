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
from .models import LATE, MAX_WEIGHT, PASSES, PREPROCESSORS, Translated, label


def exported(unit: Unit, spec: AdapterSpec, file: Path) -> Translated:
    """A unit of ours, of the adapter ``file`` that is ``spec``, as fields of a unit of ControlNet's.

    Raises UnitError where ControlNet is absent, does not list the adapter, or cannot feed it.
    """
    model, preprocessor = _names(spec, file)
    notes: list[str] = []
    weight = _weight(unit, notes)
    pictures = [decode(reference.image) for reference in unit.references]
    if any(map(carries, pictures)):
        raise UnitError("embeddings cannot go to ControlNet: give the pictures that they were made of.")
    masks = [None if reference.mask is None else decode_mask(reference.mask) for reference in unit.references]
    notes += _picture_notes(unit, pictures) + _other_notes(unit)
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
        settings["advanced_weighting"] = _layers(unit, spec, notes)
    return Translated(settings, notes)


def _names(spec: AdapterSpec, file: Path) -> tuple[str, str]:
    """What ControlNet calls the adapter, and the preprocessor that feeds it."""
    module = host.current().controlnet()
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
    return model, preprocessor


def _weight(unit: Unit, notes: list[str]) -> float:
    wanted = peak(unit.weight)
    weight = min(MAX_WEIGHT, max(0.0, wanted))
    if weight != wanted:
        notes.append(f"weight {wanted:g} became {weight:g}: ControlNet allows 0 to {MAX_WEIGHT:g}.")
    if isinstance(unit.weight, tuple):
        notes.append(f"its curve of weights became {weight:g} in every step: ControlNet has no curves.")
    return weight


def _picture_notes(unit: Unit, pictures: list[Image.Image]) -> list[str]:
    notes = []
    if len(pictures) > 1 and unit.combine != "average":
        notes.append(f"ControlNet takes the mean of several pictures; {unit.combine} is not known there.")
    if any(reference.weight != 1 for reference in unit.references):
        notes.append("weights of single references are left out: ControlNet has none.")
    if unit.crop != "stretch" and any(picture.width != picture.height for picture in pictures):
        notes.append(f"ControlNet squeezes a picture into a square; here its crop is “{unit.crop}”.")
    return notes


def _other_notes(unit: Unit) -> list[str]:
    left_out = {
        "embeds_scaling": unit.embeds_scaling != "V only", "negative_images": bool(unit.negative_references),
        "subtract_prompt": bool(unit.subtract_prompt), "noise": unit.noise > 0, "encoder": unit.encoder != "auto",
        "resolution": unit.resolution is not None, "acts_in": unit.acts_in != "as set",
        "region_feather": unit.region_mask is not None and unit.region_feather > 0,
    }  # fmt: skip
    notes = [f"{name} is left out: it is not known to ControlNet." for name, used in left_out.items() if used]
    if unit.start > 0 or unit.end < 1:
        notes.append(LATE)
    if unit.hires != "both":
        notes.append("ControlNet's IP-Adapter acts in both passes of hires fix, whatever its hires option says.")
    if unit.batch != "same":
        notes.append("one reference for each picture of a batch is not known to ControlNet.")
    return notes


def _painted(mask: Image.Image) -> NDArray[Any]:
    """[H, W, 3]: what ControlNet calls a mask is what does not count."""
    return np.asarray(ImageOps.invert(mask).convert("RGB"))


def _layers(unit: Unit, spec: AdapterSpec, notes: list[str]) -> list[float]:
    """One number for each transformer, as ControlNet wants them: the whole weight, nothing below 0."""
    base = bases.by_name(spec.base) or bases.SD15
    strengths = spread(unit.weight_type, base.blocks, unit.composition_weight, unit.boost, unit.layer_weights)
    if strengths.inverted:
        notes.append(f"{unit.weight_type} turns the reference against some blocks, which ControlNet cannot do.")
    weight = peak(unit.weight)
    weights = [0.0 if t in strengths.inverted else strengths.at(t, weight) for t in base.all_blocks]
    if any(number < 0 for number in weights):
        notes.append("negative weights of layers became 0: ControlNet allows none.")
    return [max(0.0, number) for number in weights]
