"""What units are for: the published defaults, the ones that a person puts in their place, and the row in the panel."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from lib_ipadapter import flux_fields
from lib_ipadapter.bases import SD15
from lib_ipadapter.errors import IPAdapterError, UnitError
from lib_ipadapter.fields import GROUPS, settings_of
from lib_ipadapter.presets.purpose_defaults import MAX_BYTES, PurposeDefaults
from lib_ipadapter.purposes import BY_NAME, FIELDS, PURPOSES, TELLING, checked
from lib_ipadapter.unit import Unit
from lib_ipadapter.weighting import COMPOSING, INVERTING, WEIGHT_TYPES, spread
from tests.helpers.paths import ROOT

STYLE = {"weight_type": "strong style transfer", "weight": 0.6, "composition_weight": 1.0, "start": 0.1, "end": 0.9}


def test_the_published_defaults() -> None:
    assert {one.label: tuple(one.published[name] for name in one.fields) for one in PURPOSES} == {
        "Everything": ("linear", 0.7, 1.0, 0.0, 1.0),
        "Style": ("style transfer", 1.0, 1.0, 0.0, 1.0),
        "Composition": ("composition", 0.8, 1.0, 0.0, 0.8),
        "Style + composition": ("style and composition", 1.0, 0.8, 0.0, 1.0),
        "Face": ("linear", 0.8, 1.0, 0.0, 1.0),
        "Whole picture": (1, 1.0, 0.0, 1.0),
        "Variation": (3, 1.0, 0.0, 1.0),
        "Style and mood": (5, 1.0, 0.0, 1.0),
    }
    assert [one.label for one in PURPOSES if one.faces] == ["Face"]
    assert all(checked(one.published, one) == one.published for one in PURPOSES)
    fresh = Unit.parse({"model": "m", "images": ["x"]})  # a client's unit is what it was
    assert [getattr(fresh, name) for name in FIELDS] == ["linear", 1.0, 1.0, 0.0, 1.0]


@pytest.mark.parametrize("kind", ["", *flux_fields.FLUX])
def test_each_kind_of_adapters_has_purposes_that_mean_something_to_it(kind: str) -> None:
    own, there = settings_of(Unit), [one for one in PURPOSES if kind in one.kinds]
    assert [one.begins for one in there].count(True) == 1
    for one in there:
        changed = [name for name, value in one.published.items() if value != own[name].default]
        assert not [name for name in changed if kind in own[name].not_for], one.name
        assert not [name for name in changed if own[name].variants and kind not in own[name].variants], one.name
    telling = TELLING.get(kind)
    told = {one.published[telling] for one in there if not one.faces} if telling else {None}
    assert len(told) == len([one for one in there if not one.faces])


def test_a_default_of_redux_holds_its_own_fields(tmp_path: Path) -> None:
    defaults = PurposeDefaults(tmp_path / "purposes.json")
    kept = {"downsampling": 9, "weight": 0.5, "start": 0.0, "end": 0.9}
    defaults.keep("mood", kept)
    assert PurposeDefaults(defaults.file).all()["mood"] == kept
    for settings, says in (
        (STYLE, "a purpose's default holds downsampling, weight, start, end"),
        ({**kept, "downsampling": 2}, "“How closely” is 2"),
        ({**kept, "weight": -0.5}, "“Weight” is -0.5: give 0 or more"),
    ):
        with pytest.raises(UnitError, match=re.escape(says)):
            defaults.keep("mood", settings)


def test_a_default_that_a_person_keeps_is_there_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "new" / "purposes.json"
    published = PurposeDefaults(file).all()
    PurposeDefaults(file).keep("style", STYLE)
    PurposeDefaults(file).keep("face", {**STYLE, "weight": -0.5})
    again = PurposeDefaults(file)
    assert again.kept() == {"style": STYLE, "face": {**STYLE, "weight": -0.5}}
    assert again.all() == {**published, **again.kept()} and [*again.all()] == [*BY_NAME]
    again.forget("style")
    again.forget("style")
    PurposeDefaults(file).forget("face")
    assert PurposeDefaults(file).all() == published and [*file.parent.iterdir()] == [file]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({**STYLE, "weight": 4}, "“Weight” is 4: give a number from -1 to 3"),
        ({**STYLE, "weight": "0:1 1:0"}, "leave “Weight over the steps” empty"),
        ({**STYLE, "weight_type": "loud"}, "“Weight type” is “loud”"),
        ({**STYLE, "start": 0.9, "end": 0.2}, "make “Start” less than “End”"),
        ({**STYLE, "crop": "tile"}, "send all of them, and nothing else"),
        ({"weight": 1}, "send all of them"),
        (None, "send all of them"),
    ],
)
def test_what_can_be_no_default_is_refused(tmp_path: Path, settings: object, says: str) -> None:
    defaults = PurposeDefaults(tmp_path / "purposes.json")
    with pytest.raises(UnitError, match=re.escape(says)):
        defaults.keep("style", settings)
    with pytest.raises(UnitError, match="there is no purpose “noise”: known are everything, style"):
        defaults.keep("noise", STYLE)
    assert not defaults.file.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b"x" * 10 * MAX_BYTES,
        b'{"style": 1, "everything": {"weight": 1}}', json.dumps({"style": {**STYLE, "weight": 1e9}}).encode(),
    ],
)  # fmt: skip
def test_a_damaged_file_is_no_trouble(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "purposes.json"
    file.write_bytes(content)
    defaults = PurposeDefaults(file)
    assert defaults.kept() == {} and defaults.all()["style"] == BY_NAME["style"].published
    defaults.keep("style", STYLE)
    assert PurposeDefaults(file).kept() == {"style": STYLE}


def test_what_is_damaged_of_a_file_takes_nothing_else_with_it(tmp_path: Path) -> None:
    file = tmp_path / "purposes.json"
    file.write_text(json.dumps({"face": {**STYLE, "end": 7}, "style": STYLE, "gone": STYLE}))
    assert PurposeDefaults(file).kept() == {"style": STYLE}


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(IPAdapterError, match="cannot be written .*: make its folder writable"):
        PurposeDefaults(tmp_path / "file" / "purposes.json").keep("style", STYLE)


def test_weight_types_that_have_a_composition_weight_or_a_boost() -> None:
    def differs(name: str, **other: float) -> bool:
        return spread(name, SD15.blocks, **other) != spread(name, SD15.blocks)

    assert {name for name in WEIGHT_TYPES if differs(name, composition_weight=0.5)} == {*COMPOSING}
    assert {name for name in WEIGHT_TYPES if differs(name, boost=0.5)} == {*INVERTING}


def test_every_folded_control_has_its_group() -> None:
    folded = [(n, at) for n, one in settings_of(Unit).items() for at in one.panel if at.place == "advanced"]
    without = [name for name, at in folded if at.group not in GROUPS]
    assert not without, f"say group=… in the PanelPlace, one of {', '.join(GROUPS)}, of: {', '.join(without)}"
    script = (ROOT / "javascript" / "panel" / "purpose.js").read_text(encoding="utf-8")
    known = re.findall(r'^ +"?([\w ]+)"?: ', script.split("const isThere = {")[1].split("};")[0], re.MULTILINE)
    assert {at.needs for _, at in folded} == {"", *known}
    assert {at.group for _, at in folded} == {*GROUPS}


def test_the_folded_controls_stand_in_their_groups(modules: None) -> None:
    from lib_ipadapter.webui.panel import advanced
    from lib_ipadapter.webui.panel.controls import HTML_CONTROLS

    sections = advanced.groups("an-id-{}".format).split("<section")[1:]
    assert [re.findall(r"<h4>(.*?)</h4>", one) for one in sections] == [[group] for group in GROUPS]
    there = {
        name: group
        for group, one in zip(GROUPS, sections, strict=True)
        for name in re.findall(r"data-field='(\w+)'", one)
    }
    assert there == {control.field: control.at.group for control in HTML_CONTROLS if control.place == "advanced"}
    assert "data-field='downsampling'" in advanced.groups("an-id-{}".format).split("<section")[0]
    assert sections[0].index("data-field='weight_type'") < sections[0].index("data-slot='bars'")
    assert sections[0].index("data-slot='bars'") < sections[0].index("data-field='composition_weight'")
    assert "data-slot='region'" in sections[GROUPS.index("Where")]
    assert "data-needs='region'" in sections[GROUPS.index("Where")]


@pytest.fixture
def row(modules: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from lib_ipadapter.webui import process
    from lib_ipadapter.webui.panel import purpose_row

    defaults = PurposeDefaults(tmp_path / "purposes.json")
    monkeypatch.setattr(process, "purposes", lambda: defaults)
    return purpose_row


def attribute(drawn: str, name: str):
    import html

    return json.loads(html.unescape(re.search(f"data-{name}='([^']*)'", drawn)[1]))


def test_the_row_has_a_button_with_a_picture_for_each_purpose(row) -> None:
    drawn = row.drawn()
    assert re.findall(r"data-purpose='(\w+)'", drawn) == [*BY_NAME]
    pictures = re.findall(r"<svg.*?</svg>", drawn)
    assert len(set(pictures)) == len(PURPOSES) and all(len(one) <= 1024 for one in pictures)
    assert all(f"<span>{one.label}</span>" in drawn for one in PURPOSES)
    assert attribute(drawn, "defaults")["composition"]["end"] == 0.8 and attribute(drawn, "kept") == []
    own = settings_of(Unit)
    assert attribute(drawn, "untouched") == {**{name: own[name].default for name in FIELDS}, "downsampling": "1"}
    assert attribute(drawn, "defaults")["variation"]["downsampling"] == "3"  # as the page has it
    seen = re.findall(r"data-purpose='(\w+)'[^>]*?( hidden='')?>", drawn)
    assert [name for name, hidden in seen if hidden] == ["whole", "variation", "mood"]
    assert row.NO_CHECKPOINT in drawn and drawn.count("aria-disabled") == 1


def test_orders_about_a_purpose_are_carried_out(row) -> None:
    answer = row.followed({"do": "keep purpose", "purpose": "style", "settings": STYLE})
    assert attribute(answer, "defaults")["style"] == STYLE and attribute(answer, "kept") == ["style"]
    assert attribute(row.drawn(), "defaults")["style"] == STYLE
    refused = row.followed({"do": "keep purpose", "purpose": "style", "settings": {**STYLE, "weight": 9}})
    assert "“Weight” is 9" in refused and "data-" not in refused
    answer = row.followed({"do": "forget purpose", "purpose": "style", "settings": None})
    assert attribute(answer, "kept") == [] and attribute(answer, "defaults")["style"]["weight"] == 1


def test_a_default_of_redux_is_kept_as_the_page_has_it(row) -> None:
    settings = {"downsampling": "9", "weight": 0.5, "start": 0, "end": 1}
    answer = row.followed({"do": "keep purpose", "purpose": "mood", "settings": settings})
    assert attribute(answer, "defaults")["mood"] == settings
    assert row.process.purposes().kept()["mood"]["downsampling"] == 9


def adapter(name: str, variant: str, source: str, wide: int = 320) -> SimpleNamespace:
    spec = SimpleNamespace(
        variant=variant, source=source, context_width=768, layer_widths=(wide,), image_encoder=None, base=f"of {wide}"
    )
    return SimpleNamespace(name=name, spec=spec, path=Path(f"{name}.safetensors"))


def choice_of(*adapters: SimpleNamespace, packs: set[str], wide: int = 320):
    """The choice among these adapters for a checkpoint of that width, with these face packs."""
    from lib_ipadapter.webui.panel.model_choice import ModelChoice

    by_name = {one.name: one for one in adapters}
    catalog = SimpleNamespace(adapters=[*adapters], find=by_name.__getitem__)
    resources = SimpleNamespace(catalog=catalog, faces_identity=lambda pack: pack if pack in packs else None)
    topology = SimpleNamespace(context_width=768, layer_widths=(wide,), base=f"of {wide}")
    return ModelChoice(resources, topology)


@pytest.fixture
def ready(row, monkeypatch: pytest.MonkeyPatch) -> None:
    """No adapter lacks its image encoder, and one was used lately."""
    monkeypatch.setattr("lib_ipadapter.jobs.choose.encoder_for", lambda *_: None)
    monkeypatch.setattr(row.process, "used_models", lambda: SimpleNamespace(last=lambda _base: ["plain"]))


def test_face_is_there_where_its_adapter_fits_and_faces_can_be_found(
    row, ready: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, id_ = adapter("plain", "base", "pooled"), adapter("id", "faceid", "face")
    full = adapter("full", "full-face", "penultimate")
    packs = {"buffalo_l"}

    def faces(*adapters: SimpleNamespace, installed: bool = True) -> dict:
        monkeypatch.setattr(row.packages, "is_installed", lambda _folder: installed)
        return attribute(row.drawn(choice_of(*adapters, packs=packs)), "faces")

    assert attribute(row.drawn(choice_of(plain, adapter("closely", "redux", "last"), packs=packs)), "kinds") == {
        "closely": "redux"
    }
    assert faces(plain, id_) == {"face": "id", "other": "plain", "all": ["id"], "lacking": ""}
    assert faces(plain)["lacking"] == row.NO_FACES
    assert faces(plain, adapter("id", "faceid", "face", 640))["lacking"] == row.NO_FACES
    assert faces(plain, id_, installed=False)["lacking"] == row.NO_ANALYSIS
    assert faces(full, installed=False) == {"face": "full", "other": None, "all": ["full"], "lacking": ""}
    unknown = replace(choice_of(plain, id_, packs=packs), topology=None)
    assert attribute(row.drawn(unknown), "faces")["lacking"] == row.NO_CHECKPOINT
    packs.clear()
    assert "Adapter id is here, but the face pack buffalo_l is missing" in faces(plain, id_)["lacking"]


def test_a_change_of_the_checkpoint_keeps_an_adapter_for_faces(ready: None) -> None:
    from lib_ipadapter.webui.panel.panel_state import PanelState

    small = adapter("id", "faceid", "face"), adapter("plain", "base", "pooled")
    large = adapter("id-xl", "faceid", "face", 640), adapter("plain-xl", "base", "pooled", 640)
    units = [{"model": name, "fitted": {"of 320": name}} for name in ("id", "plain")]

    def after(*adapters: SimpleNamespace) -> list[str]:
        choice = choice_of(*adapters, packs={"buffalo_l"}, wide=640)
        return [one.now for one in choice.settle(PanelState(1, units))]

    assert after(*small, *large) == ["id-xl", "plain-xl"]
    assert after(*small, large[1]) == ["plain-xl", "plain-xl"]
    assert after(*small, large[0]) == ["id-xl", "id-xl"]
