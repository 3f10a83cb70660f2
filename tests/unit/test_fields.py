"""A field of a unit is declared once, and everything else follows from that."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from lib_ipadapter import infotext
from lib_ipadapter.errors import UnitError
from lib_ipadapter.field_table import table
from lib_ipadapter.fields import PanelPlace, choices_of, declared, settings_of
from lib_ipadapter.kinds import Choice, Number, Wording
from lib_ipadapter.reference import MAX_REFERENCES, References
from lib_ipadapter.unit import MAX_UNITS, Unit, parse_units, to_objects
from tests.helpers.paths import ROOT

LIBRARY = ROOT / "lib_ipadapter"
GOOD = {"model": "ip-adapter_sd15", "images": ["aGVsbG8="]}


@dataclass(frozen=True)
class ToyUnit(Unit):
    """A unit with a number and a choice more, each declared in one place."""

    glow: float = field(
        default=0.5, metadata=declared(Number(-2, 2), PanelPlace("Glow", "How it glows."), about="how it glows")
    )
    mood: str = field(
        default="calm",
        metadata=declared(
            Choice(("calm", "wild")), PanelPlace("Mood", "Its mood."), about="mood", changes_tokens=False
        ),
    )


def test_a_field_more_is_parsed_and_refused() -> None:
    assert (ToyUnit.parse(GOOD).glow, ToyUnit.parse(GOOD).mood) == (0.5, "calm")
    unit = ToyUnit.parse({**GOOD, "glow": 1, "mood": "wild"})
    assert isinstance(unit, ToyUnit) and (unit.glow, unit.mood) == (1.0, "wild")
    with pytest.raises(UnitError, match="glow is 3: give a number from -2 to 2."):
        ToyUnit.parse({**GOOD, "glow": 3})
    with pytest.raises(UnitError, match="“Mood” is “bad”: choose one of “calm”, “wild”."):
        ToyUnit.parse({**GOOD, "mood": "bad"}, wording=Wording.PANEL)
    with pytest.raises(UnitError, match="unknown field 'glow'"):
        Unit.parse({**GOOD, "glow": 1})


def test_a_field_more_is_kept_and_in_the_key_of_the_tokens() -> None:
    unit, plain = ToyUnit.parse({**GOOD, "glow": 1, "mood": "wild"}), ToyUnit.parse(GOOD)
    assert ToyUnit.parse(json.loads(json.dumps(unit.to_object()))) == unit
    assert unit.changed() == {"glow": 1.0, "mood": "wild"}
    assert unit.token_settings() != plain.token_settings()
    assert ToyUnit.parse({**GOOD, "mood": "wild"}).token_settings() == plain.token_settings()


def test_a_field_more_is_in_the_parameters_both_ways() -> None:
    unit = ToyUnit.parse({**GOOD, "glow": 1.25, "mood": "wild"}, 1)
    at_work = SimpleNamespace(
        number=1, unit=unit, adapter=SimpleNamespace(name="ip-adapter_sd15"), negatives=(), region_hash=None,
        pose_hash=None,
        references=[
            SimpleNamespace(
                content_hash="0123456789abcdef", weight=1.0, mask_hash=None, look="", region_hash=None, folder=None,
                at=None,
            )
        ],
    )  # fmt: skip
    entries = infotext.parameters([at_work])
    assert "glow: 1.25, mood: wild" in entries["IP-Adapter 1"]
    (read,) = infotext.read(entries, ToyUnit)
    assert read.problems == []
    assert read.settings == {"model": "ip-adapter_sd15", "glow": 1.25, "mood": "wild"}


def test_a_field_more_is_in_the_documentations_table() -> None:
    assert "| `glow` | `0.5` | −2 to 2 | how it glows |" in table(ToyUnit)
    assert '| `mood` | `"calm"` | `"calm"`, `"wild"` | mood |' in table(ToyUnit)


def test_every_field_says_what_it_is_and_has_its_place_in_the_panel() -> None:
    lacking = []
    for name, setting in settings_of(Unit).items():
        if not setting.about:
            lacking.append(f"{name} has no sentence for the documentation (about=…)")
        if not setting.panel and (setting.kind.is_value or name == "model"):
            lacking.append(f"{name} has no place in the panel (PanelPlace)")
        lacking += [f"{name} has a control without a label" for place in setting.panel if not place.label]
        lacking += [f"{name} has a control without a tooltip" for place in setting.panel if not place.tooltip]
    assert not lacking, "; ".join(lacking)


def read_of_units(files: Iterable[Path]) -> set[str]:
    """What is read of units: ``name`` for ``unit.name``, ``plan.unit.name`` and the like."""
    trees = (ast.parse(file.read_text(encoding="utf-8")) for file in files)
    attributes = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return {one.attr for one in attributes if "unit" in (getattr(one.value, "id", ""), getattr(one.value, "attr", ""))}


def test_every_field_is_used() -> None:
    """A field that is accepted and does nothing would be a silent failure."""
    unused = settings_of(Unit).keys() - read_of_units(LIBRARY.rglob("*.py"))
    assert not unused, f"accepted, kept, and read by nothing in lib_ipadapter: {', '.join(unused)}"


def test_every_field_is_told_when_a_unit_is_handed_to_controlnet() -> None:
    """What ControlNet cannot do is said; what changes no picture, and what is InstantID's, need not be."""
    exports = LIBRARY / "webui" / "neighbours" / "controlnet" / "exports.py"
    needless = {"model", "enabled", "influence_map", *(n for n, one in settings_of(Unit).items() if one.variants)}
    silent = settings_of(Unit).keys() - read_of_units([exports]) - needless
    assert not silent, f"controlnet/exports.py neither translates nor names: {', '.join(silent)}"


def test_defaults_are_values_that_a_field_may_have() -> None:
    for name, setting in settings_of(Unit).items():
        if setting.kind.is_value:
            assert setting.kind.parse(setting.default, name) == setting.default
            text = setting.kind.to_text(setting.default)
            assert setting.kind.parse(setting.kind.from_text(text), name) == setting.default


LATER = {
    "weight", "start", "end", "weight_type", "layer_weights", "composition_weight", "boost", "embeds_scaling",
    "region_mask", "region_feather", "hires", "influence_map", "enabled", "acts_in", "detailer_tab",
    "lora_strength", "keypoints_weight", "keypoints_start", "keypoints_end", "keypoints_image",
}  # fmt: skip
TOKENS = {
    "model", "encoder", "references", "negative_references", "crop", "resolution", "combine", "subtract_prompt",
    "noise", "batch", "variant", "face_index", "faceid_v2_weight", "downsampling",
}  # fmt: skip


def test_what_image_tokens_depend_on_is_all_but_what_acts_later() -> None:
    """A field that is wrongly left out of the tokens' key would be given tokens that were made with its old value."""
    own = settings_of(Unit)
    undecided = own.keys() - LATER - TOKENS
    assert not undecided, f"put into TOKENS, or into LATER and declare changes_tokens=False: {', '.join(undecided)}"
    assert {name for name, setting in own.items() if setting.changes_tokens} == TOKENS
    unit = Unit.parse({**GOOD, "crop": "tile", "noise": 0.5, "subtract_prompt": "red", "batch": "per image"})
    assert {"tile", 0.5, "red", "per image", "concat"} <= set(unit.token_settings())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"weight": 9}, "“Weight” is 9: give a number from -1 to 3."),
        (
            {"weight": "0:9"},
            "“Weight over the steps” is “0:9”: give points step:weight such as 0:1 0.6:0.2, with steps",
        ),
        ({"weight": "0.6:1 0:1"}, "“Weight over the steps” is “0.6:1 0:1”: give the points of the curve from"),
        ({"layer_weights": "5:"}, "“Layer weights” is “5:”: give a number from -5 to 5 for each transformer block"),
        ({"layer_weights": "5:"}, "or for some of them, as 5:0.4 6:1."),
        ({"boost": "much"}, "“Boost of precise types” is “much”: give a number from -5 to 5."),
        ({"start": 0.5, "end": 0.2}, "“Start” is 0.5 and “End” is 0.2: no step lies between; make “Start” less than"),
        (
            {"weight_type": "ease in", "layer_weights": "5:1"},
            "“Weight type” is “ease in” and “Layer weights” are given",
        ),
        ({"model": None}, "model is missing: choose an adapter in the unit's list of models."),
    ],
)
def test_the_panels_units_are_refused_in_the_panels_words(settings: dict, says: str) -> None:
    with pytest.raises(UnitError, match="^IP-Adapter unit 1: ") as caught:
        parse_units([{**GOOD, **settings}], Wording.PANEL)
    assert says in caught.value.detail


def test_a_unit_knows_its_number_and_what_its_settings_are_called() -> None:
    off, first = {"enabled": False}, parse_units([{"enabled": False}, GOOD])[0]
    assert (first.number, first.called("layer_weights")) == (2, "layer_weights")
    (panels,) = parse_units([off, off, {**GOOD, "weight": "0:1 1:0"}], Wording.PANEL)
    assert (panels.number, panels.called("layer_weights")) == (3, "“Layer weights”")
    assert "number" not in Unit.parse(GOOD, 3).to_object() and "number" not in settings_of(Unit)


def test_fields_that_are_set_later_are_not_looked_at() -> None:
    settings = [{"images": ["x"], "weight": 99, "start": 0.5, "end": 0.2}]
    with pytest.raises(UnitError):
        parse_units(settings)
    (unit,) = parse_units(settings, later={1: ("model", "weight", "end")})
    assert (unit.model, unit.weight, unit.start, unit.end) == ("", 1.0, 0.5, 1.0)
    changed = unit.with_values({"model": "m", "weight": 2, "end": 0.75})
    assert (changed.model, changed.weight, changed.end, changed.number) == ("m", 2.0, 0.75, 1)
    with pytest.raises(UnitError, match="make start less than end"):
        unit.with_values({"end": 0.25})


def test_an_api_object_of_a_unit_is_the_unit_again() -> None:
    settings = {
        **GOOD, "images": ["a", {"image": "b", "weight": 0.5, "mask": "m"}, {"controlnet": 2}],
        "weight": [[0, 1], [1, 0]], "layer_weights": {"5": 0.5}, "negative_images": ["n"], "region_mask": "r",
        "boost": 0.5, "crop": "tile",
    }  # fmt: skip
    unit = Unit.parse(settings)
    assert unit.to_object()["images"] == settings["images"]
    assert Unit.parse(json.loads(json.dumps(unit.to_object()))) == unit
    assert Unit.parse({"enabled": False}).to_object() == {"enabled": False, "model": "", "images": []}


def test_units_have_their_places_again() -> None:
    off = {"enabled": False}
    given = [off, GOOD, off, {**GOOD, "weight": 0.5}, off]
    units = parse_units(given)
    assert to_objects(units) == given[:4] and to_objects(units, 5) == given and to_objects([]) == []


def test_kinds_say_their_limits_once() -> None:
    assert choices_of(Unit, "hires") == ("both", "base", "hires") and choices_of(Unit, "noise") == ()
    references = settings_of(Unit)["references"].kind
    assert isinstance(references, References) and references.names == ("image", "images")
    assert (MAX_UNITS, MAX_REFERENCES) == (10, 64)
