"""The LoRA inside a FaceID checkpoint, as hooks on the four linear layers of every attn1 and attn2.

``out + s · up(down(x))`` (LoRA, arXiv 2106.09685, equation 3, with alpha equal to the rank, as the published files are
trained): the query, which the image attention takes too, keys, values and the output projection.

Beside the layers it costs a step 5 to 10 hundredths, which is what its products take: of SDXL's whole UNet with random
weights, a latent of 32 x 32, batch 2, two threads, rank 128, 1.10 times the step (6 rounds; an addition within the
product saves a hundredth, what q, k and v have in common, multiplied once, nothing). In the weights it costs nothing
but the time to put it there, as long as 8 such steps take longer. So a job with as many steps still to come has it
there, in weights that take the place of the layers' own while one of its calls lasts (merged.py): in the layers' own
it would be met by the host's Lora, which keeps a copy of a layer's weights when a prompt first names one and puts that
back in the middle of a job, and by other jobs; and taking it out again would not give 16-bit weights back. They want
room, in fp16 187 MB for SD1.5 and 1.9 GB for SDXL, and are left out where that is scarce, and for layers that store
their weights otherwise than they compute.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import MismatchError
from .layers import CrossAttention
from .merged import MergedWeights
from .room import Keeper, with_room
from .uncompiled import uncompiled

# The published ones are called ip-adapter-faceid_sd15_lora, …-faceid-plusv2_sdxl_lora and the like.
FACE_LORA = re.compile(r"(?:(?<![a-z])|(?<=adapter))face[-_ ]?id(?=plus|portrait|sd|xl|lora|v[0-9]|[^a-z]|$)")
Handle = torch.utils.hooks.RemovableHandle
LAYERS = ("q", "k", "v", "out")


@dataclass(frozen=True, eq=False)
class Lora:
    """A file's LoRA, and how strongly a unit wants it.

    ``key`` tells one file's from another's. ``tensors`` are in main memory in the dtype of the file, named as
    ``AdapterWeights.lora`` has them: ``{i}.to_{q,k,v,out}_lora.down.weight`` [rank, in] and ``.up.weight`` [out, rank],
    i counting the attentions in the order of an adapter's keys, attn1 even, attn2 odd.
    """

    key: Hashable
    tensors: Mapping[str, Tensor] = field(repr=False)
    strength: float = 1.0

    @property
    def nbytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    def down(self, attention: int, layer: str) -> Tensor:
        """[rank, in] of a layer in ``LAYERS``."""
        return self.tensors[f"{attention}.to_{layer}_lora.down.weight"]

    def up(self, attention: int, layer: str) -> Tensor:
        """[out, rank] of a layer in ``LAYERS``."""
        return self.tensors[f"{attention}.to_{layer}_lora.up.weight"]


def strongest(loras: Iterable[Lora]) -> tuple[Lora, ...]:
    """Those that act: of units with one file the LoRA counts once, at the greatest of their strengths; those of
    different files add. A strength of 0 is none."""
    found: dict[Hashable, Lora] = {}
    for lora in loras:
        if lora.key not in found or lora.strength > found[lora.key].strength:
            found[lora.key] = lora
    return tuple(lora for lora in found.values() if lora.strength != 0)


def names_face_lora(names: Iterable[str]) -> str | None:
    """The first of some LoRAs' names that says that it is FaceID's, so that the one in the checkpoint would be there
    twice; None where none does."""
    return next((name for name in names if FACE_LORA.search(name.lower())), None)


class Owner(Keeper, Protocol):
    """The injection that the hooks belong to."""

    @property
    def own_call(self) -> bool:
        """Whether the UNet's present call is the job's own."""


class _Matrices(NamedTuple):
    """A layer's low-rank matrices, those of all files in one, on a device and in a dtype: ``down`` [ranks, in] and
    ``up`` [out, ranks] with the strengths in it."""

    down: Tensor
    up: Tensor

    @classmethod
    def gather(cls, loras: Sequence[Lora], attention: int, layer: str, like: Tensor) -> _Matrices:
        down = [lora.down(attention, layer).to(like) for lora in loras]
        up = [_scaled(lora.up(attention, layer), lora.strength, like) for lora in loras]
        return cls(torch.cat(down), torch.cat(up, dim=1)) if len(loras) > 1 else cls(down[0], up[0])

    def serve(self, like: Tensor) -> bool:
        return (self.down.dtype, self.down.device) == (like.dtype, like.device)


def _scaled(up: Tensor, strength: float, like: Tensor) -> Tensor:
    """``up`` times ``strength``, rounded once, where ``like`` is."""
    return up.to(like) if strength == 1 else (up.to(like.device, torch.float32) * strength).to(like)


class _LayerHook:
    """The hook of one layer in ``LAYERS`` of one attention, and what it keeps on the device."""

    def __init__(self, hooks: LoraHooks, number: int, attention: int, layer: str) -> None:
        self.hooks, self.number, self.attention, self.layer = hooks, number, attention, layer
        self.matrices: _Matrices | None = None

    def add(self, _module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor | None:
        """What the layer puts out, with the LoRA; None (as it is) where none acts, or it is in the weight."""
        if not self.hooks.act or self.hooks.merged.acted(self.number, args[0], out):
            return None
        return with_room(self.hooks.owner, out.device, partial(self._added, args[0], out), NO_ROOM)

    def _added(self, x: Tensor, out: Tensor) -> Tensor:
        matrices = self.matrices
        if matrices is None or not matrices.serve(out):
            self.matrices = None  # before others take their place on the device
            matrices = _Matrices.gather(self.hooks.loras, self.attention, self.layer, out)
            if self.hooks.owner.keeps:
                self.matrices = matrices
        return out + F.linear(F.linear(x.to(out), matrices.down), matrices.up).to(out)

    def merge(self, weight: Tensor) -> Tensor | None:
        """``weight`` with the LoRA in it, which then needs no matrices; None where the layer has another dtype's, or
        another device's."""
        matrices = self.matrices
        if matrices is None or not matrices.serve(weight):
            return None
        self.matrices = None
        return torch.addmm(weight.float(), matrices.up.float(), matrices.down.float()).to(weight.dtype)


NO_ROOM = (
    "IP-Adapter: the device has no room for the LoRA inside the face adapter: set its LoRA strength to 0, or use a "
    "smaller batch or a smaller picture."
)


class LoraHooks:
    """The hooks of all LoRAs of a job in one UNet."""

    def __init__(self, owner: Owner, layers: Sequence[CrossAttention], loras: Sequence[Lora]) -> None:
        """``loras``: those that may act. Raises MismatchError where they do not fit the layers."""
        self.owner = owner
        self.loras: tuple[Lora, ...] = ()  # those that act in the present step
        places = [(number, attention, layer) for number, attention in _attentions(layers) for layer in LAYERS]
        self.hooked = [
            (linear(attention, layer), _LayerHook(self, i, number, layer))
            for i, (number, attention, layer) in enumerate(places)
        ]
        for module, hook in self.hooked:
            _check(module, [lora.down(hook.attention, hook.layer) for lora in loras])
        modules = [module for module, _ in self.hooked]
        self.merged = MergedWeights(owner, modules, lambda i, weight: self.hooked[i][1].merge(weight))

    @property
    def act(self) -> bool:
        """Whether any LoRA acts in the UNet's present call."""
        return bool(self.loras) and self.owner.own_call

    def attach(self) -> list[Handle]:
        """Register the hooks. Those that are to see the query with the LoRA have to be registered after them. Compiled,
        some layers would do without their LoRA."""
        return [module.register_forward_hook(uncompiled(hook.add)) for module, hook in self.hooked]

    def begin(
        self, loras: Iterable[Lora], step: int, steps: int, host_weights: Callable[[], Hashable] | None = None
    ) -> None:
        """Step ``step`` of ``steps``, in which the units with these LoRAs act; ``host_weights``: see ``Step``."""
        acting = strongest(loras)
        names = [(one.key, one.strength) for one in acting]
        if names != [(one.key, one.strength) for one in self.loras]:
            self._let_matrices_go()
        self.loras = acting
        self.merged.begin(tuple(names), step, steps, host_weights)

    def enter(self) -> None:
        """A call of the model begins in a step in which something acts."""
        if self.act:
            self.merged.enter()
        else:  # somebody else's, maybe within one of ours
            self.merged.leave(ended=False)

    def leave(self, *, ended: bool) -> None:
        """The call is over; not ``ended``, by an error."""
        self.merged.leave(ended=ended)

    def let_go(self) -> None:
        """Let go of everything on the device."""
        self._let_matrices_go()
        self.merged.let_go()

    def _let_matrices_go(self) -> None:
        for _, hook in self.hooked:
            hook.matrices = None


def _attentions(layers: Sequence[CrossAttention]) -> Iterator[tuple[int, nn.Module]]:
    """Each attention with its number in the files' keys."""
    for i, layer in enumerate(layers):
        if layer.self_attention is None:
            raise MismatchError(f"the model has no self-attention beside {layer.name}: {WITHOUT}")
        yield 2 * i, layer.self_attention
        yield 2 * i + 1, layer.module


def _check(module: nn.Module, down: Iterable[Tensor]) -> None:
    """MismatchError where a layer that tells its width is given inputs of another than ``down`` matrices take."""
    width = getattr(module, "in_features", None)
    for matrix in down:
        if width not in (None, matrix.shape[1]):
            raise MismatchError(
                f"the adapter's LoRA is for attention layers {matrix.shape[1]} wide, the model's are {width}: {WITHOUT}"
            )


WITHOUT = "set its LoRA strength to 0, or load an ordinary Stable Diffusion checkpoint."


def linear(attention: nn.Module, layer: str) -> nn.Module:
    """An attention's layer in ``LAYERS``. ``to_out`` is Sequential(Linear, Dropout)."""
    found: nn.Module = attention.to_out[0] if layer == "out" else getattr(attention, f"to_{layer}")
    return found
