"""What a run turned out to be, and which rule told a call's rows."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from lib_ipadapter.attend.inject import Injection
from lib_ipadapter.attend.outcome import Outcome
from lib_ipadapter.attend.prompt import ImagePrompt, KeysValues
from lib_ipadapter.attend.rows import Row, RowCursor, RowRule, layout
from lib_ipadapter.attend.step import Step
from lib_ipadapter.jobs.generation import Generation, PassPrompt
from lib_ipadapter.jobs.influence import InfluenceMaps

ROWS = layout([1], 2)


class UNet(nn.Module):
    """Calls nothing of what hooks could be on."""

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None, **_options: object) -> torch.Tensor:
        return x


def prompt(**settings) -> ImagePrompt:
    return ImagePrompt(KeysValues((), ()), **settings)


def run(*prompts: ImagePrompt, fired: bool = True, misplaced: bool = False) -> Outcome:
    injection = Injection(UNet(), [], prompts).attach()
    injection.begin(ROWS, 0, 4)
    injection.fired, injection.misplaced = fired, misplaced
    return injection.detach()


def test_outcomes_of_a_pass() -> None:
    assert run(prompt()) is Outcome.ACTED
    assert run(prompt(), fired=False, misplaced=True) is Outcome.LOST
    assert run(prompt(), misplaced=True) is Outcome.MISPLACED
    assert run(prompt(), prompt(start=0.9)) is Outcome.IDLE
    assert run(prompt(start=0.9), fired=False) is Outcome.IDLE  # none of its steps has come


@pytest.mark.parametrize(("hires", "outcome"), [("both", Outcome.MISSED), ("hires", Outcome.ACTED)])
def test_a_first_pass_may_go_by(hires: str, outcome: Outcome) -> None:
    from lib_ipadapter.attend.layers import Topology

    job = Generation(Topology(768, ()), [], [PassPrompt(hires, prompt())], InfluenceMaps())
    assert job.detach() is outcome
    job.attached = True
    assert job.detach() is Outcome.ACTED


# Rules


def text(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 3, 4, generator=torch.Generator().manual_seed(seed))


def test_every_rule_has_its_name() -> None:
    cursor, cond, uncond = RowCursor(), text(1, 1), text(1, 2)
    cursor.begin(ROWS, lambda: (cond, uncond))
    assert (cursor.take(2), cursor.rule) == (ROWS, RowRule.ORDER)
    assert (cursor.take(1, uncond), cursor.rule) == ((Row(False, 0),), RowRule.TEXT)
    assert (cursor.take(4), cursor.rule) == (ROWS * 2, RowRule.REPETITION)
    assert (cursor.take(3), cursor.rule) == (None, None)
    cursor.begin(ROWS)
    marked = torch.cat([torch.full((2, 1, 4), 1024.0) * torch.tensor([-1.0, 1.0])[:, None, None], text(2, 3)], 1)
    assert (cursor.take(2, marked, marked=True), cursor.rule) == (ROWS[::-1], RowRule.MARKED)


def test_a_host_that_announces_rows_is_believed_and_nobody_else(caplog) -> None:
    unet, seen = UNet(), []

    def rows_of_call(options, n):
        kinds = options["transformer_options"]["cond_or_uncond"]
        return tuple(Row(kind == 0, 0) for kind in kinds) if len(kinds) == n else None

    with Injection(unet, [], [prompt()]) as injection:
        unet.register_forward_hook(lambda *_: seen.append(injection.rows), prepend=True)
        injection.begin(*Step(ROWS, 0, 1, rows_of_call=rows_of_call))
        unet(torch.zeros(2, 4, 8, 8), transformer_options={"cond_or_uncond": [1, 0]})
        unet(torch.zeros(2, 4, 8, 8), transformer_options={"cond_or_uncond": [1]})
    assert seen == [ROWS[::-1], None]
    assert injection.lost == 1


def test_a_rule_is_logged_once_for_each_pattern(caplog) -> None:
    unet = UNet()
    with caplog.at_level(logging.DEBUG, "ip-adapter"), Injection(unet, [], [prompt()]) as injection:
        for step in range(3):
            injection.begin(ROWS, step, 3)
            unet(torch.zeros(2, 4, 8, 8))
    said = [record.getMessage() for record in caplog.records]
    assert said == ["IP-Adapter: a call's rows are the next rows in the sampler's order: cond 0, uncond 0"]
