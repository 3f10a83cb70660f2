"""Image prompts in a FLUX transformer.

Redux' tokens come behind the text with which the model is called (``appended``); XLabs' and InstantX' adapters have
attention of their own beside the model's (``beside``). A prompt is one or the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ...errors import MismatchError
from ..injection import Handle, ModelInjection
from ..prompt import ImagePrompt
from ..regions import Size
from ..room import with_room
from ..rows import RowRule, Rows
from ..step import Step
from .appended import Bias, Part, parts, stacked
from .beside import BlockHooks, layers_of
from .kernel import NO_ROOM, BiasedAttention, Place
from .model import PATCH

T = TypeVar("T")
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
        self.steady = all(prompt.steady for prompt in behind)
        self.attention = None if place is None else BiasedAttention(place, self)
        counts = {prompt.kv.layers for prompt in self.prompts if prompt.appended is None}
        self.layers: list[BlockHooks] = [
            BlockHooks(self, count, index, layer)
            for count in sorted(counts)
            for index, layer in enumerate(layers_of(model, count))
        ]
        self.size: Size | None = None  # of the picture as the model sees it in this call; None for a part of it
        self.text = 0  # places of the text in this call, with what stands behind it
        self._rows_of_step: Rows = ()
        self._kept: dict[tuple[Any, ...], tuple[Tensor, Bias]] = {}
        self._tokens: dict[tuple[Any, ...], Tensor] = {}  # of one prompt, where its strength changes by step
        self._strengths: tuple[float, ...] = ()  # for which they are kept
        self._bias: Bias | None = None  # of the present call
        self._appended: list[ImagePrompt] = []  # those with tokens in the present call
        self._asked = 0  # how often the call had asked for attention with a bias when its present block began
        self._blocks = self._unweighted = 0  # of the call's blocks those that ran, and those that did so without a bias

    def _hooks(self) -> Iterator[Handle]:
        for hooks in self.layers:
            yield from hooks.register()
        if self.attention is not None:
            for block in (*self.model.double_blocks, *self.model.single_blocks):
                yield block.register_forward_pre_hook(self._before_block)
                yield block.register_forward_hook(self._after_block)

    def _before_block(self, _block: nn.Module, _args: Any) -> None:
        self._asked = 0 if self.attention is None else self.attention.calls

    def _after_block(self, _block: nn.Module, _args: Any, _output: Any) -> None:
        self._blocks += 1
        self._unweighted += self.attention is not None and self.attention.calls == self._asked

    def let_go(self) -> None:
        for hooks in self.layers:
            hooks.let_go()
        for _, bias in self._kept.values():
            bias.let_go()
        self._kept.clear()
        self._tokens.clear()

    def forget_queries(self) -> None:
        for hooks in self.layers:
            hooks.forget_query()

    @property
    def rows_of_step(self) -> Rows:
        return self._rows_of_step

    def blocks_of(self, prompt: ImagePrompt) -> list[int]:
        """None for tokens behind the text: what they do is part of the model's own attention."""
        return [hooks.index for hooks in self.layers if hooks.is_ours(prompt)]

    @property
    def sections(self) -> dict[int, str]:
        double = len(self.model.double_blocks)
        return {hooks.index: "double" if hooks.index < double else "single" for hooks in self.layers}

    def _announce(self, step: Step) -> None:
        self._rows_of_step = step.rows
        strengths = tuple(prompt.now for prompt in self.prompts if prompt.appended is not None)
        if strengths != self._strengths:
            self._kept.clear()
            self._strengths = strengths

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
        which = tuple(map(id, prompts))
        key = (which, self.rows, self.size, tuple(context.shape), context.dtype, context.device)
        found = self._kept.get(key)
        if found is None:
            made: list[Part] = parts(prompts, self.rows, self.size)
            if not made:
                return None
            tokens = [self._tokens_of(part, context) for part in made]
            found = tokens[0] if len(tokens) == 1 else torch.cat(tokens, dim=1), Bias(made, context.shape[1])
            if self.keeps:
                _keep(self._kept, key, found, KEPT)
        return found

    def _tokens_of(self, part: Part, context: Tensor) -> Tensor:
        """[B, T, D], on the context's device and in its dtype. Where strengths change from step to step, they are kept
        apart from these."""
        if self.steady or not self.keeps:
            return stacked(part).to(context)
        key = (id(part.prompt), part.rows, context.dtype, context.device)
        if key not in self._tokens:
            _keep(self._tokens, key, stacked(part).to(context), KEPT * len(self.prompts))
        return self._tokens[key]

    def _leave(self, ended: bool) -> None:
        bias, prompts = self._bias, self._appended
        blocks, unweighted = self._blocks, self._unweighted
        self._end_call()
        if bias is None or not ended or not blocks:  # an error; or blocks left out, as caches of steps do
            return
        if bias.needed and unweighted:
            self.lose("puts an attention of its own into the model, so that a reference's strength has no place")
        else:
            self._note(prompts)
            for shares in (prompt.shares for prompt in prompts):
                if shares is not None:
                    shares.behind_text = True

    def _note(self, prompts: list[ImagePrompt]) -> None:
        self.fired = True
        for prompt in prompts:
            prompt.fired = True

    def _end_call(self) -> None:
        self._bias, self._appended = None, []
        self._blocks = self._unweighted = 0
        self.forget_queries()
        if self.attention is not None:
            self.attention.back()


def _keep(kept: dict[tuple[Any, ...], T], key: tuple[Any, ...], value: T, most: int) -> None:
    """``value`` among what is ``kept``, in the place of the oldest where there is as much as it may be."""
    while len(kept) >= most:
        kept.pop(next(iter(kept)))
    kept[key] = value


def _size(latent: Size) -> Size:
    height, width = latent
    return -(-height // PATCH), -(-width // PATCH)
