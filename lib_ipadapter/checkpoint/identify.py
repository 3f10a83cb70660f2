"""What a file is, told from its tensors' names and shapes alone. Pure: no tensor is read, no torch imported.

The facts behind the tables are in ip-adapter-facts.md: 1.1 (published files), 1.2 (projections), 1.4 (layer order),
1.5 (prefixes), 1.7 (order of detection).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

from ..errors import CheckpointError

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

# Width of the UNet's text context and number of cross-attention layers: together they name the base model.
BASES = {(768, 16): "SD1.5", (1024, 16): "SD2.x", (2048, 70): "SDXL"}
FACE_WIDTH = 512  # what insightface's recognition models put out
DIM_HEAD = 64  # of every published resampler; the head count is not in the shapes otherwise
FULL_FACE_TOKENS = 257  # MLPProj makes one image token of each of ViT-H's tokens
INSTEAD = "get an adapter for SD1.5 or SDXL, such as ip-adapter_sd15.safetensors from h94/IP-Adapter."


@dataclass(frozen=True)
class AdapterSpec:
    """An IP-Adapter. ``source`` is what the projection is fed with, ``embedding_width`` that input's width.

    ``image_encoder`` is what the file's metadata calls the encoder that it was trained with; published files say
    nothing, and are for the published encoders.
    """

    variant: str
    base: str
    projection: str
    source: str
    embedding_width: int
    clip_width: int | None
    tokens: int
    context_width: int
    layer_widths: tuple[int, ...]
    parameters: int
    has_lora: bool
    alternatives: tuple[str, ...]
    image_encoder: str | None = None


@dataclass(frozen=True)
class TextSpec:
    """The text tower beside a CLIP image tower. ``context``: the most tokens that it takes, ``projection``: the width
    of its pooled output, which is the image tower's too."""

    layout: str
    width: int
    layers: int
    heads: int
    mlp_width: int
    context: int
    vocabulary: int
    projection: int
    quick_gelu: bool


@dataclass(frozen=True)
class EncoderSpec:
    """The image tower of a CLIP model. ``projection`` is the width of its pooled output, ``width`` of its tokens.

    ``image_encoder``: the name in its metadata that adapters trained with it carry too. ``text``: the text tower that
    its file holds as well.
    """

    kind: str
    layout: str
    width: int
    layers: int
    heads: int
    mlp_width: int
    patch: int
    image_size: int
    projection: int
    quick_gelu: bool
    parameters: int
    image_encoder: str | None = None
    text: TextSpec | None = None


@dataclass(frozen=True)
class UNetSpec:
    """The UNet of a Stable Diffusion checkpoint; ``layer_widths`` in the order of an adapter's pairs."""

    base: str
    context_width: int
    layer_widths: tuple[int, ...]


class RefusedAdapter(CheckpointError):
    """A file that is an image-prompt adapter, but not one for here, or not a whole one."""


# --- keys -----------------------------------------------------------------------------------------------------------

_WRAPPERS = re.compile(r"^(?:state_dict\.|module\.)+")  # trainers' containers
_PREFIXES = {"image_proj_model.": "image_proj.", "adapter_modules.": "ip_adapter."}
PROJ, PAIRS = "image_proj.", "ip_adapter."


def normalise_key(key: str) -> str:
    """The published name of an adapter's tensor, whatever its container calls it. Idempotent."""
    key = _WRAPPERS.sub("", key)
    for theirs, published in _PREFIXES.items():
        if key.startswith(theirs):
            return published + key.removeprefix(theirs)
    return key


def normalise_keys(keys: Iterable[str]) -> dict[str, str]:
    """{published name: name in the file}. CheckpointError if two tensors of a file end up with one name."""
    names: dict[str, str] = {}
    for key in keys:
        if names.setdefault(normalise_key(key), key) != key:
            raise RefusedAdapter(
                f"This file holds {normalise_key(key)} twice, under different prefixes, so it is not clear which one "
                "counts: download the original file again."
            )
    return names


def identify(shapes: Shapes) -> AdapterSpec | EncoderSpec | UNetSpec:
    """What the file with these tensors is. ``shapes``: {key: shape}, nested dicts joined with dots.

    Raises CheckpointError, with a sentence of its own for each kind of file that is of no use here, and its subclass
    RefusedAdapter where the file is an image-prompt adapter all the same.
    """
    shapes = {name: tuple(shapes[key]) for name, key in normalise_keys(shapes).items()}
    if not shapes:
        raise CheckpointError("This file holds no tensors: download it again.")
    for foreign in FOREIGN_ADAPTERS:
        if foreign.fits(shapes):
            raise RefusedAdapter(f"This file is {foreign.what}: {foreign.instead}")
    if any(key.startswith((PROJ, PAIRS)) for key in shapes):
        return _adapter(shapes)
    if any(key.startswith(UNET) for key in shapes):
        return _unet(shapes)
    for foreign in FOREIGN_FILES:
        if foreign.fits(shapes):
            raise CheckpointError(f"This file is {foreign.what}: {foreign.instead}")
    if (tower := vision_tower(shapes)) is not None:
        return _encoder(shapes, tower)
    raise CheckpointError(
        f"This file is neither an IP-Adapter nor an image encoder (its tensors are {_some(shapes)}): {INSTEAD}"
    )


# --- adapters -------------------------------------------------------------------------------------------------------


class _Projection(NamedTuple):
    """What a projection's reader finds: the fields of AdapterSpec it decides, and every tensor it should have."""

    variant: str
    projection: str
    source: str
    embedding_width: int
    tokens: int
    layout: dict[str, Shape]
    clip_width: int | None = None
    alternatives: tuple[str, ...] = ()


def _linear(name: str, rows: int, columns: int) -> dict[str, Shape]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, width: int) -> dict[str, Shape]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _perceiver(found: Shapes, dim: int, prefix: str = "") -> dict[str, Shape]:
    """The layers of a perceiver resampler of width ``dim``; depth, heads and feed-forward width from ``found``."""
    depth = len({key.split(".")[1] for key in _under(found, prefix) if re.match(r"layers\.\d+\.", key)})
    inner, _ = _dims(found, f"{prefix}layers.0.0.to_q.weight", 2)
    hidden, _ = _dims(found, f"{prefix}layers.0.1.1.weight", 2)
    if inner % DIM_HEAD:
        raise RefusedAdapter(
            f"This IP-Adapter's attention is {inner} wide, which heads of {DIM_HEAD} do not divide: it has an "
            f"architecture that this version does not know, so {INSTEAD}"
        )
    layout: dict[str, Shape] = {}
    for i in range(depth):
        attention, feed_forward = f"{prefix}layers.{i}.0", f"{prefix}layers.{i}.1"
        layout |= _norm(f"{attention}.norm1", dim) | _norm(f"{attention}.norm2", dim)
        layout |= {f"{attention}.to_q.weight": (inner, dim), f"{attention}.to_kv.weight": (2 * inner, dim)}
        layout |= {f"{attention}.to_out.weight": (dim, inner)} | _norm(f"{feed_forward}.0", dim)
        layout |= {f"{feed_forward}.1.weight": (hidden, dim), f"{feed_forward}.3.weight": (dim, hidden)}
    return layout


def _face_width(found: Shapes) -> int:
    _, width = _dims(found, "proj.0.weight", 2)
    if width != FACE_WIDTH:
        raise RefusedAdapter(
            f"This IP-Adapter is fed with an embedding {width} wide through two linear layers, where face recognition "
            f"puts out {FACE_WIDTH}: it belongs to another program, so {INSTEAD}"
        )
    return width


def _id_mlp(found: Shapes, context: int) -> tuple[int, dict[str, Shape]]:
    """The tokens, and the layers, of the MLP that turns a face embedding into tokens."""
    hidden, _ = _dims(found, "proj.0.weight", 2)
    rows, _ = _dims(found, "proj.2.weight", 2)
    layout = _linear("proj.0", hidden, _face_width(found)) | _linear("proj.2", rows, hidden) | _norm("norm", context)
    return _tokens(rows, context), layout


def _image_proj(found: Shapes, context: int, has_lora: bool) -> _Projection:
    rows, width = _dims(found, "proj.weight", 2)
    layout = _linear("proj", rows, width) | _norm("norm", context)
    return _Projection("base", "ImageProj", "pooled", width, _tokens(rows, context), layout)


def _resampler(found: Shapes, context: int, has_lora: bool) -> _Projection:
    _, tokens, dim = _dims(found, "latents", 3)
    _, width = _dims(found, "proj_in.weight", 2)
    layout = {"latents": (1, tokens, dim)} | _linear("proj_in", dim, width) | _perceiver(found, dim)
    layout |= _linear("proj_out", context, dim) | _norm("norm_out", context)
    if width == FACE_WIDTH:
        others = ("faceid-portrait-unnorm",)
        return _Projection("instantid", "Resampler", "face", width, tokens, layout, alternatives=others)
    return _Projection("plus", "Resampler", "penultimate", width, tokens, layout)


def _mlp_proj(found: Shapes, context: int, has_lora: bool) -> _Projection:
    hidden, width = _dims(found, "proj.0.weight", 2)
    layout = _linear("proj.0", hidden, width) | _linear("proj.2", context, hidden) | _norm("proj.3", context)
    return _Projection("full-face", "MLPProj", "penultimate", width, FULL_FACE_TOKENS, layout)


def _faceid(found: Shapes, context: int, has_lora: bool) -> _Projection:
    tokens, layout = _id_mlp(found, context)
    # Published: 4 tokens with a LoRA, or 16 without. A copy that has lost its LoRA still has 4 tokens.
    variant = "faceid" if has_lora or tokens <= 4 else "faceid-portrait"
    return _Projection(variant, "FaceIDMLP", "face", FACE_WIDTH, tokens, layout)


def _faceid_plus(found: Shapes, context: int, has_lora: bool) -> _Projection:
    part = "perceiver_resampler."
    tokens, layout = _id_mlp(found, context)
    _, clip_width = _dims(found, f"{part}proj_in.weight", 2)
    layout |= _linear(f"{part}proj_in", context, clip_width) | _perceiver(found, context, part)
    layout |= _linear(f"{part}proj_out", context, context) | _norm(f"{part}norm_out", context)
    # Versions 1 and 2 have the same tensors; for SDXL only version 2 was published.
    variant, others = ("faceid-plus-v2", ()) if context == 2048 else ("faceid-plus", ("faceid-plus-v2",))
    return _Projection(
        variant, "FaceIDPlus", "face+penultimate", FACE_WIDTH, tokens, layout, clip_width, alternatives=others
    )


# The tensor that gives a projection away, its reader, and the tensor whose rows are as wide as an image token.
# In this order: a FaceID-Plus has a FaceID's tensors, a full-face adapter has proj.0 and proj.2 too.
_Reader = Callable[[Shapes, int, bool], _Projection]
PROJECTIONS: tuple[tuple[str, _Reader, str], ...] = (
    ("perceiver_resampler.proj_in.weight", _faceid_plus, "norm.weight"),
    ("latents", _resampler, "norm_out.weight"),
    ("proj.3.weight", _mlp_proj, "proj.3.weight"),
    ("proj.weight", _image_proj, "norm.weight"),
    ("proj.0.weight", _faceid, "norm.weight"),
)


def _adapter(shapes: Shapes) -> AdapterSpec:
    shapes = {key: shape for key, shape in shapes.items() if key.startswith((PROJ, PAIRS))}
    projection, pairs = _under(shapes, PROJ), _under(shapes, PAIRS)
    if not projection or not pairs:
        there, lacking = ("attention pairs", "projection") if pairs else ("projection", "attention pairs")
        raise RefusedAdapter(
            f"This file is half an IP-Adapter: it holds the {there} but no {lacking}. Download the whole file again."
        )
    context, widths, layout = _pairs(pairs)
    has_lora = any("_lora." in key for key in pairs)
    known = next((row for row in PROJECTIONS if row[0] in projection), None)
    if known is None:
        raise RefusedAdapter(
            f"This IP-Adapter has a projection that this version does not know (it holds {_some(projection)}): "
            f"{INSTEAD}"
        )
    _, read, token_width = known
    made = _dims(projection, token_width, 1)[0]
    if made != context:
        raise RefusedAdapter(
            f"This IP-Adapter's projection makes image tokens {made} wide, but its attention pairs take {context}: "
            "its halves come from different base models. Download the original file again."
        )
    facts = read(projection, context, has_lora)
    if has_lora:
        layout |= _lora(pairs, context, widths)
    layout = {PAIRS + key: shape for key, shape in layout.items()}
    _same(shapes, layout | {PROJ + key: shape for key, shape in facts.layout.items()})
    return AdapterSpec(
        variant=facts.variant,
        base=BASES[context, len(widths)],
        projection=facts.projection,
        source=facts.source,
        embedding_width=facts.embedding_width,
        clip_width=facts.clip_width,
        tokens=facts.tokens,
        context_width=context,
        layer_widths=widths,
        parameters=sum(map(prod, shapes.values())),
        has_lora=has_lora,
        alternatives=facts.alternatives,
    )


def _pairs(found: Shapes) -> tuple[int, tuple[int, ...], dict[str, Shape]]:
    """Context width, layer widths in key order, and the layout of the pairs 1, 3, 5, …: to_k_ip and to_v_ip [C, D]."""
    numbers = sorted({int(m[1]) for key in found if (m := re.fullmatch(r"(\d+)\.to_[kv]_ip\.weight", key))})
    shapes = [_dims(found, f"{n}.to_k_ip.weight", 2) for n in numbers]
    contexts = Counter(context for _, context in shapes)
    if not contexts:
        raise RefusedAdapter(f"This IP-Adapter names its attention pairs in an unknown way ({_some(found)}): {INSTEAD}")
    context = contexts.most_common(1)[0][0]
    counts = [count for width, count in BASES if width == context]
    if not counts:
        raise RefusedAdapter(
            f"This IP-Adapter's attention pairs take tokens {context} wide, where SD1.5 has 768, SD2.x 1024 and SDXL "
            f"2048: it was made for another model, so {INSTEAD}"
        )
    if len(numbers) not in counts:
        base = BASES[context, counts[0]]
        raise RefusedAdapter(
            f"This IP-Adapter has {len(numbers)} attention pairs, where {base} has {counts[0]}: the file is incomplete "
            f"or made for a pruned model (SSD-1B, Segmind). Download it again, or {INSTEAD}"
        )
    if numbers != list(range(1, 2 * len(numbers), 2)):
        raise RefusedAdapter(
            f"This IP-Adapter's attention pairs are not numbered 1, 3, 5, … (they begin with {numbers[:4]}), so their "
            "layers are not known: download the original file again."
        )
    widths = tuple(width for width, _ in shapes)
    layout: dict[str, Shape] = {
        f"{n}.{name}.weight": (width, context)
        for n, width in zip(numbers, widths, strict=True)
        for name in ("to_k_ip", "to_v_ip")
    }
    return context, widths, layout


def _lora(found: Shapes, context: int, widths: tuple[int, ...]) -> dict[str, Shape]:
    """The layout of the LoRA that FaceID files carry: all four layers of attn1 (even) and attn2 (odd numbers)."""
    rank, _ = _dims(found, "0.to_q_lora.down.weight", 2)
    layout: dict[str, Shape] = {}
    for i, width in enumerate(widths):
        for number, source in ((2 * i, width), (2 * i + 1, context)):  # attn2 takes keys and values from the context
            for name, columns in (("q", width), ("k", source), ("v", source), ("out", width)):
                layout[f"{number}.to_{name}_lora.down.weight"] = (rank, columns)
                layout[f"{number}.to_{name}_lora.up.weight"] = (width, rank)
    return layout


def _same(found: Shapes, wanted: Shapes) -> None:
    """RefusedAdapter unless the tensors found are exactly those wanted."""
    damaged = "The file is damaged or changed: download the original again."
    if missing := [key for key in wanted if key not in found]:
        raise RefusedAdapter(f"This IP-Adapter lacks {_some(missing)}. {damaged}")
    if surplus := [key for key in found if key not in wanted]:
        raise RefusedAdapter(
            f"This IP-Adapter holds {_some(surplus)}, which no architecture known to this version has: {INSTEAD}"
        )
    for key, shape in wanted.items():
        if found[key] != shape:
            raise RefusedAdapter(f"This IP-Adapter's {key} has shape {found[key]}, where {shape} fits. {damaged}")


def _tokens(rows: int, context: int) -> int:
    if rows == 0 or rows % context:
        raise RefusedAdapter(
            f"This IP-Adapter's projection puts out {rows} numbers, which are no whole tokens {context} wide. "
            "The file is damaged or changed: download the original again."
        )
    return rows // context


def _dims(found: Shapes, key: str, rank: int) -> Shape:
    """The shape of ``key``, which has ``rank`` sizes, none of them zero."""
    if key not in found:
        raise RefusedAdapter(f"This IP-Adapter lacks {key}: the file is incomplete, so download it again.")
    if len(found[key]) != rank or 0 in found[key]:
        raise RefusedAdapter(
            f"This IP-Adapter's {key} has shape {found[key]}, where {rank} sizes above zero belong. "
            "The file is damaged or changed: download the original again."
        )
    return found[key]


def _under(shapes: Shapes, prefix: str) -> dict[str, Shape]:
    return {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}


def _some(keys: Iterable[str]) -> str:
    keys = sorted(keys)
    return ", ".join(key[:80] for key in keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


# --- ties -----------------------------------------------------------------------------------------------------------

# SHA-256 of published files whose shapes fit two variants. A copy saved anew has another hash: a hint, no requirement.
HASHES = {
    "252fb53e0d018489d9e7f9b9e2001a52ff700e491894011ada7cfb471e0fadf2": "faceid-plus",
    "26d0d86a1d60d6cc811d3b8862178b461e1eeb651e6fe2b72ba17aa95411e313": "faceid-plus-v2",
    "220bb86e205393a3d0411631cb473caddbf35fd371be2905ca9008818170db55": "faceid-portrait-unnorm",
}
# What a file's name says; the first that fits, and is possible by shape, counts.
NAMES = (
    (re.compile(r"plus[-_ ]?v2"), "faceid-plus-v2"),
    (re.compile(r"plus"), "faceid-plus"),
    (re.compile(r"unnorm|portrait"), "faceid-portrait-unnorm"),
    (re.compile(r"instant[-_ ]?id"), "instantid"),
)


def named_variant(spec: AdapterSpec, stem: str) -> str | None:
    """The variant that a file's name asks for, among those that its shapes leave open."""
    possible = (spec.variant, *spec.alternatives)
    return next((variant for name, variant in NAMES if variant in possible and name.search(stem.lower())), None)


def tie_break(
    spec: AdapterSpec, stem: str, sha256: str | None = None, *, mixed_dtypes: bool | None = None
) -> AdapterSpec:
    """``spec`` with the likeliest of the variants that its shapes leave open; a spec without ties is returned as is.

    In this order count: the file's hash, its name (``stem``, never its folder), and whether projection and pairs have
    different dtypes, as the published portrait-unnorm has and InstantID has not. ``alternatives`` of the answer are
    the variants not chosen, so that a user can still choose one.
    """
    if not spec.alternatives:
        return spec
    possible = (spec.variant, *spec.alternatives)
    variant = HASHES.get((sha256 or "").lower())
    if variant not in possible:
        variant = named_variant(spec, stem)
    if variant is None and mixed_dtypes and "faceid-portrait-unnorm" in possible:
        variant = "faceid-portrait-unnorm"
    if variant is None:
        return spec
    return replace(spec, variant=variant, alternatives=tuple(other for other in possible if other != variant))


# --- image encoders -------------------------------------------------------------------------------------------------

# (width, layers, patch, image size, projection) of the published towers. Only OpenAI's use QuickGELU.
ENCODERS = {
    (1280, 32, 14, 224, 1024): "ViT-H-14",
    (1664, 48, 14, 224, 1280): "ViT-bigG-14",
    (1024, 24, 14, 224, 768): "ViT-L-14",
    (1024, 24, 14, 336, 768): "ViT-L-14-336",
}
HEADS = {1280: 16, 1664: 16}  # not in the shapes; all other widths have heads of 64
QUICK_GELU = ("ViT-L-14", "ViT-L-14-336")


class _Layout(NamedTuple):
    """The names that a layout gives to the tensors whose shapes tell a tower's sizes."""

    name: str
    positions: str
    patches: str  # of a text tower: its table of tokens
    projection: str
    layers: str
    mlp: str
    parts: tuple[str, ...]  # what the tower's keys begin with


_LAYOUTS = {
    "vision_model.embeddings.class_embedding": _Layout(
        "transformers",
        "vision_model.embeddings.position_embedding.weight",
        "vision_model.embeddings.patch_embedding.weight",
        "visual_projection.weight",
        "vision_model.encoder.layers.",
        "mlp.fc1.weight",
        ("vision_model.", "visual_projection."),
    ),
    "class_embedding": _Layout(
        "open_clip",
        "positional_embedding",
        "conv1.weight",
        "proj",
        "transformer.resblocks.",
        "mlp.c_fc.weight",
        ("class_embedding", "positional_embedding", "conv1.", "ln_pre.", "ln_post.", "transformer.resblocks.", "proj"),
    ),
}


_TEXT_LAYOUTS = {
    "text_model.embeddings.token_embedding.weight": _Layout(
        "transformers",
        "text_model.embeddings.position_embedding.weight",
        "text_model.embeddings.token_embedding.weight",
        "text_projection.weight",
        "text_model.encoder.layers.",
        "mlp.fc1.weight",
        ("text_model.", "text_projection.weight"),
    ),
    "token_embedding.weight": _Layout(
        "open_clip",
        "positional_embedding",
        "token_embedding.weight",
        "text_projection",
        "transformer.resblocks.",
        "mlp.c_fc.weight",
        ("token_embedding.", "positional_embedding", "transformer.resblocks.", "ln_final.", "text_projection"),
    ),
}
VOCABULARY = 49408  # of CLIP's tokenizer; towers with another one (multilingual ones) are none for here


class Tower(NamedTuple):
    """Where in a file one of CLIP's towers is: ``keys`` are the file's own names without ``prefix``."""

    layout: _Layout
    prefix: str
    keys: tuple[str, ...]


def vision_tower(keys: Iterable[str]) -> Tower | None:
    """The CLIP image tower among these keys, without text tower and position ids; None if there is none."""
    return _tower(keys, _LAYOUTS)


def text_tower(keys: Iterable[str]) -> Tower | None:
    """The CLIP text tower among these keys, without image tower and position ids; None if there is none."""
    return _tower(keys, _TEXT_LAYOUTS)


def _tower(keys: Iterable[str], layouts: Mapping[str, _Layout]) -> Tower | None:
    keys = list(keys)
    for mark, layout in layouts.items():
        prefixes = [key.removesuffix(mark) for key in keys if key == mark or key.endswith(f".{mark}")]
        if prefixes:
            inside = [key.removeprefix(prefixes[0]) for key in keys if key.startswith(prefixes[0])]
            wanted = [key for key in inside if key.startswith(layout.parts) and not key.endswith("position_ids")]
            return Tower(layout, prefixes[0], tuple(wanted))
    return None


def _layers(found: Shapes, layout: _Layout) -> int:
    return len({key.removeprefix(layout.layers).split(".")[0] for key in found if key.startswith(layout.layers)})


def _text(shapes: Shapes, projection: int, quick_gelu: bool) -> TextSpec | None:
    """The text tower beside an image tower with this ``projection``; None where there is none, or none to be used.

    Whether each of its tensors is there is seen when it is built: an image encoder is one without its words, too.
    """
    tower = text_tower(shapes)
    if tower is None:
        return None
    layout, found = tower.layout, {key: shapes[tower.prefix + key] for key in tower.keys}
    first = f"{layout.layers}0.{layout.mlp}"
    if any(len(found.get(key, ())) != 2 for key in (layout.positions, layout.patches, layout.projection, first)):
        return None
    vocabulary, width = found[layout.patches]
    context, _ = found[layout.positions]
    made = found[layout.projection][1 if layout.name == "open_clip" else 0]
    if vocabulary != VOCABULARY or made != projection or 0 in (width, context, *found[first]):
        return None
    return TextSpec(
        layout=layout.name,
        width=width,
        layers=_layers(found, layout),
        heads=max(1, width // 64),
        mlp_width=found[first][0],
        context=context,
        vocabulary=vocabulary,
        projection=projection,
        quick_gelu=quick_gelu,
    )


def _encoder(shapes: Shapes, tower: Tower) -> EncoderSpec:
    layout = tower.layout
    found = {key: shapes[tower.prefix + key] for key in tower.keys}
    first = f"{layout.layers}0.{layout.mlp}"
    ranks = {layout.positions: 2, layout.patches: 4, layout.projection: 2, first: 2}
    for key, rank in ranks.items():
        if len(found.get(key, ())) != rank or 0 in found[key]:
            raise CheckpointError(
                f"This file is a CLIP image encoder without a usable {tower.prefix}{key}: get the complete encoder, "
                "such as models/image_encoder/model.safetensors from h94/IP-Adapter."
            )
    width, _, patch, _ = found[layout.patches]
    tokens, _ = found[layout.positions]
    transposed = layout.name == "open_clip"  # proj is [W, P] there, visual_projection.weight is [P, W]
    projection = found[layout.projection][1 if transposed else 0]
    layers = _layers(found, layout)
    grid = round((tokens - 1) ** 0.5)
    if grid < 1 or grid * grid != tokens - 1:
        raise CheckpointError(
            f"This file is an image encoder with {tokens} positions, which are no square of patches and a class token: "
            "get a CLIP encoder such as models/image_encoder/model.safetensors from h94/IP-Adapter."
        )
    size = grid * patch
    kind = ENCODERS.get((width, layers, patch, size, projection), f"ViT ({width} wide, {layers} layers)")
    return EncoderSpec(
        kind=kind,
        layout=layout.name,
        width=width,
        layers=layers,
        heads=HEADS.get(width, max(1, width // 64)),
        mlp_width=found[first][0],
        patch=patch,
        image_size=size,
        projection=projection,
        quick_gelu=kind in QUICK_GELU,
        parameters=sum(map(prod, found.values())),
        text=_text(shapes, projection, kind in QUICK_GELU),
    )


# --- Stable Diffusion checkpoints -----------------------------------------------------------------------------------

UNET = "model.diffusion_model."
_STAGES = ("input_blocks", "output_blocks", "middle_block")  # the order in which adapters number the layers
_ATTN2 = re.compile(
    rf"{re.escape(UNET)}({'|'.join(_STAGES)})\.([\d.]+)\.transformer_blocks\.(\d+)\.attn2\.to_([qk])\.weight"
)


def _unet(shapes: Shapes) -> UNetSpec:
    layers: dict[tuple[int, tuple[int, ...], int], dict[str, Shape]] = {}
    for key, shape in shapes.items():
        if (match := _ATTN2.fullmatch(key)) and len(shape) == 2:
            place = (_STAGES.index(match[1]), tuple(map(int, match[2].split("."))), int(match[3]))
            layers.setdefault(place, {})[match[4]] = shape
    ordered = [layers[place] for place in sorted(layers)]
    contexts = {layer["k"][1] for layer in ordered if "k" in layer}
    if len(contexts) != 1 or any(layer.keys() != {"q", "k"} for layer in ordered):
        raise CheckpointError(
            "This file is a checkpoint without a Stable Diffusion UNet's cross-attention: use an SD1.5, SD2.x or SDXL "
            "checkpoint."
        )
    (context,) = contexts
    widths = tuple(layer["q"][0] for layer in ordered)
    other = "SDXL refiner" if context == 1280 else f"{len(widths)} layers, context {context}"
    return UNetSpec(BASES.get((context, len(widths)), other), context, widths)


# --- files of other kinds -------------------------------------------------------------------------------------------


class _Foreign(NamedTuple):
    fits: Callable[[Shapes], bool]
    what: str
    instead: str = INSTEAD


def _has(*parts: str) -> Callable[[Shapes], bool]:
    """Some key contains one of ``parts``."""
    return lambda shapes: any(part in key for part in parts for key in shapes)


def _begins(*parts: str) -> Callable[[Shapes], bool]:
    return lambda shapes: any(key.startswith(parts) for key in shapes)


def _wide(pattern: str, axis: int, size: int) -> Callable[[Shapes], bool]:
    """A tensor whose whole name fits ``pattern`` is ``size`` along its first or last axis (0 or -1)."""
    fits = re.compile(pattern).fullmatch
    return lambda shapes: any(shape and shape[axis] == size for key, shape in shapes.items() if fits(key))


def _kolors_plus(shapes: Shapes) -> bool:
    latents, proj_in = shapes.get("image_proj.latents", ()), shapes.get("image_proj.proj_in.weight", ())
    return latents[-1:] == (2048,) and proj_in[-1:] == (1024,)


_NOT_FLUX = f"FLUX does not run here, so {INSTEAD}"
_NOT_KOLORS = f"Kolors does not run here, so {INSTEAD}"

FOREIGN_ADAPTERS = (
    _Foreign(_has("ip_adapter_double_stream"), "XLabs' IP-Adapter for FLUX", _NOT_FLUX),
    _Foreign(_begins("redux_up.", "redux_down."), "FLUX Redux", _NOT_FLUX),
    _Foreign(
        _has("pulid_ca.", "pulid_encoder."),
        "PuLID for FLUX",
        "FLUX does not run here, so use a FaceID adapter for SDXL.",
    ),
    _Foreign(
        _has("mapping_0.0.", "mapping_patch_0.0.", "id_to_k.", "id_adapter_attn_layers."),
        "a PuLID adapter, which is of another architecture",
        "use InstantID or ip-adapter-faceid-plusv2_sdxl for faces.",
    ),
    _Foreign(
        _has("image_proj.time_embedding.", ".norm_ip."),
        "InstantX's IP-Adapter for SD3.5",
        f"it needs SD3.5's own attention, so {INSTEAD}",
    ),
    _Foreign(
        _wide(r"image_proj\.perceiver_resampler\.layers\.0\.0\.to_out\.weight", 0, 4096),
        "a FaceID-Plus adapter for Kolors",
        _NOT_KOLORS,
    ),
    _Foreign(_wide(r"ip_adapter\.\d+\.to_k_ip\.weight", -1, 4096), "InstantX's IP-Adapter for FLUX", _NOT_FLUX),
    _Foreign(_kolors_plus, "an IP-Adapter-Plus for Kolors", _NOT_KOLORS),
    _Foreign(
        lambda shapes: _begins("id_encoder.")(shapes) and _begins("lora_weights.")(shapes),
        "a PhotoMaker model",
        "use a FaceID adapter or InstantID for faces.",
    ),
)

FOREIGN_FILES = (
    _Foreign(
        _has("lllite_", "lora_controlnet", "zero_convs.", "controlnet_", "input_hint_block.", "control_model."),
        "a ControlNet model",
        "choose it in ControlNet's own panel.",
    ),
    _Foreign(
        lambda shapes: _has(".block1.weight", ".in_conv.weight")(shapes) and _begins("body.", "adapter.body.")(shapes),
        "a T2I-Adapter",
        "choose it in ControlNet's own panel.",
    ),
    _Foreign(_has("transformer_layes."), "a T2I style adapter", "choose it in ControlNet's own panel."),
    _Foreign(
        _has("lora_unet_", "lora_te", "lora_down.", "lora_A.", ".lora.down.", "_lora.down.", "hada_w1", "lokr_w"),
        "a LoRA",
        "put it into models/Lora and write <lora:…> in the prompt.",
    ),
    _Foreign(
        lambda shapes: (
            _begins("string_to_param.")(shapes) or shapes.keys() <= {"clip_l", "clip_g", "emb_params", "t5xxl"}
        ),
        "a textual-inversion embedding",
        "put it into the embeddings folder and write its name in the prompt.",
    ),
    _Foreign(_begins("double_blocks.", "single_blocks."), "a FLUX model", _NOT_FLUX),
    _Foreign(
        _begins("down_blocks.", "up_blocks.", "input_blocks."),
        "a UNet alone",
        f"choose it as a checkpoint, and {INSTEAD}",
    ),
    _Foreign(
        _begins("first_stage_model.", "decoder.conv_in.", "encoder.conv_in."),
        "a VAE",
        "put it into models/VAE.",
    ),
    _Foreign(
        _has("vision_model.head.probe"),
        "a SigLIP image encoder, which no adapter for SD1.5 or SDXL is fed by",
        "get ViT-H-14, models/image_encoder/model.safetensors from h94/IP-Adapter.",
    ),
    _Foreign(
        _begins("visual.blocks."),
        "an EVA-CLIP image encoder, which no adapter for SD1.5 or SDXL is fed by",
        "get ViT-H-14, models/image_encoder/model.safetensors from h94/IP-Adapter.",
    ),
    _Foreign(
        lambda shapes: _has("text_model.embeddings.", "token_embedding.")(shapes) and vision_tower(shapes) is None,
        "a text encoder",
        "get an image encoder, such as models/image_encoder/model.safetensors from h94/IP-Adapter.",
    ),
)
