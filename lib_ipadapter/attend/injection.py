"""What image prompts in a model of any kind have in common: hooks that are attached and removed as one, the steps that
they are told, and what the run turned out to be."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .influence import Influence
from .outcome import Outcome
from .prompt import ImagePrompt
from .regions import Size
from .room import empty_device_cache
from .rows import RowRule, Rows, Texts
from .step import RowsOfCall, Step

log = logging.getLogger("ip-adapter")
Handle = torch.utils.hooks.RemovableHandle
Self = TypeVar("Self", bound="ModelInjection")


class ModelInjection(ABC):
    """Image prompts in a model, from ``attach`` to ``detach``; also a context manager.

    Attached, it does nothing until ``begin`` announces the rows of a denoising step, and nothing in calls whose rows
    it cannot tell. Detaching removes every hook, so the model is what it was before.
    """

    leaves_on_errors = False  # whether a call that ends in an error is left, too

    def __init__(self, model: nn.Module, prompts: Sequence[ImagePrompt]) -> None:
        self.model = model
        self.prompts = list(prompts)
        measured = ((i, prompt.influence) for i, prompt in enumerate(self.prompts))
        self.measured = {i: influence for i, influence in measured if influence is not None}
        self.shares = [(i, prompt.shares) for i, prompt in enumerate(self.prompts) if prompt.shares is not None]
        self.rows_of_call: RowsOfCall | None = None
        self.rows: Rows | None = None
        self.active: tuple[int, ...] = ()
        self.announced = False  # whether any step since attach was one in which a prompt acts
        self.fired = False  # whether any layer has added anything since attach
        self.lost = 0  # calls of the model or a layer whose rows nothing told
        self.keeps = True  # keys and values stay on the device from call to call
        self.misplaced = False  # whether a prompt with a region was left out where nothing told the place
        self._latent: Size | None = None  # of the present step
        self._input: Size | None = None  # of the present call; None for a part of the latent
        self._handles: list[Handle] = []
        self._logged: set[tuple[RowRule, Rows]] = set()

    # What kinds of models differ in

    @abstractmethod
    def _hooks(self) -> Iterable[Handle]:
        """Register the hooks inside the model."""

    @abstractmethod
    def _announce(self, step: Step) -> None:
        """A step of which ``active`` is known."""

    @abstractmethod
    def _enter(self, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call of the model with the latents ``x`` begins in a step in which something acts. What it returns is what
        a forward pre-hook with keyword arguments does."""

    @abstractmethod
    def _leave(self, ended: bool) -> None:
        """The call is over; not ``ended``, by an error."""

    @abstractmethod
    def let_go(self) -> None:
        """Let go of what is kept on the device from call to call. A query that waits for its layer is none of that."""

    @abstractmethod
    def forget_queries(self) -> None:
        """Nothing comes any more of the queries that wait for their layers."""

    @property
    @abstractmethod
    def rows_of_step(self) -> Rows:
        """The rows of the present step."""

    # The hooks

    def attach(self: Self) -> Self:
        """Register the hooks (once, however often it is called)."""
        if not self._handles:
            for i, shares in self.shares:
                shares.attach(self.blocks_of(self.prompts[i]))
            self._handles += [
                self.model.register_forward_pre_hook(self._before_call, with_kwargs=True),
                self.model.register_forward_hook(self._after_call, always_call=self.leaves_on_errors),
            ]
            self._handles += self._hooks()
        return self

    def detach(self) -> Outcome:
        """Remove the hooks, let go of everything on the device, and say what the run turned out to be."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.pause()
        self.forget_queries()
        self.let_go()
        for prompt in self.prompts:
            prompt.leave_device()
        return self.outcome

    def __enter__(self: Self) -> Self:
        return self.attach()

    def __exit__(self, *_exc: object) -> None:
        self.detach()

    def _before_call(self, _model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.rows = None
        if not self.acts:
            return None
        x = args[0] if args else kwargs["x"]
        size = tuple(x.shape[-2:])
        self._input = size if self._latent in (None, size) else None
        for influence in self.measured.values():
            influence.enter(size)
        return self._enter(x, args, kwargs)

    def _after_call(self, _model: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        self.rows = None
        for _, shares in self.shares:
            shares.settle()
        self._leave(output is not None)

    # The steps

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
        host_weights: Callable[[], Hashable] | None = None,
    ) -> None:
        """Announce a denoising step: the fields of ``Step``."""
        self.active = tuple(i for i, prompt in enumerate(self.prompts) if prompt.begin(step, steps))
        self.announced |= bool(self.active)
        self._latent = size
        for i, influence in self.measured.items():
            self._measure(i, influence, rows, size)
        for i, shares in self.shares:
            shares.begin(step, steps, partial(self._weight, i))
        self.rows_of_call, self.rows = rows_of_call, None
        self._announce(Step(rows, step, steps, texts, size, latents, sampler, rows_of_call, host_weights))

    def pause(self) -> None:
        """Do nothing until the next ``begin``: another job has the model."""
        self.active, self.rows = (), None

    def _measure(self, i: int, influence: Influence, rows: Rows, size: Size | None) -> None:
        """Tell what measures prompt ``i`` of a step, and in how many of its layers it acts."""
        blocks = self.blocks_of_layers
        acting = sum(self._has_weight(i, block) for block in blocks)
        influence.begin(rows, size, self.prompts[i].picture_offset, acting, len(blocks))

    def _has_weight(self, i: int, block: int) -> bool:
        """Whether prompt ``i`` has a weight in the layers of ``block`` in the present step."""
        return self._weight(i, block) != 0.0

    def _weight(self, i: int, block: int) -> float:
        """The weight of prompt ``i`` in the layers of ``block`` in the present step; 0 where it rests."""
        return self.prompts[i].layer_weight(block) if i in self.active else 0.0

    @property
    def blocks_of_layers(self) -> list[int]:
        """The block of each layer that image prompts are added in."""
        return []

    def blocks_of(self, _prompt: ImagePrompt) -> list[int]:
        """The block of each layer that this prompt is added in."""
        return self.blocks_of_layers

    @property
    @abstractmethod
    def sections(self) -> Mapping[int, str]:
        """Where each block stands in the model: "input", "middle" or "output"; of FLUX "double" or "single"."""

    @property
    def acts(self) -> bool:
        """Whether anything is to be added in the present step."""
        return bool(self.active)

    # What became of it

    @property
    def outcome(self) -> Outcome:
        """What the run has turned out to be so far."""
        if self.announced and not self.fired:
            return Outcome.LOST
        if self.misplaced:
            return Outcome.MISPLACED
        return Outcome.ACTED if all(prompt.acted for prompt in self.prompts) else Outcome.IDLE

    @property
    def own_call(self) -> bool:
        """Whether the model's present call is one of the job's own, in which a prompt acts, with rows that are
        known."""
        return self.rows is not None

    def lose(self, why: str = "calls the model in a way that hides which rows are which") -> None:
        """Note a call that cannot be served; ``why`` is what another extension does."""
        self.lost += 1
        if self.lost == 1:
            log.warning("IP-Adapter: another extension %s.", why)

    def keep_nothing(self, device: torch.device) -> None:
        """``device`` is full: let go of what is kept there, and keep nothing more."""
        if self.keeps:
            log.warning("IP-Adapter: the device has no room to keep what references add, so each step is slower.")
        self.keeps = False
        self.let_go()
        empty_device_cache(device)

    def _log(self, rule: RowRule, rows: Rows) -> None:
        """Say which rule told the rows of a call, once for each pattern."""
        if log.isEnabledFor(logging.DEBUG) and (rule, rows) not in self._logged:
            self._logged.add((rule, rows))
            sides = ", ".join(f"{'cond' if row.cond else 'uncond'} {row.picture}" for row in rows)
            log.debug("IP-Adapter: a call's rows are %s: %s", rule.value, sides)


def injections(model: nn.Module) -> list[ModelInjection]:
    """All injections whose hooks are on ``model``, found by their hooks: no list of them is kept anywhere."""
    owners = (getattr(hook, "__self__", None) for hook in model._forward_pre_hooks.values())
    return [owner for owner in owners if isinstance(owner, ModelInjection)]


def detach_all(model: nn.Module) -> None:
    """Remove every injection from ``model``, whoever left it there."""
    for injection in injections(model):
        injection.detach()
