"""The words of the panel, gathered from the code, and what a language's file has of them.

``python -m tests.helpers.localizations`` prints for each language what is lacking and what is gone;
``--write`` adds the lacking texts to the files, untranslated and marked with TODO, and takes away what is gone.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import json
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from .paths import ROOT

FOLDER = ROOT / "localizations"
LANGUAGES = ("zh_CN", "ja_JP", "ko_KR", "de_DE", "fr_FR", "es_ES", "pt_BR", "ru_RU", "it_IT", "tr_TR")
PREFIX = "IP-Adapter: "  # before a word that others may use, too (ip_adapter_page.js)
TODO = "TODO "
HOST_WORDS = Path(__file__).with_name("host_words.txt")
SHOWN = ("title", "placeholder", "aria-label", "alt")
# Files whose texts that look like ones for people are gathered, beside what fields and settings declare.
PYTHON = (
    "lib_ipadapter/webui/panel/*.py", "lib_ipadapter/webui/options.py", "lib_ipadapter/purposes.py",
    "lib_ipadapter/fields.py",
    "lib_ipadapter/webui/downloads*.py",
)  # fmt: skip
TABLE = "lib_ipadapter/downloads/published.py"  # what the card of files to download says of each
SCRIPTS = ("javascript/*.js", "javascript/*/*.js")
# What looks like a text for people and is none: of scripts the names of keys, elements and the like; anywhere a name
# that stays as it is, or a piece of a text that is put together.
KEYS = frozenset(
    "ArrowLeft ArrowRight ArrowUp ArrowDown Home End Enter Escape Tab Delete Backspace Space PageUp PageDown".split()
)
NOT_SHOWN = frozenset(
    (
        "Object", "Content-Type", "Slider", "Dropdown", "Radio", "Textbox", "Files", "True", "False", "IP-Adapter",
        "ControlNet", "ControlNet Unit {}", "IP-Adapter:", "IP-Adapter panel [{}]", "IP-Adapter: {} cannot be loaded",
        "Imported", "Recent /", "Steps", "Ctrl+Z", "several references", "keep purpose", "forget purpose", "keep look",
        "keep look over", "delete look", "export look", "{} input",
        "{} is no picture", "0 MB", "{} MB", "{} GB", "instantid", "faceid-plus", "faceid-plus-v2",
        "faceid-portrait-unnorm", "IP-Adapter influence",
    )
)  # fmt: skip


# What looks like a text


def is_text(text: str) -> bool:
    """Whether ``text`` is a label or a sentence: it begins as one, and is written as people write."""
    plain = text.replace("{}", "")
    return (
        re.match(r"[“(⚠ {\d]*[A-Z]", text) is not None
        and re.search(r"[a-z]{2}", plain) is not None
        and re.search(r"[<>=\\_]|;(?! )|\$\{|://|[a-z][A-Z]\w*\(", plain) is None
        and not text.startswith(PREFIX)  # an error's, or a line for the log
        and not re.fullmatch(r"[A-Z][\w-]*\.[a-z]+|[A-Z]+[a-z]*\w*[A-Z]\w*", text)
    )


def is_piece(text: str) -> bool:
    """Whether ``text``, of a script, stands behind something else, like a number or "Undo: ", and begins small."""
    return re.fullmatch(r"(?:[a-z]+|\{\}|\d+)(?: [\w{}×“”'…]+)+\.?", text) is not None and has_words(text)


def tidy(text: str) -> str:
    """A text with values, as it is looked up: what is glued to a word is no value but more HTML, or nothing."""
    return re.sub(r"(?<=[a-z])\{\}$", "", re.sub(r"(?:\{\}){2,}", "{}", text)).strip()


def has_words(text: str) -> bool:
    return re.search(r"[^\W\d_]{2}", text.replace("{}", "")) is not None


class _Html(HTMLParser):
    """The texts of a piece of HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: set[str] = set()
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.texts |= {value.strip() for name, value in attrs if name in SHOWN and value and has_words(value)}
        self._hidden += tag in ("script", "style", "title")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style", "title")

    def handle_data(self, data: str) -> None:
        if not self._hidden and has_words(data):
            self.texts.add(data.strip())


def of_html(text: str) -> set[str]:
    parser = _Html()
    parser.feed(text)
    parser.close()
    return parser.texts


# Python


NAMES = ("title", "aria_label", "placeholder", "label", "tooltip", "info")  # of arguments that people are shown


def _docstrings(tree: ast.AST) -> set[int]:
    return {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }  # fmt: skip


def _written(node: ast.AST) -> str | None:
    """The text of a literal, with {} for each value in it; None for anything else."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join("{}" if isinstance(part, ast.FormattedValue) else str(_written(part)) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _written(node.left), _written(node.right)
        return left + right if left is not None and right is not None else None
    return None


def _literals(node: ast.AST, skipped: set[int]) -> Iterator[str]:
    """All texts below ``node``, those of errors aside: their sentences are put together when they are raised."""
    if id(node) in skipped or isinstance(node, (ast.Raise, ast.Assert)):
        return
    if isinstance(node, ast.keyword) and (node.arg or "").startswith("data_"):  # an attribute for scripts
        return
    text = _written(node)
    if text is not None:
        yield text
    if isinstance(node, ast.JoinedStr):  # of its parts only the expressions: the rest is in its own text
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                yield from _literals(part.value, skipped)
        return
    if text is None or not isinstance(node, ast.Constant):
        for child in ast.iter_child_nodes(node):
            yield from _literals(child, skipped)


def of_python(source: str) -> set[str]:
    tree = ast.parse(source)
    found: set[str] = set()
    for text in _literals(tree, _docstrings(tree)):
        text = re.sub(r"\{\w+\}", "{}", text)  # what str.format fills in
        if "<" in text:
            found |= of_html(text)
        elif is_text(text):
            found.add(text.strip())
    for node in ast.walk(tree):
        text = _written(node.value) if isinstance(node, ast.keyword) and node.arg in NAMES else None
        if text and not text.isidentifier():
            found.add(text)
    return {tidy(one) for one in found if has_words(one)}


def of_table(source: str) -> set[str]:
    """The texts of a table of files: what is said of each is no sentence, but has some words."""
    tree = ast.parse(source)
    texts = set(_literals(tree, _docstrings(tree)))
    return {text for text in texts if len(text.split()) > 2 and has_words(text) and not re.search(r"[/=_]", text)}


# Scripts

_TOKEN = re.compile(
    r"""//[^\n]*|/\*.*?\*/|(?P<text>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|(?P<template>`)""", re.DOTALL
)


def _template(source: str, at: int) -> tuple[str, int]:
    """The template that begins at ``at``, behind its first sign, with {} for each value; and where it ends."""
    text = ""
    while source[at] != "`":
        if source.startswith("${", at):
            text, at, depth = text + "{}", at + 2, 1
            while depth:
                if source[at] == "`":
                    at = _template(source, at + 1)[1]
                    continue
                depth += {"{": 1, "}": -1}.get(source[at], 0)
                at += 1
        else:
            text, at = text + source[at], at + 1
    return text, at + 1


def _script_literals(source: str) -> Iterator[str]:
    at = 0
    while match := _TOKEN.search(source, at):
        at = match.end()
        if match["template"]:
            text, at = _template(source, at)
            yield text
        elif match["text"]:
            yield match["text"][1:-1].replace('\\"', '"').replace("\\'", "'")


def of_script(source: str) -> set[str]:
    found: set[str] = set()
    for text in map(str.strip, _script_literals(source)):
        if "<" in text and ">" in text:
            found |= of_html(text)
        elif (is_text(text) or is_piece(text)) and text not in KEYS:
            found.add(text)
    return {tidy(one) for one in found}


# Fields and options


def of_fields() -> set[str]:
    from lib_ipadapter.fields import choices_of, settings_of
    from lib_ipadapter.unit import Unit

    found: set[str] = set()
    for name, setting in settings_of(Unit).items():
        for place in setting.panel:
            found |= {place.label, place.tooltip, place.placeholder}
        if setting.panel:
            found |= set(choices_of(Unit, name))
    return {text for text in found if has_words(text)}


def of_options() -> set[str]:
    """Of the page in Settings. What stands behind a label is written in brackets there."""
    from lib_ipadapter.webui.options import OPTIONS

    found: set[str] = set()
    for option in OPTIONS:
        found |= {option.label, *((option.limits or {}).get("choices", ()))}
        found |= {f"({option.info})"} if option.info else set()
        found |= {option.button[0]} if option.button else set()
    return found


@functools.cache
def host_words() -> frozenset[str]:
    return frozenset(HOST_WORDS.read_text(encoding="utf-8").splitlines())


def key_of(text: str) -> str:
    """Under which key a text stands in the tables, which are shared with the WebUI and all its extensions: with the
    prefix what is the WebUI's own, and what is so short that anybody may have it."""
    return PREFIX + text if len(text.split()) < 3 or text in host_words() else text


def gathered() -> set[str]:
    """All keys that each language has to have."""
    found = of_fields() | of_options()
    for pattern in PYTHON:
        for file in ROOT.glob(pattern):
            if file.name != "options.py":
                found |= of_python(file.read_text(encoding="utf-8"))
    for file in ROOT.glob(TABLE):
        found |= of_table(file.read_text(encoding="utf-8"))
    for pattern in SCRIPTS:
        for file in ROOT.glob(pattern):
            found |= of_script(file.read_text(encoding="utf-8"))
    return {key_of(text) for text in found if text not in NOT_SHOWN}


# Languages


def read(language: str) -> dict[str, str]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        assert len(keys) == len(set(keys)), f"{language} has a text twice"
        return dict(pairs)

    text = (FOLDER / f"{language}.json").read_text(encoding="utf-8")
    table: dict[str, str] = json.loads(text, object_pairs_hook=once)
    return table


def write(language: str, table: dict[str, str]) -> None:
    text = json.dumps(dict(sorted(table.items())), ensure_ascii=False, indent=1)
    (FOLDER / f"{language}.json").write_text(f"{text}\n", encoding="utf-8")


def main(arguments: list[str]) -> None:
    from demo.start import HOST

    sys.path.insert(0, str(HOST))
    wanted = gathered()
    for language in LANGUAGES:
        table: dict[str, str] = {}
        with contextlib.suppress(FileNotFoundError):
            table = read(language)
        lacking, gone = sorted(wanted - set(table)), sorted(set(table) - wanted)
        print(f"{language}: {len(table)} texts, {len(lacking)} lacking, {len(gone)} gone")
        for sign, texts in (("+", lacking), ("-", gone)):
            for text in texts:
                print(f"  {sign} {text}")
        if "--write" in arguments:
            kept = {text: translation for text, translation in table.items() if text in wanted}
            write(language, {**{text: TODO + text for text in lacking}, **kept})


if __name__ == "__main__":
    main(sys.argv[1:])
