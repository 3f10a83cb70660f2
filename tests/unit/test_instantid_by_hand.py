"""InstantID from its two files and two faces to the UNet, as a job puts it together; against diffusers."""

from __future__ import annotations

import base64
from dataclasses import replace
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
from lib_ipadapter.encode.faces.face import Face
from lib_ipadapter.errors import UnitError
from lib_ipadapter.jobs.embeddings import embeddings_of
from lib_ipadapter.jobs.resources import Resources
from lib_ipadapter.projections import build
from lib_ipadapter.unit import Unit
from tests.helpers.diffusers_reference import add_adapters, published
from tests.helpers.faces import Finder
from tests.helpers.files import base64_of, picture, write_adapter
from tests.helpers.jobs import DEVICE, generation
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


# The same through a job


def test_a_job_puts_instantid_together(resources: Resources) -> None:
    """What the job makes of a unit is what is put together by hand, with the face where the photo has it."""
    found = Face((150.0, 150.0, 350.0, 350.0), POINTS, 0.9, draw(512, seed=70))
    resources.faces = Finder(lambda image: [found])
    photo = base64_of(picture(1, (500, 600)))
    unet, (x, t, text, y) = xl_unet(SDXL), inputs(16, 24)
    settings = {"model": "ip-adapter", "images": [photo], "weight": 0.6, "keypoints_weight": 0.8}

    def run(**changes) -> torch.Tensor:
        job = generation(unet, resources, {**settings, **changes})
        with job:
            if (injection := job.attach(unet)) is not None:
                injection.begin(layout([1], 2), 0, 4, size=(16, 24))
            return unet(x, t, context=text, y=y)

    plain = unet(x, t, context=text, y=y)
    by_hand = made(resources, found.embedding[None], DrawnFace(POINTS, (500, 600)))
    with Injection(unet, cross_attention_layers(unet), [by_hand]) as injection:
        injection.begin(layout([1], 2), 0, 4, size=(16, 24))
        want = unet(x, t, context=text, y=y)
    assert close(run(), want, 1e-5)
    assert torch.equal(run(weight=0), plain)
    without = run(keypoints_weight=0)
    assert not close(without, want, 1e-3) and not close(without, plain, 1e-3)
    assert close(run(keypoints_start=0.5), without, 1e-6)
    elsewhere = Face(found.box, tuple((x / 2, y / 2) for x, y in POINTS), 0.9, found.embedding)
    pictures = iter([found, elsewhere])
    resources.faces = Finder(lambda image: [next(pictures)])
    resources.unload()
    assert not close(run(keypoints_image=base64_of(picture(2, (500, 600)))), want, 1e-4)
    assert torch.equal(unet(x, t, context=text, y=y), plain)


@pytest.mark.parametrize("pose", [False, True])
def test_tokens_fade_and_the_nearest_keyframes_points_are_drawn(pose: bool, resources: Resources) -> None:
    from lib_ipadapter.attend.keyframes import Run

    ones = [Face((0.0, 0.0, 9.0, 9.0), POINTS, 0.9, draw(512, seed=70))]
    ones.append(Face((0.0, 0.0, 9.0, 9.0), tuple((x / 2, y / 2) for x, y in POINTS), 0.9, draw(512, seed=71)))
    resources.faces = Finder(lambda image: [ones[int(image.size == (500, 601))]])
    photos = [base64_of(picture(1 + i, (500, 600 + i))) for i in (0, 1)]
    unet, (x, t, text, y) = xl_unet(SDXL), inputs(16, 24)
    settings = {"model": "ip-adapter", "weight": 0.6, "keypoints_weight": 0.8}
    settings |= {"keypoints_image": photos[1]} if pose else {}

    def run(images: list, first: int) -> torch.Tensor:
        job = generation(unet, resources, {**settings, "images": images})
        told = [note for note in job.plans[0].notes if "keyframe" in note]
        assert len(told) == (len(images) > 1 and not pose)
        with job:
            injection = job.attach(unet, first_picture=first, run=Run(first, 5))
            injection.begin(layout([1], 2), 0, 4, size=(16, 24))
            return unet(x, t, context=text, y=y)

    both = [{"image": photo, "at": at} for photo, at in zip(photos, (0, 1), strict=True)]
    for first, photo in ((0, photos[0]), (4, photos[1])):
        assert close(run(both, first), run([photo], 0), 1e-5)
    for first, share in ((1, 0.25), (2, 0.5), (3, 0.75)):
        near = 1 if pose or first > 2 else 0
        by_hand = [made(resources, one.embedding[None], DrawnFace(ones[near].landmarks, (500, 600 + near)))
                   for one in ones]  # fmt: skip
        prompt, other = by_hand
        for mine, its in (("keys", other.kv.keys), ("values", other.kv.values)):
            mixed = tuple(torch.lerp(a, b, share) for a, b in zip(getattr(prompt.kv, mine), its, strict=True))
            prompt.kv = replace(prompt.kv, **{mine: mixed})
        tokens = {name: torch.lerp(getattr(prompt.keypoints, name), getattr(other.keypoints, name), share)
                  for name in ("cond", "uncond")}  # fmt: skip
        prompt.keypoints = replace(prompt.keypoints, **tokens)
        with Injection(unet, cross_attention_layers(unet), [prompt]) as injection:
            injection.begin(layout([1], 2), 0, 4, size=(16, 24))
            want = unet(x, t, context=text, y=y)
        assert close(run(both, first), want, 1e-5)


def test_embeddings_without_a_place_for_the_face_are_refused(resources: Resources) -> None:
    resources.faces = Finder(lambda image: [Face((0.0, 0.0, 9.0, 9.0), POINTS, 0.9, draw(512, seed=70))])
    unit = {"model": "ip-adapter", "images": [base64_of(picture(1))]}
    file = base64.b64encode(embeddings_of(Unit.parse(unit), resources, DEVICE)).decode()
    kept = {"model": "ip-adapter", "images": [{"embeddings": file}]}
    with pytest.raises(UnitError, match="embeddings do not say where the face is: give a picture as keypoints_image"):
        generation(xl_unet(SDXL), resources, kept)
    generation(xl_unet(SDXL), resources, {**kept, "keypoints_weight": 0})
    generation(xl_unet(SDXL), resources, {**kept, "keypoints_image": base64_of(picture(2))})
