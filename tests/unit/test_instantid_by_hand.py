"""InstantID from its two files and two faces to the UNet, as a job puts it together; against diffusers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lib_ipadapter.attend.inject import Injection
from lib_ipadapter.attend.keypoints import Keypoints
from lib_ipadapter.attend.layers import cross_attention_layers
from lib_ipadapter.attend.prompt import ImagePrompt, KeysValues
from lib_ipadapter.attend.regions import Region
from lib_ipadapter.attend.rows import layout
from lib_ipadapter.checkpoint.catalog import Catalog
from lib_ipadapter.encode.faces.drawn import DrawnFace, draw_points
from lib_ipadapter.jobs.resources import Resources
from lib_ipadapter.projections import build
from tests.helpers.diffusers_reference import add_adapters, published
from tests.helpers.files import write_adapter
from tests.helpers.keypoints import SDXL, diffusers_control, diffusers_twin, told, vector, write_keypoints, xl_unet
from tests.helpers.prompts import base_projection
from tests.helpers.tensors import close, draw, kv_weights

POINTS = ((200.0, 200.0), (300.0, 210.0), (250.0, 260.0), (215.0, 310.0), (290.0, 315.0))


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    write_adapter(tmp_path / "InstantID" / "ip-adapter.safetensors", xl_unet(SDXL), "instantid")
    write_keypoints(tmp_path / "InstantID" / "ControlNetModel" / "diffusion_pytorch_model.safetensors", SDXL)
    catalog = Catalog([tmp_path], [])
    catalog.refresh()
    return Resources(catalog)


def inputs(height: int, width: int) -> tuple[torch.Tensor, ...]:
    """What a step of one picture gives the UNet."""
    latents, text = draw(2, 4, height, width, seed=50), draw(2, 77, 2048, seed=51)
    return latents, torch.full((2,), 500.0), text, vector(diffusers_control(SDXL), 2)


def made(resources: Resources, embedding: torch.Tensor, face: DrawnFace, region: Region | None = None) -> ImagePrompt:
    """One unit's prompt: what the job's preparation does. ``embedding``: [1, 512]."""
    adapter = resources.catalog.find("ip-adapter")
    weights = resources.adapter(adapter, adapter.spec)
    projection = build(adapter.spec.projection, weights.image_proj, adapter.spec.context_width)
    cond, uncond = projection(embedding[:, None]), projection(torch.zeros_like(embedding)[:, None])
    network = resources.keypoints_network(resources.catalog.find_keypoints_network())
    keypoints = Keypoints(network, (face,), cond, uncond, strength=0.8)
    kv = KeysValues.project(weights.key, weights.value, cond, uncond)
    return ImagePrompt(kv, 0.6, region=region, keypoints=keypoints)


def test_the_whole_of_instantid_is_diffusers(resources: Resources) -> None:
    unet, face, embedding = xl_unet(SDXL), DrawnFace(POINTS, (500, 600)), draw(1, 512, seed=70)
    x, t, text, y = inputs(16, 24)
    prompt = made(resources, embedding, face)
    with Injection(unet, cross_attention_layers(unet), [prompt]) as injection:
        injection.begin(layout([1], 2), 0, 1, size=(16, 24))
        ours = unet(x, t, context=text, y=y)

    twin, control = diffusers_twin(unet), diffusers_control(SDXL)
    tokens = torch.cat([prompt.keypoints.cond, prompt.keypoints.uncond])
    add_adapters(twin, [published(base_projection(2048, 5), *kv_weights(unet, 5))], [0.6])
    twin.encoder_hid_proj.image_projection_layers[0] = torch.nn.Identity()  # it is given the tokens
    hint = torch.from_numpy(np.array(draw_points([face.points_in((128, 192))], (192, 128))))
    hint = (hint.permute(2, 0, 1) / 255)[None].repeat(2, 1, 1, 1)
    down, middle = control(x, t, tokens, hint, conditioning_scale=0.8, added_cond_kwargs=told(y), return_dict=False)
    theirs = twin(
        x, t, encoder_hidden_states=text, added_cond_kwargs={**told(y), "image_embeds": [tokens[:, None]]},
        down_block_additional_residuals=list(down), mid_block_additional_residual=middle,
    ).sample  # fmt: skip
    assert close(ours, theirs), (ours - theirs).abs().max()
    assert not close(ours, unet(x, t, context=text, y=y), 1e-2)


def test_two_persons_each_in_a_half(resources: Resources) -> None:
    """What the left one is changes the left half more, and the right one the right half."""
    unet = xl_unet(SDXL)
    x, t, text, y = inputs(16, 32)
    masks = [torch.zeros(16, 32), torch.zeros(16, 32)]
    masks[0][:, :16], masks[1][:, 16:] = 1, 1

    def run(*seeds: int) -> torch.Tensor:
        prompts = []
        for seed, mask in zip(seeds, masks, strict=True):
            region = Region(mask)
            face = DrawnFace(POINTS, (500, 500), region.frame)
            prompts.append(made(resources, draw(1, 512, seed=seed), face, region))
        with Injection(unet, cross_attention_layers(unet), prompts) as injection:
            injection.begin(layout([1], 2), 0, 1, size=(16, 32))
            return unet(x, t, context=text, y=y)

    both, other_left, other_right = run(1, 2), run(3, 2), run(1, 3)
    for other, own, far in ((other_left, slice(0, 16), slice(16, 32)), (other_right, slice(16, 32), slice(0, 16))):
        change = (other - both).abs()
        assert change[..., own].mean() > change[..., far].mean() > 0
