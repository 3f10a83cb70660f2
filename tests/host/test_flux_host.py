"""FLUX on the miniature host's Forge face: image prompts that are made by hand, from a job's request to its picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from demo.forge import flux
from demo.start import FORGE, Host
from lib_ipadapter.attend.flux.appended import Appended
from lib_ipadapter.attend.models import topology_of
from lib_ipadapter.attend.prompt import ImagePrompt, KeysValues
from lib_ipadapter.attend.regions import Region
from lib_ipadapter.jobs.generation import Generation, PassPrompt
from lib_ipadapter.jobs.influence import InfluenceMaps
from tests.helpers.files import base64_of, half, picture, unit
from tests.helpers.host import FAR, SAME, Hosts, ask, difference, hooks, loaded_unet, make, ours, pixels
from tests.helpers.tensors import draw

pytestmark = [pytest.mark.parametrize("face", [FORGE]), pytest.mark.host("flux")]
ON_FLUX = {"override_settings": {"sd_model_checkpoint": flux.NAME}, "cfg_scale": 1, "steps": 2}
HOSTS = flux.attention_function
LONG = "a photo of a cat on a red sofa beside a window, " * 40  # 440 words
Made = Callable[..., list[np.ndarray]]


def redux(seed: int = 3, pictures: int = 1, **kwargs: Any) -> ImagePrompt:
    return ImagePrompt(KeysValues((), ()), appended=Appended(draw(pictures, 81, flux.CONTEXT, seed=seed)), **kwargs)


def xlabs(seed: int = 5, pictures: int = 1, **kwargs: Any) -> ImagePrompt:
    keys, values = (
        tuple(draw(2 * pictures, 4, 32, seed=seed + 100 * i + j, scale=3.0) for i in range(19)) for j in range(2)
    )
    return ImagePrompt(KeysValues(keys, values), **kwargs)


PROMPTS = {"redux": redux, "xlabs": xlabs}
PATTERNS = {
    "short": {}, "CFG": {"cfg_scale": 3}, "long": {"prompt": LONG}, "long, CFG": {"prompt": LONG, "cfg_scale": 3},
}  # fmt: skip
EACH = pytest.mark.parametrize("kind", PROMPTS)


@pytest.fixture
def made(host: Host, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Pictures of a FLUX with these prompts, each in the place of what a unit becomes."""
    from lib_ipadapter.webui import job

    def pictures(*prompts: ImagePrompt, **payload: Any) -> list[np.ndarray]:
        def prepared(units: Any, unet: Any, *_args: Any, **_kwargs: Any) -> Generation:
            of_units = [PassPrompt(one.hires, replace(prompts[one.number - 1]), one.number) for one in units]
            return Generation(topology_of(unet), [], of_units, InfluenceMaps())

        settings = payload.pop("units", {})
        with monkeypatch.context() as patch:
            patch.setattr(job, "prepare_generation", prepared)
            return pixels(ask(host, *(unit(**settings) for _ in prompts), **{**ON_FLUX, **payload}))

    return pictures


@pytest.fixture(autouse=True)
def nothing_is_left(host: Host, hosts: Hosts, made: Made) -> Iterator[None]:
    before = hosts.reference(**{**ON_FLUX, "steps": 1})
    yield
    assert flux.attention_function is HOSTS
    assert difference(made(steps=1), before) == 0
    assert hooks() == []


# --- what the host is -----------------------------------------------------------------------------------------------


def test_a_flux_checkpoint_is_told_from_others(host: Host, made: Made) -> None:
    from lib_ipadapter.webui import host as hosts

    made()
    model = loaded_unet()
    assert isinstance(model, flux.IntegratedFluxTransformer2DModel)
    current = hosts.current()
    with pytest.MonkeyPatch.context() as patch:
        from modules import shared

        patch.setitem(shared.opts.data, "sd_model_checkpoint", flux.NAME)
        make(host, steps=1, cfg_scale=1)
        model = loaded_unet()
        found = current.present_topology()
        assert found is not None and (found.base, found.context_width, found.blocks) == ("FLUX", 4096, 19)
        assert current.usable_unet() is current.sampled_unet() is model
        assert list(current.loaded_unets()) == [model]


def test_an_adapter_for_stable_diffusion_is_refused_there(host: Host) -> None:
    payload = {"prompt": "a cat", "steps": 1, "alwayson_scripts": ours(unit()), **ON_FLUX}
    answer = host.post("txt2img", payload)
    assert answer.status_code == 422
    assert "adapter base is for SD1.5, the model is FLUX" in answer.json()["detail"]


# --- relations ------------------------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("pattern", PATTERNS)
def test_it_acts_0_is_plain_and_halves_are_one(kind: str, pattern: str, made: Made) -> None:
    payload = PATTERNS[pattern]
    bare, whole = made(**payload), made(PROMPTS[kind](), **payload)
    assert difference(whole, bare) > FAR
    assert difference(made(PROMPTS[kind](weight=0.0), **payload), bare) == 0
    halves = [PROMPTS[kind](weight=0.5), PROMPTS[kind](weight=0.5)]
    assert difference(made(*halves, **payload), whole) < SAME


@pytest.mark.parametrize("scale", [1, 3])
def test_weight_1_is_redux(scale: float, host: Host, made: Made) -> None:
    """The tokens put behind the conditional text by the text encoder itself."""
    from modules import script_callbacks

    prompt = redux()

    def behind(params: Any) -> None:
        text = type(params.text_cond)(params.text_cond)
        text["crossattn"] = torch.cat([text["crossattn"], prompt.appended.cond], dim=1)
        params.text_cond = text

    script_callbacks.on_cfg_denoiser(behind)
    try:
        expected = made(cfg_scale=scale)
    finally:
        script_callbacks.remove_callbacks_for_function(behind)
    assert difference(made(prompt, cfg_scale=scale), expected) < SAME
    assert difference(made(prompt, cfg_scale=scale), made(cfg_scale=scale)) > FAR


@EACH
def test_calls_apart_are_calls_together(kind: str, made: Made, calls_apart: Any) -> None:
    together = made(PROMPTS[kind](weight=0.7), cfg_scale=3)
    with calls_apart():
        assert difference(made(PROMPTS[kind](weight=0.7), cfg_scale=3), together) < SAME


@EACH
def test_windows_are_counted_in_steps(kind: str, made: Made) -> None:
    bare, whole = made(steps=4), made(PROMPTS[kind](), steps=4)
    parts = [made(PROMPTS[kind](start=start, end=end), steps=4) for start, end in ((0, 0.5), (0.5, 1))]
    assert min(difference(one, other) for one in parts for other in (bare, whole)) > FAR / 4
    two = [PROMPTS[kind](start=start, end=end) for start, end in ((0, 0.5), (0.5, 1))]
    assert difference(made(*two, steps=4), whole) == 0
    steps = ((0.0, 1.0), (0.5, 1.0), (0.5, 0.0))
    assert difference(made(PROMPTS[kind](weight=steps), steps=4), parts[0]) == 0


@EACH
def test_masks(kind: str, made: Made) -> None:
    left = torch.cat([torch.ones(64, 32), torch.zeros(64, 32)], dim=1)
    whole = made(PROMPTS[kind]())
    assert difference(made(PROMPTS[kind](region=Region(torch.ones(64, 64)))), whole) == 0
    assert difference(made(PROMPTS[kind](region=Region(torch.zeros(64, 64)))), made()) == 0
    both = [PROMPTS[kind](region=Region(mask)) for mask in (left, 1 - left)]
    assert difference(made(*both), whole) < SAME
    assert difference(made(*both[:1]), whole) > FAR


@EACH
def test_batches(kind: str, made: Made) -> None:
    singly = [*made(PROMPTS[kind]()), *made(PROMPTS[kind](), seed=2)]
    assert difference(made(PROMPTS[kind](), batch_size=2), singly) < SAME
    each = PROMPTS[kind](pictures=2)
    both = made(each, batch_size=2, cfg_scale=3)
    assert difference(made(each, n_iter=2, cfg_scale=3), both) < SAME
    assert difference(both, made(PROMPTS[kind](), batch_size=2, cfg_scale=3)) > FAR / 4


@EACH
def test_img2img_hires_and_and(kind: str, made: Made) -> None:
    start = {"path": "img2img", "init_images": [base64_of(picture(1).resize((64, 64)))], "denoising_strength": 0.8}
    hires = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.6}
    for payload in (start, hires, {"prompt": "a cat AND a dog :0.7", "cfg_scale": 3}):
        if payload is start:
            made(**payload)  # the first one of a process finds the global generator unseeded
        bare = made(**payload)
        assert difference(made(PROMPTS[kind](), **payload), bare) > FAR / 2
        assert difference(made(PROMPTS[kind](weight=0.0), **payload), bare) == 0
    base = made(PROMPTS[kind](), units={"hires": "base"}, **hires)
    assert difference(base, made(PROMPTS[kind](), **hires)) > SAME < difference(base, made(**hires))


def test_both_kinds_at_once(made: Made) -> None:
    both = made(redux(weight=0.7), xlabs(weight=0.7))
    assert min(difference(both, made(one)) for one in (redux(weight=0.7), xlabs(weight=0.7))) > FAR


# --- ends -----------------------------------------------------------------------------------------------------------


def test_an_error_in_the_model_leaves_nothing(host: Host, made: Made) -> None:
    def broken(*_args: Any) -> None:
        assert flux.attention_function is not HOSTS
        raise ValueError("broken block")

    from lib_ipadapter.webui import job

    handle = _block(host).register_forward_pre_hook(broken)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "prepare_generation", _given(redux(weight=0.5)))
        answer = host.post(
            "txt2img", {"steps": 2, "width": 64, "height": 64, "alwayson_scripts": ours(unit()), **ON_FLUX}
        )
    handle.remove()
    assert answer.status_code == 500 and "broken block" in answer.text
    assert flux.attention_function is HOSTS


def test_an_interrupt_leaves_nothing(made: Made) -> None:
    from modules import script_callbacks, shared

    def stop(params: Any) -> None:
        if params.denoiser.step == 1:
            shared.state.interrupted = True

    script_callbacks.on_cfg_after_cfg(stop)
    try:
        made(redux(weight=0.5), xlabs(), steps=4)
    finally:
        script_callbacks.remove_callbacks_for_function(stop)
    assert flux.attention_function is HOSTS


def test_packed_layers(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules import shared

    monkeypatch.setitem(shared.opts.data, "forge_unet_storage_dtype", "Automatic")  # so that it comes back
    settings = {"override_settings": {**ON_FLUX["override_settings"], "forge_unet_storage_dtype": "nf4"}}
    bare = made(**settings)
    assert not hasattr(loaded_unet().txt_in, "in_features")
    for prompt in (redux(weight=0.7), xlabs()):
        assert difference(made(prompt, **settings), bare) > FAR


# --- whole: a request's references, encoded, projected, and in the picture ------------------------------------------

FILES = ("redux", "xlabs")  # InstantX' wants all of the published model's blocks: tests/unit
ALL = pytest.mark.parametrize("file", FILES)


def whole(host: Host, *units: Any, **payload: Any) -> list[np.ndarray]:
    return make(host, *units, **{**ON_FLUX, **payload})


@ALL
@pytest.mark.parametrize("scale", [1, 3])
def test_a_request_acts_and_its_halves_are_one(file: str, scale: float, host: Host) -> None:
    payload = {"cfg_scale": scale, "batch_size": 2}
    bare, acting = whole(host, **payload), whole(host, unit(file), **payload)
    assert difference(acting, bare) > FAR / 2
    assert difference(whole(host, unit(file, weight=0), **payload), bare) == 0
    assert difference(whole(host, unit(file, weight=0.5), unit(file, weight=0.5), **payload), acting) < SAME
    assert difference(whole(host, unit(file, seeds=(7,)), **payload), acting) > FAR / 4


@ALL
def test_what_a_request_may_want(file: str, host: Host) -> None:
    acting = whole(host, unit(file))
    masks = [base64_of(half(side)) for side in ("left", "right")]
    assert difference(whole(host, *(unit(file, region_mask=mask) for mask in masks)), acting) < SAME
    windows = [unit(file, start=start, end=end) for start, end in ((0, 0.5), (0.5, 1))]
    assert difference(whole(host, *windows), acting) < SAME
    each = unit(file, seeds=(0, 7), batch="per image")
    both = whole(host, each, batch_size=2)
    assert difference(both[:1], acting) < SAME
    assert difference(both[1:], whole(host, unit(file, seeds=(7,)), seed=2)) < SAME
    negative = {"negative_images": [base64_of(picture(7))], "cfg_scale": 3}
    against = whole(host, unit(file, negative_images=negative.pop("negative_images")), **negative)
    assert difference(against, whole(host, unit(file), cfg_scale=3)) > FAR / 4


def test_layers_have_weights_as_in_other_models(host: Host) -> None:
    some = [unit("xlabs", layer_weights=[float(i % 2 == odd) for i in range(19)]) for odd in (0, 1)]
    acting = whole(host, unit("xlabs"))
    assert difference(whole(host, *some), acting) < SAME
    assert difference(whole(host, *some[:1]), acting) > FAR / 4


def test_weights_of_references_are_weights_of_tokens(host: Host) -> None:
    two = {"image": base64_of(picture(7)), "weight": 0.5}
    given = {"model": "redux", "images": [{"image": base64_of(picture(0)), "weight": 1.0}, two]}
    units = [unit("redux"), unit("redux", seeds=(7,), weight=0.5)]
    assert difference(whole(host, given), whole(host, *units)) < SAME


def test_there_are_no_influence_maps(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules.processing import StableDiffusionProcessing

    comments: list[str] = []
    monkeypatch.setattr(StableDiffusionProcessing, "comment", lambda p, text: comments.append(text))
    answer = ask(host, unit("redux", influence_map=True), **ON_FLUX)
    assert len(answer.images) == 1
    assert "there are no influence maps on FLUX" in " ".join(comments)


def test_a_model_that_keeps_its_attention_fails_the_job(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(flux, "attention", lambda q, k, v, turns: q.transpose(1, 2).flatten(2))
        with pytest.raises(RuntimeError, match="the references were not used in this picture"):
            whole(host, unit("redux", weight=0.5))
        whole(host, unit("redux"))  # wants nothing of it


def test_flux_adapters_are_refused_by_stable_diffusion(host: Host) -> None:
    for file in FILES:
        payload = {"steps": 1, "alwayson_scripts": ours(unit(file))}
        answer = host.post("txt2img", payload)
        assert answer.status_code == 422
        assert f"adapter {file} is for FLUX, the model is SD1.5: load a FLUX checkpoint" in answer.json()["detail"]


def _block(host: Host) -> Any:
    make(host, **ON_FLUX)
    return loaded_unet().double_blocks[1]


def _given(prompt: ImagePrompt) -> Any:
    def prepared(_units: Any, unet: Any, *_args: Any, **_kwargs: Any) -> Generation:
        return Generation(topology_of(unet), [], [PassPrompt("both", prompt, 1)], InfluenceMaps())

    return prepared
