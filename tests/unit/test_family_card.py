"""The model card: what is measured anew is written anew, all else stays as it stands."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from benchmarks.likeness.plan import references, scenes
from demo.family import card, likeness, quality


def test_the_card_is_what_the_program_writes() -> None:
    text = (card.HERE / "README.md").read_text(encoding="utf8")
    parts = card.written(text)
    assert set(parts) == set(card.HEADS)
    assert card.card(json.loads((card.WEIGHTS / "training.json").read_text()), parts) == text


def test_a_part_alone_replaces_its_own_lines() -> None:
    measure = {"mean": 0.25, "error": 0.01, "n": 64}
    told = dict.fromkeys(("nearest", "own", "others", "margin", "ground"), measure)
    report = {"faces": {
        "another photo": {"drawn": told, "through the autoencoder": told},
        "weight": {weight: told for weight in card.SCALES}, "lora_strength": {"0.0": told, "0.5": told, "1.0": told},
    }}  # fmt: skip
    found = card._quality(report)
    assert set(found) == {"faces"} and found["faces"][0].startswith(card.HEADS["faces"])
    assert found["faces"][-1].count("25 % ± 1") == len(card.SCALES) + 2
    parts = card.written((card.HERE / "README.md").read_text(encoding="utf8"))
    assert {**parts, **found}["words"] == parts["words"]


def test_likeness_has_a_row_for_each_figure_and_a_column_for_each_weight(tmp_path: Path) -> None:
    table = tmp_path / "likeness.csv"
    table.write_text(
        "method,weight,figure,value,low,high,pictures,references\n"
        "plain,,clip_i,-0.02,-0.06,0.02,32,16\nIP-Adapter,0.25,clip_i,0.386,0.298,0.482,32,16\n"
        "IP-Adapter,0.25,time,1.1,1.0,1.2,32,16\n"
    )
    run = likeness.figures(table)
    lines = card._quality({"likeness": {"references": 16, "machine": "x86_64", "alone": run, "other": run}})["likeness"]
    assert lines[0].startswith(card.HEADS["likeness"]) and "16 references" in lines[0] and "on x86_64;" in lines[0]
    assert lines[2] == "|  |  | without | weight 0.25 |"
    assert lines[4] == "| alone | CLIP-I | -0.02 (-0.06 to 0.02) | 0.39 (0.30 to 0.48) |"
    assert lines[-1] == "| other | time / plain | – | 1.10 (1.00 to 1.20) |"
    assert len(lines) == 4 + 2 * 3 + 2 and "Times are whole requests" in lines[0]


def test_a_time_that_is_missing_hides_no_other(tmp_path: Path) -> None:
    table = tmp_path / "likeness.csv"
    table.write_text(
        "method,weight,figure,value,low,high,pictures,references\n"
        "plain,,clip_i,0.1,0.0,0.2,32,16\nIP-Adapter,0.25,clip_i,0.4,0.3,0.5,32,16\n"
        "IP-Adapter,0.5,clip_i,0.4,0.3,0.5,32,16\nIP-Adapter,0.5,time,1.1,,,1,1\n"
    )
    run = likeness.figures(table)
    report = {"references": 16, "machine": "x86_64", "alone": run}
    lines = card._quality({"likeness": report})["likeness"]
    assert lines[-1] == "| alone | time / plain | – | – | 1.10 |"
    assert "left out" in lines[0]
    for column in run.values():
        column.pop("time", None)
    lines = card._quality({"likeness": report})["likeness"]
    assert not any("time /" in line for line in lines) and "Times are" not in lines[0]


def test_files_made_anew_are_measured_anew(tmp_path: Path) -> None:
    """The command knows an adapter by its name: the folder is another where a file is."""
    compose = likeness.compose
    for name in (compose.CHECKPOINT, compose.ENCODER, compose.COPIES["adapter"], compose.COPIES["plus"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    first = likeness.folder(tmp_path, "adapter"), likeness.folder(tmp_path, "plus")
    assert first == (likeness.folder(tmp_path, "adapter"), likeness.folder(tmp_path, "plus"))
    assert first[0].startswith("adapter-") and first[1].startswith("plus-")
    (tmp_path / compose.COPIES["adapter"]).write_bytes(b"2")
    assert likeness.folder(tmp_path, "adapter") != first[0] and likeness.folder(tmp_path, "plus") == first[1]
    for name in (compose.CHECKPOINT, compose.ENCODER):
        before = likeness.folder(tmp_path, "plus")
        (tmp_path / name).write_bytes(b"2")
        assert likeness.folder(tmp_path, "plus") != before


def test_likeness_has_each_reference_with_its_caption(tmp_path: Path) -> None:
    captions = likeness.write_references(tmp_path, 3)
    made = scenes(references(tmp_path), captions)
    assert [scene.prompt for scene in made] == [scene.caption for scene in quality.references(3)[0].words()]


def test_parts_are_known_by_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("sys.argv", ["quality", "--only", "faces,hands"])
    with pytest.raises(SystemExit):
        quality.main()
    assert "there is no part hands" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_the_program_is_the_module_that_others_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run as a program, the file is a second module, to which the measures that others make are strange."""
    monkeypatch.setattr(quality, "main", lambda: 7)
    monkeypatch.setattr("sys.argv", ["quality", "--only", "nothing"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("demo.family.quality", run_name="__main__")
    assert ended.value.code == 7
