"""Which published image encoder an adapter is fed by, and where to get it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from .entries import EncoderEntry, Entry, UnusableEntry
from .names import shown
from .specs import AdapterSpec


class WantedEncoder(NamedTuple):
    """An encoder to get: its kind, the file's path in a repository, the name to save it under, and what such names look
    like."""

    kind: str
    path: str
    repo: str
    save_as: str
    looks: re.Pattern[str]

    @property
    def file(self) -> str:
        """The file to download, in words."""
        return f"{self.path} from {self.repo}"


def _looks(letters: str) -> re.Pattern[str]:
    """Names with "ViT-H", "clip_h", "CLIP-ViT-H-14" and the like in them."""
    return re.compile(rf"(?:vit|clip)[-_ ]?(?:{letters})(?![a-z])")


_H = WantedEncoder(
    "ViT-H-14",
    "models/image_encoder/model.safetensors",
    "h94/IP-Adapter",
    "CLIP-ViT-H-14.safetensors",
    _looks("h"),
)
_BIG_G = WantedEncoder(
    "ViT-bigG-14",
    "sdxl_models/image_encoder/model.safetensors",
    "h94/IP-Adapter",
    "CLIP-ViT-bigG-14.safetensors",
    _looks("g|big[-_ ]?g"),
)
_L = WantedEncoder(
    "ViT-L-14",
    "model.safetensors",
    "openai/clip-vit-large-patch14",
    "CLIP-ViT-L-14.safetensors",
    _looks("l|large"),
)
_SIGLIP = WantedEncoder(
    "SigLIP so400m 384",
    "sigclip_vision_patch14_384.safetensors",
    "Comfy-Org/sigclip_vision_384",
    "sigclip_vision_patch14_384.safetensors",
    re.compile(r"sig[-_ ]?(?:lip|clip)"),
)
ENCODERS = {wanted.kind: wanted for wanted in (_H, _BIG_G, _L, _SIGLIP)}
# Which published encoder puts out embeddings of which source and width.
PUBLISHED = {
    ("pooled", 1024): _H,
    ("pooled", 1280): _BIG_G,
    ("pooled", 768): _L,
    ("penultimate", 1280): _H,
    ("penultimate", 1664): _BIG_G,
    ("penultimate", 1024): _L,
    ("pooled", 1152): _SIGLIP,
    ("last", 1152): _SIGLIP,
}
# The files that hold a published encoder with its text tower, both in one.
WITH_TEXT_TOWER = {
    "ViT-H-14": "open_clip_pytorch_model.bin from laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    "ViT-bigG-14": "open_clip_pytorch_model.bin from laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
    "ViT-L-14": "model.safetensors from openai/clip-vit-large-patch14",
    "ViT-L-14-336": "pytorch_model.bin from openai/clip-vit-large-patch14-336",
}


def missing_encoder(
    width: int, source: str, trained_with: str | None, folder: Path | str, there: Iterable[Entry] = ()
) -> str:
    """The sentence about an encoder that is not there: the file to get, and the folder for it. Where one of the files
    that are ``there`` only seems to be it, the sentence says what that one is."""
    wanted = PUBLISHED.get((source, width))
    if trained_with is not None:
        return (
            f"the image encoder {shown(trained_with)}, which the adapter was trained with, is missing: get it from "
            f"where the adapter came from, put it into {folder}, and refresh the list of models."
        )
    if wanted is None:
        return (
            f"no image encoder here puts out {source} embeddings {width} wide, and no published one does: put the "
            f"encoder that the adapter was trained with into {folder} and refresh the list of models."
        )
    mistakable = _mistakable(wanted, width, source, there)
    return (
        f"the image encoder {wanted.kind} is missing ({source} embeddings {width} wide{mistakable}): "
        f"download {wanted.file}, put it into {folder} as {wanted.save_as}, and refresh the list of models."
    )


def _mistakable(wanted: WantedEncoder, width: int, source: str, there: Iterable[Entry]) -> str:
    """What the files under a wanted encoder's name are, if they are not that one."""
    told = []
    for entry in there:
        is_named_so = wanted.looks.search(entry.path.stem.lower()) is not None
        if isinstance(entry, EncoderEntry):
            made = entry.spec.projection if source == "pooled" else entry.spec.width
            is_twin = entry.spec.retrained and made == width
            what = f"it is {entry.spec.kind}" + (", which can be chosen as the unit's encoder" if is_twin else "")
            is_named_so = is_named_so or is_twin
        elif isinstance(entry, UnusableEntry) and not entry.refused:
            is_simple = entry.problem.startswith("This file is ")
            what = f"it {entry.problem[10:].split(':')[0].split('. ')[0]}" if is_simple else "it cannot be used"
        else:
            continue
        if is_named_so:
            told.append(f"; {entry.file_name[:100]} is there, but {what}")
    return "".join(told[:2])


def encoder_wanted(spec: AdapterSpec) -> str:
    """What an adapter is fed with, in words: "ViT-H-14", "face embedding", …"""
    if spec.image_encoder is not None:
        return spec.image_encoder

    def kind(source: str, width: int | None) -> str:
        published = None if width is None else PUBLISHED.get((source, width))
        return published.kind if published else f"image encoder {width} wide ({source})"

    if spec.source == "face":
        return "face embedding"
    if spec.source == "face+penultimate":
        return f"face embedding and {kind('penultimate', spec.clip_width)}"
    return kind(spec.source, spec.embedding_width)
