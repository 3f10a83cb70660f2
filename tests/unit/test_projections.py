"""Every projection against diffusers' class on the same random weights (fp32, max abs difference 1e-5)."""

from __future__ import annotations

import pytest
import torch
from diffusers.loaders.unet import UNet2DConditionLoadersMixin
from diffusers.models.embeddings import IPAdapterFaceIDImageProjection
from safetensors.torch import load_file

from lib_ipadapter.errors import CheckpointError
from lib_ipadapter.projections import build
from tests.helpers.checkpoint_shapes import instantx, linear, norm
from tests.helpers.flux_reference import FILE
from tests.helpers.projections import face_mlp, perceiver, resampler, tensors
from tests.helpers.tensors import draw


def reference(weights: dict[str, torch.Tensor]):
    """What diffusers makes of the same tensors."""
    mixin = UNet2DConditionLoadersMixin()
    return mixin._convert_ip_adapter_image_proj_to_diffusers(dict(weights)).float().eval()


def worst(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    assert theirs.abs().mean() > 0.1  # else equality would say nothing
    return (ours - theirs).abs().max().item()


@pytest.mark.parametrize(("features", "width"), [(1024, 768), (1280, 768), (1024, 1024), (1280, 2048), (768, 768)])
def test_image_proj(features: int, width: int) -> None:
    weights = tensors({**linear("proj", 4 * width, features), **norm("norm", width)})
    pooled = draw(3, features, seed=9)
    assert worst(build("ImageProj", weights, width)(pooled), reference(weights)(pooled)) <= 1e-5


@pytest.mark.parametrize(
    ("dim", "features", "width"), [(768, 1280, 768), (1280, 1280, 2048), (128, 64, 1024)], ids=["sd15", "wide", "small"]
)
def test_resampler(dim: int, features: int, width: int) -> None:
    weights = tensors(resampler(dim, 4, 16, features, width))
    penultimate = draw(2, 20, features, seed=9)
    assert worst(build("Resampler", weights, width)(penultimate), reference(weights)(penultimate)) <= 1e-5


def test_resampler_takes_a_face_embedding_as_its_one_feature() -> None:
    weights = tensors(resampler(128, 4, 16, 512, 768))
    face = draw(2, 512, seed=9)
    assert worst(build("Resampler", weights, 768)(face), reference(weights)(face[:, None])) <= 1e-5


def test_full_face() -> None:
    weights = tensors({**linear("proj.0", 1280, 1280), **linear("proj.2", 768, 1280), **norm("proj.3", 768)})
    penultimate = draw(2, 257, 1280, seed=9)
    assert worst(build("MLPProj", weights, 768)(penultimate), reference(weights)(penultimate)) <= 1e-5


@pytest.mark.parametrize(("tokens", "width"), [(4, 768), (16, 768), (4, 2048)])
def test_face_id(tokens: int, width: int) -> None:
    weights = tensors(face_mlp(tokens, width))
    face = draw(2, 512, seed=9)
    theirs = UNet2DConditionLoadersMixin()._convert_ip_adapter_image_proj_to_diffusers
    ours = build("FaceIDMLP", weights, width)(face)
    if tokens == 4:  # diffusers knows four tokens only
        assert worst(ours, theirs(dict(weights)).float()(face)) <= 1e-5
    else:
        from diffusers.models.embeddings import IPAdapterFaceIDImageProjection

        module = IPAdapterFaceIDImageProjection(512, width, mult=2, num_tokens=tokens)
        names = {"proj.0": "ff.net.0.proj", "proj.2": "ff.net.2", "norm": "norm"}
        module.load_state_dict({f"{names[k.rsplit('.', 1)[0]]}.{k.rsplit('.', 1)[1]}": v for k, v in weights.items()})
        assert worst(ours, module(face)) <= 1e-5


@pytest.mark.parametrize("width", [768, 128])
@pytest.mark.parametrize(
    ("shortcut", "scale"), [(False, 1.0), (True, 1.0), (True, 0.7), (True, 2.0)], ids=["v1", "v2", "v2-0.7", "v2-2"]
)
def test_face_id_plus(shortcut: bool, scale: float, width: int) -> None:
    weights = tensors({**face_mlp(4, width), **perceiver("perceiver_resampler.", width, 4, 1280, width)})
    face, penultimate = draw(2, 512, seed=8), draw(2, 257, 1280, seed=9)
    module = reference(weights)
    module.clip_embeds, module.shortcut, module.shortcut_scale = penultimate[:, None], shortcut, scale
    ours = build("FaceIDPlus", weights, width)(face, penultimate, shortcut=shortcut, scale=scale)
    assert worst(ours, module(face).reshape(ours.shape)) <= 1e-5


def test_version_1_has_no_scale_and_at_scale_0_version_2_is_a_faceid() -> None:
    weights = tensors({**face_mlp(4, 128), **perceiver("perceiver_resampler.", 128, 4, 64, 128)})
    face, penultimate = draw(2, 512, seed=8), draw(2, 5, 64, seed=9)
    project = build("FaceIDPlus", weights, 128)
    first, same = (project(face, penultimate, shortcut=False, scale=scale) for scale in (1.0, 0.3))
    assert torch.equal(first, same)
    identity = build("FaceIDMLP", weights, 128)(face)
    assert torch.equal(project(face, penultimate, shortcut=True, scale=0.0), identity)
    assert worst(project(face, penultimate, shortcut=True) - identity, first) <= 1e-5


def test_sixteen_bit_weights_compute_in_fp32() -> None:
    weights = tensors({**linear("proj", 4 * 32, 64), **norm("norm", 32)})
    half = {name: tensor.half() for name, tensor in weights.items()}
    widened = {name: tensor.float() for name, tensor in half.items()}
    pooled = draw(2, 64, seed=9)
    ours = build("ImageProj", half, 32)(pooled)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, build("ImageProj", widened, 32)(pooled))


def test_projecting_draws_nothing_from_the_global_generator() -> None:
    weights = tensors(resampler(128, 1, 16, 64, 96))
    before = torch.get_rng_state()
    build("Resampler", weights, 96)(draw(1, 5, 64, seed=9))
    assert torch.equal(before, torch.get_rng_state())


def test_instantx() -> None:
    """Its MLP is FaceID's with other sizes."""
    shapes = instantx(8, 2, context=64, embeds=48)
    weights = tensors({key.removeprefix("image_proj."): shape for key, shape in shapes.items() if "image_proj" in key})
    theirs = IPAdapterFaceIDImageProjection(48, 64, mult=2, num_tokens=8).eval()
    names = {"proj.0.": "ff.net.0.proj.", "proj.2.": "ff.net.2.", "norm.": "norm."}
    state = {next(new + k.removeprefix(old) for old, new in names.items() if k.startswith(old)): v
             for k, v in weights.items()}  # fmt: skip
    theirs.load_state_dict(state)
    pooled = draw(3, 48, seed=9)
    assert worst(build("InstantXMLP", weights, 64)(pooled), theirs(pooled).detach()) <= 1e-5


def stored_redux() -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Weights, features and tokens of diffusers' ReduxImageEncoder."""
    stored = {name: tensor.float() for name, tensor in load_file(FILE).items() if name.startswith("redux.")}
    weights = {name.removeprefix("redux.weights."): one for name, one in stored.items() if ".weights." in name}
    return weights, stored["redux.features"], stored["redux.tokens"]


def test_redux() -> None:
    weights, features, tokens = stored_redux()
    assert worst(build("Redux", weights, 24)(features), tokens) <= 1e-5


def test_xlabs_is_a_base_adapters() -> None:
    stored = {name: tensor.float() for name, tensor in load_file(FILE).items() if name.startswith("xlabs.")}
    begin = "xlabs.weights.ip_adapter_proj_model."
    weights = {name.removeprefix(begin): tensor for name, tensor in stored.items() if name.startswith(begin)}
    assert worst(build("ImageProj", weights, 24)(stored["xlabs.embeds"]), stored["xlabs.tokens"]) <= 1e-5


@pytest.mark.parametrize(
    ("patches", "factor", "left"),
    [(27, 1, 27), (27, 3, 9), (27, 5, 5), (27, 9, 3), (32, 3, 10), (32, 5, 6), (32, 9, 3), (5, 9, 1)],
)
def test_redux_grid_becomes_coarser_by_the_mean_of_areas(patches: int, factor: int, left: int) -> None:
    weights, *_ = stored_redux()
    features = draw(2, patches * patches, 16, seed=3)
    fine = build("Redux", weights, 24)(features)
    coarse = build("Redux", weights, 24)(features, downsampling=factor)
    assert coarse.shape == (2, left * left, 24)
    square = fine.unflatten(1, (patches, patches))
    for y, x in {(0, 0), (0, left - 1), (left - 1, left // 2)}:  # each from the part of the square that it stands for
        rows, columns = (slice(i * patches // left, -(-(i + 1) * patches // left)) for i in (y, x))
        expected = square[:, rows, columns].mean((1, 2))
        torch.testing.assert_close(coarse[:, y * left + x], expected, rtol=0, atol=1e-5)


def test_redux_grid_that_is_no_square_stays_as_it_is() -> None:
    weights, *_ = stored_redux()
    features = draw(1, 26, 16, seed=3)
    assert build("Redux", weights, 24)(features).shape == (1, 26, 24)
    with pytest.raises(CheckpointError, match="26 features of a picture, which are no square"):
        build("Redux", weights, 24)(features, downsampling=3)
