"""What a step costs with many references in one unit: averaged, it costs what one does; next to each other, more."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from functools import partial

from PIL import Image

from lib_ipadapter.attend.prompt import ImagePrompt

from ..gpu import unets
from ..gpu.bench import Bench, Scene
from ..gpu.job import Jobs, jobs
from ..gpu.measure import AtMost, Row, nbytes, share
from ..gpu.run import Part
from .rotation import in_turns
from .step import Timed, at, named

FLAT = AtMost(1.02, share)
MANY = (4, 16, 64)


def parts(bench: Bench) -> Generator[Part, None, None]:
    scene = at(bench, bench.scene(unets.SD15, all_layers=True), 16)
    with jobs(bench, scene, small_tower=True) as made:
        ready = {
            (count, combine): prompts(made, count, combine) for count in (1, *MANY) for combine in ("average", "concat")
        }
        yield Part("references averaged", partial(_averaged, bench, scene, ready), needs=20)
        yield Part("references next to each other", partial(_concatenated, bench, scene, ready), needs=20)


def prompts(made: Jobs, count: int, combine: str) -> list[ImagePrompt]:
    """Of a unit with that many references, each another picture."""
    pictures = [Image.new("RGB", (64, 64), (7 * i % 256, 11 * i % 256, 13 * i % 256)) for i in range(count)]
    job = made.generation(made.resources(), images=pictures, combine=combine)
    return [one.prompt for one in job.prompts]


def _averaged(bench: Bench, scene: Scene, ready: dict[tuple[int, str], list[ImagePrompt]]) -> Iterator[Row]:
    sizes = {sum(prompt.kv.nbytes for prompt in ready[count, "average"]) for count in (1, *MANY)}
    if len(sizes) > 1:
        yield Row("references averaged", f"failed: keys and values of 1, 4, 16 and 64 take {sorted(sizes)} bytes")
        return
    calls = {count: Timed(bench, scene, ready[count, "average"]) for count in (1, MANY[-1])}
    found = in_turns(bench, {"1": calls[1], "64": calls[64]}, 0.7 * bench.left, what="references")
    beside = f"keys and values of 1, 4, 16 and 64 take {nbytes(sizes.pop())} each time"
    row = found.compared(f"{named('SD1.5', scene)}, 64 references averaged / 1", "64", "1", FLAT)
    yield Row(row.figure, row.value, f"{row.spread}; {beside}", row.count, row.target)


def _concatenated(bench: Bench, scene: Scene, ready: dict[tuple[int, str], list[ImagePrompt]]) -> Iterator[Row]:
    calls = {str(count): Timed(bench, scene, ready[count, "concat"]) for count in (1, *MANY)}
    found = in_turns(bench, calls, bench.left - 2, what="references")
    for count in MANY:
        yield found.compared(f"{named('SD1.5', scene)}, {count} references next to each other / 1", str(count), "1")
