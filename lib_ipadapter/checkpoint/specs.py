"""What a file was recognised as: an adapter, an image encoder, a ControlNet, or a UNet."""

from __future__ import annotations

from dataclasses import dataclass

CLIP, SIGLIP = "CLIP", "SigLIP"  # families of image encoders: what is made for one knows nothing of the other


@dataclass(frozen=True)
class AdapterSpec:
    """An IP-Adapter. ``source`` is what the projection is fed with, ``embedding_width`` that input's width.

    ``base`` is the name of one of ``bases.BASES``, or FLUX, ``projection`` of one of ``projections.PROJECTIONS``;
    ``layer_widths`` are in the order of the file's pairs. ``alternatives`` are the other variants that its shapes
    leave open. ``image_encoder`` is what the file's metadata calls the encoder that it was trained with; published
    files say nothing, and are for the published encoders. ``resolution`` is the side in pixels of the pictures that the
    encoder was shown in training, where the metadata says it: None is the encoder's own. ``family`` is the encoder's.
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
    family: str = CLIP


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
    """The image tower of a CLIP or SigLIP model (``family``). ``projection`` is the width of its pooled output,
    ``width`` of its tokens.

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
    family: str = CLIP


@dataclass(frozen=True)
class KeypointsSpec:
    """A ControlNet for SDXL, such as InstantID's network of keypoints: nothing but its name tells which one it is.

    ``channels`` and ``depths`` (transformer blocks behind each residual block) are those of its levels, of which each
    has ``blocks`` residual blocks; ``vector_width`` is SDXL's extra conditioning's, ``time_width`` that of the
    embedding which it is added to; ``hint_widths`` are those of the hint's convolutions but the last.
    """

    channels: tuple[int, ...]
    depths: tuple[int, ...]
    middle_depth: int
    blocks: int
    in_channels: int
    context_width: int
    vector_width: int
    time_width: int
    hint_widths: tuple[int, ...]
    parameters: int


@dataclass(frozen=True)
class UNetSpec:
    """The UNet of a Stable Diffusion checkpoint; ``layer_widths`` in the order of an adapter's pairs, ``blocks`` the
    number of its transformers. Of FLUX, both are its double blocks'."""

    base: str
    context_width: int
    layer_widths: tuple[int, ...]
    blocks: int
