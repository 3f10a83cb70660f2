"""Recognising CLIP and SigLIP models: sizes are read from the shapes of their towers' tensors."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from ..errors import CheckpointError
from .clip_keys import FIRST_MLP, IMAGE_TOWER, OPEN_CLIP, SIGLIP_TOWER, TEXT_TOWER, Tower
from .shapes import Shapes
from .specs import CLIP, SIGLIP, EncoderSpec, TextSpec

# (width, layers, patch, image size, projection) of the published towers. Only OpenAI's use QuickGELU.
ENCODERS = {
    (1280, 32, 14, 224, 1024): "ViT-H-14",
    (1664, 48, 14, 224, 1280): "ViT-bigG-14",
    (1024, 24, 14, 224, 768): "ViT-L-14",
    (1024, 24, 14, 336, 768): "ViT-L-14-336",
}
# (width, layers, patch, patches in a row) of the published SigLIP towers, and the pixels that they see: 27 patches of
# 14 do not fill 384.
SIGLIP_ENCODERS = {
    (1152, 27, 14, 27): ("SigLIP so400m 384", 384),
    (1152, 27, 16, 32): ("SigLIP so400m 512", 512),
    (1152, 27, 14, 16): ("SigLIP so400m 224", 224),
}
# The whole encoder to get, for sentences.
WHOLE = {
    CLIP: "such as models/image_encoder/model.safetensors from h94/IP-Adapter",
    SIGLIP: "such as sigclip_vision_patch14_384.safetensors from Comfy-Org/sigclip_vision_384",
}
HEADS = {1280: 16, 1664: 16, 1152: 16}  # not in the shapes; all other widths have heads of 64
QUICK_GELU = ("ViT-L-14", "ViT-L-14-336")
VOCABULARY = 49408  # of CLIP's tokenizer; towers with another one (multilingual ones) are none for here


def encoder(shapes: Shapes) -> EncoderSpec | None:
    """The image encoder with these tensors; None where there is no CLIP or SigLIP image tower.

    Raises CheckpointError for an image tower that lacks what tells its sizes.
    """
    tower = IMAGE_TOWER.find(shapes)
    if tower is None:
        return _siglip(shapes)
    found = {key: shapes[tower.prefix + key] for key in tower.keys}
    names = ("positional_embedding", "conv1.weight", "proj", FIRST_MLP)
    positions, patches, projected, mlp = map(tower.key, names)
    _check_whole(tower, found, {positions: 2, patches: 4, projected: 2, mlp: 2}, CLIP)
    width, _, patch, _ = found[patches]
    size = _grid(found[positions][0], CLIP) * patch
    projection = _projection(found, tower)
    kind = ENCODERS.get((width, tower.depth, patch, size, projection), f"ViT ({width} wide, {tower.depth} layers)")
    return EncoderSpec(
        kind=kind,
        layout=tower.layout,
        width=width,
        layers=tower.depth,
        heads=HEADS.get(width, max(1, width // 64)),
        mlp_width=found[mlp][0],
        patch=patch,
        image_size=size,
        projection=projection,
        quick_gelu=kind in QUICK_GELU,
        parameters=sum(map(prod, found.values())),
        text=_text(shapes, projection, kind in QUICK_GELU),
    )


def _siglip(shapes: Shapes) -> EncoderSpec | None:
    """The SigLIP image tower with these tensors; None where there is none. Raises CheckpointError as ``encoder``."""
    tower = SIGLIP_TOWER.find(shapes)
    if tower is None:
        return None
    found = {key: shapes[tower.prefix + key] for key in tower.keys}
    positions, patches, mlp = map(tower.key, ("positional_embedding", "conv1.weight", FIRST_MLP))
    _check_whole(tower, found, {positions: 2, patches: 4, mlp: 2}, SIGLIP)
    width, _, patch, _ = found[patches]
    grid = _grid(found[positions][0], SIGLIP)
    unpublished = (f"SigLIP ({width} wide, {tower.depth} layers)", grid * patch)
    kind, size = SIGLIP_ENCODERS.get((width, tower.depth, patch, grid), unpublished)
    return EncoderSpec(
        kind=kind,
        layout=tower.layout,
        width=width,
        layers=tower.depth,
        heads=HEADS.get(width, max(1, width // 64)),
        mlp_width=found[mlp][0],
        patch=patch,
        image_size=size,
        projection=width,
        quick_gelu=False,
        parameters=sum(map(prod, found.values())),
        family=SIGLIP,
    )


def _check_whole(tower: Tower, found: Shapes, ranks: Mapping[str, int], family: str) -> None:
    """Raises CheckpointError for a tower that lacks a block, or one of the tensors with these numbers of sizes."""
    for key, rank in ranks.items():
        if len(found.get(key, ())) != rank or 0 in found[key]:
            raise CheckpointError(
                f"This file is a {family} image encoder without a usable {tower.prefix}{key}: get the complete "
                f"encoder, {WHOLE[family]}."
            )
    if tower.has_gaps:
        raise CheckpointError(
            f"This file is a {family} image encoder that lacks some of its blocks: get the complete encoder, "
            f"{WHOLE[family]}."
        )


def _grid(tokens: int, family: str) -> int:
    """How many patches stand along a side where ``tokens`` are those of a square, and in CLIP a class token."""
    patches = tokens - (family == CLIP)
    grid: int = round(max(patches, 0) ** 0.5)
    if grid < 1 or grid * grid != patches:
        square = "no square of patches and a class token" if family == CLIP else "no square of patches"
        raise CheckpointError(
            f"This file is an image encoder with {tokens} positions, which are {square}: get a {family} encoder "
            f"{WHOLE[family]}."
        )
    return grid


def _projection(found: Shapes, tower: Tower) -> int:
    """The width of the pooled output, whichever way around the projection stands."""
    assert tower.kind.transposed is not None
    return found[tower.key(tower.kind.transposed)][1 if tower.layout == OPEN_CLIP else 0]


def _text(shapes: Shapes, projection: int, quick_gelu: bool) -> TextSpec | None:
    """The text tower beside an image tower with this ``projection``; None where there is none, or none to be used.

    Whether each of its tensors is there is seen when it is built: an image encoder is one without its words, too.
    """
    tower = TEXT_TOWER.find(shapes)
    if tower is None:
        return None
    found = {key: shapes[tower.prefix + key] for key in tower.keys}
    names = ("positional_embedding", "token_embedding.weight", "text_projection", FIRST_MLP)
    positions, table, projected, mlp = map(tower.key, names)
    if any(len(found.get(key, ())) != 2 for key in (positions, table, projected, mlp)):
        return None
    vocabulary, width = found[table]
    context, _ = found[positions]
    if vocabulary != VOCABULARY or _projection(found, tower) != projection or 0 in (width, context, *found[mlp]):
        return None
    return TextSpec(
        layout=tower.layout,
        width=width,
        layers=tower.depth,
        heads=max(1, width // 64),
        mlp_width=found[mlp][0],
        context=context,
        vocabulary=vocabulary,
        projection=projection,
        quick_gelu=quick_gelu,
    )
