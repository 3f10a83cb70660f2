"""What shapes leave open, variants of adapters and activations of encoders: the likeliest by hash, name and dtypes."""

from __future__ import annotations

import re
from dataclasses import replace

from .specs import CLIP, AdapterSpec, EncoderSpec

# SHA-256 of published files whose shapes fit two variants. A copy saved anew has another hash: a hint, no requirement.
HASHES = {
    "252fb53e0d018489d9e7f9b9e2001a52ff700e491894011ada7cfb471e0fadf2": "faceid-plus",
    "26d0d86a1d60d6cc811d3b8862178b461e1eeb651e6fe2b72ba17aa95411e313": "faceid-plus-v2",
    "220bb86e205393a3d0411631cb473caddbf35fd371be2905ca9008818170db55": "faceid-portrait-unnorm",
    "02b3618e36d803784166660520098089a81388e61a93ef8002aa79a5b1c546e1": "instantid",
}
# What a file's name says; the first that fits, and is possible by shape, counts.
NAMES = (
    (re.compile(r"plus[-_ ]?v2"), "faceid-plus-v2"),
    (re.compile(r"plus"), "faceid-plus"),
    (re.compile(r"(?<![a-z0-9])v2(?![0-9])"), "faceid-plus-v2"),
    (re.compile(r"unnorm|portrait"), "faceid-portrait-unnorm"),
    (re.compile(r"instant[-_ ]?id"), "instantid"),
)

# The activation of an encoder, which is in no shape: what a file's name says of it. DFN's and MetaCLIP's encoders have
# the sizes of LAION's and QuickGELU, LAION's and DataComp's smaller ones have the sizes of OpenAI's and GELU.
ACTIVATIONS = (
    (re.compile(r"quick[-_ ]?gelu|dfn|meta[-_ ]?clip"), "quick_gelu"),
    (re.compile(r"laion|datacomp"), "gelu"),
)

SIGLIP2 = re.compile(r"siglip[-_ ]?(?:v[-_]?)?2(?![0-9])")
SIGLIP2_ALONE = 512  # pixels of the size that only SigLIP 2 comes in


def with_activation(spec: EncoderSpec, stem: str, told: str | None = None) -> EncoderSpec:
    """``spec`` with the activation that its file tells: its metadata ("gelu" or "quick_gelu"), else its name; as its
    sizes have it where neither does. An encoder with another activation than that is another training."""
    if spec.family != CLIP:
        return _named_generation(spec, stem)
    if told not in ("gelu", "quick_gelu"):
        told = next((activation for name, activation in ACTIVATIONS if name.search(stem.lower())), None)
    if told is None or (told == "quick_gelu") == spec.quick_gelu:
        return spec
    quick = not spec.quick_gelu
    text = None if spec.text is None else replace(spec.text, quick_gelu=quick)
    kind = f"{spec.kind}{'-quickgelu' if quick else ' with GELU'}"
    return replace(spec, kind=kind, quick_gelu=quick, text=text, retrained=True)


def _named_generation(spec: EncoderSpec, stem: str) -> EncoderSpec:
    """SigLIP 2 has SigLIP's sizes and other numbers: only the file's name tells, and published adapters know it only
    where SigLIP itself was never published in that size."""
    if not SIGLIP2.search(stem.lower()):
        return spec
    kind = spec.kind.replace("SigLIP", "SigLIP 2", 1)
    return replace(spec, kind=kind, retrained=spec.image_size != SIGLIP2_ALONE)


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
