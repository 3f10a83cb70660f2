"""Units taken from ControlNet, and put into it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from demo.start import Host
from lib_ipadapter.encode.picture import decode
from lib_ipadapter.errors import IPAdapterError, UnitError
from lib_ipadapter.unit import Unit
from tests.helpers.controlnet import ARRAY, PAINTED, ours, slot, stand_in, text, theirs
from tests.helpers.files import base64_of, half, picture

pytestmark = pytest.mark.host("controlnet")


def test_an_imported_unit_is_the_same_unit(host: Host) -> None:
    from lib_ipadapter.webui import process
    from lib_ipadapter.webui.host.webui_controlnet import LATE
    from lib_ipadapter.webui.neighbours.controlnet.imports import imported

    catalog = process.resources().catalog
    unit = stand_in(host).ControlNetUnit(**theirs(1, weight=0.7, guidance_start=0.2, guidance_end=0.8))
    for value in (unit, theirs(1, weight=0.7, guidance_start=0.2, guidance=0.8)):
        made = imported(slot(host, value), catalog)
        parsed = Unit.parse(made.settings)
        assert (parsed.model, parsed.weight, parsed.start, parsed.end, parsed.hires) == ("base", 0.7, 0.2, 0.8, "both")
        assert np.array_equal(np.asarray(parsed.references[0].image), np.asarray(decode(text(1))))
        assert [note.partition(": ")[2] for note in made.notes] == [LATE]


def test_an_import_says_what_could_not_come_along(host: Host) -> None:
    from lib_ipadapter.webui import process
    from lib_ipadapter.webui.neighbours.controlnet.imports import imported

    catalog = process.resources().catalog
    images = [{"image": base64_of(picture(1, (60, 48)))}, {"image": ARRAY, "mask": PAINTED}]
    made = imported(slot(host, theirs(image=images, hr_option="Low res only", advanced_weighting=[0.5] * 16,
                                      effective_region_mask=PAINTED)), catalog)  # fmt: skip
    assert (made.settings["hires"], made.settings["combine"], len(made.settings["images"])) == ("base", "average", 2)
    said = " ".join(made.notes)
    for what in ("hires option", "mean of several"):
        assert what in said
    assert made.settings["crop"] == "stretch"
    assert made.settings["layer_weights"] == [0.5] * 16
    assert np.array_equal(np.asarray(made.settings["region_mask"]), PAINTED)
    assert np.array_equal(np.asarray(made.settings["images"][1]["mask"]), 255 - np.asarray(
        Image.fromarray(PAINTED).convert("L")))  # fmt: skip
    Unit.parse(made.settings)
    with pytest.raises(UnitError, match="no IP-Adapter unit but “canny”"):
        imported(slot(host, theirs(module="canny")), catalog)
    with pytest.raises(IPAdapterError, match="not among the adapters here"):
        imported(slot(host, {**theirs(), "model": "zzz [12345678]"}), catalog)
    nothing = imported(slot(host, theirs(image=None, guidance_start=1.0)), catalog)
    assert ["no picture" in " ".join(nothing.notes), "no step" in " ".join(nothing.notes)] == [True, True]


def test_the_weights_of_layers_come_along(host: Host) -> None:
    from lib_ipadapter.webui import process
    from lib_ipadapter.webui.neighbours.controlnet.imports import imported

    made = imported(slot(host, theirs(weight=0.3, advanced_weighting=[0.5, -1] * 8)),
                                        process.resources().catalog)  # fmt: skip
    assert (made.settings["weight"], made.settings["layer_weights"]) == (1.0, [0.5, 0.0] * 8)


def test_an_exported_unit_comes_back(host: Host) -> None:
    from lib_ipadapter.webui import process
    from lib_ipadapter.webui.neighbours.controlnet.exports import exported
    from lib_ipadapter.webui.neighbours.controlnet.imports import imported

    catalog = process.resources().catalog
    entry = catalog.find("base")
    from dataclasses import replace

    spec = replace(entry.spec, embedding_width=1024)  # as the published ones are
    unit = Unit.parse(ours(1, weight=0.7, start=0.2, end=0.8, hires="base"))
    layers = exported(Unit.parse(ours(1, weight=0.5, weight_type="strong style transfer")), spec, entry.path)
    assert layers.settings["advanced_weighting"] == [0.0 if t in (4, 5) else 0.5 for t in range(16)]
    masked = Unit.parse(ours(None, images=[{"image": text(1), "mask": base64_of(half("left"))}],
                             region_mask=base64_of(half("left")), noise=0.5))  # fmt: skip
    there = exported(masked, spec, entry.path)
    assert np.array_equal(there.settings["image"][0]["mask"][:, :, 0], 255 - np.asarray(half("left")))
    assert np.array_equal(there.settings["effective_region_mask"][:, :, 0], np.asarray(half("left")))
    assert any("noise is left out" in note for note in there.notes)
    over_time = Unit.parse(ours(None, images=[{"image": text(i), "at": i} for i in (0, 1)]))
    assert any(
        "where references stand over time is left out" in note for note in exported(over_time, spec, entry.path).notes
    )
    made = exported(unit, spec, entry.path)
    again = imported(slot(host, stand_in(host).ControlNetUnit(**made.settings)), catalog)
    parsed = Unit.parse(again.settings)
    assert replace(parsed, references=()) == replace(unit, references=())
    assert np.array_equal(np.asarray(parsed.references[0].image), np.asarray(decode(text(1))))
    strong = exported(Unit.parse(ours(1, weight=2.5)), spec, entry.path)
    assert (strong.settings["weight"], "ControlNet allows 0 to 2" in " ".join(strong.notes)) == (2.0, True)
    assert exported(Unit.parse(ours(1, weight=-1)), spec, entry.path).settings["weight"] == 0
    with pytest.raises(UnitError, match="no preprocessor that feeds"):
        exported(unit, entry.spec, entry.path)
    with pytest.raises(UnitError, match="does not list"):
        exported(unit, spec, entry.path.with_name("other.safetensors"))
