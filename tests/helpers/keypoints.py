"""Networks of keypoints for narrow UNets of SDXL's topology: files, and diffusers' own with the same weights."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.gpu import unets
from lib_ipadapter.attend.blocks import CrossAttention
from lib_ipadapter.attend.control import ControlNetwork
from lib_ipadapter.checkpoint.identify import identify
from lib_ipadapter.checkpoint.load import load_keypoints_state
from tests.helpers.tensors import draw, randomise

VECTOR = 2816  # what SDXL is told beside the text: 1280 of the pooled text, and 256 for each of six numbers
Depths = tuple[int, int]  # transformer blocks behind each residual block of the second and the third level
SDXL, SHALLOW = (2, 10), (1, 2)
HINT_GAIN = 1.7  # of each convolution of the hint: what is left of a picture behind SiLU is about half as loud
_SIZES = {
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "block_out_channels": (32, 64, 128),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "attention_head_dim": (4, 8, 16),  # heads, by diffusers' old name
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": VECTOR,
}


@functools.cache
def diffusers_control(depths: Depths = SHALLOW) -> ControlNetModel:
    """InstantID's network as diffusers has it, a tenth as wide, with random weights, none of them zero, and a hint that
    is as loud as the latents. The same for all: none may change its weights."""
    network = randomise(ControlNetModel(transformer_layers_per_block=(1, *depths), **_SIZES), 7)
    for parameter in network.controlnet_cond_embedding.parameters():
        parameter.data.mul_(HINT_GAIN if parameter.ndim > 1 else 1 / HINT_GAIN)
    return network.eval().requires_grad_(False)


def diffusers_twin(unet: nn.Module) -> UNet2DConditionModel:
    """A UNet with ldm's names, of SDXL's topology with its extra conditioning, in diffusers."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    up = ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
    depths = [len(unet.input_blocks[n][1].transformer_blocks) for n in (4, 7)]
    with torch.device("meta"):
        twin = UNet2DConditionModel(
            sample_size=16, up_block_types=up, transformer_layers_per_block=(1, *depths), **_SIZES
        )  # fmt: skip
    prefixed = {f"model.diffusion_model.{name}": tensor for name, tensor in unet.state_dict().items()}
    converted = convert_ldm_unet_checkpoint(prefixed, {**twin.config, "class_embed_type": None})
    twin.load_state_dict({name: tensor.clone() for name, tensor in converted.items()}, assign=True)
    return twin.eval().requires_grad_(False)


@functools.cache
def xl_unet(depths: Depths = SHALLOW) -> nn.Module:
    """A UNet of SDXL's topology with its extra conditioning, heads 8 channels wide. The same for all."""
    sizes = replace(unets.SDXL.narrow(), vector=VECTOR, heads=4, depths=(0, *depths), middle_depth=depths[1])
    unet = unets.build(sizes, torch.device("cpu"), seed=3)
    for module in unet.modules():
        if isinstance(module, CrossAttention):
            module.heads = module.to_q.out_features // 8
    unet.in_channels = 4
    return unet


def told(y: Tensor) -> dict[str, Tensor]:
    """SDXL's extra conditioning [n, VECTOR] as diffusers takes it, where its last part comes from these numbers."""
    return {"text_embeds": y[:, :1280], "time_ids": torch.tensor([[64.0, 48.0, 0.0, 8.0, 64.0, 48.0]] * len(y))}


def vector(network: ControlNetModel, rows: int, seed: int = 90) -> Tensor:
    """[rows, VECTOR] with random pooled texts and the numbers of ``told``."""
    numbers = told(torch.zeros(rows, VECTOR))["time_ids"]
    return torch.cat([draw(rows, 1280, seed=seed), network.add_time_proj(numbers.flatten()).reshape(rows, -1)], dim=1)


def write_keypoints(path: Path, depths: Depths = SHALLOW) -> Path:
    """The network's file as it is published."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in diffusers_control(depths).state_dict().items()}, path)
    return path


def network(path: Path) -> ControlNetwork:
    """What the library makes of a file."""
    from lib_ipadapter.checkpoint.containers import read_shapes

    spec = identify(read_shapes(path))
    return ControlNetwork(spec, load_keypoints_state(path, spec))
