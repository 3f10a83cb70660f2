"""The house's floors: a file imports from its own floor or below, never above; rooms of the second do not mix."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "lib_ipadapter"
FLOORS = (
    {
        "errors",
        "names",
        "replace_file",
        "bases",
        "fields",
        "kinds",
        "reference",
        "unit",
        "weighting",
        "field_table",
        "face_fields",
        "detailer_fields",
        "flux_fields",
        "purposes",
    },
    {"checkpoint", "downloads", "encode", "projections", "attend"},
    {"jobs"},
    {"presets", "infotext"},
    {"webui", "batch"},
)
WEBUI_FLOORS = ({"host"}, {"panel", "neighbours"}, {"job"}, {"callbacks", "start"})
# Recognition asks each architecture for its layout, and everybody may ask what a file is.
MIX = {("checkpoint", "projections")}


def imports(file: Path, root: Path = ROOT) -> Iterator[tuple[str, ...]]:
    """What a file imports from the library, as the parts of each name after ``lib_ipadapter``."""
    package = file.relative_to(root).parts[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf8"))):
        if isinstance(node, ast.ImportFrom):
            base = (*package[: len(package) - node.level + 1],) if node.level else ()
            for alias in node.names:
                parts = (*base, *(node.module or "").split("."), alias.name)
                parts = tuple(part for part in parts if part)
                if parts[0] == "lib_ipadapter":
                    yield parts[1:]


def floor(room: str, floors: tuple[set[str], ...]) -> int | None:
    return next((number for number, rooms in enumerate(floors) if room in rooms), None)


def wrong(file: Path, root: Path = ROOT) -> list[str]:
    own = (*file.relative_to(root / "lib_ipadapter").with_suffix("").parts, "")
    here, found = floor(own[0], FLOORS), []
    for name in imports(file, root):
        there = floor(name[0], FLOORS)
        shown = f"{file.relative_to(root)} imports {'.'.join(name)}"
        if there is None or here is None:
            continue
        mixes = here == there == 1 and name[0] not in (own[0], "checkpoint") and (own[0], name[0]) not in MIX
        mixes = mixes or (here == there == len(FLOORS) - 1 and name[0] != own[0])  # neither knows the other
        if there > here or mixes:
            found.append(shown)
        elif own[0] == name[0] == "webui" and len(name) > 1:
            low, high = floor(own[1], WEBUI_FLOORS), floor(name[1], WEBUI_FLOORS)
            if low is not None and high is not None and high > low:
                found.append(shown)
    return found


def test_a_file_imports_from_its_own_floor_or_below() -> None:
    files = sorted(LIBRARY.rglob("*.py"))
    assert len(files) > 50
    assert [sentence for file in files for sentence in wrong(file)] == []


def test_every_room_has_a_floor() -> None:
    rooms = {path.stem for path in LIBRARY.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert rooms - {"__init__"} == set().union(*FLOORS)


def test_only_the_top_floor_knows_the_webui() -> None:
    for file in LIBRARY.rglob("*.py"):
        if "webui" in file.relative_to(LIBRARY).parts:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {name.split(".")[0] for name in names} & {"modules", "gradio", "fastapi"}, file


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("errors.py", "from .jobs import plans"),
        ("encode/one.py", "from ..attend.rows import Rows"),
        ("presets/one.py", "from ..webui import options"),
        ("webui/host/one.py", "from ..panel import editor"),
        ("webui/job.py", "from . import callbacks"),
        ("webui/one.py", "from ..batch.ledger import Ledger"),
        ("batch/one.py", "from ..webui import options"),
    ],
)
def test_a_wrong_import_is_seen(tmp_path: Path, place: str, line: str) -> None:
    file = tmp_path / "lib_ipadapter" / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{line}\n")
    assert len(wrong(file, tmp_path)) == 1
