"""Units read back from a picture's parameters."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_ipadapter import infotext
from tests.helpers.files import picture


def test_what_is_missing_or_unknown_is_told() -> None:
    params = {
        "IP-Adapter 1": "model: m, weight: 9, swirl: 1, references: 0123456789ab ffffffffffff*0.5",
        "IP-Adapter 3": "model: n, start: 0.9, end: 0.2, references: 0123456789ab",
        "IP-Adapter 4": "somebody else's",
        "IP-Adapter 0": "references: 0123456789ab",
        "IP-Adapter 99": "references: 0123456789ab",
        "IP-Adapter Model 1": "references: 0123456789ab",
    }
    units, notes = infotext.restored(params, lambda mark: picture(0) if mark == "0123456789ab" else None)
    assert [unit.get("model") for unit in units] == ["m", None, "n"]
    assert set(units[0]) == {"model", "images"} and len(units[0]["images"]) == 1
    assert units[2].keys() == {"model", "images"}
    assert notes == [
        "Unit 1: weight is 9.0: give a number from -1 to 3, or a curve of such over the steps, such as "
        "[[0, 1.0], [0.6, 0.2]].",
        "Unit 1: swirl is not known to this version, so it was left out.",
        "Unit 1: 1 of its 2 references cannot be restored from the parameters: add the picture again.",
        "Unit 3: start is 0.9 and end is 0.2: no step lies between; make start less than end.",
    ]


@given(
    st.dictionaries(
        st.sampled_from([f"IP-Adapter {n}" for n in range(12)]) | st.text(), st.text() | st.none() | st.integers()
    )
)
def test_no_parameters_break_the_paste(params: dict) -> None:
    from lib_ipadapter.unit import Unit

    units, _ = infotext.restored(params, lambda mark: None)
    assert len(units) <= 10
    for unit in units:
        Unit.parse({**unit, "enabled": False})


@given(st.text(min_size=1).map(str.strip).filter(bool))
def test_any_name_survives_the_parameters(name: str) -> None:
    text = f"model: {infotext._quoted(name)}, references: 0123456789ab"
    (unit,) = infotext.read({"IP-Adapter 1": text})
    assert unit.settings["model"] == name


@pytest.mark.parametrize(
    "text",
    [
        "a" * 19_000, "a:" * 9_000, '":' * 9_000, 'a: "' * 4_000, 'a: "' + "\\" * 19_000, " " * 19_000 + ":",
        ", " * 9_000,
        "references: " + "0123456789ab " * 1_400, "references: " + "f" * 19_000,
    ],
    ids=lambda text: text[:8],
)  # fmt: skip
def test_reading_takes_no_longer_than_the_text(text: str) -> None:
    params = {f"IP-Adapter {number}": text for number in range(1, 11)}
    started = time.process_time()
    infotext.restored(params, lambda content_hash: None)
    assert time.process_time() - started < 1


def test_an_entry_longer_than_any_of_ours_is_nobodys() -> None:
    assert infotext.read({"IP-Adapter 1": "references: 0123456789ab, model: " + "m" * 20_000}) == []


def test_a_picture_that_comes_again_is_asked_for_once() -> None:
    asked: list[str] = []

    def stored(content_hash: str):
        asked.append(content_hash)
        return picture(0)

    units, notes = infotext.restored({"IP-Adapter 1": "model: m, references: " + "0123456789ab " * 150}, stored)
    assert asked == ["0123456789ab"]
    assert len(units[0]["images"]) == 64
    assert len({id(item["image"]) for item in units[0]["images"]}) == 1
    assert notes == ["Unit 1: it has 150 references: the first 64 are used."]


def test_values_as_they_are_written_are_read() -> None:
    text = 'model: "a, b: \\"c\\"", weight: 0.5, noise:0.25,hires: base, references: 0123456789ab'
    [unit] = infotext.read({"IP-Adapter 1": text})
    assert unit.settings == {"model": 'a, b: "c"', "weight": 0.5, "noise": 0.25, "hires": "base"}
    assert unit.problems == []
