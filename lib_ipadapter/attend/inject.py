"""Decoupled cross-attention as two hooks for each attn2, attached and removed as one, with the hooks of keypoints.

``softmax(q K_ip^T / sqrt(d)) V_ip`` is added to the text attention's output before the output projection (IP-Adapter,
arXiv 2308.06721, equation 5). A forward hook on ``to_q`` keeps the query that the host has just computed, a forward
pre-hook on ``to_out[0]`` adds the image attention to its input. The host's own attention stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from .attention import image_attention
from .injection import Handle, ModelInjection
from .kept import KeptLayer
from .layers import CrossAttention
from .lora import LoraHooks
from .outcome import Outcome
from .prompt import ImagePrompt
from .regions import Size, is_whole
from .residuals import Residuals
from .rows import RowCursor, RowRule, Rows, first_row
from .sides import Held
from .step import Step


class _LayerHooks:
    """The two hooks of one attn2. The methods are what the modules call; they hold no state but the query."""

    def __init__(self, injection: Injection, index: int, layer: CrossAttention) -> None:
        self.injection, self.index, self.layer = injection, index, layer
        self.query: Tensor | None = None
        self.first: int | None = 0  # which of the call's rows the query's first one is, None if nothing tells
        self.kept = KeptLayer(injection, index, layer.block)
        self.attention = self._attention  # one object for all calls: torch's compiler compiles anew for another

    def keep_query(self, _module: nn.Module, args: tuple[Any, ...], query: Tensor) -> None:
        rows = self.injection.rows
        if rows is not None and self.injection.active:
            self.query = query
            self.first = first_row(args[0], len(rows)) if len(query) < len(rows) else 0

    def add_image_attention(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        query, self.query = self.query, None
        of_call = self.injection.rows
        hidden, *rest = args
        if query is None or of_call is None or query.shape[:-1] != hidden.shape[:-1]:
            return None  # not the call that this query was computed for
        rows = self._rows(of_call, len(query))
        if rows is None:
            self.injection.lose()
            return None
        text = hidden
        whole = len(rows) <= len(of_call)
        for i in self.injection.active:
            prompt = self.injection.prompts[i]
            if prompt.layer_weight(self.layer.block) == 0.0:
                continue
            added = self._added(i, query, rows).to(hidden.dtype)
            if prompt.region is not None:
                size = self.injection.size_of(self.layer.transformer) if whole else None
                if size is None or size[0] * size[1] != added.shape[1]:
                    self.injection.misplaced = True
                    continue
                added = added * prompt.region.at(size, added, [row.picture for row in rows])
            prompt.fired = True
            if prompt.influence is not None:
                prompt.influence.add(added, text, rows if whole else ())
            if prompt.shares is not None:
                prompt.shares.add(self.index, self.layer.block, added, text, rows)
            hidden = added.add_(hidden)  # the host's own tensor stays as it is
        self.injection.fired = True
        return (hidden, *rest)

    def _rows(self, of_call: Rows, n: int) -> Rows | None:
        """The rows of an attention on ``n`` of them: the call's, each of them in as many parts next to each other, or
        some of them. None for an attention that takes the rows apart by rules of its own."""
        if n == len(of_call):
            return of_call
        if n < len(of_call):
            return None if self.first is None else of_call[self.first : self.first + n]
        tiles, odd = divmod(n, len(of_call))
        return None if odd else tuple(row for row in of_call for _ in range(tiles))

    def _added(self, i: int, query: Tensor, rows: Rows) -> Tensor:
        return self.kept.added(i, query, rows, self.attention)

    def _attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return image_attention(query, key, value, self.layer.heads)

    @property
    def gathered(self) -> dict[int, Held]:
        return self.kept.gathered

    def let_go(self) -> None:
        self.kept.let_go()


class Injection(ModelInjection):
    """Image prompts in a UNet."""

    def __init__(self, unet: nn.Module, layers: Sequence[CrossAttention], prompts: Sequence[ImagePrompt]) -> None:
        super().__init__(unet, prompts)
        self.masked = any(prompt.region is not None for prompt in self.prompts)
        self.layers = [_LayerHooks(self, i, layer) for i, layer in enumerate(layers)]
        loras = [prompt.lora for prompt in self.prompts if prompt.lora is not None]
        self.lora = LoraHooks(self, layers, loras) if loras else None
        self.leaves_on_errors = self.lora is not None
        self.residuals = Residuals(unet, self.prompts)
        self.cursor = RowCursor()
        self._sizes: dict[nn.Module, Size] = {}  # of what each transformer works on in this call
        self._sampler: nn.Module | None = None
        self._sampler_handles: list[Handle] = []

    def _hooks(self) -> Iterator[Handle]:
        if self.lora is not None:  # first, so that the image attention sees the query with the LoRA
            yield from self.lora.attach()
        for hooks in self.layers:
            hooks.kept.attach()
            yield hooks.layer.to_q.register_forward_hook(hooks.keep_query)
            yield hooks.layer.out_projection.register_forward_pre_hook(hooks.add_image_attention)
        yield from self.residuals.hooks()
        if self.masked:
            for transformer in {id(h.layer.transformer): h.layer.transformer for h in self.layers}.values():
                yield transformer.register_forward_pre_hook(self._note_size)

    def detach(self) -> Outcome:
        self._watch(None)
        super().detach()
        self._sizes.clear()
        self.residuals.leave_device()
        return self.outcome

    def let_go(self) -> None:
        for hooks in self.layers:
            hooks.let_go()
        if self.lora is not None:
            self.lora.let_go()

    def forget_queries(self) -> None:
        for hooks in self.layers:
            hooks.query = None

    @property
    def rows_of_step(self) -> Rows:
        return self.cursor.rows

    @property
    def blocks_of_layers(self) -> list[int]:
        return [hooks.layer.block for hooks in self.layers]

    @property
    def sections(self) -> dict[int, str]:
        return {hooks.layer.block: hooks.layer.section for hooks in self.layers}

    def _announce(self, step: Step) -> None:
        if self.lora is not None:
            loras = [lora for i in self.active if (lora := self.prompts[i].lora) is not None]
            self.lora.begin(loras, step.step, step.steps, step.host_weights)
        self.residuals.begin(step.step, step.steps)
        self.cursor.begin(step.rows if self.acts else (), step.texts, step.latents)
        self._watch(step.sampler)

    def _watch(self, sampler: nn.Module | None) -> None:
        """Follow what ``sampler`` is asked for; another one is left alone from now on."""
        if sampler is self._sampler:
            return
        for handle in self._sampler_handles:
            handle.remove()
        self._sampler, self._sampler_handles = sampler, []
        if sampler is not None:
            self._sampler_handles = [
                sampler.register_forward_pre_hook(lambda _module, args: self.cursor.open(len(args[0]), args[0])),
                sampler.register_forward_hook(lambda *_: self.cursor.close()),
            ]

    @property
    def acts(self) -> bool:
        """Whether anything is to be added in the present step."""
        return bool(self.active or self.residuals.active)

    @property
    def outcome(self) -> Outcome:
        """What the run has turned out to be so far."""
        residuals = self.residuals
        if residuals.announced and not residuals.fired and not residuals.misplaced:
            return Outcome.LOST
        found = super().outcome
        return Outcome.MISPLACED if residuals.misplaced and found is not Outcome.LOST else found

    def pause(self) -> None:
        super().pause()
        if self.lora is not None:
            self.lora.leave(ended=False)
        self.residuals.pause()
        self.cursor.begin(())

    def _enter(self, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.rows_of_call is not None:
            self.rows = self.rows_of_call(kwargs, len(x))
            rule: RowRule | None = RowRule.ANNOUNCED
        else:
            context = kwargs.get("context", args[2] if len(args) > 2 else None)
            self.rows = self.cursor.take(len(x), context, x, marked="forward" in vars(self.model))
            rule = self.cursor.rule
        served = self.rows is None or self.residuals.enter(self.rows, args, kwargs, whole=self._input is not None)
        if self.lora is not None:
            self.lora.enter()
        if self.rows is None or rule is None or not served:
            self.lose()
        else:
            self._log(rule, self.rows)

    def _note_size(self, transformer: nn.Module, args: tuple[Any, ...]) -> None:
        if args and args[0].ndim == 4:
            self._sizes[transformer] = tuple(args[0].shape[-2:])

    def size_of(self, transformer: nn.Module) -> Size | None:
        """Height and width of what ``transformer`` works on; None where that is no whole picture."""
        size = self._sizes.get(transformer)
        return size if size and self._input and is_whole(size, self._input) else None

    def _leave(self, ended: bool) -> None:
        if self.lora is not None:
            self.lora.leave(ended=ended)
        if self.residuals.leave() and ended:
            self.lose()
