"""What a file was recognised as: an adapter, an image encoder with or without its text tower, or a UNet."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AdapterSpec:
    """An IP-Adapter. ``source`` is what the projection is fed with, ``embedding_width`` that input's width.

    ``base`` is the name of one of ``bases.BASES``, ``projection`` of one of ``projections.PROJECTIONS``;
    ``layer_widths`` are in the order of the file's pairs. ``alternatives`` are the other variants that its shapes
    leave open. ``image_encoder`` is what the file's metadata calls the encoder that it was trained with; published
    files say nothing, and are for the published encoders. ``resolution`` is the side in pixels of the pictures that the
    encoder was shown in training, where the metadata says it: None is the encoder's own.
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
    resolution: int | None = None


@dataclass(frozen=True)
class TextSpec:
    """The text tower beside a CLIP image tower. ``context`` is the most tokens that it takes, ``projection`` the width
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

    ``image_encoder`` is the name in its metadata that adapters trained with it carry too, ``text`` the text tower
    that its file holds as well. ``retrained`` marks one that has another activation than published ones of its
    sizes: published adapters do not know it.
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
    retrained: bool = False


@dataclass(frozen=True)
class UNetSpec:
    """The UNet of a Stable Diffusion checkpoint; ``layer_widths`` in the order of an adapter's pairs."""

    base: str
    context_width: int
    layer_widths: tuple[int, ...]
