"""Weights with a LoRA in them, which take the place of a layer's own for the time of one call.

The layer's own parameter is not written to: during a call of the job's own the module has another one in its place, and
has its own back when the call is over, so that whoever else calls the model, saves it or changes its weights meets what
is theirs. Hosts change weights within a call, too: the WebUI's own Lora does when a layer is called for the first time
with other names or strengths than before. So nothing takes a weight's place before a whole call has left all of them
alone, nothing stays where one has not or where the host says that it will write, and each run of the sampler begins
anew. What is written through ``.data`` in the middle of a run, which nothing tells, counts from the next run on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .room import Keeper, has_plenty
from .uncompiled import has_compiled

log = logging.getLogger("ip-adapter")
WORTH = 8  # steps that are still to come: merging takes as long as a few steps take longer with a LoRA beside them
LOOKED_AT = 15  # one of so many layers shows whether these weights are what it computes with; so all of q, k, v and out
TRIES = 3  # times that a job merges after somebody has changed what it had merged into
DEVICES = ("cuda", "cpu")  # whose memory is known, and whose tensors say where they are


class _Merged(nn.Parameter):
    """A parameter of ours, into which nobody merges another LoRA."""


class Stamp(NamedTuple):
    """What is another one when a tensor has been written to, or is in another place. An inference tensor does not tell
    who has written to it: the hosts that have such weights write to them between runs of the sampler alone."""

    tensor: int
    place: int
    device: torch.device
    version: int

    @classmethod
    def of(cls, tensor: Tensor) -> Stamp:
        return cls(id(tensor), tensor.data_ptr(), tensor.device, -1 if tensor.is_inference() else tensor._version)


def own_weight(module: nn.Module) -> nn.Parameter | None:
    """A layer's weight; None where it has no plain matrix for one."""
    weight = module._parameters.get("weight")
    if weight is None or type(weight) is not nn.Parameter or weight.device.type not in DEVICES:
        return None
    return weight if weight.layout is torch.strided and weight.is_floating_point() and weight.ndim == 2 else None


def _stamp(module: nn.Module) -> Stamp | None:
    weight = own_weight(module)
    return None if weight is None else Stamp.of(weight)


class _Layer:
    """A layer's own weight, and the one that takes its place."""

    def __init__(self, module: nn.Module, own: nn.Parameter, merged: Tensor) -> None:
        self.module, self.own, self.own_stamp = module, own, Stamp.of(own)
        self.merged = _Merged(merged, requires_grad=False)
        self._stamp = Stamp.of(self.merged)
        self.is_in = False

    @property
    def fits(self) -> bool:
        """Whether the layer's own weight is still what this was merged from."""
        weight = self.module._parameters.get("weight")
        return weight is self.own and Stamp.of(self.own) == self.own_stamp

    @property
    def is_whole(self) -> bool:
        """Whether the layer has the merged weight, as it was made."""
        has_it = self.is_in and self.module._parameters.get("weight") is self.merged
        return has_it and self.merged._version == self._stamp.version

    def is_used(self, x: Tensor, out: Tensor) -> Tensor:
        """A bool: whether the first row of ``out`` is what this weight makes of that of ``x``, much rather than what
        the layer's own one does, which others may have kept somewhere."""
        x, out = x.reshape(-1, x.shape[-1])[:1].to(self.merged), out.reshape(-1, out.shape[-1])[:1]
        bias = self.module._parameters.get("bias")
        off, own = ((out - F.linear(x, weight, bias)).abs().max() for weight in (self.merged, self.own))
        rounding = 8 * torch.finfo(out.dtype).eps * out.abs().max()
        return off <= torch.maximum(own / 4, rounding)

    def put_in(self) -> None:
        self.module._parameters["weight"] = self.merged
        self.is_in = True

    def put_back(self) -> None:
        """Give the layer its own weight back, unless somebody has given it another one meanwhile."""
        self.is_in = False
        if self.module._parameters.get("weight") is self.merged:
            self.module._parameters["weight"] = self.own

    def settle(self) -> bool:
        """After ``put_back``: whether nobody had touched the merged weight. Who has moved it, or written to it what he
        had kept of the layer's and more, meant the layer's own."""
        now = Stamp.of(self.merged)
        if now == self._stamp:
            return self.module._parameters.get("weight") is self.own
        with torch.inference_mode(self.own.is_inference()), torch.no_grad():
            if now.device != self.own.device:
                self.own.data = self.own.to(now.device)
            if now.version != self._stamp.version:
                self.own.copy_(self.merged)
        return False


class MergedWeights:
    """Those of one model's layers, for one job."""

    def __init__(
        self, owner: Keeper, modules: Sequence[nn.Module], merge: Callable[[int, Tensor], Tensor | None]
    ) -> None:
        """``merge`` gives the weight of a layer, by its number, with what acts in the present step in it; None for a
        layer that computes in another dtype or on another device than its weight has."""
        self.owner, self.modules, self._merge = owner, modules, merge
        self._layers: dict[int, _Layer] = {}
        self._key: Hashable = None
        self._host_weights: Callable[[], Hashable] | None = None
        self._host_state: Hashable = None
        self._step, self._left = 0, 0
        self._calls, self._calls_before = 0, 1  # of the present step, and of the one before
        self._within = False  # a call of the job's own, in which a LoRA acts
        self._stamps: list[Stamp | None] = []  # of the layers after the last call
        self._settled = False  # the last call has left them alone
        self._looking = False  # the first call with merged weights
        self._used: list[Tensor] = []  # bools, on the device
        self._tries = TRIES

    def begin(self, key: Hashable, step: int, steps: int, host_weights: Callable[[], Hashable] | None = None) -> None:
        """A step of so many, in which what is called ``key`` acts. ``host_weights``: see ``Step``."""
        self.leave(ended=False)  # a call that was broken off
        if key != self._key or step < self._step:  # the sampler runs again: the host may have prepared other weights
            self.let_go()
        if step != self._step:
            self._calls, self._calls_before = 0, self._calls
        self._key, self._step, self._left, self._host_weights = key, step, steps - step, host_weights

    def acted(self, number: int, x: Tensor, out: Tensor) -> bool:
        """Whether a layer had the merged weight when it made ``out`` of ``x``."""
        layer = self._layers.get(number)
        if layer is None or not layer.is_whole:
            return False
        if self._looking and (number % LOOKED_AT == 0 or type(layer.module) is not nn.Linear):
            self._used.append(layer.is_used(x, out))
        return True

    def enter(self) -> None:
        """A call of the job's own begins, in which a LoRA acts."""
        self._within = True
        before, self._host_state = self._host_state, self._host_weights() if self._host_weights else None
        if before != self._host_state:  # the host is going to write to weights in this call
            self.let_go()
        if not (self._settled and self._tries and self.owner.keeps):
            return
        if not all(layer.fits for layer in self._layers.values()):
            self._tries -= 1
            self.let_go()
        elif not self._layers and self._left >= WORTH:
            self._layers = self._all_merged()
            self._looking = True
        for layer in self._layers.values():
            layer.put_in()

    def leave(self, *, ended: bool) -> None:
        """The call is over; not ``ended``, by an error."""
        if not self._within:
            return
        self._within = False
        self._calls += 1
        untouched, used, self._looking, self._used = self._take_out(), self._used, False, []
        if not untouched or (used and not bool(torch.stack(used).all())):
            why = "does not compute with the model's own weights" if untouched else "has changed weights within a call"
            log.debug("IP-Adapter: another extension %s: the LoRA stays beside them.", why)
            self.give_up()
        if self._left <= 1 and self._calls >= self._calls_before:  # what comes after the last step needs the room
            self.let_go()
        elif self._left > WORTH and self._tries and self.owner.keeps and not self._layers:
            stamps = [_stamp(module) for module in self.modules]
            self._settled, self._stamps = ended and stamps == self._stamps, stamps

    @property
    def is_there(self) -> bool:
        """Whether there are merged weights, in their places or waiting for a call."""
        return bool(self._layers)

    def give_up(self) -> None:
        """Leave the LoRA beside the layers for the rest of the job."""
        self._tries = 0
        self.let_go()

    def let_go(self) -> None:
        """Also in the middle of a call, the rest of which has the layers' own weights. Before anything is merged again,
        a whole call has to leave them alone."""
        try:
            self._take_out()
        finally:
            self._layers = {}
            self._stamps, self._settled = [], False

    def _take_out(self) -> bool:
        """Give all layers their own weights back; whether nobody has touched the others."""
        inside = [layer for layer in self._layers.values() if layer.is_in]
        for layer in inside:
            layer.put_back()
        untouched = [layer.settle() for layer in inside]
        return all(untouched)

    def _all_merged(self) -> dict[int, _Layer]:
        """By number; none where there is no room, or compiled code may have the layers' own weights in it."""
        own = {i: weight for i, module in enumerate(self.modules) if (weight := own_weight(module)) is not None}
        needed: dict[torch.device, int] = {}
        for weight in own.values():
            needed[weight.device] = needed.get(weight.device, 0) + weight.nbytes
        found: dict[int, _Layer] = {}
        try:
            if not has_compiled() and all(has_plenty(*one) for one in needed.items()):
                with torch.inference_mode(False), torch.no_grad():  # the merged ones tell who writes to them
                    merged = ((i, weight, self._merge(i, weight)) for i, weight in own.items())
                    found = {i: _Layer(self.modules[i], weight, one) for i, weight, one in merged if one is not None}
        except (
            RuntimeError,
            MemoryError,
        ) as error:  # no room, in whatever words; it saves time, and nothing hangs on it
            log.debug("IP-Adapter: the LoRA stays beside the weights: %s", error)
            found = {}
        if not found:
            self._tries = 0
        return found
