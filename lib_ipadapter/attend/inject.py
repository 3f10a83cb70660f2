"""Decoupled cross-attention as two hooks for each attn2, attached and removed as one, with the hooks of keypoints.

``softmax(q K_ip^T / sqrt(d)) V_ip`` is added to the text attention's output before the output projection (IP-Adapter,
arXiv 2308.06721, equation 5). A forward hook on ``to_q`` keeps the query that the host has just computed, a forward
pre-hook on ``to_out[0]`` adds the image attention to its input. The host's own attention stays as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .attention import image_attention
from .influence import Influence
from .layers import CrossAttention
from .lora import LoraHooks
from .outcome import Outcome
from .prompt import ImagePrompt
from .regions import Size, is_whole
from .residuals import Residuals
from .room import empty_device_cache, with_room
from .rows import RowCursor, RowRule, Rows, Texts, first_row
from .sides import Held, attend_by_side
from .step import RowsOfCall

log = logging.getLogger("ip-adapter")


class _LayerHooks:
    """The two hooks of one attn2. The methods are what the modules call; they hold no state but the query."""

    def __init__(self, injection: Injection, index: int, layer: CrossAttention) -> None:
        self.injection, self.index, self.layer = injection, index, layer
        self.query: Tensor | None = None
        self.first: int | None = 0  # which of the call's rows the query's first one is, None if nothing tells
        self.gathered: dict[int, Held] = {}  # by prompt

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
            hidden = hidden + added
            prompt.fired = True
            if prompt.influence is not None:
                prompt.influence.add(added, text, rows if whole else ())
        self.injection.fired = True
        return (hidden, *rest)

    def _rows(self, of_call: Rows, n: int) -> Rows | None:
        """The rows of an attention on ``n`` of them: the call's, each of them in as many parts next to each other, or
        some of them. None for an attention that takes the rows apart by rules of its own."""
        if n < len(of_call):
            return None if self.first is None else of_call[self.first : self.first + n]
        tiles, odd = divmod(n, len(of_call))
        return None if odd else tuple(row for row in of_call for _ in range(tiles))

    def _added(self, i: int, query: Tensor, rows: Rows) -> Tensor:
        """What prompt ``i`` adds to these rows. Where the device has no room, nothing more is kept from call to call.
        Raises DeviceMemoryError where even that is too much."""
        sentence = (
            "IP-Adapter: the device has no room for the references' keys and values: use fewer references, a smaller "
            "batch or a smaller picture."
        )
        return with_room(self.injection, query.device, lambda: self._attended(i, query, rows), sentence)

    def _attended(self, i: int, query: Tensor, rows: Rows) -> Tensor:
        prompt, block = self.injection.prompts[i], self.layer.block
        sides = prompt.sides(block, rows)
        held = self.gathered.get(i)
        if held is None or not held.serves(sides, query):
            needed = {side for side in sides if side is not None}
            if self.injection.keeps:
                needed |= {side for side in prompt.sides(block, self.injection.cursor.rows) if side is not None}
            held = prompt.gather(self.index, block, sorted(needed), query)
            if self.injection.keeps:
                self.gathered[i] = held
        if not prompt.steady:
            held = Held(held.sides, *prompt.weighted(held.key, held.value, block))
        return attend_by_side(query, sides, held, lambda q, k, v: image_attention(q, k, v, self.layer.heads))

    def let_go(self) -> None:
        self.query = None
        self.gathered.clear()


class Injection:
    """Image prompts in a UNet, from ``attach`` to ``detach``; also a context manager.

    Attached, it does nothing until ``begin`` announces the rows of a denoising step, and nothing in calls whose rows
    it cannot tell. Detaching removes every hook, so the UNet is what it was before.
    """

    def __init__(self, unet: nn.Module, layers: Sequence[CrossAttention], prompts: Sequence[ImagePrompt]) -> None:
        self.unet = unet
        self.prompts = list(prompts)
        measured = ((i, prompt.influence) for i, prompt in enumerate(self.prompts))
        self.measured = {i: influence for i, influence in measured if influence is not None}
        self.masked = any(prompt.region is not None for prompt in self.prompts)
        self.layers = [_LayerHooks(self, i, layer) for i, layer in enumerate(layers)]
        loras = [prompt.lora for prompt in self.prompts if prompt.lora is not None]
        self.lora = LoraHooks(self, layers, loras) if loras else None
        self.residuals = Residuals(unet, self.prompts)
        self.cursor = RowCursor()
        self.rows_of_call: RowsOfCall | None = None
        self.rows: Rows | None = None
        self.active: tuple[int, ...] = ()
        self.announced = False  # whether any step since attach was one in which a prompt acts
        self.fired = False  # whether any layer has added anything since attach
        self.lost = 0  # calls of the UNet or a layer whose rows nothing told
        self.keeps = True  # keys and values stay on the device from call to call
        self.misplaced = False  # whether a prompt with a region was left out where nothing told the place
        self._sizes: dict[nn.Module, Size] = {}  # of what each transformer works on in this call
        self._latent: Size | None = None  # of the present step
        self._input: Size | None = None  # of the present call; None for a part of the latent
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._sampler: nn.Module | None = None
        self._sampler_handles: list[torch.utils.hooks.RemovableHandle] = []
        self._logged: set[tuple[RowRule, Rows]] = set()

    def attach(self) -> Injection:
        """Register the hooks (once, however often it is called)."""
        if not self._handles:
            self._handles += [
                self.unet.register_forward_pre_hook(self._before_call, with_kwargs=True),
                self.unet.register_forward_hook(self._after_call),
            ]
            if self.lora is not None:  # first, so that the image attention sees the query with the LoRA
                self._handles += self.lora.attach()
            for hooks in self.layers:
                self._handles += [
                    hooks.layer.to_q.register_forward_hook(hooks.keep_query),
                    hooks.layer.out_projection.register_forward_pre_hook(hooks.add_image_attention),
                ]
            self._handles += self.residuals.hooks()
            if self.masked:
                for transformer in {id(h.layer.transformer): h.layer.transformer for h in self.layers}.values():
                    self._handles.append(transformer.register_forward_pre_hook(self._note_size))
        return self

    def detach(self) -> Outcome:
        """Remove the hooks, let go of everything on the device, and say what the run turned out to be."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._watch(None)
        self.pause()
        for hooks in self.layers:
            hooks.let_go()
        if self.lora is not None:
            self.lora.let_go()
        self._sizes.clear()
        self.residuals.leave_device()
        for prompt in self.prompts:
            prompt.leave_device()
        return self.outcome

    def __enter__(self) -> Injection:
        return self.attach()

    def __exit__(self, *_exc: object) -> None:
        self.detach()

    def begin(
        self,
        rows: Rows,
        step: int,
        steps: int,
        texts: Texts | None = None,
        size: Size | None = None,
        latents: Callable[[], Tensor] | None = None,
        sampler: nn.Module | None = None,
        rows_of_call: RowsOfCall | None = None,
    ) -> None:
        """Announce a denoising step: the fields of ``Step``."""
        self.active = tuple(i for i, prompt in enumerate(self.prompts) if prompt.begin(step, steps))
        self.announced |= bool(self.active)
        if self.lora is not None:
            self.lora.begin(lora for i in self.active if (lora := self.prompts[i].lora) is not None)
        self.residuals.begin(step, steps)
        self._latent = size
        for i, influence in self.measured.items():
            self._rest(i, influence, rows, size)
        self.cursor.begin(rows if self.acts else (), texts, latents)
        self.rows_of_call = rows_of_call
        self._watch(sampler)
        self.rows = None

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

    def _rest(self, i: int, influence: Influence, rows: Rows, size: Size | None) -> None:
        """Tell what measures prompt ``i`` of a step, and how many of its layers will say nothing."""
        prompt, layers = self.prompts[i], [hooks.layer for hooks in self.layers]
        if i in self.active:
            layers = [layer for layer in layers if prompt.layer_weight(layer.block) == 0]
        influence.begin(rows, size, prompt.picture_offset, len(layers))

    @property
    def acts(self) -> bool:
        """Whether anything is to be added in the present step."""
        return bool(self.active or self.residuals.active)

    @property
    def outcome(self) -> Outcome:
        """What the run has turned out to be so far."""
        silent = self.residuals.announced and not self.residuals.fired and not self.residuals.misplaced
        if silent or (self.announced and not self.fired):
            return Outcome.LOST
        if self.misplaced or self.residuals.misplaced:
            return Outcome.MISPLACED
        return Outcome.ACTED if all(prompt.acted for prompt in self.prompts) else Outcome.IDLE

    @property
    def own_call(self) -> bool:
        """Whether the UNet's present call is one of the job's own, in which a prompt acts, with rows that are known."""
        return self.rows is not None

    def lose(self) -> None:
        """Note a call that cannot be served; it stays as it would be without us."""
        self.lost += 1
        if self.lost == 1:
            log.warning("IP-Adapter: another extension calls the model in a way that hides which rows are which.")

    def keep_nothing(self, device: torch.device) -> None:
        """``device`` is full: let go of what is kept there, and keep nothing more."""
        if self.keeps:
            log.warning("IP-Adapter: the device has no room to keep keys and values, so each step is slower.")
        self.keeps = False
        for hooks in self.layers:
            hooks.gathered.clear()
        if self.lora is not None:
            self.lora.let_go()
        empty_device_cache(device)

    def pause(self) -> None:
        """Do nothing until the next ``begin``: another job has the UNet."""
        self.active, self.rows = (), None
        self.residuals.pause()
        self.cursor.begin(())

    def _before_call(self, unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.rows = None
        if not self.acts:
            return
        x = args[0] if args else kwargs["x"]
        size = tuple(x.shape[-2:])
        self._input = size if self._latent in (None, size) else None
        for influence in self.measured.values():
            influence.enter(size)
        if self.rows_of_call is not None:
            self.rows = self.rows_of_call(kwargs, len(x))
            rule: RowRule | None = RowRule.ANNOUNCED
        else:
            context = kwargs.get("context", args[2] if len(args) > 2 else None)
            self.rows = self.cursor.take(len(x), context, x, marked="forward" in vars(unet))
            rule = self.cursor.rule
        served = self.rows is None or self.residuals.enter(self.rows, args, kwargs, whole=self._input is not None)
        if self.rows is None or rule is None or not served:
            self.lose()
        elif log.isEnabledFor(logging.DEBUG):
            self._log(rule, self.rows)

    def _log(self, rule: RowRule, rows: Rows) -> None:
        """Say which rule told the rows of a call, once for each pattern."""
        if (rule, rows) not in self._logged:
            self._logged.add((rule, rows))
            sides = ", ".join(f"{'cond' if row.cond else 'uncond'} {row.picture}" for row in rows)
            log.debug("IP-Adapter: a call's rows are %s: %s", rule.value, sides)

    def _note_size(self, transformer: nn.Module, args: tuple[Any, ...]) -> None:
        if args and args[0].ndim == 4:
            self._sizes[transformer] = tuple(args[0].shape[-2:])

    def size_of(self, transformer: nn.Module) -> Size | None:
        """Height and width of what ``transformer`` works on; None where that is no whole picture."""
        size = self._sizes.get(transformer)
        return size if size and self._input and is_whole(size, self._input) else None

    def _after_call(self, _unet: nn.Module, _args: tuple[Any, ...], _output: Any) -> None:
        self.rows = None
        if self.residuals.leave():
            self.lose()


def injections(unet: nn.Module) -> list[Injection]:
    """All injections whose hooks are on ``unet``, found by their hooks: no list of them is kept anywhere."""
    owners = (getattr(hook, "__self__", None) for hook in unet._forward_pre_hooks.values())
    return [owner for owner in owners if isinstance(owner, Injection)]


def detach_all(unet: nn.Module) -> None:
    """Remove every injection from ``unet``, whoever left it there."""
    for injection in injections(unet):
        injection.detach()
