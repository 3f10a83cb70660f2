"""What of its references a job sees: masks, crops, combining, the negative side, words."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lib_ipadapter.attend.prompt import KeysValues
from lib_ipadapter.attend.rows import layout
from lib_ipadapter.checkpoint.catalog import Catalog
from lib_ipadapter.encode.clip_image import ImageEncoder
from lib_ipadapter.encode.clip_text import token_ids
from lib_ipadapter.encode.combine import COMBINE_MODES
from lib_ipadapter.encode.pixels import to_pixels
from lib_ipadapter.encode.references import unconditional
from lib_ipadapter.errors import IPAdapterError, PictureError
from lib_ipadapter.jobs.embeddings import look_of
from lib_ipadapter.jobs.resources import Resources
from lib_ipadapter.projections import build
from lib_ipadapter.unit import Unit
from tests.helpers.files import PROJECTION, base64_of, encoder_state, half, picture, unit, write_adapter
from tests.helpers.jobs import DEVICE, denoise, far, generation
from tests.helpers.tensors import close

ROWS = layout([1], 2)


def grey(value: int, size: tuple[int, int] = (8, 8)) -> str:
    return base64_of(Image.new("L", size, value))


# --- references: masks, crops, combining ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["base", "plus"])
def test_a_white_mask_of_a_reference_is_none_and_others_count(kind: str, unet, resources) -> None:
    image = base64_of(picture(0))

    def masked(mask) -> torch.Tensor:
        items = [{"image": image, "mask": mask}]
        return denoise(unet, generation(unet, resources, {"model": kind, "images": items}))

    default = masked(None)
    assert torch.equal(masked(grey(255)), default)
    assert far(masked(base64_of(half("left"))), default)
    with pytest.raises(PictureError, match="^IP-Adapter unit 1: the reference: the mask is black all over"):
        masked(grey(0))


def test_a_mask_of_another_form_is_told(unet, resources) -> None:
    item = {"image": base64_of(picture(0, (64, 32))), "mask": base64_of(half("left", (40, 40)))}
    job = generation(unet, resources, {"model": "base", "images": [item]})
    assert job.plans[0].notes == (
        "the reference: the mask (40 x 40) is stretched over a picture of another form (64 x 32).",
    )
    assert generation(unet, resources, unit()).plans[0].notes == ()


@pytest.mark.parametrize("kind", ["base", "plus"])
def test_tiles_of_a_picture_that_repeats_are_the_picture(kind: str, unet, resources) -> None:
    square = picture(0, (42, 42))
    strip = Image.new("RGB", (126, 42))
    for i in range(3):
        strip.paste(square, (42 * i, 0))
    tiled = generation(unet, resources, {"model": kind, "images": [base64_of(strip)], "crop": "tile"})
    one = generation(unet, resources, {"model": kind, "images": [base64_of(square)]})
    assert close(denoise(unet, tiled), denoise(unet, one), 1e-4)
    tokens = tiled.prompts[0][1].kv.keys[0].shape[1]
    assert tokens == (4 if kind == "base" else 3 * 16)


@pytest.mark.parametrize("kind", ["base", "plus"])
def test_the_unconditional_side_of_several_references_is_kept_once(kind: str, unet, resources) -> None:
    """And the picture is the one that a copy for each of them gives."""
    images = [{"image": base64_of(picture(i)), "weight": weight} for i, weight in enumerate((1.0, 0.4, 0.7))]
    once = generation(unet, resources, {"model": kind, "images": images})
    (one,) = once.prompts
    assert one.prompt.kv.copies == 3
    found = denoise(unet, once)
    one.prompt.kv = replace(one.prompt.kv, copies=1)
    assert close(found, denoise(unet, once), 1e-5)


def test_tiles_of_a_square_picture_are_the_centre(unet, resources) -> None:
    square = [base64_of(picture(0, (50, 50)))]
    crops = [
        denoise(unet, generation(unet, resources, {"model": "plus", "images": square, "crop": crop}))
        for crop in ("tile", "center")
    ]
    assert torch.equal(*crops)


def test_every_crop_of_a_long_picture_differs(unet, resources) -> None:
    long = {"model": "base", "images": [base64_of(picture(3, (160, 48)))]}
    seen = [
        denoise(unet, generation(unet, resources, {**long, "crop": crop}))
        for crop in ("center", "left", "right", "pad", "stretch", "tile")
    ]
    assert all(not torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])


def test_tiles_that_cannot_meet_are_refused(unet, resources) -> None:
    forms = [base64_of(picture(seed, size)) for seed, size in enumerate([(126, 42), (42, 42)])]
    with pytest.raises(IPAdapterError, match=r"unit 1: crop “tile” gives adapter plus more tokens"):
        generation(unet, resources, {"model": "plus", "images": forms, "crop": "tile", "combine": "average"})
    with pytest.raises(IPAdapterError, match=r"different numbers of tiles, and batch is “per image”"):
        generation(unet, resources, {"model": "plus", "images": forms, "crop": "tile", "batch": "per image"})
    for allowed in ({"combine": "concat"}, {"combine": "average", "model": "base"}):
        generation(unet, resources, {"model": "plus", "images": forms, "crop": "tile", **allowed})


@pytest.mark.parametrize("mode", ["concat", *COMBINE_MODES])
@pytest.mark.parametrize("kind", ["base", "plus"])
def test_one_reference_is_itself_in_every_mode(kind: str, mode: str, unet, resources) -> None:
    one = denoise(unet, generation(unet, resources, unit(kind)))
    if mode != "norm average":
        assert close(denoise(unet, generation(unet, resources, unit(kind, combine=mode))), one, 1e-5)
    two = denoise(unet, generation(unet, resources, unit(kind, (0, 1), combine=mode)))
    assert far(two, one)
    twice = denoise(unet, generation(unet, resources, unit(kind, (0, 0), combine=mode)))
    if mode in ("concat", "average", "max", "min"):
        assert close(twice, one, 1e-5)


@pytest.mark.parametrize("mode", ["concat", *COMBINE_MODES])
def test_a_references_weight_counts_in_every_mode(mode: str, unet, resources) -> None:
    images = [base64_of(picture(seed)) for seed in (0, 1)]

    def weighted(*weights: float) -> torch.Tensor:
        items = [{"image": image, "weight": weight} for image, weight in zip(images, weights, strict=True)]
        return denoise(unet, generation(unet, resources, {"model": "base", "images": items, "combine": mode}))

    assert far(weighted(1, 1), weighted(1, 0.3))
    assert close(weighted(0, 0), denoise(unet, None), 1e-6)


# --- the negative side ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["base", "plus"])
def test_a_negative_reference_stands_in_the_place_of_none(kind: str, unet, resources) -> None:
    image, other = base64_of(picture(0)), base64_of(picture(1))

    def kv(**settings) -> KeysValues:
        return generation(unet, resources, {"model": kind, "images": [image], **settings}).prompts[0][1].kv

    default, same, another = kv(), kv(negative_images=[image]), kv(negative_images=[other])
    for key, plain in zip(same.keys, default.keys, strict=True):
        assert close(key[0], key[1], 1e-5)  # towards and away from the same
        assert torch.equal(key[0], plain[0])
    expected = generation(unet, resources, {"model": kind, "images": [other]}).prompts[0][1].kv
    assert close(another.values[3][1], expected.values[3][0], 1e-5)
    none = kv(negative_images=[{"image": other, "weight": 0}])
    assert torch.equal(none.values[3], default.values[3])
    assert close(kv(negative_images=[other, other]).values[3], another.values[3], 1e-5)


def test_negative_references_serve_any_number_of_references(unet, resources) -> None:
    few = unit("plus", (0, 1), negative_images=[base64_of(picture(2))])
    twice = unit("plus", (0, 1, 0, 1), negative_images=[base64_of(picture(2))])
    assert close(
        denoise(unet, generation(unet, resources, few)), denoise(unet, generation(unet, resources, twice)), 1e-5
    )


@pytest.mark.parametrize("kind", ["base", "plus"])
def test_noise_is_mixed_into_the_unconditional_side_only(kind: str, unet, resources) -> None:
    def kv(noise: float) -> KeysValues:
        state = torch.get_rng_state()
        made = generation(unet, resources, unit(kind, noise=noise)).prompts[0][1].kv
        assert torch.equal(torch.get_rng_state(), state)
        return made

    none, some, all_ = kv(0.0), kv(0.5), kv(1.0)
    assert torch.equal(none.values[3], generation(unet, resources, unit(kind)).prompts[0][1].kv.values[3])
    for noisy in (some, all_):
        assert torch.equal(noisy.values[3][0], none.values[3][0])
        assert far(noisy.values[3][1], none.values[3][1])
    resources.unload()
    assert torch.equal(kv(0.5).values[3], some.values[3])  # the same whenever it is made


def test_words_are_for_pooled_embeddings_only(unet, resources) -> None:
    with pytest.raises(IPAdapterError, match=r"unit 1: subtract_prompt works on pooled embeddings only.*base adapter"):
        generation(unet, resources, unit("plus", subtract_prompt="red"))


def test_words_are_taken_out_of_the_reference_alone(unet, tmp_path: Path) -> None:
    """Against transformers' text tower and the projection written out."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    with torch.random.fork_rng():
        torch.manual_seed(3)
        text = CLIPTextModelWithProjection(CLIPTextConfig(
            hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=1,
            projection_dim=PROJECTION, hidden_act="gelu",
        )).eval()  # fmt: skip
    state = {k: v for k, v in text.state_dict().items() if not k.endswith("position_ids")}
    write_adapter(tmp_path / "base.safetensors", unet)
    save_file({**encoder_state(), **state}, tmp_path / "clip.safetensors")
    catalog = Catalog([tmp_path], [])
    catalog.refresh()
    resources = Resources(catalog)

    def kv(**settings) -> KeysValues:
        return generation(unet, resources, unit(**settings)).prompts[0][1].kv

    entry = catalog.encoders[0]
    encoder = ImageEncoder.from_state(entry.spec, encoder_state(), dtype=torch.float32)
    e = encoder.encode(to_pixels(picture(0), entry.spec.image_size), "pooled").pooled
    w = text(torch.tensor([token_ids("a red sofa")])).text_embeds
    w = w / w.norm()
    taken = e - (e @ w.T) * w
    weights = resources.adapter(catalog.find("base"), catalog.find("base").spec)
    tokens = build("ImageProj", weights.image_proj, 768)(taken)[0]
    made, plain = kv(subtract_prompt="a red sofa"), kv()
    assert close(made.keys[3][0], tokens @ weights.key[3].T, 1e-4)
    assert far(made.keys[3][0], plain.keys[3][0])
    assert torch.equal(made.keys[3][1], plain.keys[3][1])  # the unconditional side
    assert not close(kv(subtract_prompt="blue").keys[3], made.keys[3], 1e-4)
    look = base64.b64encode(
        look_of(Unit.parse(unit(subtract_prompt="a red sofa")), "red", lambda seen: b"", resources, DEVICE)
    ).decode()
    of_look = kv(images=[{"embeddings": look}])  # the words are taken out of it already
    assert all(map(torch.equal, of_look.keys, made.keys)) and all(map(torch.equal, of_look.values, made.values))
    with pytest.raises(IPAdapterError, match=r"unit 1: the words to subtract are .* use fewer words"):
        kv(subtract_prompt="red " * 100)


@pytest.mark.parametrize("weights", [(1, -1), (-1, -1), (-0.3, 0.7), (0, -1), (0, 0), (1, 2)])
def test_the_unconditional_side_does_not_jump(weights: tuple[float, float]) -> None:
    """Sides that are nearly equal are as good as equal, whatever the weights; it lies between them."""
    one = torch.ones(1, 8)
    for other in (one.clone(), one + 1e-5, one + 1):
        got = unconditional(None, [one, other], weights)
        assert ((one - 1e-6 <= got) & (got <= other + 1e-6)).all(), (other[0, 0], got[0, 0])
    beside = unconditional(torch.zeros(1, 8), [one, None], weights)
    assert ((beside >= 0) & (beside <= 1)).all()


def test_the_unconditional_side_goes_with_the_weights() -> None:
    one, other = torch.ones(1, 8), torch.full((1, 8), 3.0)
    assert torch.allclose(unconditional(None, [one, other], (-3, 1)), torch.full((1, 8), 1.5))
    assert torch.equal(unconditional(None, [one, other], (-1, 1)), unconditional(None, [one, other], (1, 1)))
