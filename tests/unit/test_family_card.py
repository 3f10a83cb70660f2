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
    assert len(lines) == 4 + 2 * 3 + 2


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
