"""Attention to a reference's keys and values beside the model's own, in every block.

Both of FLUX's published adapters take the query that the block has normalised, before it is turned by its position.
XLabs' (19 layers) adds ``weight * softmax(q K_ip^T / sqrt(d)) V_ip`` to the picture after each double block; InstantX'
(57 layers) adds it to what the block's attention gives, before the output projection, in double and single blocks, in
these to the text's places as well.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...errors import MismatchError
from ..attention import image_attention
from ..injection import Handle
from ..kept import KeptLayer
from ..prompt import ImagePrompt
from ..rows import Rows

if TYPE_CHECKING:
    from .inject import FluxInjection


class Layer(ABC):
    """Where one layer of an adapter stands: whose norm gives the query, and where its attention is added. ``with_text``
    says that the text's places come first, and the picture's behind."""

    with_text = False

    def __init__(self, block: nn.Module, norm: nn.Module) -> None:
        self.block, self.norm = block, norm

    @abstractmethod
    def register(self, hooks: BlockHooks) -> Handle:
        """The hook that adds."""


class AfterBlock(Layer):
    """XLabs: to the picture that a double block gives back, of (picture, text)."""

    def register(self, hooks: BlockHooks) -> Handle:
        def add(_block: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
            picture = next((i for i, one in enumerate(output) if hooks.is_for(one)), None)
            if picture is None:
                return None
            return (*output[:picture], hooks.added_to(output[picture]), *output[picture + 1 :])

        return self.block.register_forward_hook(add)


class BeforeProjection(Layer):
    """InstantX: to the first channels of what a linear layer is given; in single blocks the others are the MLP's."""

    def __init__(self, block: nn.Module, norm: nn.Module, projection: nn.Module, with_text: bool) -> None:
        super().__init__(block, norm)
        self.projection, self.with_text = projection, with_text

    def register(self, hooks: BlockHooks) -> Handle:
        def add(_linear: nn.Module, args: tuple[Any, ...]) -> Any:
            width = hooks.width
            if width is None or not hooks.is_for(attended := args[0][..., :width]):
                return None
            return (torch.cat([hooks.added_to(attended), args[0][..., width:]], dim=-1), *args[1:])

        return self.projection.register_forward_pre_hook(add)


def layers_of(model: nn.Module, count: int) -> Sequence[Layer]:
    """The layers of an adapter with so many. Raises MismatchError where the model has not as many blocks."""
    double, single = model.double_blocks, model.single_blocks
    if count == len(double):
        return [AfterBlock(block, block.img_attn.norm) for block in double]
    if count == len(double) + len(single):
        return [
            *(BeforeProjection(block, block.img_attn.norm, block.img_attn.proj, False) for block in double),
            *(BeforeProjection(block, block.norm, block.linear2, True) for block in single),
        ]
    raise MismatchError(
        f"the adapter has {count} layers, the loaded FLUX {len(double)} double and {len(single)} single blocks: "
        "use the adapter with the model that it was made for."
    )


class BlockHooks:
    """One layer of all prompts whose adapters have ``count`` layers. It keeps the query, and keys and values."""

    def __init__(self, injection: FluxInjection, count: int, index: int, layer: Layer) -> None:
        self.injection, self.count, self.index, self.layer = injection, count, index, layer
        self.kept = KeptLayer(injection, index, index)
        self.query: Tensor | None = None  # [B, heads, L, d]

    def register(self) -> Iterator[Handle]:
        self.kept.attach()
        yield self.layer.norm.register_forward_hook(self._keep_query)
        yield self.layer.register(self)

    def _active(self) -> list[int]:
        """The prompts that add something here in the present step."""
        return [
            i
            for i in self.injection.active
            if self.is_ours(prompt := self.injection.prompts[i]) and prompt.layer_weight(self.index) != 0.0
        ]

    def is_ours(self, prompt: ImagePrompt) -> bool:
        """Whether this is one of the prompt's layers."""
        return prompt.appended is None and prompt.kv.layers == self.count

    def _keep_query(self, _norm: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        rows = self.injection.rows
        self.query = output[0] if rows is not None and len(rows) == len(output[0]) and self._active() else None

    @property
    def width(self) -> int | None:
        return None if self.query is None else self.query.shape[1] * self.query.shape[3]

    def is_for(self, tensor: Any) -> bool:
        """Whether the query is that of ``tensor`` [B, L, C]."""
        if self.query is None or not isinstance(tensor, Tensor):
            return False
        return tuple(tensor.shape) == (len(self.query), self.query.shape[2], self.width)

    def added_to(self, tensor: Tensor) -> Tensor:
        """``tensor`` [B, L, C] with what the prompts add."""
        (query, self.query), rows = (self.query, None), self.injection.rows
        assert query is not None and rows is not None, "is_for has been asked"
        heads = query.shape[1]
        query, own = query.transpose(1, 2).flatten(2), tensor
        for i in self._active():
            prompt = self.injection.prompts[i]
            added = self.kept.added(i, query, rows, lambda q, k, v: image_attention(q, k, v, heads))
            placed = self._in_region(prompt, added, rows)
            self.injection.fired = True
            if placed is not None:
                tensor = tensor + placed.to(tensor.dtype)
                prompt.fired = True
                if prompt.shares is not None:
                    prompt.shares.add(self.index, self.index, placed, own, rows)
        return tensor

    def _in_region(self, prompt: ImagePrompt, added: Tensor, rows: Rows) -> Tensor | None:
        """What is added [B, L, C], where the prompt acts; places that are none of the picture's (the text's, those of a
        picture that is edited) have the mask's mean. None where nothing tells the place."""
        if prompt.region is None:
            return added
        size, first = self.injection.size, self.injection.text if self.layer.with_text else 0
        if size is None or first + size[0] * size[1] > added.shape[1]:
            self.injection.misplaced = True
            return None
        mask = prompt.region.at(size, added, [row.picture for row in rows])
        everywhere = mask.mean(1, keepdim=True).repeat(1, added.shape[1], 1)
        everywhere[:, first : first + mask.shape[1]] = mask
        return added * everywhere

    def forget_query(self) -> None:
        self.query = None

    def let_go(self) -> None:
        self.kept.let_go()
