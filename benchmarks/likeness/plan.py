"""What is to be made: references and prompts, and from them every request."""

from __future__ import annotations

import base64
import hashlib
import io
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image

from lib_ipadapter.encode.picture import decode
from lib_ipadapter.errors import PictureError

from ..errors import Trouble

PLAIN, OURS, CONTROLNET = "plain", "IP-Adapter", "ControlNet"
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
RANGES = {OURS: (-1.0, 3.0), CONTROLNET: (0.0, 2.0)}


@dataclass(frozen=True)
class Reference:
    """A picture file of the folder; ``name`` is the file's. Its pixels are read each time: of many, one is at hand."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def image(self) -> Image.Image:
        """As the extension decodes it: upright, RGB. Raises Trouble for a file that is no picture."""
        try:
            return decode(self.path.read_bytes())
        except PictureError as error:
            raise Trouble(f"{self.path}: {error}") from error

    def sent(self) -> str:
        """``image`` as a PNG in base64, so that every method gets the same pixels. Raises Trouble."""
        file = io.BytesIO()
        self.image().save(file, "PNG")
        return base64.b64encode(file.getvalue()).decode()


@dataclass(frozen=True)
class Scene:
    """A reference with words: ``prompt`` is what the WebUI is told, ``caption`` what CLIP-T compares with."""

    reference: Reference
    prompt: str
    caption: str


@dataclass(frozen=True)
class Cell:
    """One picture. A plain one has no weight; ``reference`` is then whose pictures it is compared with, in time too: it
    is made anew beside each, since one that serves all makes the times of all as odd as its own."""

    method: str
    prompt: str
    seed: int
    reference: Reference
    weight: float | None = None


@dataclass(frozen=True)
class Plan:
    scenes: tuple[Scene, ...]
    seeds: tuple[int, ...]
    weights: tuple[float, ...]
    methods: tuple[str, ...]

    def plain(self, scene: Scene, seed: int) -> Cell:
        return Cell(PLAIN, scene.prompt, seed, scene.reference)

    def cell(self, scene: Scene, seed: int, method: str, weight: float) -> Cell:
        return Cell(method, scene.prompt, seed, scene.reference, weight)

    def cells(self) -> Iterator[Cell]:
        """Every picture once: those of one reference, prompt and seed together, in an order in which no method and no
        weight is always first, since what is later finds caches filled and a warmer machine."""
        for seed in self.seeds:
            for scene in {(scene.reference, scene.prompt): scene for scene in self.scenes}.values():
                some = [self.plain(scene, seed)]
                some += [self.cell(scene, seed, method, w) for method in self.methods for w in self.weights]
                random.Random(f"{seed} {scene.reference.name} {scene.prompt}").shuffle(some)
                yield from some


def references(folder: Path) -> list[Reference]:
    """The picture files in ``folder``, by name. Raises Trouble where there are none."""
    if not folder.is_dir():
        raise Trouble(f"--references {folder} is no folder: name one with the reference pictures.")
    found = [Reference(p) for p in sorted(folder.iterdir()) if p.suffix.lower() in PICTURES and p.is_file()]
    if not found:
        raise Trouble(f"--references {folder} holds no picture ({', '.join(PICTURES)}): put the references there.")
    return found


def equal(found: Sequence[Reference]) -> dict[str, Reference]:
    """{name: the first reference that is the same file}."""
    first: dict[str, Reference] = {}
    return {reference.name: first.setdefault(reference.digest, reference) for reference in found}


def scenes(found: Sequence[Reference], prompts: Path, *, image_alone: bool = False) -> list[Scene]:
    """What the lines of ``prompts`` ask for; with ``image_alone`` the WebUI gets an empty prompt. Of equal references
    one counts, under any of their names. Raises Trouble."""
    try:
        lines = prompts.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Trouble(
            f"--prompts {prompts} cannot be read as a UTF-8 text ({error}): give one prompt a line."
        ) from None
    named = equal(found)
    made: dict[Scene, None] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, tab, rest = line.partition("\t")
        if tab and name not in named:
            raise Trouble(
                f"--prompts {prompts}, line {number}: there is no reference called {name!r} in the folder; before the "
                "tab stands a file's name, or leave out the tab."
            )
        words = (rest if tab else line).strip()
        for reference in [named[name]] if tab else named.values():
            made[Scene(reference, "" if image_alone else words, words)] = None
    if not made:
        raise Trouble(f"--prompts {prompts} holds no prompt: write one a line.")
    return list(made)


_NUMBER = r":\s*[+-]?[0-9.]+\s*"
_BRACKETS = re.compile(r"(?<!\\)\[((?:\\.|[^\[\]\\])*)\]")  # without others in them


def _inner(brackets: re.Match[str]) -> str:
    scheduled = re.fullmatch(rf"(?:(.*):)?(.*?){_NUMBER}", brackets[1], re.DOTALL)
    if scheduled:
        return f"{scheduled[1] or ''} {scheduled[2]}"
    return brackets[1].replace("|", " ")


def plain_words(prompt: str) -> str:
    """A prompt without what is meant for the WebUI alone: <lora:…> and its like, brackets, weights, AND and BREAK. Of
    alternatives [a|b] and of what follows something else, [a:b:0.5], all words stay."""
    text = re.sub(r"<[^<>:]+:[^<>]*>", " ", prompt)
    text = re.sub(rf"{_NUMBER}(?=\))", "", text)
    while (without := _BRACKETS.sub(_inner, text)) != text:
        text = without
    if re.search(r"\bAND\b", text):
        text = re.sub(rf"{_NUMBER}(?=AND\b|$)", " ", text)
    text = re.sub(r"\b(?:AND|BREAK)\b", " ", text)
    text = re.sub(r"(?<!\\)[()\[\]]", "", text).replace("\\", "")
    return " ".join(text.split())
