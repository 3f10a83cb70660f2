"""Attention with a bias in a host whose FLUX has no place for one.

Its blocks call attention by a name of the module that they were written in. For the length of one call of the model
that has rows with a bias, another function stands there; outside of it the name is the host's own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..attention import ATTENTION
from ..room import Keeper, with_room
from .appended import Bias

Attend = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], Tensor]
NAMES = ("attention_function", "optimized_attention")  # Forge's and its descendants', that of ComfyUI's kin
CALLER = "attention"  # the function that puts positions into queries and keys, and may stand in a module of its own
NO_ROOM = (
    "IP-Adapter: the device has no room for a strength in the model's attention: set the weight to 1 and leave out the "
    "region mask, or use a smaller batch or a smaller picture."
)


class Place(NamedTuple):
    """A name in a module's namespace."""

    namespace: dict[str, Any]
    name: str

    @classmethod
    def of(cls, model: nn.Module) -> Place | None:
        """Where ``model``'s blocks find their attention; None where they do not ask a name."""
        blocks = [*model.double_blocks, *model.single_blocks]
        for kind in dict.fromkeys(type(one) for one in [model, *blocks]):
            space = vars(sys.modules.get(kind.__module__, object))
            for namespace in (space, getattr(space.get(CALLER), "__globals__", {})):
                for name in NAMES:
                    if callable(namespace.get(name)):
                        return cls(namespace, name)
        return None


class BiasedAttention:
    """The function that stands there. ``calls`` counts those in which it has applied the bias."""

    def __init__(self, place: Place, keeper: Keeper) -> None:
        self.place, self.keeper, self.calls = place, keeper, 0
        self._bias: Bias | None = None
        self._ours = self._attend
        self._hosts: Any = None
        self._behind = False  # whether somebody has put theirs before ours, and left it there

    def put(self, bias: Bias) -> None:
        """From now on, with this bias."""
        self._bias, self.calls = bias, 0
        found = self.place.namespace[self.place.name]
        if found is self._ours or (self._behind and found is not self._hosts):
            return
        self._hosts, self._behind = found, False
        self.place.namespace[self.place.name] = self._ours

    def back(self) -> None:
        """The host's own again. What others have put there meanwhile stays, and ours passes on to what it found."""
        self._bias = None
        found = self.place.namespace.get(self.place.name)
        if found is self._ours:
            self.place.namespace[self.place.name] = self._hosts
        elif self._hosts is not None and found is not self._hosts:
            self._behind = True

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        """As the host's own: ``q``, ``k``, ``v`` [B, L, heads * d], or [B, heads, L, d] with ``skip_reshape``, to
        [B, L, heads * d], or [B, heads, L, d] with ``skip_output_reshape``."""
        form = _Form(heads, bool(kwargs.get("skip_reshape")), bool(kwargs.get("skip_output_reshape")))

        def hosts(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
            given = (mask, *args) if args or mask is not None else ()
            answer: Tensor = self._hosts(q, k, v, heads, *given, **kwargs)
            return answer

        bias = self._bias
        if bias is None or q.shape != k.shape or not bias.fits(len(q), q.shape[form.along]):
            return hosts(q, k, v, mask)
        self.calls += 1

        def without(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
            """Attention as if the tokens were not there: bit for bit that of the plain model."""
            first, after = bias.first, bias.after
            q, k, v = (_cut(x, form.along, first, after) for x in (q, k, v))
            answer = hosts(q, k, v, None if mask is None else _cut(_cut(mask, -1, first, after), -2, first, after))
            shape = list(answer.shape)
            shape[form.out_along] = after - first
            text, rest = answer.tensor_split((first,), form.out_along)
            return torch.cat([text, answer.new_zeros(shape), rest], form.out_along)

        def biased(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
            return with_room(self.keeper, q.device, lambda: form.attention(q, k, v, bias, mask), NO_ROOM)

        return _by_rows(q, k, v, mask, ((bias.without, without), (bias.free, hosts), (bias.biased, biased)))


class _Form(NamedTuple):
    """How a host hands over queries, keys and values, and wants the answer."""

    heads: int
    split: bool  # by heads
    split_answer: bool

    @property
    def along(self) -> int:
        """The dimension of the sequence."""
        return 2 if self.split else 1

    @property
    def out_along(self) -> int:
        return 2 if self.split_answer else 1

    def attention(self, q: Tensor, k: Tensor, v: Tensor, bias: Bias, mask: Tensor | None) -> Tensor:
        if not self.split:
            q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        added = bias.mask(q.shape[2], q)
        if mask is not None:
            if mask.dtype == torch.bool:
                mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -torch.inf)
            added = added + mask.to(q)
        attended: Tensor = ATTENTION(q, k, v, added)
        return attended if self.split_answer else attended.transpose(1, 2).flatten(2)


def _by_rows(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, kinds: Sequence[tuple[list[int], Attend]]) -> Tensor:
    """Each kind's attention of its rows."""
    out: Tensor | None = None
    for rows, attend in kinds:
        if len(rows) == len(q):
            return attend(q, k, v, mask)
        if rows:
            at = slice(rows[0], rows[-1] + 1) if rows[-1] - rows[0] + 1 == len(rows) else torch.tensor(rows)
            of_rows = mask[at] if mask is not None and mask.ndim == 4 and len(mask) == len(q) else mask
            part = attend(q[at], k[at], v[at], of_rows)
            if out is None:
                out = part.new_empty(len(q), *part.shape[1:])
            out[at] = part
    assert out is not None, "every row is of one kind"
    return out


def _cut(tensor: Tensor, along: int, first: int, after: int) -> Tensor:
    """``tensor`` without the places ``first`` to ``after``; as it is where it has but one for all."""
    if tensor.shape[along] == 1:
        return tensor
    before, _, behind = tensor.tensor_split((first, after), along)
    return torch.cat([before, behind], along)
