"""Whole requests in a WebUI with the extension, in turns with plain ones, and with sd-webui-controlnet's own IP-Adapter
where it is installed.

An address is of a running WebUI (``--api``); a folder is one that is started for this, so that the first request finds
no image encoder in memory. Adapter and encoder are files that the WebUI has: both extensions are asked for the same.
"""

from __future__ import annotations

import argparse
import base64
import io
import statistics
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import Trouble
from ..gpu import unets
from ..gpu.bench import Bench
from ..gpu.job import picture
from ..gpu.measure import AtMost, Row, Spread, ms, ratio, share
from ..gpu.run import Part
from ..webui import WebUI
from . import step
from .rotation import Rounds, in_turns

THIRD, BELOW = AtMost(1 / 3, share), AtMost(1.0, share)
PLAIN, OURS, CONTROLNET = "plain", "reference seen before", "ControlNet's"
# What an extension adds beside its steps is the same in long requests and in short ones, and can be told in these
# alone: whole ones of 20 steps take half a minute each, in which the machine's other work changes by more.
STEPS, SIDE, ROUNDS, TIMEOUT = 1, 64, 60, 1800
PAIRS = 120  # of steps, of which those requests are put together
PLAINS = 3  # plain requests beside the first one with a reference
TIME = 1800.0  # seconds for all of it, beside those of the other sections


class Asked:
    """A WebUI that is asked for the same picture in three ways. Raises Trouble where it lacks what is asked of it."""

    def __init__(self, webui: WebUI) -> None:
        self.webui = webui
        fitting = [one for one in webui.adapters() if (one.get("variant"), one.get("base")) == ("base", "SD1.5")]
        if not fitting:
            raise Trouble(f"The WebUI at {webui.url} has no base adapter for SD1.5: put one into its models/ipadapter.")
        self.adapter = fitting[0]
        self.controlnet, self.lacks = None, ""
        try:
            self.controlnet = webui.controlnet(self.adapter)
        except Trouble as error:  # nothing but its own row is missing then
            self.lacks = str(error)

    def seconds(self, whose: str, image: str) -> float:
        """What a request takes: plain, with our unit, or with ControlNet's."""
        scripts: dict[str, Any] = {}
        if whose == OURS:
            scripts["IP-Adapter"] = {"args": [{"model": self.adapter["name"], "images": [image], "weight": 0.7}]}
        if whose == CONTROLNET and self.controlnet is not None:
            model, module = self.controlnet
            unit = {"enabled": True, "module": module, "model": model, "image": image, "weight": 0.7}
            scripts["controlnet"] = {"args": [unit]}
        body = {
            "prompt": "a cat", "seed": 1, "steps": STEPS, "width": SIDE, "height": SIDE, "sampler_name": "Euler",
            "cfg_scale": 7, "alwayson_scripts": scripts,
        }  # fmt: skip
        return self.webui.picture(body).seconds

    @property
    def who(self) -> list[str]:
        return [PLAIN, OURS, *([CONTROLNET] if self.controlnet else [])]


def shown(side: int) -> str:
    """A picture that no request has shown before, if ``side`` is another one each time."""
    buffer = io.BytesIO()
    picture(side).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def parts(bench: Bench) -> Generator[Part, None, None]:
    where = bench.webui
    if where is None:
        yield Part("whole requests in a WebUI", lambda: [Row("whole requests in a WebUI", "left out: no WEBUI= given")])
    elif where.startswith(("http://", "https://")):
        yield Part("whole requests", lambda: seen_before(bench, Asked(WebUI(where, timeout=TIMEOUT))), most=TIME)
    else:
        yield Part("first requests", partial(first_requests, bench, Path(where)), most=TIME)


def seen_before(bench: Bench, webui: Asked) -> Iterator[Row]:
    """Requests whose reference was seen before, beside plain ones, for as long as there is time."""
    image = shown(512)
    for whose in webui.who:
        webui.seconds(whose, image)
    calls = {whose: partial(webui.seconds, whose, image) for whose in webui.who}
    found = in_turns(bench, calls, bench.left / 2, most=ROUNDS, what="requests")
    yield from told(found, webui)
    yield put_together(bench, found.longer(OURS, PLAIN))


def told(found: Rounds, webui: Asked) -> Iterator[Row]:
    name, plain = f"request of one step, {SIDE}², in the WebUI", found.seconds(PLAIN)
    yield Row(f"{name}, plain", ms(plain.median), plain.said(ms), plain.count)
    for whose in webui.who[1:]:
        longer = Spread.of(found.longer(whose, PLAIN))
        yield Row(f"{name}, {whose}: longer by", ms(longer.median), longer.said(ms), longer.count)
    if webui.controlnet is None:
        yield Row(f"{name}, ControlNet's", f"left out: {webui.lacks}")
    else:
        yield found.compared(f"{name}, ours / {CONTROLNET}", OURS, CONTROLNET, BELOW)


def put_together(bench: Bench, longer: Sequence[float]) -> Row:
    """A request of 20 steps beside a plain one's steps: of steps with a unit and without, timed one upon the other in
    this process, and of the seconds by which a request of one step is ``longer``, its step's included."""
    scene = step.at(bench, bench.scene(unets.SD15, all_layers=True), 32)
    calls = step.calls_of(bench, scene, step.OURS[:1])
    for call in calls.values():
        call()
    found = in_turns(bench, calls, bench.left - 5, most=PAIRS, what="steps")
    figure = f"request of {step.STEPS} steps, {OURS} / plain, of steps of {step.named('SD1.5', scene)}"
    return step.of_a_request(figure, found, longer, "beside them, in the WebUI,")


def first_requests(bench: Bench, folder: Path, starts: int = 12) -> Iterator[Row]:
    """The first request with a reference in a WebUI that has just started, over a plain one; then those after it.
    Fewer starts where there is no time for one more."""
    more: dict[str, list[float]] = {OURS: [], CONTROLNET: []}
    for number in range(starts):
        begun = time.monotonic()
        with ExitStack() as stack:
            webui = started(folder, stack)
            webui.seconds(PLAIN, "")  # loads the checkpoint
            plain = statistics.median(webui.seconds(PLAIN, "") for _ in range(PLAINS))
            order = webui.who[1:][:: -1 if number % 2 else 1]
            for whose in order:
                more[whose].append(webui.seconds(whose, shown(500 + number)) - plain)
            if number == starts - 1 or bench.left < 2 * (time.monotonic() - begun):
                yield from first_told(more)
                yield from seen_before(bench, webui)
                return


def first_told(more: dict[str, Sequence[float]]) -> Iterator[Row]:
    for whose, whom in ((OURS, "ours"), (CONTROLNET, "ControlNet's")):
        if more[whose]:
            found = Spread.of(more[whose])
            yield Row(
                f"first request with a reference, image encoder not in memory, {whom}: longer by", ms(found.median),
                found.said(ms), found.count,
            )  # fmt: skip
    if more[CONTROLNET]:
        mine, theirs = (_in_both_orders(more[whose]) for whose in (OURS, CONTROLNET))
        shares = Spread.of([one / other for one, other in zip(mine, theirs, strict=True)])
        yield Row(
            "first request longer by, ours / ControlNet's, of two starts each", ratio(shares.median),
            shares.said(ratio), shares.count, THIRD.of_spread(shares, enough=shares.count),
        )  # fmt: skip


def _in_both_orders(more: Sequence[float]) -> list[float]:
    """Of each two starts together: in one of them this came first, which costs more, and in one second."""
    return [sum(more[i : i + 2]) for i in range(0, max(1, len(more) // 2 * 2), 2)]


def started(folder: Path, stack: ExitStack) -> Asked:
    """A WebUI of that folder, with the API, until the stack is closed."""
    from .. import panel_load

    options = argparse.Namespace(
        webui=folder, python=str(folder / "venv" / "bin" / "python"), settings=folder / "config.json",
        extension=panel_load.REPOSITORY.name, port=None, flags=["--api"],
    )  # fmt: skip
    running = panel_load.WebUI(options, True, Path(stack.enter_context(tempfile.TemporaryDirectory())))
    stack.callback(running.stop)
    return Asked(WebUI(running.address, timeout=TIMEOUT))
