"""A FLUX of sixteen channels with the reference's weights, image prompts for it, and a call with them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from demo.forge.flux import CONTEXT as HOSTS_CONTEXT
from demo.forge.flux import IntegratedFluxTransformer2DModel
from lib_ipadapter.attend.flux.appended import Appended
from lib_ipadapter.attend.flux.inject import FluxInjection
from lib_ipadapter.attend.prompt import ImagePrompt, KeysValues
from lib_ipadapter.attend.rows import Rows, layout
from tests.helpers.checkpoint_shapes import instantx, linear, siglip_tower, xlabs
from tests.helpers.files import PROJECTION
from tests.helpers.projections import tensors
from tests.helpers.tensors import draw, randomise

GRID = (4, 6)  # places of the reference's picture
WIDTH, HEADS, CONTEXT = 16, 2, 24


@functools.cache
def reference() -> dict[str, Tensor]:
    """What diffusers has made, and of what (``tests/helpers/flux_reference.py``)."""
    file = Path(__file__).parents[1] / "unit" / "data" / "flux.safetensors"
    return {key: value.float() for key, value in load_file(str(file)).items()}


def tiny_flux() -> IntegratedFluxTransformer2DModel:
    made = IntegratedFluxTransformer2DModel(WIDTH, HEADS, 2, 2, CONTEXT, 12, 16, 4.0, (4, 2, 2))
    prefix = "flux.weights."
    weights = {key.removeprefix(prefix): value for key, value in reference().items() if key.startswith(prefix)}
    made.load_state_dict(weights)
    return made.eval().requires_grad_(False)


def latent(packed: Tensor, size: tuple[int, int] = GRID) -> Tensor:
    return F.pixel_shuffle(packed.transpose(1, 2).unflatten(2, size), 2)


def packed(latent: Tensor) -> Tensor:
    return F.pixel_unshuffle(latent, 2).flatten(2).transpose(1, 2)


def redux(tokens: Tensor | None = None, weight: Any = 1.0, **kwargs: Any) -> ImagePrompt:
    """A prompt with these tokens [pictures, T, D] behind the text."""
    tokens = draw(1, 5, CONTEXT, seed=3) if tokens is None else tokens
    sides = {key: kwargs.pop(key) for key in ("factor", "uncond", "uncond_factor") if key in kwargs}
    return ImagePrompt(KeysValues((), ()), weight, appended=Appended(tokens, **sides), **kwargs)


def beside(seed: int = 5, weight: Any = 1.0, layers: int = 2, pictures: int = 1, **kwargs: Any) -> ImagePrompt:
    """A prompt with keys and values of its own in so many layers: 2 as XLabs', 4 as InstantX'."""
    keys, values = (
        tuple(draw(2 * pictures, 4, WIDTH, seed=seed + 10 * i + j) for i in range(layers)) for j in range(2)
    )
    return ImagePrompt(KeysValues(keys, values), weight, **kwargs)


STATES = 64  # width of what the small SigLIP gives
SIGLIP = siglip_tower(STATES, 1, 2 * STATES, 14, 9)


def write_instantx(folder: Path) -> IntegratedFluxTransformer2DModel:
    """InstantX' adapter and its encoder, and a model for it: narrow, with all of the published one's blocks."""
    for i, (name, shapes) in enumerate({"siglip": SIGLIP, "instantx": instantx(4, 57, WIDTH, CONTEXT, STATES)}.items()):
        save_file(tensors(shapes, 50 + i), folder / f"{name}.safetensors")
    made = IntegratedFluxTransformer2DModel(WIDTH, HEADS, 19, 38, CONTEXT, 12, 16, 2.0, (4, 2, 2))
    made.config = None  # it tells its widths by its layers
    return randomise(made, 6).eval().requires_grad_(False)


def write_flux_adapters(folder: Path) -> None:
    """Redux and XLabs' adapter for the miniature host's FLUX, and a SigLIP of 9 patches."""
    files = {
        "siglip": SIGLIP,
        "redux": linear("redux_up", 96, STATES) | linear("redux_down", HOSTS_CONTEXT, 96),
        "xlabs": xlabs(4, 19, 32, HOSTS_CONTEXT, PROJECTION),
    }
    for i, (name, shapes) in enumerate(files.items()):
        state = tensors(shapes, 40 + i)
        if name == "redux":
            state["redux_down.weight"] *= 3  # nine tokens among 256 words
        save_file(state, folder / f"{name}.safetensors")


def call(
    flux: Any, prompts: list[ImagePrompt], rows: Rows | None = None, step: int = 0, steps: int = 1, **changes: Any
) -> Tensor:
    """The reference's call with these prompts: two conditional rows, of two pictures, unless ``rows`` say otherwise."""
    with FluxInjection(flux, prompts) as injection:
        injection.begin(layout([1, 1], 2) if rows is None else rows, step, steps)
        return plain(flux, **changes)


def plain(flux: Any, of: tuple[int, ...] = (0, 1), **changes: Any) -> Tensor:
    """The reference's call of these of its two rows, [B, 4, 8, 12]."""
    r, index = reference(), list(of)
    given = {"context": r["flux.txt"][index], "y": r["flux.vec"][index], "guidance": r["flux.guidance"][index]}
    x = latent(r["flux.img"])[index]
    return flux(changes.pop("x", x), r["flux.timestep"][index], **{**given, **changes})
