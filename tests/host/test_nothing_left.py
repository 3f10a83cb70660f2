"""Whatever ends a job, and whoever works inside of it: nothing of it is left in the host."""

from __future__ import annotations

import pytest

from demo.start import Host
from lib_ipadapter.attend.keyframes import FadedRegion
from lib_ipadapter.attend.layers import cross_attention_layers
from tests.helpers.files import base64_of, half, picture, unit
from tests.helpers.host import FAR, SAME, difference, hooks, loaded_unet, make, ours, pixels
from tests.helpers.panel import panel_args

pytestmark = pytest.mark.both_faces


def test_undo_after_an_error_during_sampling(host: Host, plain, monkeypatch) -> None:
    unet, calls = loaded_unet(), []

    def explode(*_args):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory")

    handle = unet.output_blocks[3].register_forward_pre_hook(explode)
    try:
        assert (
            host.post("txt2img", {"steps": 3, "width": 64, "height": 64, "alwayson_scripts": ours(unit())}).status_code
            == 500
        )
    finally:
        handle.remove()
    assert hooks() == []


def test_undo_after_an_interrupt(host: Host, plain) -> None:
    from modules import script_callbacks, shared

    steps = []

    def interrupt(params):
        steps.append(params.denoiser.step)
        if steps[-1] == 1:
            shared.state.interrupt()

    script_callbacks.on_cfg_denoiser(interrupt)
    try:
        make(host, unit(), steps=5)
    finally:
        script_callbacks.remove_callbacks_for_function(interrupt)
    assert steps == [0, 1]


def test_an_interrupt_ends_the_encoding(host: Host, plain, monkeypatch) -> None:
    from modules import shared

    from lib_ipadapter.encode.clip_image import ImageEncoder

    calls, encode = [], ImageEncoder.encode

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        shared.state.interrupt()
        return encode(self, *args, **kwargs)

    monkeypatch.setattr(ImageEncoder, "encode", interrupted)
    assert make(host, unit(seeds=(61, 62, 63))) == []
    assert len(calls) == 1


@pytest.mark.parametrize("room", [1, 2])
def test_undo_when_the_checkpoint_changes(room: int, host: Host, plain, monkeypatch) -> None:
    """With room for one model its object gets the other's weights, or ends on the meta device; else both stay."""
    from modules import shared

    monkeypatch.setitem(shared.opts.data, "sd_checkpoints_limit", room)
    for checkpoint, adapter in (("demo-sd15-b", "base"), ("demo-sd2", "two"), ("demo-sd15", "base")):
        override = {"override_settings": {"sd_model_checkpoint": checkpoint}}
        bare = make(host, **override)
        assert difference(make(host, unit(adapter), **override), bare) > FAR / 2
        assert difference(make(host, **override), bare) == 0


@pytest.mark.parametrize("with_scripts", [False, True])
def test_a_foreign_pass_inside_a_job_is_left_alone(with_scripts: bool, host: Host, plain) -> None:
    """Another extension generates a picture inside ours, on the same UNet, between two of our steps."""
    from modules import processing, script_callbacks, scripts, shared

    inner: list = []

    def nested(params):
        if shared.state.sampling_steps == 4 and not inner:
            inner.append(None)
            p = processing.StableDiffusionProcessingTxt2Img(
                sd_model=shared.sd_model, prompt="a cat", negative_prompt="blurry", seed=1, steps=3, width=64,
                height=64, sampler_name="Euler", do_not_save_samples=True, do_not_save_grid=True,
            )  # fmt: skip
            if with_scripts:
                runner = scripts.scripts_txt2img
                script = next(s for s in runner.alwayson_scripts if s.title() == "IP-Adapter")
                args = [0, *[None] * (len(runner.inputs) - 1)]
                args[script.args_from : script.args_to] = panel_args(host, {}, {}, {}, tick=False)
                p.is_api, p.scripts, p.script_args = True, runner, args
            step = shared.state.sampling_step, shared.state.sampling_steps
            inner[0] = pixels(processing.process_images(p))
            shared.state.sampling_step, shared.state.sampling_steps = step

    expected = make(host, unit(), prompt="outer", steps=4)
    assert difference(expected, make(host, prompt="outer", steps=4)) > FAR
    script_callbacks.on_cfg_after_cfg(nested)
    try:
        outer = make(host, unit(), prompt="outer", steps=4)
    finally:
        script_callbacks.remove_callbacks_for_function(nested)
    assert difference(inner[0], plain) == 0
    assert difference(outer, expected) < SAME


def test_a_script_that_samples_by_itself_is_followed(host: Host, plain, monkeypatch) -> None:
    """The host announces a pass only from its own ``sample``; some scripts replace that."""
    from modules import scripts

    expected = make(host, unit())
    monkeypatch.setattr(scripts.ScriptRunner, "process_before_every_sampling", lambda self, p, **kwargs: None)
    assert difference(make(host, unit()), expected) == 0


def test_progress_is_told_and_taken_back(host: Host, plain, monkeypatch) -> None:
    from modules import shared

    from lib_ipadapter.encode.clip_image import ImageEncoder

    said, encode = [], ImageEncoder.encode

    def watched(self, *args, **kwargs):
        said.append(shared.state.textinfo)
        return encode(self, *args, **kwargs)

    monkeypatch.setattr(ImageEncoder, "encode", watched)
    make(host, unit(seeds=(41, 42)))
    assert said == ["IP-Adapter: encoding reference 1 of 2", "IP-Adapter: encoding reference 2 of 2"]


class OutOfMemoryError(RuntimeError):
    """Called as CUDA's."""


@pytest.mark.parametrize("place", ["in the model", "at the keys and values"])
def test_a_full_device_leaves_nothing(place: str, host: Host, plain, monkeypatch) -> None:
    """In a layer of the model, between ours, or where nothing more helps in our own."""
    from lib_ipadapter.attend import inject
    from lib_ipadapter.attend.injection import injections

    attached, unet = [], loaded_unet()
    layer = cross_attention_layers(unet)[9].module

    def full(*_args: object) -> None:
        attached.extend(injections(unet))
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    handle = layer.register_forward_pre_hook(full) if place == "in the model" else None
    if handle is None:
        monkeypatch.setattr(inject, "image_attention", full)
    mask = base64_of(half("left"))
    over_time = [
        {"image": base64_of(picture(at)), "at": at, "region": base64_of(half(side))}
        for at, side in enumerate(("left", "right"))
    ]
    units = unit(), unit(region_mask=mask, influence_map=True), {"model": "base", "images": over_time}
    payload = {"steps": 2, "width": 64, "height": 64, "batch_size": 2, "alwayson_scripts": ours(*units)}
    answer = host.post("txt2img", payload)
    if handle is not None:
        handle.remove()
    assert answer.status_code == (500 if place == "in the model" else 422)
    assert "out of memory" in answer.text or "no room for the references' keys and values" in answer.text
    assert attached
    for injection in attached:
        assert not any(hooks.gathered or hooks.query is not None for hooks in injection.layers)
        regions = [one.region for one in injection.prompts if one.region is not None]
        inner = [part for region in regions if isinstance(region, FadedRegion) for part in region.regions]
        assert inner and not any(region._layers for region in [*regions, *inner])
        assert injection.cursor.rows == () and injection.cursor.asked_latents is None
    assert hooks() == []


@pytest.mark.parametrize("given", [(), [], [0], (0, None, 7.0), None, 0, 0.0, False, ""])
def test_a_job_without_our_arguments_goes_on_plain(given: object, host: Host, plain) -> None:
    """Other extensions make jobs with the host's runner, and give no arguments, or fill the places with nothing."""
    from modules import processing, scripts, shared

    runner = scripts.scripts_txt2img
    p = processing.StableDiffusionProcessingTxt2Img(
        sd_model=shared.sd_model, prompt="a cat", negative_prompt="blurry", seed=1, steps=3, width=64, height=64,
        sampler_name="Euler", do_not_save_samples=True, do_not_save_grid=True,
    )  # fmt: skip
    p.is_api, p.scripts = True, runner
    p.script_args = given if isinstance(given, (tuple, list)) else [0, *[given] * (len(runner.inputs) - 1)]
    assert difference(pixels(processing.process_images(p)), plain) == 0
