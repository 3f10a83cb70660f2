"""What a step costs with units, beside the same step without, and what diffusers' own IP-Adapter costs there; and of
that what a whole request costs whose reference was seen before."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import cycle

from lib_ipadapter.attend.inject import Injection
from lib_ipadapter.attend.layers import cross_attention_layers
from lib_ipadapter.attend.prompt import ImagePrompt
from lib_ipadapter.encode.device import Device
from lib_ipadapter.jobs.generation import prepare_generation
from lib_ipadapter.unit import parse_units

from ..gpu import unets
from ..gpu.bench import Bench, Scene
from ..gpu.job import jobs, picture
from ..gpu.measure import AtMost, Row, Spread, effect, launched, ms, ratio, share
from ..gpu.run import Part
from ..gpu.steps import CASES, SDXL_TARGETS, TARGETS
from .rotation import Rounds, in_turns

STEPS = 20  # of a request
REQUEST, BELOW = AtMost(1.01, share), AtMost(1.0, share)
OURS = ("1 base unit", "1 plus unit (16 tokens)", "4 base units", "1 full-face unit (257 tokens)")
FACE = "1 face unit with its LoRA"
SDXL_OURS = ("1 base unit", "1 base unit in a region", FACE)
BESIDE = f"{FACE} beside the layers"
BEFORE = 2  # steps of a job whose LoRA is beside the layers
SMALL, LARGE = 20, 32  # SDXL's latent, and where there is time for larger ones
TIME = 1000.0  # seconds
MANY = 60  # rounds, where there is time
PLAIN, THEIRS, THEIRS_PLAIN = "plain", "diffusers' IP-Adapter", "diffusers, plain"


def sd15(bench: Bench) -> Generator[Part, None, None]:
    scene = at(bench, bench.scene(unets.SD15, all_layers=True), 32)
    yield Part("SD1.5, steps", partial(_sd15, bench, scene), needs=60)


def sdxl(bench: Bench) -> Generator[Part, None, None]:
    sizes = unets.SDXL.shallow() if bench.small else unets.SDXL
    scene = Scene.draw(bench, unets.build_sharing(sizes, bench.device, bench.half))
    latent = LARGE if bench.left > TIME else SMALL
    yield Part("SDXL, steps", partial(_sdxl, bench, at(bench, scene, latent)), needs=60)


def at(bench: Bench, scene: Scene, latent: int) -> Scene:
    """The same UNet on a latent of another size; a small run stays with its own."""
    return scene if bench.small else Scene.draw(bench, scene.unet, latent=latent)


def named(base: str, scene: Scene) -> str:
    return f"{base} fp32, {8 * scene.x.shape[-1]}², batch {len(scene.x)}"


class Timed:
    """Seconds of a step with ``prompts``. Their keys and values are there since the first ones, on a latent of 8 x 8,
    which take a fraction of the time, and stay between calls, as a LoRA in weights does; the hooks do not.

    ``beside``: a LoRA stays beside the layers. ``merging``: the seconds that it took to put it into the weights.
    """

    def __init__(self, bench: Bench, scene: Scene, prompts: Sequence[ImagePrompt], *, beside: bool = False) -> None:
        self._bench, self._scene, self._is_ready = bench, scene, False
        self._injection = Injection(scene.unet, cross_attention_layers(scene.unet), prompts)
        self._beside, self.merging = beside, 0.0

    def _make_ready(self, injection: Injection) -> None:
        first = replace(self._scene, x=self._scene.x[..., :8, :8].contiguous())

        def step() -> None:
            first.announce(injection)
            first.plain()

        lora = injection.lora
        taken = [self._bench.seconds(step) for _ in range(1 if lora is None else BEFORE)]
        if lora is not None and self._beside:
            lora.merged.give_up()
        elif lora is not None:
            self.merging = self._bench.seconds(step) - taken[-1]
        self._is_ready = True

    @property
    def is_merged(self) -> bool:
        return self._injection.lora is not None and self._injection.lora.merged.is_there

    def __call__(self) -> float:
        with _hooked(self._injection) as injection:
            if not self._is_ready:
                self._make_ready(injection)

            def step() -> None:
                self._scene.announce(injection)
                self._scene.plain()

            injection.fired = False
            taken = self._bench.seconds(step)
            if not injection.fired:
                raise RuntimeError("a step was timed in which the prompts added nothing")
            return taken


@contextmanager
def _hooked(injection: Injection) -> Iterator[Injection]:
    """Its hooks for a while; unlike ``detach``, what it keeps on the device is not let go."""
    injection.attach()
    try:
        yield injection
    finally:
        for handle in injection._handles:
            handle.remove()
        injection._handles.clear()
        injection.pause()


def without_effect(scene: Scene, cases: Sequence[str]) -> list[Row]:
    """A row for each case whose prompts do nothing, so that their cost is none; asked of a small latent."""
    first = replace(scene, x=scene.x[..., :8, :8].contiguous())
    plain = first.plain()
    return [
        Row(case, "failed: NO EFFECT, so there is no cost to measure")
        for case in cases
        if not effect(first.with_prompts(CASES[case](first)), plain) > 1e-3
    ]


def calls_of(bench: Bench, scene: Scene, cases: Sequence[str]) -> dict[str, Callable[[], float]]:
    prompts = {case: CASES[case](scene) for case in cases}
    ours = {case: Timed(bench, scene, some) for case, some in prompts.items()}
    return {PLAIN: lambda: bench.seconds(scene.plain), **ours}


def _sd15(bench: Bench, scene: Scene) -> Iterator[Row]:
    name = named("SD1.5", scene)
    yield from without_effect(scene, OURS)
    with jobs(bench, scene, small_tower=True) as made:
        resources = made.resources()
        made.generation(resources)  # so that the reference has been seen
        prepared: list[float] = []

        def seen() -> float:
            """Seconds from the request's units to their keys and values; for this alone no step is made."""
            text = as_base64()
            started = time.perf_counter()
            units = parse_units([{"model": "base", "image": text, "weight": 0.7}])
            prepare_generation(units, scene.unet, resources, Device(bench.device, bench.half))
            return time.perf_counter() - started

        calls = calls_of(bench, scene, OURS)
        for call in calls.values():
            call()
        found = in_turns(bench, calls, 0.78 * bench.left, what="SD1.5")
        prepared += [seen() for _ in found.taken[PLAIN]]
    yield from _ours(name, found, OURS, TARGETS)
    figure = f"{name}, request of {STEPS} steps, reference seen before / plain, of these steps"
    yield of_a_request(figure, found, prepared, "before the first step")
    yield from beside_theirs(bench, scene, f"{name}, {THEIRS} (1 base)", bench.left - 5)


def _ours(name: str, found: Rounds, cases: Sequence[str], targets: Mapping[str, AtMost]) -> Iterator[Row]:
    plain = found.seconds(PLAIN)
    yield Row(f"{name}, plain step", ms(plain.median), plain.said(ms), plain.count)
    yield from _compared(name, found, cases, targets)


def _compared(name: str, found: Rounds, cases: Sequence[str], targets: Mapping[str, AtMost]) -> Iterator[Row]:
    for case in cases:
        yield found.compared(f"{name}, {case}: with / without", case, PLAIN, targets.get(case))


def of_a_request(figure: str, found: Rounds, more: Sequence[float], which: str) -> Row:
    """Of the rounds' steps: a request of 20 of them, with the seconds that it takes beside its steps, and a plain one's
    20. ``which``: what these seconds are, in words."""
    pairs = zip(found.taken[OURS[0]], found.taken[PLAIN], cycle(more))  # there may be fewer of these
    whole = Spread.of([(beside + STEPS * acting) / (STEPS * plain) for acting, plain, beside in pairs])
    beside = f"{whole.said(ratio)}; {which} {ms(Spread.of(more).median)}"
    return Row(figure, ratio(whole.median), beside, whole.count, REQUEST.of_spread(whole))


def as_base64() -> str:
    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def beside_theirs(bench: Bench, scene: Scene, figure: str, seconds: float, most: int = 20) -> Iterator[Row]:
    """diffusers' ratio, of as many rounds as there is time for, and ours below it; why not, where it is not there or
    not fit for what else is installed."""
    from .. import diffusers_unets

    lacking = diffusers_unets.lacking()
    if lacking:
        yield Row(figure, f"left out: {lacking}")
        return
    made = diffusers_unets.Theirs(
        diffusers_unets.build(scene.sizes, bench.device, bench.half), scene.x, scene.t, scene.text, scene.y
    )
    calls = {
        THEIRS_PLAIN: partial(made.timed, bench.seconds, False), THEIRS: partial(made.timed, bench.seconds, True),
        **calls_of(bench, scene, OURS[:1]),
    }  # fmt: skip
    for call in calls.values():
        call()
    found = in_turns(bench, calls, seconds, most=most, what="diffusers")
    yield found.compared(f"{figure}: with / without", THEIRS, THEIRS_PLAIN)
    pairs = zip(found.ratios(OURS[0], PLAIN), found.ratios(THEIRS, THEIRS_PLAIN), strict=True)
    below = Spread.of([mine / other for mine, other in pairs])
    said = below.said(ratio) + launched(found.launching)
    told = BELOW.of_spread(below, enough=20)
    yield Row(f"{figure}: our ratio / theirs", ratio(below.median), said, below.count, told)


def _sdxl(bench: Bench, scene: Scene) -> Iterator[Row]:
    name = f"{named('SDXL', scene)}, 70 layers"
    yield from without_effect(scene, SDXL_OURS)
    calls = calls_of(bench, scene, SDXL_OURS)
    merged, beside = calls[FACE], Timed(bench, scene, CASES[FACE](scene), beside=True)
    calls[BESIDE] = beside
    for call in calls.values():
        call()
    assert isinstance(merged, Timed)
    if not merged.is_merged:
        yield Row(f"{name}, {FACE}", "left out: too little memory is free for its LoRA in the weights")
        del calls[FACE]
    # In two rotations: the fewer there are in one, the sooner a step without comes upon one with, on the same machine.
    lora = {case: call for case, call in calls.items() if case in (PLAIN, FACE, BESIDE)}
    others = {case: call for case, call in calls.items() if case not in (FACE, BESIDE)}
    found = in_turns(bench, others, 0.54 * bench.left, most=MANY, what="SDXL")
    yield from _ours(name, found, [case for case in SDXL_OURS if case in others], SDXL_TARGETS)
    found = in_turns(bench, lora, bench.left - 2, most=MANY, what="SDXL with a LoRA")
    yield from _compared(name, found, [case for case in SDXL_OURS if case in lora], SDXL_TARGETS)
    yield found.compared(f"{name}, {BESIDE}, as in a job's first steps: with / without", BESIDE, PLAIN)
    if FACE in calls:
        yield _run(name, found, merged.merging)


def _run(name: str, found: Rounds, merging: float) -> Row:
    """Of the rounds' steps: a run of 20 of them with a LoRA, beside 20 plain ones."""
    triples = zip(found.taken[BESIDE], found.taken[FACE], found.taken[PLAIN], strict=True)
    whole = Spread.of([
        (BEFORE * first + merging + (STEPS - BEFORE) * later) / (STEPS * plain) for first, later, plain in triples
    ])  # fmt: skip
    beside = f"{whole.said(ratio)}; merged once, in {ms(merging)}"
    figure = f"{name}, {FACE}, {STEPS} steps / plain, of these steps and what merging takes"
    return Row(figure, ratio(whole.median), beside, whole.count)
