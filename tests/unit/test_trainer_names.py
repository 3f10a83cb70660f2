"""Adapters as the published trainer saves them: their layers under diffusers' names, which tell its place."""

from __future__ import annotations

import random

import pytest
import torch
from diffusers import UNet2DConditionModel

from lib_ipadapter.checkpoint.identify import identify
from lib_ipadapter.checkpoint.load import load_adapter
from lib_ipadapter.checkpoint.refusals import RefusedAdapter
from lib_ipadapter.errors import CheckpointError
from tests.helpers.checkpoint_shapes import adapter, base, faceid
from tests.helpers.containers import save_flat, save_safetensors, tensors

SIZES = {
    "SD1.5": {
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "block_out_channels": (32, 64, 96, 96), "cross_attention_dim": 768,
    },
    "SDXL": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (32, 64, 96), "cross_attention_dim": 2048, "transformer_layers_per_block": (1, 2, 10),
    },
}  # fmt: skip
FORMS = {
    "saved by accelerate": ("image_proj_model.", "unet."),
    "wrapped": ("module.image_proj_model.", "module.unet."),
    "converted": ("image_proj.", "ip_adapter."),
    "its processors alone": ("image_proj.", ""),
}


@pytest.fixture(scope="module", params=SIZES)
def unet(request: pytest.FixtureRequest) -> tuple[str, UNet2DConditionModel]:
    sizes = {"layers_per_block": 2, "attention_head_dim": 8, "norm_num_groups": 8, "sample_size": 8}
    with torch.device("meta"):
        return request.param, UNet2DConditionModel(**SIZES[request.param], **sizes)


def order(unet: UNet2DConditionModel) -> list[str]:
    """The names of the attention layers as diffusers registers them: the number of each is its place in this list."""
    return list(unet.attn_processors)


def widths(unet: UNet2DConditionModel) -> list[int]:
    return [unet.get_submodule(name.removesuffix(".processor")).to_q.out_features for name in order(unet)[1::2]]


def renamed(state: dict, unet: UNet2DConditionModel, form: str) -> dict:
    proj, layers = FORMS[form]
    names = order(unet)
    trained = {}
    for key, tensor in state.items():
        half, number, rest = key.split(".", 2)
        trained[f"{layers}{names[int(number)]}.{rest}" if half == "ip_adapter" else f"{proj}{number}.{rest}"] = tensor
    return trained


def shapes_of(state: dict) -> dict:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


@pytest.mark.parametrize("form", FORMS)
def test_layers_are_told_by_where_they_stand(tmp_path, unet, form) -> None:
    name, model = unet
    context = SIZES[name]["cross_attention_dim"]
    state = tensors(adapter(base(32, context), tuple(widths(model)), context))
    spec = identify(shapes_of(state))
    assert spec.base == name
    trained = list(renamed(state, model, form).items())
    random.Random(0).shuffle(trained)
    trained = dict(trained) | {"unet.conv_in.weight": torch.zeros(4, 4)}
    assert identify(shapes_of(trained)) == spec
    save_safetensors(trained, tmp_path / "x")
    loaded = load_adapter(tmp_path / "x", spec)
    assert len(loaded.key) == len(order(model)) // 2
    for i, (key, value) in enumerate(zip(loaded.key, loaded.value, strict=True)):
        assert torch.equal(key, state[f"ip_adapter.{2 * i + 1}.to_k_ip.weight"])
        assert torch.equal(value, state[f"ip_adapter.{2 * i + 1}.to_v_ip.weight"])
    assert torch.equal(loaded.image_proj["proj.weight"], state["image_proj.proj.weight"])


@pytest.mark.parametrize("form", FORMS)
def test_a_lora_comes_along_under_its_layers_names(unet, form) -> None:
    name, model = unet
    context = SIZES[name]["cross_attention_dim"]
    state = tensors(adapter(faceid(context, 4), tuple(widths(model)), context, with_lora=True))
    spec = identify(shapes_of(renamed(state, model, form)))
    assert spec == identify(shapes_of(state)) and spec.has_lora


@pytest.mark.parametrize("write", [save_safetensors, save_flat])
def test_a_tensor_that_is_there_twice_counts_once_if_its_numbers_are_the_same(tmp_path, write) -> None:
    """In the trainer's pickles the UNet's processors are the modules of the adapter too."""
    with torch.device("meta"):
        model = UNet2DConditionModel(**SIZES["SD1.5"], layers_per_block=2, attention_head_dim=8, norm_num_groups=8)
    state = tensors(adapter(base(32, 768), tuple(widths(model))))
    twice = state | renamed(state, model, "saved by accelerate")
    spec = identify(shapes_of(state))
    assert identify(shapes_of(twice)) == spec
    write({key: tensor.clone() for key, tensor in twice.items()}, tmp_path / "x")
    assert torch.equal(load_adapter(tmp_path / "x", spec).key[3], state["ip_adapter.7.to_k_ip.weight"])
    other = order(model)[7]
    twice[f"unet.{other}.to_k_ip.weight"] = twice[f"unet.{other}.to_k_ip.weight"] + 1
    write({key: tensor.clone() for key, tensor in twice.items()}, tmp_path / "x")
    with pytest.raises(CheckpointError, match=r"ip_adapter\.7\.to_k_ip\.weight twice.*different numbers.*again"):
        load_adapter(tmp_path / "x", spec)


def test_a_layer_that_is_not_there_is_missed(unet) -> None:
    name, model = unet
    context = SIZES[name]["cross_attention_dim"]
    state = tensors(adapter(base(32, context), tuple(widths(model)), context))
    trained = shapes_of(renamed(state, model, "saved by accelerate"))
    lacking = {key: shape for key, shape in trained.items() if "mid_block" not in key}
    with pytest.raises(
        RefusedAdapter, match=f"{len(order(model)) // 2 - (1 if name == 'SD1.5' else 10)} attention pairs"
    ):
        identify(lacking)
