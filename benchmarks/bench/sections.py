"""The sections: what is quick first, so that what takes longest has the time that is left."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial

from ..gpu.bench import Bench
from ..gpu.run import Part, Section
from . import encode, isolated, precision, references, step, webui


def _alone(figure: str, *names: str, most: float = 300.0) -> Callable[[Bench], Generator[Part, None, None]]:
    """Parts that have a process each."""

    def parts(bench: Bench) -> Generator[Part, None, None]:
        for name in names:
            yield Part(f"{figure}: {name}", partial(isolated.isolated, bench, name), needs=10, most=most)

    return parts


SECTIONS = (
    Section("files", "Files: first use and listing", 60, _alone("files", "first_use", "listing")),
    Section("start", "The WebUI's start", 60, _alone("start", "imports")),
    Section("memory", "Memory", 150, _alone("memory", "encoder_memory", "generations", "kept")),
    Section("encode", "Encoding references", 120, encode.parts),
    Section("references", "Many references", 150, references.parts),
    Section("faults", "Faults, kills, hostile files and requests", 210, _alone("faults", "faults")),
    Section("webui", "Whole requests in a WebUI", 1, webui.parts),
    Section("sdxl", "Cost of a step, SDXL", 689, step.sdxl),
    Section("step", "Cost of a step, SD1.5", 900, step.sd15),
    # Last, because it compiles: then no LoRA is merged in this process.
    Section("precision", "Number formats, layouts and attention", 60, precision.parts),
)
