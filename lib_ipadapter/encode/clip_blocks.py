"""What CLIP's two towers share: published weights into open_clip's modules, and running these in a dtype of our own."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import CheckpointError

Shape = tuple[int, ...]

# open_clip's names in a block: transformers' names. The attention's q, k and v are three there and one here.
_IN_BLOCKS = {
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "attn.out_proj.": "self_attn.out_proj.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}
_BLOCK = "transformer.resblocks."


@dataclass(frozen=True)
class Names:
    """How a tower's tensors are called, and how its errors are worded.

    ``outside``: open_clip's names of what is not in a block, with transformers' names. ``inside``: what transformers'
    names of all but the projection begin with. ``mark``: the key that tells transformers' layout, and the one that
    tells open_clip's. ``transposed``: the projection, which is [W, P] here and [P, W] there. ``among_others``: whether
    open_clip's layout has this tower's keys beside the other tower's, with nothing before them.
    """

    file: str
    tower: str
    advice: str
    mark: tuple[str, str]
    outside: Mapping[str, str]
    inside: str
    transposed: str
    among_others: bool = False

    def transformers(self, name: str) -> list[str]:
        """transformers' keys for open_clip's parameter ``name``: three for the joined q, k and v, else one."""
        block = re.fullmatch(rf"{re.escape(_BLOCK)}(\d+)\.(.+)", name)
        if block is None:
            return [_renamed(name, self.outside)]
        layer, rest = f"{self.inside}encoder.layers.{block[1]}.", block[2]
        if rest.startswith("attn.in_proj_"):
            return [f"{layer}self_attn.{part}_proj.{rest.removeprefix('attn.in_proj_')}" for part in "qkv"]
        return [layer + _renamed(rest, _IN_BLOCKS)]

    def layout(self, state: Mapping[str, Tensor]) -> tuple[str, bool]:
        """What stands before the tower's keys, and whether they are transformers' (else open_clip's)."""
        for mark in self.mark:
            for key in state:
                if key.endswith(mark):
                    return key.removesuffix(mark), mark == self.mark[0]
        raise CheckpointError(
            f"The {self.file} file holds no CLIP {self.tower} (it begins with {some(list(state)) or 'nothing'}); "
            f"{self.advice}."
        )


def _renamed(name: str, table: Mapping[str, str]) -> str:
    for ours, theirs in table.items():
        if name == ours or (ours.endswith(".") and name.startswith(ours)):
            return theirs + name.removeprefix(ours)
    raise KeyError(name)


def fill(tower: nn.Module, state: MutableMapping[str, Tensor], names: Names, kind: str, dtype: torch.dtype) -> None:
    """Give ``tower``, which is on the meta device, its weights in ``dtype`` on the state's device.

    The state's layout is seen from its keys; keys outside the tower are ignored. **The tower's tensors are taken out
    of ``state``**, one by one, so that the weights are never held twice; a tensor that needs no change becomes a
    parameter as it is. Raises CheckpointError, with ``state`` unchanged, if a tensor is missing, left over, or of
    another shape than ``kind`` has.
    """
    takers = _plan(names, kind, state, {name: tuple(p.shape) for name, p in tower.named_parameters()})
    with torch.inference_mode(False), torch.no_grad():
        for name, take in takers.items():
            owner, _, leaf = name.rpartition(".")
            weight = take(state).to(dtype).contiguous()
            tower.get_submodule(owner).register_parameter(leaf, nn.Parameter(weight, requires_grad=False))


def _plan(
    names: Names, kind: str, state: Mapping[str, Tensor], shapes: Mapping[str, Shape]
) -> dict[str, Callable[[MutableMapping[str, Tensor]], Tensor]]:
    """For each parameter of the tower, how to take it out of ``state``. Checks names and shapes; takes nothing yet."""
    prefix, is_transformers = names.layout(state)
    tower_keys: tuple[str, ...]
    if is_transformers:
        sources = {name: [prefix + key for key in names.transformers(name)] for name in shapes}
        tower_keys = (prefix + names.inside, prefix + names.outside[names.transposed])
    else:
        sources = {name: [prefix + name] for name in shapes}
        tower_keys = tuple(prefix + part for part in (*names.outside, _BLOCK)) if names.among_others else (prefix,)

    wanted = {key for keys in sources.values() for key in keys}
    present = {key for key in state if key.startswith(tower_keys) and not key.endswith(".position_ids")}
    if missing := sorted(wanted - present):
        raise CheckpointError(
            f"The {names.file} file lacks {some(missing)}, which {kind} needs; download the file again."
        )
    if surplus := sorted(present - wanted):
        raise CheckpointError(
            f"The {names.file} file holds {some(surplus)}, which {kind} does not have, so it is another kind of "
            f"encoder; {names.advice}."
        )
    takers = {}
    for name, keys in sources.items():
        transposed = is_transformers and name == names.transposed
        have = _joined_shape([tuple(state[key].shape) for key in keys])
        have = have[::-1] if transposed else have
        if have != shapes[name]:
            raise CheckpointError(
                f"The {names.file} file's {keys[0]} does not have the shape that {kind} needs ({list(have)} instead of "
                f"{list(shapes[name])}); the file is damaged or of another kind, so download it again."
            )
        takers[name] = _taker(keys, transposed)
    return takers


def _joined_shape(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of these tensors joined along dim 0; () if they do not fit each other."""
    if len(shapes) == 1:
        return shapes[0]
    if len({shape[1:] for shape in shapes}) > 1 or () in shapes:
        return ()
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


def _taker(keys: list[str], transposed: bool) -> Callable[[MutableMapping[str, Tensor]], Tensor]:
    def take(state: MutableMapping[str, Tensor]) -> Tensor:
        parts = [state.pop(key) for key in keys]
        weight = parts[0] if len(parts) == 1 else torch.cat(parts)
        return weight.t() if transposed else weight

    return take


def arithmetic(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """What to compute in with weights of ``dtype``: fp32 for fp16 on the CPU, where that has no arithmetic."""
    return torch.float32 if device.type == "cpu" and dtype == torch.float16 else dtype


def run_block(block: nn.Module, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """One residual attention block on ``x`` [B, N, W]; older open_clip's blocks want [N, B, W].

    ``mask`` [N, N] is added to the attention's logits.
    """
    options = {} if mask is None else {"attn_mask": mask}
    if block.attn.batch_first:
        return call(block, x, **options)
    return call(block, x.transpose(0, 1), **options).transpose(0, 1)


def call(module: nn.Module, x: Tensor, **options: Tensor) -> Tensor:
    """``module(x)``, its weights cast to the dtype of ``x`` for this call if they have another."""
    made: Tensor
    if next(module.parameters()).dtype == x.dtype:
        made = module(x, **options)
    else:
        weights = {name: p.to(x.dtype) for name, p in module.named_parameters()}
        made = torch.func.functional_call(module, weights, (x,), options)
    return made


@contextlib.contextmanager
def no_autocast(device: torch.device) -> Iterator[None]:
    """The same arithmetic whether or not the host has autocast on."""
    if device.type not in ("cuda", "cpu", "xpu"):
        yield
        return
    with torch.autocast(device.type, enabled=False):
        yield


def some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
