"""Walk a latent-diffusion UNet and number its cross-attention layers (attn2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from .. import bases
from ..errors import MismatchError


@dataclass(frozen=True)
class CrossAttention:
    """One attn2 of the UNet, and the attn1 of the same transformer block, ``self_attention``, where there is one.

    ``block`` is the index t of its ``transformer``, a SpatialTransformer, in forward order (input -> middle -> output
    blocks), the index that weight types and layer weights use.
    """

    name: str
    module: nn.Module
    transformer: nn.Module
    block: int
    width: int
    context_width: int
    self_attention: nn.Module | None = None

    @property
    def section(self) -> str:
        """Where it stands: "input", "middle" or "output"."""
        return self.name.split("_", 1)[0]

    @property
    def heads(self) -> int:
        heads: int = self.module.heads
        return heads

    @property
    def to_q(self) -> nn.Module:
        to_q: nn.Module = self.module.to_q
        return to_q

    @property
    def out_projection(self) -> nn.Module:
        """The linear layer after attention. ``to_out`` is Sequential(Linear, Dropout); every attention
        optimisation calls its first module as a module."""
        linear: nn.Module = self.module.to_out[0]
        return linear


def _transformers(unet: nn.Module, part: str) -> list[list[tuple[str, nn.Module]]]:
    """The attn2 of each transformer under ``unet.<part>``, grouped by their SpatialTransformer, in forward order."""
    groups: dict[str, list[tuple[str, nn.Module]]] = {}
    for name, module in getattr(unet, part).named_modules(prefix=part):
        if name.endswith(".attn2") and ".transformer_blocks." in name:
            groups.setdefault(_transformer_of(name), []).append((name, module))
    return list(groups.values())


def _transformer_of(name: str) -> str:
    return name.split(".transformer_blocks.")[0]


def count_blocks(layers: list[CrossAttention]) -> int:
    """How many transformers the layers belong to."""
    return len({layer.block for layer in layers})


def cross_attention_layers(unet: nn.Module) -> list[CrossAttention]:
    """The UNet's attn2 layers in the order of an adapter's keys 1, 3, 5, …: input blocks, output blocks, middle block.

    That is the order in which diffusers registers attention processors, from which training numbered the adapters'
    layers. Quantised or replaced linear layers count too.
    Raises MismatchError for a model without such layers.
    """
    if not all(hasattr(unet, part) for part in ("input_blocks", "middle_block", "output_blocks")):
        raise MismatchError(
            f"the loaded model ({type(unet).__name__}) has no cross-attention UNet: "
            "load a Stable Diffusion 1.x, 2.x or XL checkpoint."
        )
    down, middle, up = (_transformers(unet, part) for part in ("input_blocks", "middle_block", "output_blocks"))
    forward_index = {id(group): t for t, group in enumerate(down + middle + up)}
    return [
        CrossAttention(
            name, module, unet.get_submodule(_transformer_of(name)), forward_index[id(group)],
            _width(module), _context_width(unet, module),
            getattr(unet.get_submodule(name.removesuffix(".attn2")), "attn1", None),
        )
        for group in down + up + middle
        for name, module in group
    ]  # fmt: skip


def _width(attention: nn.Module) -> int:
    """Of what an attention works on. Layers whose weights are packed (GGUF, nf4) do not all tell it."""
    told: int | None = getattr(attention.to_q, "out_features", None)
    if told is not None:
        return told
    heads, head_width = attention.heads, getattr(attention, "dim_head", None)
    if head_width is None:
        raise MismatchError(
            "the loaded model's attention layers do not tell their width: load a checkpoint that is stored otherwise."
        )
    return int(heads * head_width)


def _context_width(unet: nn.Module, attention: nn.Module) -> int:
    """Of the text that an attention attends to: as its layer tells it, or else the UNet's configuration."""
    told: int | None = getattr(attention.to_k, "in_features", None)
    if told is not None:
        return told
    config = getattr(unet, "config", None)
    of_unet = config.get("context_dim") if isinstance(config, Mapping) else getattr(unet, "context_dim", None)
    widths = set(of_unet) if isinstance(of_unet, (list, tuple)) else {of_unet}
    width = widths.pop() if len(widths) == 1 else None
    if not isinstance(width, int):
        raise MismatchError(
            "the loaded model does not tell the width of its text: load a checkpoint that is stored otherwise."
        )
    return width


@dataclass(frozen=True)
class Topology:
    """What an adapter must fit: the widths of a UNet's attn2 layers in key order, and its text context's width.

    ``blocks`` is how many transformers the layers belong to, where that is known. ``model`` is the name of a model that
    is no such UNet: "FLUX", whose layers are its double blocks.
    """

    context_width: int
    layer_widths: tuple[int, ...]
    blocks: int = field(default=0, compare=False)
    model: str = field(default="", compare=False)

    @classmethod
    def of(cls, layers: list[CrossAttention]) -> Topology:
        contexts = {layer.context_width for layer in layers}
        if len(contexts) != 1:
            raise MismatchError(
                "the loaded model has no uniform cross-attention: load a Stable Diffusion 1.x, 2.x or XL checkpoint."
            )
        return cls(contexts.pop(), tuple(layer.width for layer in layers), count_blocks(layers))

    @property
    def base(self) -> str:
        """ "SD1.5", "SD2.x", "SDXL" or "FLUX" where the usual number of layers stands on the usual context width."""
        if self.model:
            return self.model
        known = bases.of(self.context_width, len(self.layer_widths))
        return known.name if known else f"an unusual model ({self})"

    def __str__(self) -> str:
        widths = ", ".join(f"{n} × {w}" for w, n in sorted(Counter(self.layer_widths).items()))
        return f"{len(self.layer_widths)} cross-attention layers of {widths} channels, context {self.context_width}"
