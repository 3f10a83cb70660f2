"""Recognition of FLUX checkpoints by their headers."""

from __future__ import annotations

import pytest

from lib_ipadapter.checkpoint.flux_models import flux
from lib_ipadapter.checkpoint.identify import identify
from lib_ipadapter.checkpoint.specs import UNetSpec

SPEC = UNetSpec("FLUX", 4096, (3072,) * 19, 19)


def shapes(
    prefix: str = "model.diffusion_model.", *, width: int = 3072, blocks: int = 19, packed: bool = False
) -> dict:
    """Of some of a checkpoint's tensors; ``packed`` weights are one column of bytes."""
    sides = {
        "img_in": (width, 64), "txt_in": (width, 4096), "vector_in.in_layer": (width, 768),
        "time_in.in_layer": (width, 256), "single_blocks.0.linear1": (7 * width, width),
        **{f"double_blocks.{i}.{side}_attn.qkv": (3 * width, width) for i in range(blocks) for side in ("img", "txt")},
    }  # fmt: skip
    found = {}
    for name, (out, inside) in sides.items():
        found[f"{prefix}{name}.weight"] = (out * inside // 2, 1) if packed else (out, inside)
        found[f"{prefix}{name}.bias"] = (out,)
    return found


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", ""])
@pytest.mark.parametrize("packed", [False, True])
def test_whole_checkpoints_and_transformers_alone(prefix: str, packed: bool) -> None:
    assert identify(shapes(prefix, packed=packed) | {"vae.decoder.conv_in.bias": (512,)}) == SPEC


def test_small_ones_are_as_small_as_they_are() -> None:
    assert identify(shapes(width=32, blocks=2)) == UNetSpec("FLUX", 4096, (32, 32), 2)


@pytest.mark.parametrize("part", ["vector_in", "txt_in", "img_in", "single_blocks"])
def test_what_lacks_a_part_is_another_model(part: str) -> None:
    """Chroma, which has no ``vector_in``, among them."""
    assert flux({key: shape for key, shape in shapes("").items() if not key.startswith(part)}) is None


def test_what_is_made_for_it_is_none() -> None:
    lora = {key.replace(".weight", ".lora_A.weight"): shape for key, shape in shapes("").items() if "bias" not in key}
    adapter = {f"double_blocks.{i}.processor.ip_adapter_double_stream_k_proj.bias": (3072,) for i in range(19)}
    for other in (lora, adapter, {}):
        assert flux(other) is None


def test_an_odd_header_is_none() -> None:
    assert flux(shapes() | {"model.diffusion_model.img_in.bias": ()}) is None
    assert flux(shapes() | {"model.diffusion_model.img_in.bias": (3072, 1)}) is None
