"""The miniature host generates like the real one: callbacks, steps, rows of calls, models."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.demo_host import names, plain_colour

pytestmark = pytest.mark.host("probe")


LONG = "one two three four five six seven eight nine ten " * 9


# --- one request ----------------------------------------------------------------------------------------------------

BATCH = """before_process_batch after_extra_networks_activate process_batch process_before_every_sampling post_sample
postprocess_batch postprocess_batch_list postprocess_image postprocess_maskoverlay
postprocess_image_after_composite""".split()


def test_order_of_callbacks(host, log) -> None:
    host.txt2img(n_iter=2, width=64, height=64)
    assert names(log) == ["setup", "before_process", "process", *BATCH, *BATCH, "postprocess"]


def test_order_of_callbacks_with_hires_fix(host, log) -> None:
    host.txt2img(width=64, height=64, enable_hr=True, steps=2)
    called = names(log)
    first = called.index("process_before_every_sampling")
    assert called[first : first + 4] == [
        "process_before_every_sampling",
        "after_extra_networks_activate",
        "before_hr",
        "process_before_every_sampling",
    ]
    passes = [entry[3] for entry in log if entry[0] == "process_before_every_sampling"]
    assert passes == [False, True]


def test_mask_blend_and_img2img_order(host, log) -> None:
    host.img2img(
        init_images=[plain_colour()], mask=plain_colour("white"), denoising_strength=0.5, inpaint_full_res=False
    )
    called = names(log)
    assert called[:3] == ["setup", "before_process", "process"] and "on_mask_blend" in called


def test_deterministic(host) -> None:
    small = {"batch_size": 2, "width": 64, "height": 64}
    first, second = host.txt2img(prompt="a cat", **small), host.txt2img(prompt="a cat", **small)
    assert [i.tobytes() for i in first.images] == [i.tobytes() for i in second.images]
    assert first.images[0].tobytes() != first.images[1].tobytes()
    assert first.images[0].tobytes() != host.txt2img(prompt="a dog", **small).images[0].tobytes()


def test_img2img_samples_its_latents_from_the_global_generator(host) -> None:
    def run(seed):
        torch.manual_seed(seed)
        return host.img2img(init_images=[plain_colour()], denoising_strength=0.3).images[0].tobytes()

    assert run(1) == run(1) != run(2)


@pytest.mark.parametrize("sampler", ["Euler", "Euler a", "Heun", "DPM++ 2M", "DDIM", "PLMS", "UniPC"])
def test_samplers_count_steps_like_the_host(host, log, sampler) -> None:
    host.txt2img(width=64, height=64, sampler_name=sampler, steps=4)
    steps = [entry[1][2] for entry in log if entry[0] == "cfg_denoiser"]
    assert {entry[1][3] for entry in log if entry[0] == "cfg_denoiser"} == {4}
    assert steps == {
        "Heun": [0, 0, 0, 1, 1, 2, 2],
        "DDIM": [0, 0, 1],
        "PLMS": [0, 0, 0, 1],
        "UniPC": [0, 0, 0, 1],
    }.get(sampler, [0, 0, 1, 2])


# --- rows of the UNet's calls ---------------------------------------------------------------------------------------

CALLS = {
    "together": ({}, [4]),
    "apart": ({"override_settings": {"batch_cond_uncond": False}}, [2, 2]),
    "uneven": ({"prompt": LONG}, [2, 2]),
    "uneven, negative longer": ({"negative_prompt": LONG}, [2, 2]),
    "uneven, apart, AND": ({"prompt": f"{LONG} AND cat", "override_settings": {"batch_cond_uncond": False}}, [2, 2, 2]),
    "uneven, AND": ({"prompt": f"{LONG} AND cat AND dog"}, [4, 2, 2]),
    "AND": ({"prompt": "a cat AND a dog :0.5"}, [6]),
    "padded": ({"prompt": LONG, "override_settings": {"pad_cond_uncond": True}}, [4]),
    "padded v0": ({"prompt": LONG, "override_settings": {"pad_cond_uncond_v0": True}}, [4]),
    "early": ({"override_settings": {"skip_early_cond": 1.0}}, [2]),
    "NGMS": ({"s_min_uncond": 15, "override_settings": {"s_min_uncond_all": True}}, [2]),
    "BREAK": ({"prompt": "a cat BREAK a cat"}, [2, 2]),
}


@pytest.mark.parametrize("case", CALLS)
def test_rows_of_each_call(host, rows, log, case) -> None:
    from modules import shared

    data = dict(shared.opts.data)
    payload, expected = CALLS[case]
    try:
        host.txt2img(**{"prompt": "a cat", "batch_size": 2, "steps": 1, "width": 64, "height": 64, **payload})
    finally:
        shared.opts.data = data
    assert rows == expected
    seen = next(entry[1] for entry in log if entry[0] == "cfg_denoiser")
    assert seen[0] == seen[1] + 2  # the callback sees the unconditional rows, dropped later or not


def test_ngms_skips_every_other_step(host, rows) -> None:
    host.txt2img(width=64, height=64, s_min_uncond=15)
    assert rows == [2, 1, 2, 1]


def test_heun_and_plms_call_more_often_than_they_step(host, rows) -> None:
    host.txt2img(width=64, height=64, sampler_name="Heun", steps=3)
    assert len(rows) == 5


def test_interrupt_stops_the_calls(host, rows) -> None:
    from modules import shared

    unet = shared.sd_model.model.diffusion_model
    hook = unet.register_forward_pre_hook(lambda *_: shared.state.interrupt())
    try:
        host.txt2img(width=64, height=64)
    finally:
        hook.remove()
    assert len(rows) == 1


@pytest.mark.parametrize("kind", ["demo-ip2p", "demo-inpainting", "demo-sdxl", "demo-sd2"])
def test_other_models(host, kind) -> None:
    from modules import shared

    seen = []
    before = shared.opts.sd_model_checkpoint

    def watch(module, args, kwargs):
        if module is shared.sd_model.model.diffusion_model:
            context = kwargs.get("context")
            seen.append((args[0].shape[0], args[0].shape[1], context.shape[2], kwargs.get("y") is not None))

    payload = {
        "init_images": [plain_colour(size=64)],
        "width": 64,
        "height": 64,
        "steps": 1,
        "denoising_strength": 1.0,
        "image_cfg_scale": 1.5,
        "override_settings": {"sd_model_checkpoint": kind},
    }
    from modules import sd_models

    loaded, handles = sd_models.load_model, []

    def watched(model):
        handles.append(model.model.diffusion_model.register_forward_pre_hook(watch, with_kwargs=True))
        return model

    for model in sd_models.model_data.loaded_sd_models:  # another test may have left it in memory
        watched(model)
    sd_models.load_model = lambda *args, **kwargs: watched(loaded(*args, **kwargs))
    try:
        answer = host.img2img(**payload)
    finally:
        sd_models.load_model = loaded
        for handle in handles:
            handle.remove()
    assert (
        seen[0]
        == {
            "demo-ip2p": (3, 8, 768, False),
            "demo-inpainting": (2, 9, 768, False),
            "demo-sdxl": (2, 4, 2048, True),
            "demo-sd2": (2, 4, 1024, False),
        }[kind]
    )
    assert answer.info["sd_model_name"] == kind
    assert shared.opts.sd_model_checkpoint == before
    host.txt2img(width=64, height=64, steps=1)
    assert shared.sd_model.sd_checkpoint_info.name_for_extra == "demo-sd15"
