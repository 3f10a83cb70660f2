"""The documentation is held against the code: its tables, the routes, and every file and test that it names."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest
from fastapi import FastAPI

from lib_ipadapter import bases, field_table
from lib_ipadapter.field_table import table, weight_types_table
from lib_ipadapter.infotext.reading import MAX_ENTRY
from lib_ipadapter.jobs.fit import SOURCES
from lib_ipadapter.presets.store import Store
from lib_ipadapter.reference import MAX_PICTURES, MAX_REFERENCES
from lib_ipadapter.weighting import Spread
from tests.helpers.paths import ROOT

API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md")), *sorted((ROOT / "docs").glob("*.md"))]
PRINTS = "`python -m lib_ipadapter.field_table` prints"


@pytest.mark.parametrize("printed", [table, weight_types_table])
def test_the_api_page_has_the_tables_that_the_code_prints(printed: Callable[[], str]) -> None:
    lacking = "\n".join(row for row in printed().splitlines() if f"\n{row}\n" not in API)
    assert not lacking, f"docs/api.md lacks these rows, which {PRINTS}:\n{lacking}"
    assert f"\n\n{printed()}\n\n" in API, f"docs/api.md has other rows, or another order, than {PRINTS}"


def test_the_table_of_weight_types_says_what_blocks_get(monkeypatch: pytest.MonkeyPatch) -> None:
    types = {
        "alike": Spread(dict.fromkeys(range(16), 0.5)),
        "some": Spread({0: 1.0, 1: 1.0, 4: 0.25, 15: 1.0}, {5: 0.5, 6: 0.5}),
        "hill": Spread({t: 1 - abs(t - 7) / 10 for t in range(16)}),
    }
    monkeypatch.setattr(field_table, "spread", lambda name, blocks, **settings: types[name])
    assert field_table._blocks("alike", bases.SD15) == "all (0.5)"
    assert field_table._blocks("some", bases.SD15) == "0–1, 4 (0.25), 15; by `composition_weight`: 5–6 (0.5)"
    assert field_table._blocks("hill", bases.SD15) == "0 (0.3) → 7 (1) → 15 (0.2)"


def test_the_api_page_has_every_route(modules: None, store: Store) -> None:
    from lib_ipadapter.webui import api, downloads, embeddings, guards, looks, preview

    app = FastAPI()
    app.add_api_route(guards.HOST_ROUTE, lambda: None)
    before = {route.path for route in app.routes}
    guarded = api.add_routes(app, None, store)
    preview.add_preview_route(app, lambda: None, guarded)
    embeddings.add_embeddings_route(app, lambda: None, guarded)
    looks.add_routes(app, lambda: None, guarded)
    downloads.add_routes(app, guarded)
    ours = [route for route in app.routes if route.path not in before]
    routes = {f"{method} {route.path}" for route in ours for method in route.methods}
    assert len(routes) >= 8
    told = set(re.findall(r"^\| `([A-Z]+ /[^`]+)` \|", API, re.MULTILINE))
    assert not routes - told, f"docs/api.md does not have: {', '.join(routes - told)}"
    assert not told - routes, f"docs/api.md has what is not there: {', '.join(told - routes)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        file, _, heading = unquote(target).partition("#")
        there = page.parent / file if file else page
        assert there.exists(), f"{page.name} links to {target}, which is not there"
        assert not heading or heading in headings(there), f"{page.name} links to {target}: no such heading"


def headings(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


NAMED_FILE = re.compile(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|js|md|css)|(?:[\w.-]+/)+)`")
ROOTS = (ROOT, ROOT / "lib_ipadapter", ROOT / "lib_ipadapter" / "webui")
ELSEWHERE = ("ip-adapter/", "cache/")  # in the WebUI's folders
ADDED = ("wave.py", "other.py")  # by the recipes


@pytest.mark.parametrize("page", ["architecture.md", "adding.md"])
def test_files_that_are_named_are_there(page: str) -> None:
    named = set(NAMED_FILE.findall((ROOT / "docs" / page).read_text(encoding="utf-8")))
    assert len(named) > 10
    names = {file.name for folder in ("lib_ipadapter", "javascript", "tests") for file in (ROOT / folder).rglob("*.*")}
    missing = [
        name
        for name in named - {*ELSEWHERE}
        if not name.endswith(ADDED) and name not in names and not any((root / name).exists() for root in ROOTS)
    ]
    assert not missing, f"docs/{page} names what is not there: {', '.join(sorted(missing))}"


NAMED_PLACE = re.compile(r"`(\w+)`\s+of\s+`((?:[\w.-]+/)*[\w.-]+\.(?:py|js))`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_are_in_the_files_that_are_named_with_them(page: Path) -> None:
    places = NAMED_PLACE.findall(page.read_text(encoding="utf-8"))
    assert len(places) > 3 or page.name != "adding.md"
    for name, file in places:
        there = next((root / file for root in ROOTS if (root / file).exists()), None)
        text = there.read_text(encoding="utf-8") if there else ""
        assert re.search(rf"\b{name}\b", text), f"{page.name} names {name} of {file}, where it is not"


def test_the_recipes_know_what_architectures_can_be_fed_with() -> None:
    recipes = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")
    assert f"known sources are {', '.join(sorted(SOURCES))}\n" in recipes
    assert all(f'`"{source}"`' in recipes for source in SOURCES)


def test_the_bounds_of_a_units_parameters_are_those_of_the_code() -> None:
    reliability = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| a unit's parameters \| (.*) \|$", reliability, re.MULTILINE)
    numbers = [int(number.replace(",", "")) for number in re.findall(r"[\d,]*\d", row)]
    assert numbers == [MAX_ENTRY, MAX_REFERENCES, MAX_PICTURES, MAX_REFERENCES]


def test_tests_that_the_recipes_name_are_there() -> None:
    recipes = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")
    named = re.findall(r"`(?:(test_\w+\.py)::)?(test_\w+)`", recipes)
    assert len(named) > 10
    functions = {
        node.name: file.name
        for file in (ROOT / "tests").rglob("test_*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    missing = [name for file, name in named if name not in functions or file not in ("", functions[name])]
    assert not missing, f"docs/adding.md names tests that are not there: {', '.join(missing)}"
