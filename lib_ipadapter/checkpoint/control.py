"""Recognising ControlNets for SDXL, of which InstantID's network of keypoints is one, and laying out their tensors.

The network is the way down of SDXL's UNet and its middle, with a small convolutional network for the hint before it and
a 1 x 1 convolution ("zero convolution") behind each of its blocks (ControlNet, arXiv 2302.05543). Files name tensors as
diffusers does, or as ldm does; here they bear ldm's names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from math import prod

from ..bases import SDXL
from ..errors import CheckpointError
from .shapes import Shape, Shapes, layer_norm, linear, some
from .specs import KeypointsSpec

LDM = "control_model."
FILE = "ControlNetModel/diffusion_pytorch_model.safetensors from InstantX/InstantID"  # InstantID's network
AGAIN = f"The file is damaged or changed: download it again (InstantID's is {FILE})."
HINT_STRIDES = (1, 1, 2, 1, 2, 1, 2, 1)  # of the hint's convolutions: from pixels to latents
_N = "([0-9]{1,3})"
_ENDS = {  # diffusers' names of what stands outside the blocks
    "conv_in.": "input_blocks.0.0.",
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "add_embedding.linear_1.": "label_emb.0.0.",
    "add_embedding.linear_2.": "label_emb.0.2.",
    "controlnet_cond_embedding.conv_in.": "input_hint_block.0.",
    "controlnet_cond_embedding.conv_out.": f"input_hint_block.{2 * len(HINT_STRIDES) - 2}.",
    "mid_block.attentions.0.": "middle_block.1.",
    "controlnet_mid_block.": "middle_block_out.0.",
}
_OF_RESIDUAL = {
    "norm1.": "in_layers.0.",
    "conv1.": "in_layers.2.",
    "time_emb_proj.": "emb_layers.1.",
    "norm2.": "out_layers.0.",
    "conv2.": "out_layers.3.",
    "conv_shortcut.": "skip_connection.",
}
_RESIDUAL = re.compile(rf"(?:down_blocks\.{_N}|mid_block)\.resnets\.{_N}\.([a-z_0-9]+\.)(weight|bias)")
_ATTENTION = re.compile(rf"down_blocks\.{_N}\.attentions\.{_N}\.(.+)")
_DOWN = re.compile(rf"down_blocks\.{_N}\.downsamplers\.0\.conv\.(weight|bias)")
_HINT = re.compile(rf"controlnet_cond_embedding\.blocks\.{_N}\.(weight|bias)")
_ZERO = re.compile(rf"controlnet_down_blocks\.{_N}\.(weight|bias)")


def own_names(keys: Iterable[str]) -> dict[str, str]:
    """{ldm's name: name in the file}; a name that is neither program's stays as it is."""
    keys = list(keys)
    first = re.compile(rf"down_blocks\.{_N}\.resnets\.{_N}\.conv1\.weight").fullmatch
    blocks = Counter(match[1] for key in keys if (match := first(key)))
    each = max(blocks.values(), default=0)
    return {_own_name(key, each): key for key in keys}


def _own_name(key: str, each: int) -> str:
    """``each``: how many residual blocks a level has."""
    for theirs, ours in _ENDS.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    if match := _RESIDUAL.fullmatch(key):
        level, number, part, kind = match.groups()
        place = f"middle_block.{2 * int(number)}" if level is None else f"{_block(level, number, each)}.0"
        return f"{place}.{_OF_RESIDUAL.get(part, part)}{kind}"
    if match := _ATTENTION.fullmatch(key):
        return f"{_block(match[1], match[2], each)}.1.{match[3]}"
    if match := _DOWN.fullmatch(key):
        return f"{_block(match[1], each, each)}.0.op.{match[2]}"
    if match := _HINT.fullmatch(key):
        return f"input_hint_block.{2 + 2 * int(match[1])}.{match[2]}"
    if match := _ZERO.fullmatch(key):
        return f"zero_convs.{int(match[1])}.0.{match[2]}"
    return key.removeprefix(LDM)


def _block(level: str, number: str | int, each: int) -> str:
    """ldm counts the blocks of all levels through: the first convolution, then each level's and its downsampling."""
    return f"input_blocks.{1 + int(level) * (each + 1) + int(number)}"


def keypoints_network(shapes: Shapes) -> KeypointsSpec | None:
    """The ControlNet for SDXL with these tensors; None where there is none, or one with parts of its own beside.

    Raises CheckpointError for one that is not whole.
    """
    names = own_names(shapes)
    found = {name: shapes[key] for name, key in names.items()}
    if not {"input_hint_block.0.weight", "zero_convs.0.0.weight", "label_emb.0.0.weight"} <= found.keys():
        return None
    contexts = {shape[-1] for name, shape in found.items() if name.endswith("attn2.to_k.weight") and shape}
    if contexts != {SDXL.context_width}:
        return None
    spec = _spec(found, sum(map(prod, shapes.values())))
    if spec is None or found.keys() - (wanted := layout(spec)).keys():
        return None
    if missing := wanted.keys() - found.keys():
        raise CheckpointError(f"This ControlNet model for SDXL lacks {some(missing)}. {AGAIN}")
    for name, shape in wanted.items():
        if found[name] != shape:
            raise CheckpointError(
                f"This ControlNet model's {names[name][:80]} has shape {found[name]}, where {shape} fits. {AGAIN}"
            )
    return spec


def _spec(found: Shapes, parameters: int) -> KeypointsSpec | None:
    """The sizes of a network, None where a tensor that tells one is no such tensor."""
    levels: list[list[int]] = [[]]  # its residual blocks' numbers among the input blocks
    last = max((int(match[1]) for name in found if (match := re.match(rf"input_blocks\.{_N}\.", name))), default=0)
    for n in range(1, last + 1):
        if f"input_blocks.{n}.0.op.weight" in found:
            levels.append([])
        else:
            levels[-1].append(n)
    hints = [f"input_hint_block.{2 * i}.weight" for i in range(len(HINT_STRIDES) - 1)]
    sizes = {
        "in": found.get("input_blocks.0.0.weight", ()),
        "vector": found.get("label_emb.0.0.weight", ()),
        **{str(n): found.get(f"input_blocks.{n}.0.in_layers.2.weight", ()) for level in levels for n in level},
        **{name: found.get(name, ()) for name in hints},
    }
    even = len({*map(len, levels)}) == 1 and levels[0]
    if not even or not all(len(shape) >= 2 and 0 not in shape for shape in sizes.values()):
        return None
    return KeypointsSpec(
        channels=tuple(sizes[str(level[0])][0] for level in levels),
        depths=tuple(_depth(found, f"input_blocks.{level[0]}.1") for level in levels),
        middle_depth=_depth(found, "middle_block.1"),
        blocks=len(levels[0]),
        in_channels=sizes["in"][1],
        context_width=SDXL.context_width,
        vector_width=sizes["vector"][1],
        time_width=sizes["vector"][0],
        hint_widths=tuple(sizes[name][0] for name in hints),
        parameters=parameters,
    )


def _depth(found: Shapes, transformer: str) -> int:
    fits = re.compile(rf"{re.escape(transformer)}\.transformer_blocks\.{_N}\.attn2\.to_q\.weight").fullmatch
    return sum(1 for name in found if fits(name))


def layout(spec: KeypointsSpec) -> dict[str, Shape]:
    """All tensors of a network of these sizes, by ldm's names."""
    first, time = spec.channels[0], spec.time_width
    tensors = linear("time_embed.0", time, first) | linear("time_embed.2", time, time)
    tensors |= linear("label_emb.0.0", time, spec.vector_width) | linear("label_emb.0.2", time, time)
    widths = (3, *spec.hint_widths, first)
    for i, width in enumerate(widths[1:]):
        tensors |= _convolution(f"input_hint_block.{2 * i}", width, widths[i])
    tensors |= _convolution("input_blocks.0.0", first, spec.in_channels)
    for n, (kind, before, width, depth) in enumerate(stages(spec)):
        tensors |= _convolution(f"zero_convs.{n}.0", width, width, 1)
        if kind == "down":
            tensors |= _convolution(f"input_blocks.{n}.0.op", width, width)
        if kind == "block":
            tensors |= _residual(f"input_blocks.{n}.0", before, width, time)
            tensors |= _transformer(f"input_blocks.{n}.1", width, depth, spec.context_width)
    last = spec.channels[-1]
    for n in (0, 2):
        tensors |= _residual(f"middle_block.{n}", last, last, time)
    tensors |= _transformer("middle_block.1", last, spec.middle_depth, spec.context_width)
    return tensors | _convolution("middle_block_out.0", last, last, 1)


def stages(spec: KeypointsSpec) -> Iterator[tuple[str, int, int, int]]:
    """The input blocks in order: their kind ("in", "block" or "down"), the channels that they take and give, and the
    number of their transformer blocks."""
    width = spec.channels[0]
    yield "in", spec.in_channels, width, 0
    for level, (channels, depth) in enumerate(zip(spec.channels, spec.depths, strict=True)):
        for _ in range(spec.blocks):
            yield "block", width, channels, depth
            width = channels
        if level + 1 < len(spec.channels):
            yield "down", width, width, 0


def _convolution(name: str, out: int, width: int, side: int = 3) -> dict[str, Shape]:
    return {f"{name}.weight": (out, width, side, side), f"{name}.bias": (out,)}


def _residual(name: str, width: int, out: int, time: int) -> dict[str, Shape]:
    return {
        **layer_norm(f"{name}.in_layers.0", width),
        **_convolution(f"{name}.in_layers.2", out, width),
        **linear(f"{name}.emb_layers.1", out, time),
        **layer_norm(f"{name}.out_layers.0", out),
        **_convolution(f"{name}.out_layers.3", out, out),
        **(_convolution(f"{name}.skip_connection", out, width, 1) if width != out else {}),
    }


def _transformer(name: str, width: int, depth: int, context: int) -> dict[str, Shape]:
    if not depth:
        return {}
    tensors = layer_norm(f"{name}.norm", width) | linear(f"{name}.proj_in", width, width)
    tensors |= linear(f"{name}.proj_out", width, width)
    for i in range(depth):
        block = f"{name}.transformer_blocks.{i}"
        for attention, source in (("attn1", width), ("attn2", context)):
            for part, columns in (("to_q", width), ("to_k", source), ("to_v", source)):
                tensors[f"{block}.{attention}.{part}.weight"] = (width, columns)
            tensors |= linear(f"{block}.{attention}.to_out.0", width, width)
        tensors |= linear(f"{block}.ff.net.0.proj", 8 * width, width) | linear(f"{block}.ff.net.2", width, 4 * width)
        for n in (1, 2, 3):
            tensors |= layer_norm(f"{block}.norm{n}", width)
    return tensors
