"""Image prompts in a FLUX transformer.

Redux' tokens come behind the text with which the model is called (``appended``); XLabs' and InstantX' adapters have
attention of their own beside the model's (``beside``). A prompt is one or the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import MismatchError
from ..injection import Handle, ModelInjection
from ..prompt import ImagePrompt
from ..regions import Size
from ..room import with_room
from ..rows import RowRule, Rows, Texts
from .appended import Bias, Part, parts
from .beside import BlockHooks, layers_of
from .kernel import NO_ROOM, BiasedAttention, Place
from .model import PATCH

KEPT = 4  # calls whose tokens stay on the device: cond and uncond rows apart, in two parts each


class FluxInjection(ModelInjection):
    """``rows`` of a call are those that the host announces with it; where it does not, the step's, if there are as
    many."""

    leaves_on_errors = True

    def __init__(self, model: nn.Module, prompts: Sequence[ImagePrompt]) -> None:
        """Raises MismatchError where the host's FLUX asks no name for its attention, so that tokens behind the text
        could not be weighted."""
        super().__init__(model, prompts)
        behind = [prompt for prompt in self.prompts if prompt.appended is not None]
        place = Place.of(model) if behind else None
        if behind and place is None:
            raise MismatchError("this host's FLUX leaves no way to its attention: use Forge or Forge Neo.")
        self.attention = None if place is None else BiasedAttention(place, self)
        counts = {len(prompt.kv.keys) for prompt in self.prompts if prompt.appended is None}
        self.layers: list[BlockHooks] = [
            BlockHooks(self, count, index, layer)
            for count in sorted(counts)
            for index, layer in enumerate(layers_of(model, count))
        ]
        self.size: Size | None = None  # of the picture as the model sees it in this call; None for a part of it
        self.text = 0  # places of the text in this call, with what stands behind it
        self._rows_of_step: Rows = ()
        self._kept: dict[tuple[Any, ...], tuple[Tensor, Bias]] = {}
        self._strengths: tuple[tuple[int, float], ...] = ()  # for which they are kept
        self._bias: Bias | None = None  # of the present call
        self._appended: list[ImagePrompt] = []  # those with tokens in the present call

    def _hooks(self) -> Iterator[Handle]:
        for hooks in self.layers:
            yield from hooks.register()

    def let_go(self) -> None:
        for hooks in self.layers:
            hooks.let_go()
        for _, bias in self._kept.values():
            bias.let_go()
        self._kept.clear()

    @property
    def rows_of_step(self) -> Rows:
        return self._rows_of_step

    def _announce(
        self,
        rows: Rows,
        step: int,
        steps: int,
        texts: Texts | None,
        latents: Callable[[], Tensor] | None,
        sampler: nn.Module | None,
    ) -> None:
        self._rows_of_step = rows

    def pause(self) -> None:
        super().pause()
        self._rows_of_step = ()
        self._end_call()

    def _enter(self, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.rows_of_call is not None:
            self.rows = self.rows_of_call(kwargs, len(x))
        else:
            self.rows = self._rows_of_step if len(self._rows_of_step) == len(x) else None
        if self.rows is None:
            self.lose()
            return None
        self._log(RowRule.ANNOUNCED, self.rows)
        self.size = None if self._input is None else _size(self._input)
        self.text = (kwargs["context"] if "context" in kwargs else args[2]).shape[1]
        behind = [prompt for i in self.active if self._has_tokens(prompt := self.prompts[i])]
        return self._with_tokens(behind, args, kwargs) if behind else None

    def _has_tokens(self, prompt: ImagePrompt) -> bool:
        """Whether the prompt has tokens for any row of the call, and may act in it."""
        appended = prompt.appended
        return appended is not None and any(map(appended.has, self.rows or ())) and self._placed(prompt)

    def _placed(self, prompt: ImagePrompt) -> bool:
        """Whether the prompt may act in this call: one with a region where the place is known."""
        if prompt.region is not None and self.size is None:
            self.misplaced = self.fired = True
            return False
        return True

    def _with_tokens(self, prompts: list[ImagePrompt], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The call's arguments with a longer text."""
        by_name = "context" in kwargs
        context: Tensor = kwargs["context"] if by_name else args[2]
        made = with_room(self, context.device, lambda: self._made(prompts, context), NO_ROOM)
        if made is None:  # nowhere in a region, and that is as it was asked for
            self._note(prompts)
            return None
        tokens, bias = made
        assert self.attention is not None, "there is one where any prompt has tokens"
        self._appended, self._bias = prompts, bias
        if bias.needed:
            self.attention.put(bias)
        longer = torch.cat([context, tokens], dim=1)
        self.text = longer.shape[1]
        if by_name:
            return args, {**kwargs, "context": longer}
        return (*args[:2], longer, *args[3:]), kwargs

    def _made(self, prompts: list[ImagePrompt], context: Tensor) -> tuple[Tensor, Bias] | None:
        """The tokens [B, n, D] of the call, on the context's device and in its dtype, and what they do to attention;
        None where no row has any."""
        assert self.rows is not None
        strengths = tuple((id(prompt), prompt.now) for prompt in prompts)
        if strengths != self._strengths:
            self._kept.clear()
            self._strengths = strengths
        key = (self.rows, self.size, tuple(context.shape), context.dtype, context.device)
        found = self._kept.get(key)
        if found is None:
            made: list[Part] = parts(prompts, self.rows, self.size)
            if not made:
                return None
            found = torch.cat([part.tokens for part in made], dim=1).to(context), Bias(made, context.shape[1])
            if self.keeps:
                while len(self._kept) >= KEPT:
                    self._kept.pop(next(iter(self._kept)))
                self._kept[key] = found
        return found

    def _leave(self) -> None:
        bias, prompts, attention = self._bias, self._appended, self.attention
        self._end_call()
        if bias is None or attention is None:
            return
        if bias.needed and not attention.calls:
            self.lose()  # the model has not asked for its attention where it stands
        else:
            self._note(prompts)

    def _note(self, prompts: list[ImagePrompt]) -> None:
        self.fired = True
        for prompt in prompts:
            prompt.fired = True

    def _end_call(self) -> None:
        self._bias, self._appended = None, []
        for hooks in self.layers:
            hooks.forget_query()
        if self.attention is not None:
            self.attention.back()


def _size(latent: Size) -> Size:
    height, width = latent
    return -(-height // PATCH), -(-width // PATCH)
