"""CLIP-I and CLIP-T: a whole CLIP model of one file, read as the extension reads image encoders."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lib_ipadapter.checkpoint.load import load_encoder_state, load_text_state
from lib_ipadapter.checkpoint.recognise import recognise
from lib_ipadapter.checkpoint.specs import CLIP, EncoderSpec
from lib_ipadapter.encode.clip_image import ImageEncoder
from lib_ipadapter.encode.clip_text import TextTower, token_ids
from lib_ipadapter.encode.pixels import to_pixels
from lib_ipadapter.errors import CheckpointError, UnitError, is_device_full

from ..errors import Trouble

CLIPSCORE = 2.5
"""CLIPScore's factor w (arXiv 2104.08718, section 3)."""
WHOLE = (
    "--clip names a whole CLIP model in one file, image and text encoder, such as model.safetensors of "
    "openai/clip-vit-large-patch14, with which the paper measures"
)
BATCH = 16
LONG_WORD = 8
"""Tokens of the longest word that is left out whole: what has more is text without spaces, as tags and Japanese are."""


class Clip:
    """Both towers, with embeddings of length 1."""

    def __init__(self, spec: EncoderSpec, image: ImageEncoder, text: TextTower) -> None:
        self.spec, self._image, self._text = spec, image, text

    @classmethod
    def open(cls, path: Path, device: str = "cpu", activation: str | None = None) -> Clip:
        """The model in a file of any published layout, in fp32. Raises Trouble for every other file.

        ``activation``, "gelu" or "quick_gelu", is for models whose sizes and name do not tell it.
        """
        if not path.is_file():
            raise Trouble(f"There is no file {path}: {WHOLE}.")
        try:
            spec = recognise(path)
            if not isinstance(spec, EncoderSpec) or spec.family != CLIP:
                raise Trouble(f"{path} is no CLIP model: {WHOLE}.")
            if spec.text is None:
                raise Trouble(f"{path} is an image encoder without its text encoder, which CLIP-T needs: {WHOLE}.")
            if activation is not None:
                quick = activation == "quick_gelu"
                spec = replace(spec, quick_gelu=quick, text=replace(spec.text, quick_gelu=quick))
            assert spec.text is not None
            image = ImageEncoder.from_state(spec, load_encoder_state(path), dtype=torch.float32)
            text = TextTower.from_state(spec.text, load_text_state(path), dtype=torch.float32)
        except CheckpointError as error:
            raise Trouble(f"{path}: {error} {WHOLE}.") from error
        try:
            return cls(spec, image.to(device), text.to(device))
        except (RuntimeError, AssertionError) as error:  # torch's two ways to lack a device
            raise Trouble(f"--device {device} cannot be used ({error}): leave it out for the CPU.") from error

    @property
    def name(self) -> str:
        """Which model it is, with the activation, without which sizes do not name one."""
        kind = self.spec.kind.removesuffix("-quickgelu").removesuffix(" with GELU")
        return f"{kind}, {'QuickGELU' if self.spec.quick_gelu else 'GELU'}"

    def images(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Embeddings [B, E] of RGB pictures, fp32 on the CPU."""
        found: list[Tensor] = []
        for start in range(0, len(pictures), BATCH):
            pixels = torch.cat(
                [to_pixels(picture, self.spec.image_size) for picture in pictures[start : start + BATCH]]
            )
            with _room():
                found.append(F.normalize(self._image.encode(pixels, "pooled").of("pooled").float().cpu(), dim=1))
        return torch.cat(found)

    def fitting(self, words: str) -> str:
        """As many of the words, from the first, as the text tower takes; the next one's beginning where that is text
        without spaces."""
        kept = words.split()
        whole = most(len(kept), lambda n: self._takes(" ".join(kept[:n])))
        if whole < len(kept) and _is_longer(kept[whole], LONG_WORD):
            before, text = kept[:whole], kept[whole]
            letters = most(len(text), lambda n: self._takes(" ".join([*before, text[:n]])))
            kept, whole = [*before, text[:letters]], whole + (letters > 0)
        return " ".join(kept[:whole])

    def _takes(self, words: str) -> bool:
        return not _is_longer(words, self._text.spec.context - 2)

    def texts(self, captions: Sequence[str]) -> Tensor:
        """Embeddings [B, E] of words that fit, fp32 on the CPU."""
        with _room():
            return torch.cat([F.normalize(self._text.embed(words).cpu(), dim=1) for words in captions])


def most(count: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to ``count`` that fits, where none does and every smaller one than a fitting one."""
    return bisect_left(range(1, count + 1), True, key=lambda n: not fits(n))


def _is_longer(words: str, tokens: int) -> bool:
    try:
        token_ids(words, tokens + 2)  # between start and end
    except UnitError:
        return True
    return False


@contextmanager
def _room() -> Iterator[None]:
    """Raises Trouble where CLIP's device is full."""
    try:
        yield
    except Exception as error:
        if not is_device_full(error):
            raise
        raise Trouble(
            f"The device has no room for CLIP ({error}): leave out --device for the CPU. What was made stays, and the "
            "same command goes on from there."
        ) from error


def clip_i(pictures: Tensor, references: Tensor) -> Tensor:
    """Cosines of embeddings of length 1, [B, E] with [B, E] or [E] -> [B]."""
    return (pictures * references).sum(-1)


def clip_t(pictures: Tensor, captions: Tensor) -> Tensor:
    """CLIPScore: w · max(cos, 0)."""
    return CLIPSCORE * (pictures * captions).sum(-1).clamp(min=0)
