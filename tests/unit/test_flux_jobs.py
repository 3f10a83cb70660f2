"""Units for FLUX: what is made of references for Redux, XLabs' and InstantX' adapters, and what means nothing there."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.normalization import RMSNorm
from PIL import Image
from safetensors.torch import load_file, save_file

from lib_ipadapter.attend.keyframes import Run
from lib_ipadapter.attend.layers import Topology
from lib_ipadapter.attend.prompt import ImagePrompt
from lib_ipadapter.attend.rows import Row
from lib_ipadapter.checkpoint import load
from lib_ipadapter.checkpoint.catalog import Catalog
from lib_ipadapter.checkpoint.specs import SIGLIP
from lib_ipadapter.encode.cache import KEY_BYTES, TENSOR_BYTES
from lib_ipadapter.encode.pixels import to_pixels
from lib_ipadapter.errors import IPAdapterError, UnitError
from lib_ipadapter.jobs import flux
from lib_ipadapter.jobs.embeddings import embeddings_of
from lib_ipadapter.jobs.keyframes import fade_of
from lib_ipadapter.jobs.plans import Plan, plan_unit
from lib_ipadapter.jobs.prepare import Prepared, prepare
from lib_ipadapter.jobs.resources import Resources
from lib_ipadapter.projections import build
from lib_ipadapter.unit import parse_units
from tests.helpers.checkpoint_shapes import instantx, xlabs
from tests.helpers.files import base64_of, encoder_state, half, picture, unit
from tests.helpers.flux_reference import FILE
from tests.helpers.folders import fill, of_folder
from tests.helpers.jobs import DEVICE
from tests.helpers.projections import tensors
from tests.helpers.tensors import close, draw

TINY = Topology(24, (16, 16), 2, "FLUX")
GRID, SIDE, CONTEXT = 5, 20, 24  # of the small SigLIP, and the width of FLUX' words


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> Resources:
    """The small Redux and SigLIP of the reference file, small adapters, and a CLIP encoder for one of them."""
    folder = tmp_path_factory.mktemp("flux")
    stored = load_file(FILE)

    def save(name: str, begin: str) -> None:
        found = {key.removeprefix(begin): one.float() for key, one in stored.items() if key.startswith(begin)}
        save_file(found, folder / f"{name}.safetensors")

    save("redux", "redux.weights.")
    save("siglip", "siglip.odd.weights.")
    save_file(tensors(xlabs(4, 2, 16, CONTEXT, 32)), folder / "xlabs.safetensors")
    save_file(tensors(instantx(8, 5, 16, CONTEXT, 16)), folder / "instantx.safetensors")
    save_file(encoder_state(), folder / "clip.safetensors")
    catalog = Catalog([folder], [])
    catalog.refresh()
    return Resources(catalog)


def planned(resources: Resources, *units: dict) -> list[Plan]:
    return [plan_unit(one, TINY, TINY.blocks, resources.catalog).expanded() for one in parse_units(list(units))]


def prepared(resources: Resources, settings: dict) -> Prepared:
    (one,) = prepare(planned(resources, settings), resources, DEVICE, lambda text: None)
    return one


def features(resources: Resources, seed: int, side: int = SIDE, crop: str = "center", mask=None) -> torch.Tensor:
    """[V, N, 16]: what the small SigLIP makes of a picture."""
    tower = resources.encoder(resources.catalog.find_encoder(16, "last", family=SIGLIP), torch.float32)
    return tower.encode(to_pixels(picture(seed), side, crop, mask, SIGLIP), "last").of("last")


def tokens(resources: Resources, *of: torch.Tensor, downsampling: int = 1) -> torch.Tensor:
    """[1, T, 24]: Redux' tokens of features, one after the other."""
    entry = resources.catalog.find("redux")
    projection = build("Redux", load.load_adapter(entry.path, entry.spec).image_proj, CONTEXT)
    made = [projection(one, downsampling=downsampling).flatten(0, 1) for one in of]
    return torch.cat(made)[None]


# --- Redux ----------------------------------------------------------------------------------------------------------


def test_redux_hands_over_tokens_and_no_layers(resources: Resources) -> None:
    made = prepared(resources, unit("redux"))
    assert close(made.cond, tokens(resources, features(resources, 0)), 1e-6)
    assert made.cond.shape == (1, GRID**2, CONTEXT) and made.kv.keys == made.kv.values == ()
    assert torch.equal(made.factor, torch.ones(1, GRID**2))
    assert made.uncond.shape == (1, 0, CONTEXT) and made.uncond_factor.shape == (1, 0)
    numbers = 4 * (made.cond.numel() + made.factor.numel())
    assert made.nbytes == numbers + KEY_BYTES + 4 * TENSOR_BYTES


def test_references_stand_one_after_the_other_with_their_weights_as_factors(resources: Resources) -> None:
    images = [{"image": base64_of(picture(seed)), "weight": weight} for seed, weight in ((0, 0.5), (1, 0), (2, 2))]
    made = prepared(resources, {"model": "redux", "images": images})
    assert close(made.cond, tokens(resources, features(resources, 0), features(resources, 2)), 1e-6)
    assert made.factor[0].tolist() == [0.5] * GRID**2 + [2.0] * GRID**2
    silent = [{**image, "weight": 0} for image in images]
    assert not prepared(resources, {"model": "redux", "images": silent}).factor.any()


def test_references_can_be_made_one(resources: Resources) -> None:
    first, second = features(resources, 0), features(resources, 1)
    mean = prepared(resources, unit("redux", (0, 1), combine="average"))
    assert close(mean.cond, tokens(resources, (first + second) / 2), 1e-5)
    assert mean.factor.eq(1).all()
    less = prepared(resources, unit("redux", (0, 1), combine="subtract"))
    assert close(less.cond, tokens(resources, first - second), 1e-5)


@pytest.mark.parametrize(("factor", "left"), [(3, 9), (5, 5), (9, 3)])
def test_the_grid_becomes_coarser(factor: int, left: int, resources: Resources) -> None:
    """At 112 pixels the small tower has 28 patches in a row, one more than the published one."""
    made = prepared(resources, unit("redux", resolution=112, downsampling=factor))
    assert made.cond.shape == (*made.factor.shape, CONTEXT) == (1, left**2, CONTEXT)
    assert close(made.cond, tokens(resources, features(resources, 0, 112), downsampling=factor), 1e-5)


def test_per_image_each_picture_has_its_own(resources: Resources) -> None:
    made = prepared(resources, unit("redux", (0, 1), batch="per image", negative_images=[base64_of(picture(2))]))
    assert made.cond.shape == (2, GRID**2, CONTEXT) and made.factor.shape == (2, GRID**2)
    for i in range(2):
        assert close(made.cond[i : i + 1], tokens(resources, features(resources, i)), 1e-6)
    assert made.uncond.shape == made.cond.shape and torch.equal(made.uncond[0], made.uncond[1])
    assert made.uncond_factor.shape == (2, GRID**2)


def test_negative_references_are_words_of_the_negative_side(resources: Resources) -> None:
    negatives = [{"image": base64_of(picture(seed)), "weight": weight} for seed, weight in ((1, 0.5), (2, 1))]
    made = prepared(resources, unit("redux", negative_images=negatives, downsampling=9))
    of_both = tokens(resources, features(resources, 1), features(resources, 2), downsampling=9)
    assert close(made.uncond, of_both, 1e-6) and made.uncond_factor.tolist() == [[0.5, 1.0]]
    assert close(made.cond, tokens(resources, features(resources, 0), downsampling=9), 1e-6)


def test_crops_tiles_and_masks_are_as_for_every_unit(resources: Resources) -> None:
    wide = picture(0, (60, 24))
    made = prepared(resources, {"model": "redux", "images": [base64_of(wide)], "crop": "tile"})
    assert made.cond.shape == (1, 3 * GRID**2, CONTEXT) == (*made.factor.shape, CONTEXT)
    mask = half("left", (60, 48))
    masked = prepared(
        resources, {"model": "redux", "images": [{"image": base64_of(picture(0)), "mask": base64_of(mask)}]}
    )
    assert close(masked.cond, tokens(resources, features(resources, 0, mask=mask)), 1e-5)
    assert not close(masked.cond, prepared(resources, unit("redux")).cond, 1e-2)
    with pytest.raises(UnitError, match="crop “tile” gives adapter redux more tokens"):
        planned(resources, {"model": "redux", "images": [base64_of(wide)] * 2, "crop": "tile", "combine": "average"})
    with pytest.raises(UnitError, match="different numbers of tiles"):
        images = [base64_of(wide), base64_of(picture(1, (40, 40)))]
        planned(resources, {"model": "redux", "images": images, "crop": "tile", "batch": "per image"})


def test_what_was_prepared_is_remembered_by_what_it_is_made_of(resources: Resources) -> None:
    once, again = prepared(resources, unit("redux", weight=0.3)), prepared(resources, unit("redux", weight=2))
    assert again is once
    other = prepared(resources, unit("redux", downsampling=3))
    assert other is not once and other.cond.shape[1] < once.cond.shape[1]


def test_embeddings_in_a_file_stand_for_the_picture(resources: Resources) -> None:
    (given,) = parse_units([unit("redux")])
    file = embeddings_of(given, resources, DEVICE)
    stored = {"model": "redux", "images": [base64.b64encode(file).decode()], "downsampling": 3}
    made = prepared(resources, stored)
    assert planned(resources, stored)[0].encoder is None  # nothing is left to be shown to one
    assert close(made.cond, prepared(resources, unit("redux", downsampling=3)).cond, 1e-6)
    with pytest.raises(UnitError, match="hold last embeddings of .SigLIP"):
        planned(resources, {**stored, "model": "xlabs"})


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"weight_type": "ease in"}, "weight_type"),
        ({"embeds_scaling": "K+V"}, "embeds_scaling"),
        ({"layer_weights": [1.0, 0.5]}, "layer_weights"),
        ({"composition_weight": 0.5}, "composition_weight"),
        ({"boost": 0.5}, "boost"),
        ({"subtract_prompt": "red"}, "subtract_prompt"),
        ({"noise": 0.5}, "noise"),
    ],
)
def test_what_means_nothing_to_redux_is_refused(settings: dict, name: str, resources: Resources) -> None:
    with pytest.raises(UnitError) as error:
        planned(resources, {"enabled": False}, unit("redux", **settings))
    assert error.value.detail == (
        f"IP-Adapter unit 2: {name} means nothing here: adapter redux is FLUX Redux, whose image tokens stand behind "
        "the prompt's, for all blocks alike. Leave it at its default."
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"weight": -0.5},
            "unit 1: weight is -0.5, and FLUX Redux has no negative weights: give 0 or more, or put what",
        ),
        ({"weight": [[0, 1], [1, -1]]}, "weight is -1, and FLUX Redux"),
        (
            {"images": [{"image": base64_of(picture()), "weight": -1}]},
            "the weight of a reference is -1, and FLUX Redux",
        ),
        ({"negative_images": [{"image": base64_of(picture()), "weight": -0.5}]}, "the weight of a reference is -0.5"),
    ],
)
def test_a_negative_weight_of_redux_is_refused(settings: dict, sentence: str, resources: Resources) -> None:
    with pytest.raises(UnitError, match=sentence):
        planned(resources, {**unit("redux"), **settings})
    planned(resources, {**unit("xlabs"), **settings})  # which takes them


def test_downsampling_of_another_adapter_has_no_effect_and_is_one_of_four(resources: Resources) -> None:
    (plan,) = planned(resources, unit("xlabs", downsampling=3))
    assert "downsampling has no effect: adapter xlabs is xlabs, and only redux has it." in plan.notes
    for wrong in (2, "3", 3.5, True, None):
        with pytest.raises(UnitError, match=r"downsampling is .*: choose one of 1, 3, 5, 9\."):
            parse_units([unit("redux", downsampling=wrong)])
    assert [one.downsampling for one in parse_units([unit("redux", downsampling=9.0)])] == [9]


# --- XLabs and InstantX ---------------------------------------------------------------------------------------------


def test_xlabs_layers_have_biases_and_the_weight_of_a_reference_is_on_the_values(resources: Resources) -> None:
    entry = resources.catalog.find("xlabs")
    weights = load.load_adapter(entry.path, entry.spec)
    images = [{"image": base64_of(picture(seed)), "weight": weight} for seed, weight in ((0, 0.5), (1, 1.0))]
    made = prepared(resources, {"model": "xlabs", "images": images})
    assert made.cond.shape == made.uncond.shape == (1, 8, CONTEXT) and made.factor is made.uncond_factor is None
    assert made.kv.pictures == 1 and len(made.kv.keys) == 2
    both, factor = torch.cat([made.cond, made.uncond]), torch.tensor([0.5] * 4 + [1.0] * 4)[:, None]
    for i in range(2):
        key = F.linear(both, weights.key[i], weights.key_bias[i])
        value = F.linear(both, weights.value[i], weights.value_bias[i]) * factor
        assert close(made.kv.keys[i], key, 1e-6) and close(made.kv.values[i], value, 1e-6)
    black = prepared(resources, {"model": "xlabs", "image": base64_of(Image.new("RGB", (40, 60)))})
    assert close(made.uncond[:, :4], black.cond, 1e-6)
    assert not close(made.cond[:, :4], black.cond, 1e-2)


def test_the_reference_files_xlabs_tokens_become_its_keys_and_values() -> None:
    stored = {name: one.float() for name, one in load_file(FILE).items()}
    begin = "xlabs.weights.double_blocks.1.processor.ip_adapter_double_stream"
    both = (
        [stored[f"{begin}_{side}_proj.weight"] for side in "kv"],
        [stored[f"{begin}_{side}_proj.bias"] for side in "kv"],
    )
    weights = load.AdapterWeights(None, {}, [both[0][0]], [both[0][1]], {}, [both[1][0]], [both[1][1]])
    given = stored["xlabs.tokens"]
    kv = flux.keys_values(weights, "xlabs", given, torch.zeros_like(given), torch.ones(2, 4))
    with torch.no_grad():
        linear = torch.nn.Linear(24, 16)
        linear.load_state_dict({"weight": both[0][1], "bias": both[1][1]})
        assert close(kv.values[0][:2], linear(given), 1e-6) and kv.pictures == 2


def test_instantx_keys_are_normed_head_by_head_and_its_values_are_not(resources: Resources) -> None:
    cond, uncond = draw(1, 8, CONTEXT, seed=1), draw(1, 8, CONTEXT, seed=2)
    key, value = draw(256, CONTEXT, seed=3), draw(256, CONTEXT, seed=4)
    weights = load.AdapterWeights(None, {}, [key], [value], {})
    kv = flux.keys_values(weights, "instantx", cond, uncond, torch.full((1, 8), 0.5))
    plain = F.linear(torch.cat([cond, uncond]), key).unflatten(-1, (2, 128))
    assert close(kv.keys[0], RMSNorm(128, eps=1e-5, elementwise_affine=False)(plain).flatten(-2), 1e-6)
    assert close(kv.values[0], 0.5 * F.linear(torch.cat([cond, uncond]), value), 1e-6)
    made = prepared(resources, unit("instantx"))  # from SigLIP's pooled output to its layers
    assert [tuple(one.shape) for one in made.kv.keys] == [(2, 8, 16)] * 5


@pytest.mark.parametrize("model", ["xlabs", "instantx"])
@pytest.mark.parametrize(
    ("settings", "instead"),
    [
        ({"weight_type": "composition"}, ", or give layer_weights"),
        ({"embeds_scaling": "K+V"}, ""),
        ({"boost": 1.0}, ""),
    ],
)
def test_weight_types_mean_nothing_to_them(model: str, settings: dict, instead: str, resources: Resources) -> None:
    (name,) = settings
    with pytest.raises(
        UnitError, match=f"{name} means nothing here: adapter {model} is for FLUX, .*default{instead}\\.$"
    ):
        planned(resources, unit(model, **settings))


@pytest.mark.parametrize("model", ["xlabs", "instantx"])
def test_between_keyframes_the_keys_are_those_of_the_tokens_mean(model: str, resources: Resources) -> None:
    """InstantX' are of one length after that, too."""
    items = [{"image": base64_of(picture(seed)), "at": seed, "weight": weight} for seed, weight in ((0, 0.5), (1, 1))]
    (plan,) = planned(resources, {"model": model, "images": items})
    made, weights = prepared(resources, {"model": model, "images": items}), resources.adapter(plan.adapter, plan.spec)
    prompt = ImagePrompt(made.kv, fade=fade_of(plan, made))
    prompt.during(Run(0, 5))
    prompt.begin(0, 1)
    for picture_, share in ((0, 0.0), (1, 0.25), (2, 0.5), (4, 1.0)):
        total = (1 - share) * 0.5 + share
        mean = ((1 - share) * 0.5 * made.cond[:1] + share * made.cond[1:]) / total
        want = flux.keys_values(weights, model, mean, made.uncond[:1], torch.full((1, mean.shape[1]), total))
        sides = prompt.sides(0, (Row(True, picture_),))
        for layer in range(len(made.kv.keys)):
            held = prompt.gather(layer, layer, sides, mean)
            assert close(held.key[0], want.keys[layer][0], 1e-5) and close(held.value[0], want.values[layer][0], 1e-5)


def test_between_keyframes_redux_has_the_mean_of_their_tokens(resources: Resources) -> None:
    items = [{"image": base64_of(picture(seed)), "at": seed, "weight": weight} for seed, weight in ((0, 0.5), (1, 1))]
    made = prepared(resources, {"model": "redux", "images": items, "negative_images": [base64_of(picture(2))]})
    (plan,) = planned(resources, {"model": "redux", "images": items})
    prompt = ImagePrompt(made.kv, fade=fade_of(plan, made))
    prompt.during(Run(0, 3))
    first, second = (tokens(resources, features(resources, seed))[0] for seed in (0, 1))
    assert close(prompt.tokens_of(made.cond, 0), first, 1e-5) and close(prompt.tokens_of(made.cond, 2), second, 1e-5)
    assert close(prompt.tokens_of(made.cond, 1), (0.5 * first + second) / 1.5, 1e-5)
    assert prompt.factors_of(made.factor, 1).tolist() == [0.75] * GRID**2
    assert torch.equal(prompt.tokens_of(made.uncond, 1), made.uncond[0])


@pytest.mark.parametrize(("model", "count"), [("xlabs", 2), ("instantx", 5)])
def test_layer_weights_are_for_each_of_its_blocks(model: str, count: int, resources: Resources) -> None:
    weights = [float(i) for i in range(count)]
    (plan,) = planned(resources, unit(model, layer_weights=weights))
    assert [plan.spread.at(i, 2.0) for i in range(count)] == [2 * weight for weight in weights]
    with pytest.raises(UnitError, match=f"layer_weights holds 3 numbers, .* give {count} numbers"):
        planned(resources, unit(model, layer_weights=[1.0] * 3))


def test_subtracted_words_need_a_clip(resources: Resources) -> None:
    with pytest.raises(UnitError, match="subtract_prompt means nothing here: adapter instantx .* has no words"):
        planned(resources, unit("instantx", subtract_prompt="red"))
    with pytest.raises(IPAdapterError, match="clip has no text encoder"):
        planned(resources, unit("xlabs", subtract_prompt="red"))


def test_the_panels_words_are_used_for_the_panels_units(resources: Resources) -> None:
    from lib_ipadapter.kinds import Wording

    (one,) = parse_units([unit("redux", weight_type="ease in")], Wording.PANEL)
    with pytest.raises(UnitError, match="“Weight type” means nothing here"):
        plan_unit(one, TINY, TINY.blocks, resources.catalog)


def test_the_folder_holds_nothing_else(resources: Resources, tmp_path: Path) -> None:
    assert [one.name for one in resources.catalog.adapters] == ["instantx", "redux", "xlabs"]
    assert [one.name for one in resources.catalog.encoders] == ["clip", "siglip"]


# --- folders ---------------------------------------------------------------------------------------------------------


def in_folder(resources: Resources, folder: Path, **settings) -> Prepared:
    made = plan_unit(of_folder(folder, **settings), TINY, TINY.blocks, resources.catalog).expanded()
    (one,) = prepare([made], resources, DEVICE, lambda text: None)
    return one


def alike(one: Prepared, other: Prepared, picture: int = 0) -> bool:
    """Whether two are the same in all that a picture sees: ``picture`` of the first, and the only one of the other."""
    layers = range(other.kv.layers)
    if one.kv.layers != other.kv.layers:
        return False
    like, sides = torch.empty(0), [picture, len(one.cond) + picture]
    kept = [one.kv.of(i, sides, like) for i in layers], [other.kv.of(i, [0, 1], like) for i in layers]
    tokens = all(close(a[picture], b[0], 1e-5) for a, b in ((one.cond, other.cond), (one.uncond, other.uncond)))
    return tokens and all(close(a, b, 1e-5) for of, to in zip(*kept, strict=True) for a, b in zip(of, to, strict=True))


@pytest.mark.parametrize("model", ["redux", "xlabs", "instantx"])
def test_a_folder_goes_with_adapters_for_flux(model: str, resources: Resources, tmp_path: Path, monkeypatch) -> None:
    """Averaged, with negative references, it is its pictures averaged; walked, each picture's own, however many."""
    negative = {"negative_images": [base64_of(picture(9)), {"image": base64_of(picture(8)), "weight": 0.5}]}
    folder = fill(tmp_path / "refs", 1, 2, 3)
    average = {"model": model, "combine": "average", **negative}
    assert alike(in_folder(resources, folder, **average), prepared(resources, unit(seeds=(1, 2, 3), **average)))
    equal = fill(tmp_path / "equal", *[4] * 66)
    single = prepared(resources, unit(seeds=(4,), model=model, **negative))
    assert alike(in_folder(resources, equal, **average), single)
    singles = [prepared(resources, unit(seeds=(seed,), model=model, **negative)) for seed in (1, 2, 3)]
    for bound in (64, 2):
        monkeypatch.setattr("lib_ipadapter.jobs.plans.MAX_REFERENCES", bound)
        walked = in_folder(Resources(resources.catalog), folder, model=model, batch="per image", **negative)
        assert len(walked.cond) == 3
        for i, one in enumerate(singles):
            assert alike(walked, one, i), (bound, i)
