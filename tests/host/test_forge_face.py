"""The miniature host as Forge: that it behaves as Forge does, and what of the extension only shows there."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from PIL import Image

from demo.start import FORGE, WEBUI, Host
from tests.helpers.files import base64_of, picture, unit
from tests.helpers.host import FAR, SAME, ask, difference, loaded_unet, make, ours, unet_in

FACE = pytest.mark.parametrize("face", [FORGE])
HIRES = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.6, "steps": 2}
WORDS = "a photo of a cat on a red sofa beside a window, "
TWO, FIVE = WORDS * 9, WORDS * 27  # as many times 75 tokens


# --- the face -------------------------------------------------------------------------------------------------------


@pytest.fixture
def calls(host: Host) -> Any:
    """What each call of the UNet tells: rows, their kinds, the text's length, indices of both kinds, marks."""
    make(host)  # the model is loaded
    seen: list[tuple] = []

    def note(_module: Any, args: tuple, kwargs: dict) -> None:
        told = kwargs["transformer_options"]
        lengths = len(args[0]), kwargs["context"].shape[1]
        seen.append((told["cond_or_uncond"], *lengths, told["cond_indices"], told["uncond_indices"],
                     told["cond_mark"].tolist(), len(told["sigmas"])))  # fmt: skip

    hook = loaded_unet().register_forward_pre_hook(note, with_kwargs=True)
    yield seen
    hook.remove()


CALLS = {
    "plain": ({}, [([1, 0], 2, 77, [1], [0], [1, 0], 1)]),
    "batch": ({"batch_size": 2}, [([1, 0], 4, 77, [2, 3], [0, 1], [1, 1, 0, 0], 2)]),
    "CFG 1": ({"cfg_scale": 1, "batch_size": 2}, [([0], 2, 77, [0, 1], [], [0, 0], 2)]),
    "AND": ({"prompt": "a cat AND a dog :0.7"}, [([1, 0, 0], 3, 77, [1, 2], [0], [1, 0, 0], 1)]),
    "repeated": ({"prompt": TWO}, [([1, 0], 2, 154, [1], [0], [1, 0], 1)]),
    "apart": (
        {"prompt": TWO, "negative_prompt": FIVE},
        [([0], 1, 154, [0], [], [0], 1), ([1], 1, 385, [], [0], [1], 1)],
    ),
}


@FACE
@pytest.mark.parametrize("pattern", CALLS)
def test_calls_tell_their_rows(pattern: str, host: Host, calls: list) -> None:
    payload, expected = CALLS[pattern]
    make(host, **{"steps": 1, **payload})
    assert calls == expected


@FACE
def test_without_room_groups_are_called_apart(host: Host, calls: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["backend.memory_management"], "free", 0)
    make(host, steps=1, prompt="a cat AND a dog")
    assert [call[0] for call in calls] == [[1], [0], [0]]


@FACE
def test_latents_have_one_row_for_each_picture(host: Host) -> None:
    from modules import script_callbacks

    seen: list[tuple] = []
    never: list[Any] = []

    def note(params: Any) -> None:
        seen.append((len(params.x), len(params.sigma), params.text_uncond is None))

    script_callbacks.on_cfg_denoiser(note)
    script_callbacks.on_cfg_denoised(never.append)
    try:
        make(host, steps=1, batch_size=2)
        make(host, steps=1, cfg_scale=1)
    finally:
        script_callbacks.remove_callbacks_for_function(note)
        script_callbacks.remove_callbacks_for_function(never.append)
    assert seen == [(2, 2, False), (1, 1, True)]
    assert never == []


@FACE
@pytest.mark.parametrize(("scale", "kinds"), [(None, [0]), (7.0, [1, 0])])
def test_the_second_pass_is_announced_twice_and_has_its_own_scale(
    scale: float | None, kinds: list[int], host: Host, calls: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modules import scripts

    told, announce = [], scripts.ScriptRunner.process_before_every_sampling

    def watched(self: Any, p: Any, **kwargs: Any) -> Any:
        told.append((p.is_hr_pass, p.sd_model.forge_objects.unet))
        p.sd_model.forge_objects.unet = p.sd_model.forge_objects.unet.clone()
        return announce(self, p, **kwargs)

    monkeypatch.setattr(scripts.ScriptRunner, "process_before_every_sampling", watched)
    make(host, **HIRES, **({} if scale is None else {"hr_cfg": scale}))
    assert [hires for hires, _ in told] == [False, True, True]
    assert told[2][1] is told[0][1]  # what was put there before is gone
    assert [call[0] for call in calls] == [[1, 0]] * 2 + [kinds] * 2


@FACE
def test_a_negative_side_of_the_second_pass_alone_has_an_effect(host: Host, caplog) -> None:
    for scale in (1.0, 7.0):
        caplog.clear()
        with caplog.at_level("INFO", "ip-adapter"):
            make(host, unit(noise=0.3), **HIRES, cfg_scale=1, hr_cfg=scale)
        assert ("noise has no effect at a CFG scale of 1" in caplog.text) == (scale == 1)


@FACE
def test_the_model_is_behind_its_objects(host: Host) -> None:
    from modules import lowvram, sd_models, shared

    make(host)
    model = shared.sd_model
    assert not hasattr(model, "model") and not hasattr(model, "lowvram")
    assert not hasattr(sd_models.model_data, "loaded_sd_models")
    assert not lowvram.is_enabled(model)
    copied = model.forge_objects.shallow_copy()
    assert copied is not model.forge_objects and copied.unet is model.forge_objects.unet
    for objects in (model.forge_objects_original, model.forge_objects_after_applying_lora, model.forge_objects):
        assert objects.unet.model.diffusion_model is unet_in(model)
    attentions = [m for m in unet_in(model).modules() if type(m).__name__ == "CrossAttention"]
    assert attentions and all(a.to_q.out_features == a.heads * a.dim_head for a in attentions)
    assert not any(isinstance(a.to_q, torch.nn.Linear) for a in attentions)


@pytest.mark.both_faces
def test_its_modules_are_there_while_it_runs(face: str, host: Host) -> None:
    from modules import processing, sd_models

    assert ("backend.memory_management" in sys.modules) == (face == FORGE)
    assert hasattr(sd_models, "forge_model_reload") == (face == FORGE)
    assert processing.program_version().startswith("f2") == (face == FORGE)
    assert hasattr(sd_models.model_data, "loaded_sd_models") == (face == WEBUI)


# --- the extension on it --------------------------------------------------------------------------------------------


@pytest.fixture
def unloaded(host: Host, monkeypatch: pytest.MonkeyPatch) -> Any:
    """No job has come yet."""
    from modules import sd_models

    monkeypatch.setattr(sd_models, "model_data", sd_models.SdModelData())
    return sd_models.model_data


@FACE
def test_the_first_job_loads_the_model(host: Host, plain, unloaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules import scripts, sd_models

    seen: dict[str, str] = {}
    for moment in ("before_process", "process"):
        tell = getattr(scripts.ScriptRunner, moment)

        def watched(self: Any, p: Any, moment: str = moment, tell: Any = tell) -> Any:
            seen[moment] = type(sd_models.model_data.sd_model).__name__
            return tell(self, p)

        monkeypatch.setattr(scripts.ScriptRunner, moment, watched)
    with_reference = make(host, unit())
    assert seen == {"before_process": "FakeInitialModel", "process": "ForgeDiffusionEngine"}
    assert difference(with_reference, make(host, unit())) == 0
    assert difference(with_reference, plain) > FAR


@FACE
def test_the_first_job_may_be_refused(host: Host, plain, unloaded: Any) -> None:
    answer = host.post("txt2img", {"prompt": "a cat", "steps": 1, "alwayson_scripts": ours(unit("wide"))})
    assert answer.status_code == 422
    assert "adapter wide is for SDXL" in answer.json()["detail"]


@FACE
@pytest.mark.parametrize("pattern", ["plain", "CFG 1", "AND", "repeated", "apart"])
def test_both_texts_may_be_empty_or_uneven(pattern: str, host: Host, plain, make_apart) -> None:
    payload = {"steps": 2, **CALLS[pattern][0]}
    bare, whole = make(host, **payload), make(host, unit(), **payload)
    assert difference(whole, bare) > FAR
    assert difference(make(host, unit(weight=0), **payload), bare) == 0
    assert difference(make(host, unit(weight=0.5), unit(weight=0.5), **payload), whole) < SAME
    assert difference(make_apart(unit(), **payload), whole) < SAME


@pytest.mark.both_faces
def test_empty_prompts_on_both_sides(host: Host, plain, make_apart) -> None:
    """Texts that are the same tell nothing of the rows."""
    empty = {"prompt": "", "negative_prompt": ""}
    whole = make(host, unit(), **empty)
    assert difference(whole, make(host, **empty)) > FAR
    assert difference(make_apart(unit(), **empty), whole) < SAME
    assert difference(make(host, unit(), prompt="BREAK", negative_prompt=""), whole) < SAME


@FACE
def test_rows_told_by_their_texts_would_be_noticed(host: Host, plain, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof: as on the WebUI, with what Forge's steps have, and no options asked."""
    from lib_ipadapter.webui.host import forge

    empty = {"prompt": "", "negative_prompt": ""}
    right = make(host, unit(), **empty)
    monkeypatch.setattr(forge.Forge, "denoising_step", forge.A1111.denoising_step)
    try:
        by_text = make(host, unit(), **empty)
    except RuntimeError as refused:
        assert "IP-Adapter" in str(refused)
    else:
        assert difference(by_text, right) > FAR


@FACE
@pytest.mark.parametrize("told", [{}, {"cond_or_uncond": None}, {"cond_or_uncond": [1, 0, 0, 0, 0]}])
def test_calls_that_do_not_tell_their_rows_are_not_guessed(
    told: dict, host: Host, plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    from demo.forge import guidance

    monkeypatch.setattr(guidance, "options_of", lambda *_args: dict(told))
    payload = {"prompt": "a cat", "steps": 2, "width": 64, "height": 64, "alwayson_scripts": ours(unit())}
    answer = host.post("txt2img", payload)
    assert answer.status_code == 422
    assert "the references were not used in this picture" in answer.json()["detail"]


@FACE
@pytest.mark.parametrize(("checkpoint", "adapter"), [("demo-sd15", "base"), ("demo-sd2", "two")])
def test_packed_layers_have_the_reference(
    checkpoint: str, adapter: str, host: Host, plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linear layers that tell no widths."""
    from modules import shared

    monkeypatch.setitem(shared.opts.data, "forge_unet_storage_dtype", "Automatic")  # so that it comes back
    settings = {"override_settings": {"forge_unet_storage_dtype": "nf4", "sd_model_checkpoint": checkpoint}}
    bare, whole = make(host, **settings), make(host, unit(adapter), **settings)
    assert not hasattr(next(m for m in loaded_unet().modules() if type(m).__name__ == "CrossAttention").to_q,
                       "in_features")  # fmt: skip
    assert difference(whole, bare) > FAR
    assert difference(make(host, unit(adapter, weight=0), **settings), bare) == 0
    assert difference(make(host, unit(adapter, weight=0.5), unit(adapter, weight=0.5), **settings), whole) < SAME


@FACE
@pytest.mark.parametrize("tiles", [1, 2, 3])
def test_tiles_of_the_whole_are_the_whole(
    tiles: int, host: Host, plain, make_apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As MultiDiffusion asks: every tile with all of the call's rows, several tiles in one call."""
    from modules import scripts

    units = [unit(), unit(seeds=(0, 3), batch="per image", weight=0.7)]
    payload = {"batch_size": 2, "steps": 2}
    whole, announce = make(host, *units, **payload), scripts.ScriptRunner.process_before_every_sampling

    def tiled(apply: Any, call: dict) -> torch.Tensor:
        told = {key: torch.cat([x] * tiles) if isinstance(x, torch.Tensor) else x for key, x in call["c"].items()}
        x, levels = (torch.cat([call[name]] * tiles) for name in ("input", "timestep"))
        return torch.stack(apply(x, levels, **told).chunk(tiles)).mean(0)

    def patched(self: Any, p: Any, **kwargs: Any) -> Any:
        unet = p.sd_model.forge_objects.unet.clone()
        unet.set_model_unet_function_wrapper(tiled)
        p.sd_model.forge_objects.unet = unet
        return announce(self, p, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(scripts.ScriptRunner, "process_before_every_sampling", patched)
        assert difference(make(host, *units, **payload), whole) < SAME
        assert difference(make_apart(*units, **payload), whole) < SAME
    assert difference(whole, make(host, **payload)) > FAR


@FACE
def test_inpainting_starts_from_its_picture(host: Host, plain, make_apart) -> None:
    """What is not masked is put back before each call, with noise, and after it."""
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    options = {"path": "img2img", "init_images": [base64_of(picture(1).resize((64, 64)))], "mask": base64_of(mask),
               "mask_blur": 0, "inpaint_full_res": False, "denoising_strength": 0.8}  # fmt: skip
    make(host, **options)  # the first one of a process finds the global generator unseeded
    bare, whole = make(host, **options), make(host, unit(), **options)
    assert difference(whole, bare) > FAR / 4
    assert difference([whole[0][:, 40:]], [bare[0][:, 40:]]) < SAME
    assert difference(make(host, unit(weight=0), **options), bare) == 0
    assert difference(make_apart(unit(), **options), whole) < SAME


@FACE
def test_a_host_without_lowvram(host: Host, plain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forge classic and Forge Neo have no such module."""
    import modules

    from lib_ipadapter.webui import process

    expected = make(host, unit())
    process.resources().unload()
    monkeypatch.delattr(modules, "lowvram")
    monkeypatch.setitem(sys.modules, "modules.lowvram", None)
    assert difference(make(host, unit()), expected) == 0


@FACE
@pytest.mark.parametrize(
    "payload",
    [{**HIRES, "hr_checkpoint_name": "demo-sd15-b"}, {"refiner_checkpoint": "demo-sd15-b", "refiner_switch_at": 0.5}],
    ids=["hires", "refiner"],
)
def test_nothing_hangs_on_a_model_that_was_left(payload: dict, host: Host, plain) -> None:
    """Every load makes a new one, and the old ones are nobody's."""
    from modules import script_callbacks

    unets: list[torch.nn.Module] = [loaded_unet()]

    def note(model: Any) -> None:
        unets.append(unet_in(model))

    script_callbacks.on_model_loaded(note)
    try:
        made = ask(host, unit(), n_iter=2, **payload)
    finally:
        script_callbacks.remove_callbacks_for_function(note)
    assert len(unets) >= 4 and "IP-Adapter not used" not in made.infotext
    hooked = [m for unet in unets for m in unet.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert hooked == []
