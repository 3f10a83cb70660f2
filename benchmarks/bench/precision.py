"""Number formats, layouts and ways of attention that a CPU can do: how far each is from the fp32 picture, the plain
picture's own deviation beside it.

On narrow UNets: deviations are a matter of arithmetic, not of size, and bf16 is slow on many CPUs.
"""

from __future__ import annotations

from collections.abc import Generator

import torch

from ..gpu import compiled, unets
from ..gpu.bench import Bench, Scene
from ..gpu.measure import Row
from ..gpu.modes import compared, modes
from ..gpu.run import Part


def parts(bench: Bench) -> Generator[Part, None, None]:
    sizes = unets.SD15.shallow() if bench.small else unets.SD15.narrow()
    reference = Scene.draw(bench, unets.build(sizes, bench.device))
    fp16 = computes_fp16()
    wanted = [mode for mode in modes(bench) if fp16 or mode.dtype != torch.float16]
    yield from compared(bench, "SD1.5, narrow", reference, wanted, timed=False)
    if not fp16:
        yield Part(
            "fp16", lambda: [Row("SD1.5, narrow, fp16", f"left out: torch {torch.__version__} has no fp16 here")]
        )
    if not bench.small:
        yield from compiled.parts(bench)


def computes_fp16() -> bool:
    """Whether torch computes a UNet's layers in fp16 on this CPU."""
    x = torch.zeros(1, 32, 4, 4, dtype=torch.float16)
    try:
        torch.nn.functional.conv2d(x, torch.zeros(32, 32, 3, 3, dtype=torch.float16))
        torch.nn.functional.group_norm(x, 32)
        return True
    except RuntimeError:
        return False
