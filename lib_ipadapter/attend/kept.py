"""What one layer adds for an image prompt, with its keys and values kept on the device from call to call."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from .room import with_room
from .rows import Rows
from .sides import Held, Plan
from .uncompiled import uncompiled

if TYPE_CHECKING:
    from .injection import ModelInjection

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
PLANS = 8  # of a layer, kept at most: a step has calls with some rows and with others


class KeptLayer:
    """Layer ``index`` of those that image prompts have keys and values of; ``block`` is where it stands."""

    def __init__(self, injection: ModelInjection, index: int, block: int) -> None:
        self.injection, self.index, self.block = injection, index, block
        self.gathered: dict[int, Held] = {}  # by prompt
        self._plans: dict[tuple[int, Rows, int], Plan] = {}  # by prompt, rows and its first picture
        self.plan = self._plan

    def attach(self) -> None:
        """Before a pass."""
        self.plan = uncompiled(self._plan)  # it takes no such keys for constants; and the compiler may have come since

    def added(self, i: int, query: Tensor, rows: Rows, attention: Attention) -> Tensor:
        """What prompt ``i`` adds to these rows of a query [B, L, C]. Where the device has no room, nothing more is kept
        from call to call. Raises DeviceMemoryError where even that is too much."""
        sentence = (
            "IP-Adapter: the device has no room for the references' keys and values: use fewer references, a smaller "
            "batch or a smaller picture."
        )
        return with_room(self.injection, query.device, lambda: self._attended(i, query, rows, attention), sentence)

    def _attended(self, i: int, query: Tensor, rows: Rows, attention: Attention) -> Tensor:
        return self.plan(i, query, rows).attend(query, attention)

    def _plan(self, i: int, query: Tensor, rows: Rows) -> Plan:
        """What these rows of a query attend to in prompt ``i``."""
        prompt, held = self.injection.prompts[i], self.gathered.get(i)
        key = (i, rows, prompt.picture_offset)
        plan = self._plans.get(key)
        if plan is None or held is None or not held.fits(query):
            plan = self._made(i, query, rows)
            if self.injection.keeps and prompt.steady and prompt.moments is None and not plan.copied:
                self._plans[key] = plan
        return plan

    def _made(self, i: int, query: Tensor, rows: Rows) -> Plan:
        prompt, block = self.injection.prompts[i], self.block
        sides = prompt.sides(block, rows)
        held = self.gathered.get(i)
        if held is None or not held.serves(sides, query):
            of_step = prompt.sides(block, self.injection.rows_of_step) if self.injection.keeps else ()
            needed = dict.fromkeys(side for side in (*sides, *of_step) if side is not None)  # in the rows' order
            held = prompt.gather(self.index, block, needed, query)
            self._plans.clear()  # they are of what was held before
            if self.injection.keeps:
                self.gathered[i] = held
        if len(self._plans) >= PLANS:
            self._plans.clear()
        if not prompt.steady:
            held = held.changed(lambda key, value: prompt.weighted(key, value, block))
        return Plan.of(sides, held)

    def let_go(self) -> None:
        self.gathered.clear()
        self._plans.clear()
