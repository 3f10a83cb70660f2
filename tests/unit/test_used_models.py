"""The adapters that were used last: kept across restarts, bounded, and no trouble when the file is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lib_ipadapter.presets.used_models import LARGEST_FILE, MOST_BASES, MOST_NAMES, UsedModels


def test_the_last_one_comes_first_and_each_base_has_its_own(tmp_path: Path) -> None:
    file = tmp_path / "ip-adapter" / "used-models.json"
    UsedModels(file).note("SD1.5", ["plus", "faceid", "plus"])
    UsedModels(file).note("SDXL", ["plus_sdxl"])
    UsedModels(file).note("SD1.5", ["light"])
    assert UsedModels(file).last("SD1.5") == ["light", "plus", "faceid"]
    assert UsedModels(file).last("SDXL") == ["plus_sdxl"]
    assert UsedModels(file).last("SD2.x") == []
    assert [path.name for path in file.parent.iterdir()] == ["used-models.json"]


def test_what_changes_nothing_is_not_written(tmp_path: Path) -> None:
    used = UsedModels(tmp_path / "used.json")
    used.note("SD1.5", [])
    assert not used.path.exists()
    used.note("SD1.5", ["plus"])
    before = used.path.stat().st_ino
    used.note("SD1.5", ["plus"])
    assert used.path.stat().st_ino == before


def test_it_is_bounded(tmp_path: Path) -> None:
    used = UsedModels(tmp_path / "used.json")
    for number in range(40):
        used.note("SD1.5", [f"model {number}", "x" * 10_000])
        used.note(f"base {number}", ["plus"])
    used.note("SD1.5", ["the last"])
    assert used.last("SD1.5") == ["the last", *(f"model {number}" for number in range(39, 40 - MOST_NAMES, -1))]
    assert len(json.loads(used.path.read_text())["used"]) == MOST_BASES


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b'{"used": 3}', b'{"used": {"SD1.5": 3}}', b'{"used": {"SD1.5": [3, null]}}',
        b"\xff\xfe", b"[" * 100_000, b'{"used": {"SD1.5": ["' + b"x" * LARGEST_FILE + b'"]}}',
    ],
)  # fmt: skip
def test_a_damaged_file_is_no_trouble(content: bytes, tmp_path: Path) -> None:
    used = UsedModels(tmp_path / "used.json")
    used.path.write_bytes(content)
    assert used.last("SD1.5") == []
    used.note("SD1.5", ["plus"])
    assert used.last("SD1.5") == ["plus"]


def test_a_disk_that_cannot_be_written_is_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    used = UsedModels(tmp_path / "file" / "used.json")
    used.note("SD1.5", ["plus"])
    assert used.last("SD1.5") == []
