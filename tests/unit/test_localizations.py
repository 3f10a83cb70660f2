"""The panel's words in other languages: none lacks a text, none has one that is gone, none changes the WebUI's own."""

from __future__ import annotations

import functools
import re

import pytest

from tests.helpers import localizations as words
from tests.helpers.localizations import FOLDER, LANGUAGES, PREFIX, TODO
from tests.helpers.paths import ROOT

AGAIN = "`python -m tests.helpers.localizations` lists what is lacking and gone, `--write` adds it to the files"


gathered = functools.cache(words.gathered)


@pytest.fixture
def wanted(modules: None) -> set[str]:
    """Settings are declared with the host's modules, so these have to be there first."""
    return gathered()


def test_there_is_a_file_for_each_language() -> None:
    assert {file.stem for file in FOLDER.iterdir()} == set(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_has_each_text_and_no_other(language: str, wanted: set[str]) -> None:
    table = words.read(language)
    lacking = sorted(wanted - set(table)) + sorted(key for key, text in table.items() if text.startswith(TODO))
    assert not lacking, f"{language} lacks: {'; '.join(lacking)}\n{AGAIN}"
    gone = sorted(set(table) - wanted)
    assert not gone, f"{language} has what is gone: {'; '.join(gone)}\n{AGAIN}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_values_and_signs_survive_the_translation(language: str) -> None:
    for english, translation in words.read(language).items():
        english = english.removeprefix(PREFIX)
        assert translation.strip() == translation != "", f"{language}: {english}"
        assert translation.count("{}") == english.count("{}"), f"{language}: {english}"
        for sign in ("⚠", "…", "\n"):
            assert (sign in english) <= (sign in translation), f"{language}: {english} lacks {sign}"
        numbers = re.findall(r"\d+:\d[.\d]*", english)  # what is written into fields
        assert re.findall(r"\d+:\d[.\d]*", translation) == numbers, f"{language}: {english}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_webui_keeps_its_own_words(language: str) -> None:
    host = words.host_words()
    assert {"Model", "Cancel", "None", "Sampling steps"} <= host
    plain = {key for key in words.read(language) if not key.startswith(PREFIX)}
    assert not host & plain, "all files of a language are one table: write the prefix before it"
    assert not [key for key in plain if len(key.split()) < 3], "another extension may have such a word: prefix it"


# How texts are gathered


def test_a_text_in_python_is_found() -> None:
    source = '''
def drawn(name, key):
    """Not This Docstring."""
    about = attributes(title="press this", data_key="Not this")
    shown = f"<b title='The picture of {name}'>on its way</b><label>Weight{field}</label>"
    if key == "not this":
        raise UnitError("Not this sentence.")
    return note("Saved it.", f"{name} is there: Look again.") + f"Unit {name} is shown."
'''
    found = words.of_python(source)
    assert found >= {"press this", "The picture of {}", "on its way", "Weight", "Saved it.", "Unit {} is shown."}
    assert not [text for text in found if "ot this" in text.lower()]


def test_a_text_in_a_script_is_found() -> None:
    source = """
        // Not This Comment
        const title = "Drop it here", key = event.key === "ArrowLeft" ? 'a b' : `Unit ${state.units[`x`].n + 1}`;
        element.innerHTML = "<em>on its way</em>";
    """
    assert words.of_script(source) == {"Drop it here", "Unit {}", "on its way"}


def test_what_stands_behind_something_else_is_found_though_it_begins_small() -> None:
    source = """
        draw(`Undo: ${label}`, `${count} units`);
        draw(`moved reference ${old + 1} to unit ${to}`, "no unit", `loaded “${name}”`);
        find("textarea, input").classList.add("ip-adapter-stale open", "ul.options li", kind === "keep purpose");
    """
    pieces = {"Undo: {}", "{} units", "moved reference {} to unit {}", "no unit", "loaded “{}”"}
    assert words.of_script(source) == pieces | {"keep purpose"}
    assert "keep purpose" in words.NOT_SHOWN


def test_what_can_be_undone_is_among_the_texts(wanted: set[str]) -> None:
    """Each label that is given for the line, whole."""
    labels: set[str] = set()
    for file in (ROOT / "javascript").glob("*/*.js"):
        source = file.read_text(encoding="utf-8")
        given = re.findall(r"(?:undo\.act|remember|awaitUnits|change)\(tab, ([\"`].+?[\"`])[,)]", source)
        given += re.findall(r"const label = [^;]+;", source)
        labels.update(*map(words.of_script, given))
    assert {"removed reference {}", "drew the region", "loaded “{}”", "pasted parameters"} <= labels and len(
        labels
    ) > 12
    assert {words.key_of(label) for label in labels} | {PREFIX + "Undo: {}", PREFIX + "Redo: {}"} <= wanted


def test_the_fields_and_settings_are_among_the_texts(wanted: set[str]) -> None:
    assert {"style transfer precise", "Number of units in the panel"} <= wanted
    assert {PREFIX + "Model", PREFIX + "Weight type", PREFIX + "Unit {}"} <= wanted and "Model" not in wanted
