"""What InstantID's network of keypoints costs: a step with it, its weights' way to the device, and device memory."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from functools import partial

import torch
from torch import Tensor

from lib_ipadapter.attend.control import ControlNetwork
from lib_ipadapter.attend.keypoints import Keypoints
from lib_ipadapter.attend.prompt import ImagePrompt
from lib_ipadapter.checkpoint.control import layout
from lib_ipadapter.checkpoint.specs import KeypointsSpec

from . import unets
from .bench import PLUS, Bench, Scene, image_prompt
from .measure import Row, effect, ms, nbytes
from .memory import measured_step
from .run import Part


class InTurn(ControlNetwork):
    """The network as it is where the device has no room for it as a whole."""

    def to(self, device: torch.device, dtype: torch.dtype, *, in_turn: bool = False) -> None:
        super().to(device, dtype, in_turn=True)


def spec_for(sizes: unets.Sizes) -> KeypointsSpec:
    """The network for a UNet of these sizes."""
    return KeypointsSpec(
        channels=tuple(multiplier * sizes.channels for multiplier in sizes.multipliers), depths=sizes.depths,
        middle_depth=sizes.middle_depth, blocks=sizes.res_blocks, in_channels=4, context_width=sizes.context,
        vector_width=sizes.vector or 0, time_width=4 * sizes.channels, hint_widths=(16, 16, 32, 32, 96, 96, 256),
        parameters=0,
    )  # fmt: skip


def random_state(bench: Bench, spec: KeypointsSpec) -> dict[str, Tensor]:
    """Random weights in main memory, drawn on the device, which is quicker: as a file's would be."""
    generator = torch.Generator(bench.device).manual_seed(7)
    state = {}
    for name, shape in layout(spec).items():
        drawn = torch.randn(shape, generator=generator, device=bench.device)
        scaled = drawn * 0.1 if len(shape) < 2 else drawn * drawn[0].numel() ** -0.5
        state[name] = scaled.to(bench.half).cpu()
    return state


def _drawn(picture: tuple[int, int], box: object, size: tuple[int, int]) -> Tensor:
    """Some discs' worth of colour in the middle of black."""
    hint = torch.zeros(3, *size)
    hint[:, size[0] // 3 : size[0] // 2, size[1] // 3 : size[1] // 2] = 0.6
    return hint


def prompt(scene: Scene, network: ControlNetwork) -> ImagePrompt:
    """A unit of which the keypoints alone act."""
    tokens = torch.randn(2, PLUS, scene.sizes.context, generator=torch.Generator().manual_seed(6))
    made = image_prompt(scene.unet, PLUS, weight=0.0)
    made.keypoints = Keypoints(network, (_drawn,), tokens[:1], tokens[1:])
    return made


def parts(bench: Bench) -> Generator[Part, None, None]:
    scene = bench.scene(unets.SDXL)
    spec = spec_for(scene.sizes)
    state = random_state(bench, spec)
    name = f"SDXL {str(bench.half).removeprefix('torch.')}, latent {scene.sizes.latent}²"
    ways: dict[str, Callable[[], ControlNetwork]] = {
        "keypoints": lambda: ControlNetwork(spec, state),
        "keypoints, weights in turn": lambda: InTurn(spec, state),
    }
    for way, make in ways.items():
        yield Part(f"{name}, {way}", partial(_cost, bench, scene, f"{name}, {way}", make()), needs=5)
        yield Part(f"{name}, {way}: memory", partial(_memory, bench, scene, f"{name}, {way}", make()), needs=3)


def _cost(bench: Bench, scene: Scene, figure: str, network: ControlNetwork) -> Iterator[Row]:
    prompts = [prompt(scene, network)]
    if not effect(scene.with_prompts(prompts), scene.plain()) > 1e-3:
        yield Row(figure, "failed: NO EFFECT, so there is no cost to measure")
        return
    found = bench.pairs(scene, prompts, seconds=10)
    yield found.compared(f"{figure}: with / without")
    yield Row(f"{figure}: first step longer by", ms(found.gathering), f"weights of {nbytes(network.nbytes)}")


def _memory(bench: Bench, scene: Scene, figure: str, network: ControlNetwork) -> Iterator[Row]:
    yield from measured_step(bench, scene, figure, [prompt(scene, network)])
