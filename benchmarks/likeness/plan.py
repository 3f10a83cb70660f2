"""What is to be made: references and prompts, and from them every request."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .errors import Trouble

PLAIN, OURS, CONTROLNET = "plain", "IP-Adapter", "ControlNet"
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
RANGES = {OURS: (-1.0, 3.0), CONTROLNET: (0.0, 2.0)}


@dataclass(frozen=True)
class Reference:
    """A picture file of the folder; ``name`` is the file's."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def data(self) -> bytes:
        return self.path.read_bytes()

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


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


def scenes(found: Sequence[Reference], prompts: Path, *, image_alone: bool = False) -> list[Scene]:
    """What the lines of ``prompts`` ask for; with ``image_alone`` the WebUI gets an empty prompt. Raises Trouble."""
    try:
        lines = prompts.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Trouble(
            f"--prompts {prompts} cannot be read as a UTF-8 text ({error}): give one prompt a line."
        ) from None
    named = {reference.name: reference for reference in found}
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
        for reference in [named[name]] if tab else found:
            made[Scene(reference, "" if image_alone else words, words)] = None
    if not made:
        raise Trouble(f"--prompts {prompts} holds no prompt: write one a line.")
    return list(made)


def plain_words(prompt: str) -> str:
    """A prompt without what is meant for the WebUI alone: <lora:…> and its like, brackets, weights, AND and BREAK."""
    text = re.sub(r"<[^<>:]+:[^<>]*>", " ", prompt)
    text = re.sub(r":\s*-?[0-9.]+\s*(?=[)\]])", "", text)
    if re.search(r"\bAND\b", text):
        text = re.sub(r":\s*-?[0-9.]+\s*(?=AND\b|$)", " ", text)
    text = re.sub(r"\b(?:AND|BREAK)\b", " ", text)
    text = re.sub(r"(?<!\\)[()\[\]]", "", text).replace("\\", "")
    return " ".join(text.split())
