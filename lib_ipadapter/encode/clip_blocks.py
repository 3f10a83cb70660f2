"""What CLIP's two towers share: published weights into open_clip's modules, and running these in a dtype of our own."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoint.clip_keys import OPEN_CLIP, TRANSFORMERS, Tower, TowerKeys
from ..errors import CheckpointError

Shape = tuple[int, ...]


def open_clip(module: str) -> Any:
    """open_clip's module of that name, imported when it is first needed: not every host comes with it."""
    try:
        return importlib.import_module(f"open_clip.{module}")
    except Exception as error:  # of its own packages, too: a torchvision that does not fit torch is a RuntimeError
        raise CheckpointError(
            f"CLIP is made of the Python package open-clip-torch, which is missing or broken ({error}): install it "
            "with pip into the WebUI's Python, and restart the WebUI."
        ) from error


def fill(tower: nn.Module, state: MutableMapping[str, Tensor], keys: TowerKeys, kind: str, dtype: torch.dtype) -> None:
    """Give ``tower``, which is on the meta device, its weights in ``dtype`` on the state's device.

    The state's layout is seen from its keys; keys outside the tower are ignored. **The tower's tensors are taken out
    of ``state``**, one by one, so that the weights are never held twice; a tensor that needs no change becomes a
    parameter as it is. Raises CheckpointError, with ``state`` unchanged, if a tensor is missing, left over, or of
    another shape than ``kind`` has.
    """
    takers = _plan(keys, kind, state, {name: tuple(p.shape) for name, p in tower.named_parameters()})
    with torch.inference_mode(False), torch.no_grad():
        for name, take in takers.items():
            owner, _, leaf = name.rpartition(".")
            weight = take(state).to(dtype).contiguous()
            tower.get_submodule(owner).register_parameter(leaf, nn.Parameter(weight, requires_grad=False))


def _plan(
    keys: TowerKeys, kind: str, state: Mapping[str, Tensor], shapes: Mapping[str, Shape]
) -> dict[str, Callable[[MutableMapping[str, Tensor]], Tensor]]:
    """For each parameter of the tower, how to take it out of ``state``. Checks names and shapes; takes nothing yet."""
    found = keys.find(state)
    if found is None:
        raise CheckpointError(
            f"The {keys.file} file holds no {keys.tower} (it begins with {some(list(state)) or 'nothing'}); "
            f"{keys.advice}."
        )
    sources = {name: [found.prefix + key for key in keys.called(name, found.layout)] for name in shapes}
    _check_names(keys, kind, state, found, {key for needed in sources.values() for key in needed})
    takers = {}
    for name, needed in sources.items():
        transposed = found.layout == TRANSFORMERS and name == keys.transposed
        have = _joined_shape([tuple(state[key].shape) for key in needed])
        have = have[::-1] if transposed else have
        if have != shapes[name]:
            raise CheckpointError(
                f"The {keys.file} file's {needed[0]} does not have the shape that {kind} needs ({list(have)} instead "
                f"of {list(shapes[name])}); the file is damaged or of another kind, so download it again."
            )
        takers[name] = _taker(needed, transposed)
    return takers


def _check_names(keys: TowerKeys, kind: str, state: Mapping[str, Tensor], found: Tower, wanted: set[str]) -> None:
    """CheckpointError unless the tower's names in ``state`` are the wanted ones."""
    present = {found.prefix + key for key in found.keys}
    if found.layout == OPEN_CLIP and not keys.beside_others:  # all that stands behind the prefix is the tower's
        present = {key for key in state if key.startswith(found.prefix) and not key.endswith("position_ids")}
    if missing := sorted(wanted - present):
        raise CheckpointError(
            f"The {keys.file} file lacks {some(missing)}, which {kind} needs; download the file again."
        )
    if surplus := sorted(present - wanted):
        raise CheckpointError(
            f"The {keys.file} file holds {some(surplus)}, which {kind} does not have, so it is another kind of "
            f"encoder; {keys.advice}."
        )


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
        weight = parts[0] if len(parts) == 1 else _joined(parts)
        return weight.t() if transposed else weight

    return take


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """These tensors along dim 0: the memory that they lie in where it is theirs alone, as after reading, or new one."""
    first, count = parts[0], sum(part.numel() for part in parts)
    end = first.data_ptr()
    for part in parts:
        if part.data_ptr() != end or not part.is_contiguous() or part.dtype != first.dtype:
            return torch.cat(list(parts))
        end += part.numel() * part.element_size()
    memory = first.untyped_storage()
    if memory.data_ptr() != first.data_ptr() or memory.nbytes() != count * first.element_size():
        return torch.cat(list(parts))
    return first.as_strided((sum(len(part) for part in parts), *first.shape[1:]), first.stride())


def arithmetic(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """What to compute in with weights of ``dtype``: fp32 for fp16 on the CPU, where that has no arithmetic."""
    return torch.float32 if device.type == "cpu" and dtype == torch.float16 else dtype


def run_block(block: nn.Module, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """One residual attention block on ``x`` [B, N, W]; ``mask`` [N, N] is added to the attention's logits.

    Of the block's parts, because its own attention asks for torch's by a name that extensions put other kernels under.
    """
    attention = block.attn
    qkv = F.linear(call(block.ln_1, x), attention.in_proj_weight.to(x.dtype), attention.in_proj_bias.to(x.dtype))
    q, k, v = (part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
    attended: Tensor = torch.ops.aten.scaled_dot_product_attention(q, k, v, mask)
    x = x + call(attention.out_proj, attended.transpose(1, 2).flatten(2))
    return x + call(block.mlp, call(block.ln_2, x))


def call(module: nn.Module, x: Tensor) -> Tensor:
    """``module(x)``, its weights cast to the dtype of ``x`` for this call if they have another."""
    result: Tensor
    if next(module.parameters()).dtype == x.dtype:
        result = module(x)
    else:
        weights = {name: p.to(x.dtype) for name, p in module.named_parameters()}
        result = torch.func.functional_call(module, weights, (x,))
    return result


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
