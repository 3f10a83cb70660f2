"""Small files that are written beside their place, and put there in one step."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lib_ipadapter.replace_file import new_file, replace_file


def test_a_file_is_there_whole_for_whom_the_umask_says(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.json"
    before = os.umask(0o027)
    try:
        replace_file(file, "ä")
        replace_file(file, "ö")
    finally:
        os.umask(before)
    assert file.read_bytes() == "ö".encode() and [*file.parent.iterdir()] == [file]
    assert os.name == "nt" or file.stat().st_mode & 0o777 == 0o640


def test_nothing_is_left_of_what_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(OSError, match="a.json"):
        replace_file(tmp_path / "a.json", "text")
    assert [*tmp_path.iterdir()] == [tmp_path / "a.json"]


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_replaces_none(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:

        def link(*_: object) -> None:
            raise OSError(1, "no hard links here")

        monkeypatch.setattr(os, "link", link)
    path = tmp_path / "made" / "x"
    new_file(path, "first")
    with pytest.raises(FileExistsError):
        new_file(path, "second")
    assert path.read_text() == "first" and [*path.parent.iterdir()] == [path]
