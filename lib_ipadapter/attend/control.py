"""A ControlNet for SDXL (arXiv 2302.05543), such as InstantID's network of keypoints, in plain torch modules.

Nothing of it is the host's: its attention optimisations, LoRAs and patches act on the UNet alone, and on every host the
network computes the same. The weights stay in main memory; what is computed with is a copy on the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..bases import SDXL
from ..checkpoint.control import FILE, HINT_STRIDES, stages
from ..checkpoint.specs import KeypointsSpec
from ..errors import MismatchError
from .blocks import (
    BasicTransformerBlock,
    CrossAttention,
    Downsample,
    ResBlock,
    SpatialTransformer,
    Stage,
    perceptron,
    time_embedding,
)
from .layers import cross_attention_layers

PIECES = (ResBlock, BasicTransformerBlock)  # what weights go to the device together for, where they do so in turn


class _Modules(nn.Module):
    """The network's modules on the meta device, named as ldm's."""

    def __init__(self, spec: KeypointsSpec) -> None:
        super().__init__()
        first, last, time = spec.channels[0], spec.channels[-1], spec.time_width

        def transformer(width: int, depth: int) -> list[nn.Module]:
            return [SpatialTransformer(width, depth, spec.context_width, 1, linear=True)] if depth else []

        self.time_embed = perceptron(first, time)
        self.label_emb = nn.Sequential(perceptron(spec.vector_width, time))
        widths, hint = (3, *spec.hint_widths, first), list[nn.Module]()
        for i, stride in enumerate(HINT_STRIDES):
            hint += [nn.Conv2d(widths[i], widths[i + 1], 3, stride=stride, padding=1), nn.SiLU()]
        self.input_hint_block = nn.Sequential(*hint[:-1])
        self.input_blocks, self.zero_convs = nn.ModuleList(), nn.ModuleList()
        for kind, before, width, depth in stages(spec):
            if kind == "in":
                stage = Stage(nn.Conv2d(before, width, 3, padding=1))
            elif kind == "down":
                stage = Stage(Downsample(width))
            else:
                stage = Stage(ResBlock(before, width, time), *transformer(width, depth))
            self.input_blocks.append(stage)
            self.zero_convs.append(nn.Sequential(nn.Conv2d(width, width, 1)))
        self.middle_block = Stage(
            ResBlock(last, last, time), *transformer(last, spec.middle_depth), ResBlock(last, last, time)
        )
        self.middle_block_out = nn.Sequential(nn.Conv2d(last, last, 1))


class ControlNetwork:
    """The network: a hint, and a call of the UNet, to what is added to each of its skips and to its middle."""

    def __init__(self, spec: KeypointsSpec, state: Mapping[str, Tensor]) -> None:
        """``state``: the tensors of ``checkpoint.control.layout`` in main memory, in the dtype of the file."""
        self.spec, self.state = spec, dict(state)
        with torch.device("meta"):
            self.modules = _Modules(spec).eval().requires_grad_(False)
        self._pieces = _pieces(self.modules)
        self._empty = dict(self.modules.named_parameters())
        self._place: tuple[torch.device, torch.dtype] | None = None
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    @property
    def nbytes(self) -> int:
        """Bytes that the weights take in main memory."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.state.values())

    def bytes_in(self, dtype: torch.dtype) -> int:
        """Bytes that the weights take in ``dtype``."""
        return sum(tensor.numel() for tensor in self.state.values()) * torch.empty((), dtype=dtype).element_size()

    def fit(self, unet: nn.Module) -> None:
        """Take on what the file does not say, the number of heads, from the UNet that the network goes beside.

        Raises MismatchError for a UNet of another form.
        """
        theirs = {
            layer.name: layer
            for layer in cross_attention_layers(unet)
            if layer.name.startswith(("input_blocks.", "middle_block."))
        }
        ours = {name: m for name, m in self.modules.named_modules() if name.endswith(".attn2")}
        fits = theirs.keys() == ours.keys() and all(
            (layer.width, layer.context_width) == (ours[name].to_q.out_features, ours[name].to_k.in_features)
            and layer.width % layer.heads == 0
            for name, layer in theirs.items()
        )
        if not fits or len(unet.output_blocks) != len(self.modules.zero_convs):
            raise _misfit(unet)
        for name, layer in theirs.items():
            block = self.modules.get_submodule(name.removesuffix(".attn2"))
            for attention in (block.attn1, block.attn2):
                assert isinstance(attention, CrossAttention)
                attention.heads = layer.heads

    # Where its weights are

    @property
    def place(self) -> tuple[torch.device, torch.dtype] | None:
        """Device and dtype that it computes on and in, None where it does not."""
        return self._place

    @property
    def in_turn(self) -> bool:
        """Whether the device holds no more of the weights than are computed with just then."""
        return bool(self._hooks)

    def to(self, device: torch.device, dtype: torch.dtype, *, in_turn: bool = False) -> None:
        """Compute on ``device`` in ``dtype`` from now on. With ``in_turn`` each piece's weights go there when it is
        called, and leave it afterwards."""
        self.leave_device()
        self._place = (device, dtype)
        for module in self._pieces:
            if in_turn:
                self._hooks += [
                    module.register_forward_pre_hook(lambda module, _args: self._fill(module)),
                    module.register_forward_hook(lambda module, *_: self._clear(module)),
                ]
            else:
                self._fill(module)

    def leave_device(self) -> None:
        """Let go of every weight that is not in main memory."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._place = [], None
        for module in self._pieces:
            self._clear(module)

    def _fill(self, piece: nn.Module) -> None:
        assert self._place is not None
        device, dtype = self._place
        for module, name, key in self._pieces[piece]:
            weight = self.state[key].to(device=device, dtype=dtype)
            module._parameters[name] = nn.Parameter(weight, requires_grad=False)

    def _clear(self, piece: nn.Module) -> None:
        for module, name, key in self._pieces[piece]:
            module._parameters[name] = self._empty[key]

    # What it computes

    @torch.no_grad()
    def embed(self, hint: Tensor) -> Tensor:
        """[n, 3, 8 * height, 8 * width] of 0 to 1 -> [n, channels, height, width], which no step changes."""
        device, dtype = self._there()
        embedded: Tensor = self.modules.input_hint_block(hint.to(device, dtype))
        return embedded

    @torch.no_grad()
    def __call__(self, x: Tensor, timesteps: Tensor, context: Tensor, y: Tensor, hint: Tensor) -> list[Tensor]:
        """What is added to the UNet's skips, in the order in which its input blocks make them, and to its middle.

        ``x`` [n, channels, height, width] are the UNet's latents, of which those of an inpainting model have more
        channels behind, ``timesteps`` [n], ``context`` [n, tokens, width] the face's tokens, ``y`` [n, vector] what
        SDXL is told beside the text, ``hint`` [n, channels, height, width] the embedded hint.
        """
        device, dtype = self._there()
        modules = self.modules
        t = time_embedding(timesteps.to(device), self.spec.channels[0]).to(dtype)
        emb = modules.time_embed(t) + modules.label_emb(y.to(device, dtype))
        x, context = x[:, : self.spec.in_channels].to(device, dtype), context.to(device, dtype)
        made: list[Tensor] = []
        for i, (stage, zero) in enumerate(zip(modules.input_blocks, modules.zero_convs, strict=True)):
            x = stage(x, emb, context)
            if i == 0:
                x = x + hint
            made.append(zero(x))
        made.append(modules.middle_block_out(modules.middle_block(x, emb, context)))
        return made

    def _there(self) -> tuple[torch.device, torch.dtype]:
        if self._place is None:
            raise RuntimeError("the network has not been told where to compute")
        return self._place


def _misfit(unet: nn.Module) -> MismatchError:
    """Whether it is the model that is to be another one, or the network."""
    layers = cross_attention_layers(unet)
    if len(layers) == SDXL.layers and {layer.context_width for layer in layers} == {SDXL.context_width}:
        return MismatchError(
            f"InstantID's network of keypoints is of another size than SDXL's UNet: download {FILE} in its place, or "
            "set keypoints_weight to 0."
        )
    return MismatchError(
        "InstantID's network of keypoints does not fit the loaded model, whose layers are others than SDXL's: load an "
        "SDXL checkpoint, or set keypoints_weight to 0."
    )


def _pieces(modules: nn.Module) -> dict[nn.Module, list[tuple[nn.Module, str, str]]]:
    """{module: [(the module within that has a weight, the weight's name there, its whole name)]}, each weight once."""
    found: dict[nn.Module, list[tuple[nn.Module, str, str]]] = {}
    inside = ""
    for name, module in modules.named_modules():  # a module before those within it
        if inside and name.startswith(inside):
            continue
        whole = isinstance(module, PIECES)
        inside = f"{name}." if whole else ""
        owners: Any = module.named_modules(prefix=name) if whole else [(name, module)]
        weights = [(owner, key, f"{path}.{key}") for path, owner in owners for key in owner._parameters]
        kept = [(owner, key, path) for owner, key, path in weights if owner._parameters[key] is not None]
        if kept:
            found[module] = kept
    return found


def resized(tensor: Tensor, size: tuple[int, int]) -> Tensor:
    """[n, channels, *size]: what other extensions let the UNet work on in another size is met in that size."""
    return tensor if tensor.shape[-2:] == size else F.interpolate(tensor, size, mode="nearest")
