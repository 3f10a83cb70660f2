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
    text = f"model: {infotext.quoted(name)}, references: 0123456789ab"
    (unit,) = infotext.read({"IP-Adapter 1": text})
    assert unit.settings["model"] == name


@pytest.mark.parametrize(
    "text",
    [
        "a" * 94_000, "a:" * 47_000, '":' * 47_000, 'a: "' * 18_000, 'a: "' + "\\" * 94_000, " " * 94_000 + ":",
        ", " * 47_000,
        "references: " + "0123456789ab " * 6_000, "references: " + "f" * 94_000,
    ],
    ids=lambda text: text[:8],
)  # fmt: skip
def test_reading_takes_no_longer_than_the_text(text: str) -> None:
    params = {f"IP-Adapter {number}": text for number in range(1, 11)}
    started = time.process_time()
    infotext.restored(params, lambda content_hash: None)
    assert time.process_time() - started < 2


def test_an_entry_longer_than_any_of_ours_is_nobodys() -> None:
    assert infotext.read({"IP-Adapter 1": "references: 0123456789ab, model: " + "m" * 95_000}) == []


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


def looked(name: str, *, content_hash: str = "0123456789abcdef"):
    from types import SimpleNamespace

    return SimpleNamespace(
        content_hash=content_hash, weight=0.5, mask_hash=None, look=name, region_hash=None, folder=None, at=None
    )


@given(st.text(min_size=1, max_size=100).map(lambda name: " ".join(name.replace("/", "_").split())).filter(bool))
def test_a_look_is_named_beside_its_hash(name: str) -> None:
    from types import SimpleNamespace

    from lib_ipadapter.unit import Unit

    unit = Unit.parse({"model": "m", "images": ["x"]}, 1)
    at_work = SimpleNamespace(
        number=1, unit=unit, adapter=SimpleNamespace(name="m"), negatives=(), region_hash=None, pose_hash=None,
        references=[looked(name), looked("", content_hash="f" * 64), looked("b", content_hash="1" * 64)],
    )  # fmt: skip
    (read,) = infotext.read(infotext.parameters([at_work]))
    assert read.looks == {"0123456789ab": name, "1" * 12: "b"} and not read.problems


def test_a_look_comes_by_its_name_where_it_is_what_it_was() -> None:
    asked: list[str] = []

    def look(name: str):
        asked.append(name)
        return {"Oil": ("0123456789ab" + "0" * 52, picture(0)), "Ink": ("f" * 64, picture(1))}.get(name)

    hashes = "0123456789ab 111111111111*0.5 222222222222 0123456789ab"
    text = f"model: m, looks: 0123456789ab Oil / 111111111111 Ink / 222222222222 Chalk, references: {hashes}"
    [unit], notes = infotext.restored({"IP-Adapter 1": text}, lambda content_hash: None, look)
    assert [item["weight"] for item in unit["images"]] == [1.0, 1.0]
    assert asked == ["Oil", "Ink", "Chalk"]
    assert notes == [
        "Unit 1: the look “Ink” is not here as it was: add it, or another one.",
        "Unit 1: the look “Chalk” is not here as it was: add it, or another one.",
    ]


@pytest.mark.parametrize("text", ["", " / ", "x", "0123456789ab", "0123 Oil", "/ / /", "0123456789ab  /"])
def test_what_names_no_look_is_none(text: str) -> None:
    entry = f"model: m, looks: {infotext.quoted(text)}, references: 0123456789ab"
    (unit,) = infotext.read({"IP-Adapter 1": entry})
    assert not unit.looks and not unit.problems


@pytest.mark.parametrize("letter", ["x", '"', "é", "🎨", ","])
def test_the_longest_entry_of_ours_is_read(letter: str) -> None:
    from types import SimpleNamespace

    from lib_ipadapter.encode.folders import FolderMark
    from lib_ipadapter.reference import MAX_LOOK_NAME, MAX_PICTURES, MAX_REFERENCES
    from lib_ipadapter.unit import Unit

    settings = {
        "combine": "average",
        "layer_weights": [-0.123456789] * 70,
        "noise": 0.123456789,
        "start": 0.123456789,
        "crop": "stretch",
    }
    unit = Unit.parse({"model": "m", "images": ["x"], **settings}, 1)

    def all_of(start: int, count: int) -> list:
        numbered = [(f"{i:064x}"[::-1], f"{i:04}") for i in range(start, start + count)]
        return [
            SimpleNamespace(
                content_hash=one, weight=-0.123456789, mask_hash="f" * 64, region_hash="e" * 64, at=None,
                look=(letter * (MAX_LOOK_NAME - len(number)) + number) * (i < MAX_REFERENCES), folder=None,
            )
            for i, (one, number) in enumerate(numbered)
        ]  # fmt: skip

    folder = FolderMark("d" * 64, letter * (4096 // len(letter.encode())), "shuffle", 2**53 - 1, 4999)
    in_folder = SimpleNamespace(
        content_hash="c" * 64, weight=0.5, mask_hash=None, region_hash=None, look="", folder=folder, at=None
    )

    at_work = SimpleNamespace(
        number=1, unit=unit, adapter=SimpleNamespace(name=letter * 255), region_hash="1" * 64, pose_hash="2" * 64,
        negatives=all_of(MAX_PICTURES, MAX_REFERENCES), references=[*all_of(0, MAX_PICTURES - 1), in_folder],
    )  # fmt: skip
    (read,) = infotext.read(infotext.parameters([at_work]))
    assert (len(read.references), len(read.negatives)) == (MAX_PICTURES, MAX_REFERENCES) and not read.problems
    assert len({*read.looks.values()}) == 2 * MAX_REFERENCES
    assert [mark.name for mark in read.folders.values()] == [folder.name]
    assert read.settings["layer_weights"]


@pytest.mark.parametrize("text", ["0", "0 1 0.5", "0 x", "0 1.5", "nan 0", "- -", "0 -0.1", "1_0 0"])
def test_times_that_are_none_are_nobodys(text: str) -> None:
    entry = "model: m, at: {}, references: 0123456789ab 111111111111"
    (unit,) = infotext.read({"IP-Adapter 1": entry.format(text)})
    assert [one.at for one in unit.references] == [None, None] and not unit.problems
    (unit,) = infotext.read({"IP-Adapter 1": entry.format("0 0.25")})
    assert [one.at for one in unit.references] == [0, 0.25]
