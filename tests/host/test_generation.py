"""The extension inside the miniature WebUI, through its API: what a client asks, what it gets, what is left behind."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from demo.start import Host, host_start
from lib_ipadapter.attend.layers import cross_attention_layers
from lib_ipadapter.errors import IPAdapterError

from .files import base64_of, picture, write_adapter, write_encoder

ROOT = Path(__file__).resolve().parents[1]
LONG = "a photo of a cat on a red sofa beside a window, " * 9  # more than 75 tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def host(folder: Path, tmp_path_factory) -> Host:
    from .conftest import sd_unet, sdxl_unet

    for kind in ("base", "plus", "full-face", "faceid"):
        write_adapter(folder / f"{kind}.safetensors", sd_unet(), kind)
    write_adapter(folder / "wide.safetensors", sdxl_unet())
    write_adapter(folder / "two.safetensors", sd_unet(1024))
    write_encoder(folder / "encoder.safetensors")
    options = {"batch_cond_uncond": True, "pad_cond_uncond": False, "s_min_uncond": 0.0, "skip_early_cond": 0.0,
               "sd_model_checkpoint": "demo-sd15", "live_previews_enable": False}  # fmt: skip
    with torch.enable_grad():
        started = host_start([ROOT], options, ["--ip-adapter-dir", str(folder)])
    yield started
    started.close()


def unit(model: str = "base", seeds: tuple[int, ...] = (0,), **settings) -> dict:
    return {"model": model, "images": [base64_of(picture(seed)) for seed in seeds], **settings}


def ours(*units) -> dict:
    return {"IP-Adapter": {"args": list(units)}}


def pixels(answer) -> list[np.ndarray]:
    return [np.asarray(image.convert("RGB")).astype(int) for image in answer.images]


def make(host: Host, *units, path: str = "txt2img", **payload) -> list[np.ndarray]:
    payload = {"prompt": "a cat", "negative_prompt": "blurry", "width": 64, "height": 64, "steps": 3, **payload}
    if units:
        payload["alwayson_scripts"] = ours(*units)
    return pixels(getattr(host, path)(**payload))


def difference(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """Mean absolute difference in levels of 255."""
    assert len(a) == len(b)
    return float(np.mean([np.abs(x - y).mean() for x, y in zip(a, b, strict=True)]))


SAME, FAR = 0.05, 1.0


@pytest.fixture
def plain(host: Host):
    """A plain picture before; the test must leave the host so that it comes out the same, bit for bit."""
    before = make(host)
    yield before
    assert difference(make(host), before) == 0
    assert hooks(host) == []
    from modules import shared

    assert shared.state.textinfo is None


def hooks(host: Host) -> list:
    from modules import shared

    unet = shared.sd_model.model.diffusion_model
    return [name for name, m in unet.named_modules() if m._forward_hooks or m._forward_pre_hooks]


@pytest.mark.parametrize("kind", ["base", "plus", "full-face"])
def test_a_reference_steers_the_picture(kind: str, host: Host, plain) -> None:
    one, other = make(host, unit(kind)), make(host, unit(kind, (3,)))
    assert difference(one, plain) > FAR
    assert difference(one, other) > FAR / 2
    assert difference(one, make(host, unit(kind))) == 0
    assert difference(make(host, unit(kind, weight=0)), plain) == 0


@pytest.mark.parametrize(
    ("checkpoint", "adapter"),
    [("demo-sd2", "two"), ("demo-sdxl", "wide"), ("demo-inpainting", "base")],
)
def test_other_base_models(checkpoint: str, adapter: str, host: Host, plain) -> None:
    override = {"override_settings": {"sd_model_checkpoint": checkpoint}}
    bare = make(host, **override)
    full = make(host, unit(adapter), **override)
    halves = make(host, unit(adapter, weight=0.5), unit(adapter, weight=0.5), **override)
    assert difference(full, bare) > FAR
    assert difference(full, halves) < SAME
    assert difference(make(host, **override), bare) == 0


ROW_PATTERNS = {
    "batched": {},
    "prompts of different length": {"prompt": LONG},
    "long negative prompt": {"negative_prompt": LONG},
    "AND": {"prompt": "a cat AND a dog :0.7"},
    "AND, different length": {"prompt": f"a cat AND {LONG}"},
    "batch of 3": {"batch_size": 3},
    "different length, batch of 2": {"prompt": LONG, "batch_size": 2},
    "second order": {"sampler_name": "Heun"},
    "PLMS": {"sampler_name": "PLMS"},
    "ancestral": {"sampler_name": "Euler a"},
}


@pytest.mark.parametrize("pattern", ROW_PATTERNS)
def test_rows_together_and_apart(pattern: str, host: Host, plain) -> None:
    """One UNet call or one for each row: the same picture. Blind to a fault that both have; the next test is not."""
    together = make(host, unit(), **ROW_PATTERNS[pattern])
    apart = make(host, unit(), override_settings={"batch_cond_uncond": False}, **ROW_PATTERNS[pattern])
    assert difference(together, make(host, **ROW_PATTERNS[pattern])) > FAR
    assert difference(together, apart) < SAME


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("sampler", ["Euler", "Heun", "DDIM"])
def test_uneven_prompts_keep_the_effect(sampler: str, apart: bool, host: Host, plain) -> None:
    """Attention to a doubled text is attention to the text: "X BREAK X" against "Y" is uneven, against "Y BREAK Y" not.
    So both must give the picture of "X" against "Y", in which all rows are in one call."""
    settings = {"sampler_name": sampler, "override_settings": {"batch_cond_uncond": not apart}}
    even = make(host, unit(), prompt="a cat", negative_prompt="blurry", **settings)
    longer = make(host, unit(), prompt="a cat BREAK a cat", negative_prompt="blurry", **settings)
    shorter = make(host, unit(), prompt="a cat", negative_prompt="blurry BREAK blurry", **settings)
    assert difference(even, longer) < SAME
    assert difference(even, shorter) < SAME


@pytest.mark.parametrize("fault", ["all cond", "all uncond", "swapped"])
def test_ignored_rows_would_be_noticed(fault: str, host: Host, plain, monkeypatch) -> None:
    """The proof that the two tests above can fail."""
    from lib_ipadapter.attend import rows

    right = make(host, unit(), prompt="a cat BREAK a cat")
    take = rows.RowCursor.take

    def wrong(self, n, *args, **kwargs):
        change = {"all cond": lambda c: True, "all uncond": lambda c: False, "swapped": lambda c: not c}[fault]
        return tuple(rows.Row(change(row.cond), row.picture) for row in take(self, n, *args, **kwargs))

    monkeypatch.setattr(rows.RowCursor, "take", wrong)
    assert difference(make(host, unit(), prompt="a cat BREAK a cat"), right) > FAR / 2


@pytest.mark.parametrize("setting", [{"s_min_uncond": 100.0, "s_min_uncond_all": True}, {"skip_early_cond": 0.5}])
def test_skipped_uncond_rows(setting: dict, host: Host, plain) -> None:
    override = {"override_settings": setting}
    full = make(host, unit(weight=0.8), **override)
    halves = make(host, unit(weight=0.4), unit(weight=0.4), **override)
    alone = make(host, unit(weight=0.8), override_settings={**setting, "batch_cond_uncond": False})
    assert difference(full, make(host, **override)) > FAR / 4
    assert difference(full, halves) < SAME
    assert difference(full, alone) < SAME


def test_every_picture_of_a_batch_is_its_own(host: Host, plain) -> None:
    batch = make(host, unit(), batch_size=2, n_iter=2, seed=5)
    for i in range(4):
        assert difference(batch[-4:][i : i + 1], make(host, unit(), seed=5 + i)) < SAME


def test_per_image_batches(host: Host, plain) -> None:
    batch = make(host, unit(seeds=(0, 3), batch="per image"), batch_size=2, n_iter=2, seed=5)[-4:]
    for i in range(4):
        alone = make(host, unit(seeds=((0, 3)[i % 2],)), seed=5 + i)
        assert difference(batch[i : i + 1], alone) < SAME
        assert difference(batch[i : i + 1], make(host, unit(seeds=((3, 0)[i % 2],)), seed=5 + i)) > FAR / 4


def test_hires_passes(host: Host, plain) -> None:
    hires = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7}
    bare = make(host, **hires)
    pictures = {which: make(host, unit(hires=which), **hires) for which in ("both", "base", "hires")}
    for which, result in pictures.items():
        assert difference(result, bare) > FAR / 4, which
    assert difference(pictures["both"], pictures["base"]) > FAR / 8
    assert difference(pictures["both"], pictures["hires"]) > FAR / 8
    apart = make(host, unit(), override_settings={"batch_cond_uncond": False}, **hires)
    assert difference(pictures["both"], apart) < SAME


def test_img2img_and_instruct_pix2pix(host: Host, plain) -> None:
    start = {"init_images": [base64_of(picture(9, (64, 64)))], "denoising_strength": 0.8, "path": "img2img"}
    make(host, **start)  # the first img2img of a process finds the global generator unseeded
    bare = make(host, **start)
    assert difference(make(host, unit(), **start), bare) > FAR / 4
    assert difference(make(host, **start), bare) == 0
    edit = {**start, "image_cfg_scale": 1.5, "override_settings": {"sd_model_checkpoint": "demo-ip2p"}}
    full, halves = make(host, unit(), **edit), make(host, unit(weight=0.5), unit(weight=0.5), **edit)
    assert difference(full, make(host, **edit)) > FAR / 4
    assert difference(full, halves) < SAME
    edit["override_settings"] = {**edit["override_settings"], "batch_cond_uncond": False}
    assert difference(full, make(host, unit(), **edit)) < SAME


def test_steps_are_shares(host: Host, plain) -> None:
    for sampler in ("Euler", "Heun", "DDIM"):
        settings = {"steps": 4, "sampler_name": sampler}
        whole = make(host, unit(), **settings)
        parts = make(host, unit(end=0.5), unit(start=0.5), **settings)
        assert difference(whole, parts) < SAME, sampler
        assert difference(whole, make(host, unit(end=0.5), **settings)) > FAR / 8, sampler


def test_units_without_effect_leave_the_picture_bit_identical(host: Host, plain) -> None:
    assert difference(make(host, {"enabled": False}), plain) == 0
    assert difference(make(host, {"enabled": False, "model": "no such thing"}, unit(enabled=False)), plain) == 0
    answer = host.post("txt2img", {"prompt": "a cat", "alwayson_scripts": {"ip-adapter": {"args": []}}, "steps": 1})
    assert answer.status_code == 200


WRONG = {
    "null": (None, "a unit is an object"),
    "text": ("x", "a unit is an object"),
    "unknown field": ({**unit(), "wieght": 1}, "unknown field 'wieght'"),
    "NaN": (unit(weight=float("nan")), "weight is nan"),
    "no model": ({"images": ["x"]}, "model is missing"),
    "unknown model": (unit("nothing-like-it"), "no adapter is called"),
    "other base": (unit("wide"), "choose one of base"),
    "a face adapter": (unit("faceid"), "face"),
    "not a picture": ({"model": "base", "images": ["aGVsbG8gd29ybGQ="]}, "the reference: "),
    "a strip": ({"model": "base", "images": [base64_of(Image.new("RGB", (20000, 1)))]}, "20000"),
    "empty": ({"model": "base", "images": []}, "no reference picture"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("path", ["txt2img", "img2img"])
def test_what_cannot_be_honoured_is_a_422(wrong: str, path: str, host: Host, plain) -> None:
    thing, says = WRONG[wrong]
    payload = {"prompt": "a cat", "steps": 2, "width": 64, "height": 64, "n_iter": 2, "alwayson_scripts": ours(thing)}
    if path == "img2img":
        payload["init_images"] = [base64_of(picture(9, (64, 64)))]
    content = json.dumps(payload)  # as a client with NaN would send it
    answer = host.client.post(f"/sdapi/v1/{path}", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("IP-Adapter unit 1: ")
    assert says in answer.json()["detail"]


def test_a_refused_job_never_reaches_other_extensions(host: Host, plain, monkeypatch) -> None:
    """ControlNet hooks the model in ``process`` and unhooks it in the next one of the same tab: a refusal after it
    would leave it half set up."""
    from modules import scripts

    seen, process = [], scripts.ScriptRunner.process
    monkeypatch.setattr(scripts.ScriptRunner, "process", lambda self, p: seen.append(p) or process(self, p))
    assert host.post("txt2img", {"steps": 1, "alwayson_scripts": ours(unit("zzz"))}).status_code == 422
    assert seen == []
    make(host, unit())
    assert len(seen) == 1


@pytest.mark.parametrize("swallow", [True, False])
def test_a_refusal_that_somebody_swallows_still_counts(swallow: bool, host: Host, plain, monkeypatch) -> None:
    """Another extension calls ``p.setup_prompts`` first, or replaces it: the job is refused through ``p.init``."""
    from modules import processing, scripts

    before = scripts.ScriptRunner.before_process

    def meddle(self, p):
        before(self, p)
        with pytest.raises(IPAdapterError):
            p.setup_prompts()

    if swallow:
        monkeypatch.setattr(scripts.ScriptRunner, "before_process", meddle)
    else:
        inner = processing.process_images_inner

        def skip(p):
            start = p.setup_prompts
            p.setup_prompts = lambda: type(p).setup_prompts(p)
            run = scripts.ScriptRunner.process
            monkeypatch.setattr(
                scripts.ScriptRunner, "process",
                lambda self, p: (setattr(p, "setup_prompts", start), run(self, p))[1],
            )  # fmt: skip
            return inner(p)

        monkeypatch.setattr(processing, "process_images_inner", skip)
    answer = host.post("txt2img", {"prompt": "a cat", "steps": 1, "alwayson_scripts": ours(unit("zzz"))})
    assert answer.status_code == 422
    assert "no adapter is called" in answer.json()["detail"]


def test_an_eleventh_unit_is_noticed(host: Host, plain) -> None:
    answer = host.post("txt2img", {"prompt": "a cat", "alwayson_scripts": ours(*[unit()] * 11)})
    assert answer.status_code == 422
    assert "more than 10 units" in answer.json()["detail"]


def test_arguments_are_not_changed(host: Host, plain) -> None:
    thing = unit("BASE.safetensors", weight=0.5)
    before = json.dumps(thing)
    make(host, thing)
    assert json.dumps(thing) == before


def test_undo_after_an_error_during_sampling(host: Host, plain, monkeypatch) -> None:
    from modules import shared

    unet = shared.sd_model.model.diffusion_model
    calls = []

    def explode(*_args):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory")

    handle = unet.output_blocks[3].register_forward_pre_hook(explode)
    try:
        assert host.post("txt2img", {"steps": 3, "alwayson_scripts": ours(unit())}).status_code == 500
    finally:
        handle.remove()
    assert hooks(host) == []


def test_undo_after_an_interrupt(host: Host, plain) -> None:
    from modules import script_callbacks, shared

    def interrupt(params):
        if params.denoiser.step == 1:
            shared.state.interrupt()

    script_callbacks.on_cfg_denoiser(interrupt)
    try:
        make(host, unit(), steps=5)
    finally:
        script_callbacks.remove_callbacks_for_function(interrupt)


def test_an_interrupt_ends_the_encoding(host: Host, plain, monkeypatch) -> None:
    from modules import shared

    from lib_ipadapter.encode.clip import ImageEncoder

    calls, encode = [], ImageEncoder.encode

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        shared.state.interrupt()
        return encode(self, *args, **kwargs)

    monkeypatch.setattr(ImageEncoder, "encode", interrupted)
    assert make(host, unit(seeds=(61, 62, 63))) == []
    assert len(calls) == 1


def test_undo_when_the_checkpoint_changes(host: Host, plain) -> None:
    for checkpoint in ("demo-sd15-b", "demo-sd15"):
        override = {"override_settings": {"sd_model_checkpoint": checkpoint}}
        bare = make(host, **override)
        assert difference(make(host, unit(), **override), bare) > FAR / 2
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


def test_a_picture_without_its_references_is_not_handed_out(host: Host, plain) -> None:
    """Something computes attention without calling the layers: only seen when the picture is made."""
    from modules import shared

    layers = cross_attention_layers(shared.sd_model.model.diffusion_model)

    def forward(self, x, context=None, mask=None):
        linear = torch.nn.functional.linear
        q, k, v = (linear(z, m.weight) for z, m in ((x, self.to_q), (context, self.to_k), (context, self.to_v)))
        q, k, v = (z.unflatten(-1, (self.heads, -1)).transpose(1, 2) for z in (q, k, v))
        return self.to_out(torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    for layer in layers:
        layer.module.forward = forward.__get__(layer.module)
    try:
        answer = host.post("txt2img", {"prompt": "a cat", "steps": 1, "alwayson_scripts": ours(unit())})
    finally:
        for layer in layers:
            del layer.module.forward
    assert answer.status_code == 422
    assert "the references were not used in this picture" in answer.json()["detail"]


def test_a_script_that_samples_by_itself_is_followed(host: Host, plain, monkeypatch) -> None:
    """The host announces a pass only from its own ``sample``; some scripts replace that."""
    from modules import scripts

    expected = make(host, unit())
    monkeypatch.setattr(scripts.ScriptRunner, "process_before_every_sampling", lambda self, p, **kwargs: None)
    assert difference(make(host, unit()), expected) == 0


def test_a_unit_without_a_step_is_noticed(host: Host, plain) -> None:
    """DDIM does one step less than it announces."""
    payload = {"prompt": "a cat", "steps": 4, "width": 64, "height": 64, "sampler_name": "DDIM"}
    answer = host.post("txt2img", {**payload, "alwayson_scripts": ours(unit(start=0.9))})
    assert answer.status_code == 422
    assert "none of this sampler's steps" in answer.json()["detail"]
    assert host.post("txt2img", {**payload, "alwayson_scripts": ours(unit(start=0.5))}).status_code == 200


def test_an_error_in_a_step_is_no_plain_picture(host: Host, plain, monkeypatch) -> None:
    from lib_ipadapter.webui import host as seam

    monkeypatch.setattr(seam, "denoising_step", lambda params: 1 / 0)
    answer = host.post("txt2img", {"prompt": "a cat", "steps": 2, "alwayson_scripts": ours(unit())})
    assert answer.status_code == 422
    assert "ZeroDivisionError" in answer.json()["detail"]


@pytest.mark.parametrize(("sampler", "calls"), [("Euler", 4), ("Heun", 7), ("PLMS", 4), ("DDIM", 3)])
def test_steps_are_counted(sampler: str, calls: int, host: Host, plain, monkeypatch) -> None:
    from lib_ipadapter.attend.inject import Injection

    seen, begin = [], Injection.begin

    def watched(self, rows, step, steps, *args, **kwargs):
        seen.append((step, steps))
        return begin(self, rows, step, steps, *args, **kwargs)

    monkeypatch.setattr(Injection, "begin", watched)
    make(host, unit(), sampler_name=sampler, steps=4)
    # DDIM and PLMS, as the host has them, do one step less than they announce; PLMS calls twice in its first.
    expected = {"Euler": [0, 1, 2, 3], "DDIM": [0, 1, 2], "Heun": [0, 0, 1, 1, 2, 2, 3], "PLMS": [0, 0, 1, 2]}
    assert seen == [(step, 4) for step in expected[sampler]]
    assert len(seen) == calls


def test_the_hosts_prompt_cache_stays_useful(host: Host, plain) -> None:
    from modules import prompt_parser

    counted = []
    original = prompt_parser.get_learned_conditioning

    def count(*args, **kwargs):
        counted.append(1)
        return original(*args, **kwargs)

    prompt_parser.get_learned_conditioning = count
    try:
        make(host)
        first = len(counted)
        make(host, unit())
        make(host)
        assert len(counted) == first
    finally:
        prompt_parser.get_learned_conditioning = original


def test_infotext_tells_what_was_used(host: Host, plain) -> None:
    answer = host.txt2img(
        prompt="a cat", steps=1,
        alwayson_scripts=ours({"enabled": False}, unit("Plus", (0, 1), weight=0.5, end=0.75, combine="average")),
    )  # fmt: skip
    entry = next(part for part in answer.infotext.split("IP-Adapter ")[1:])
    assert entry.startswith('2: "model: plus, weight: 0.5, end: 0.75, combine: average, references: ')
    assert "IP-Adapter 1" not in answer.infotext
    assert "IP-Adapter" not in host.txt2img(prompt="a cat", steps=1).infotext


def test_the_list_of_models(host: Host, folder: Path) -> None:
    body = host.client.get("/ip-adapter/models").json()
    names = {adapter["name"]: adapter for adapter in body["adapters"]}
    assert set(names) >= {"base", "plus", "full-face", "wide", "two"}
    assert names["wide"]["base"] == "SDXL"
    assert set(names["base"]) == {"name", "variant", "base", "encoder", "tokens", "parameters", "file"}
    assert names["base"]["file"] == "base.safetensors"
    assert {"name": "encoder", "kind": "ViT (128 wide, 3 layers)", "file": "encoder.safetensors"} in body["encoders"]
    assert str(folder) in body["folders"]


def test_progress_is_told_and_taken_back(host: Host, plain, monkeypatch) -> None:
    from modules import shared

    from lib_ipadapter.encode.clip import ImageEncoder

    said, encode = [], ImageEncoder.encode

    def watched(self, *args, **kwargs):
        said.append(shared.state.textinfo)
        return encode(self, *args, **kwargs)

    monkeypatch.setattr(ImageEncoder, "encode", watched)
    make(host, unit(seeds=(41, 42)))
    assert said == ["IP-Adapter: encoding reference 1 of 2", "IP-Adapter: encoding reference 2 of 2"]


def test_an_unexpected_error_is_no_plain_picture(host: Host, plain, monkeypatch) -> None:
    from lib_ipadapter.encode.clip import ImageEncoder

    def broken(self, *args, **kwargs):
        raise MemoryError("no room")

    monkeypatch.setattr(ImageEncoder, "encode", broken)
    answer = host.post("txt2img", {"prompt": "a cat", "alwayson_scripts": ours(unit(seeds=(51,)))})
    assert answer.status_code == 500
    assert "IP-Adapter: unexpected MemoryError" in answer.json()["detail"]


def test_requests_side_by_side(host: Host, plain) -> None:
    """The host queues them; each gets the picture it asked for."""
    expected = {None: plain, 0: make(host, unit()), 3: make(host, unit(seeds=(3,)))}
    results: dict = {}

    def ask(key):
        results[key] = make(host, *([] if key is None else [unit(seeds=(key,))]))

    threads = [threading.Thread(target=ask, args=(key,)) for key in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(difference(results[key], expected[key]) == 0 for key in expected)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "palette", "RGBA", "grey", "CMYK", "GIF"])
def test_any_kind_of_picture_is_a_reference(form: str, host: Host, plain) -> None:
    image, kind = picture(0), form
    if form in ("palette", "RGBA", "grey", "CMYK"):
        image = image.convert({"palette": "P", "RGBA": "RGBA", "grey": "L", "CMYK": "CMYK"}[form])
        kind = "JPEG" if form == "CMYK" else "PNG"
    result = make(host, {"model": "base", "image": "data:image/x;base64," + base64_of(image, kind)})
    assert difference(result, plain) > FAR
    if form in ("PNG", "RGBA"):  # these keep the colours exactly
        assert difference(result, make(host, unit())) == 0


def panel_args(host: Host, *units: dict, tick: object = True, shown: int = 1, inbox: str = "") -> list:
    """The script's arguments as the page sends them: untouched API slots, the tick, the sheet with all units, a
    picture on its way, the session's pictures, and gradio's components, which are right for the unit that is shown
    alone.

    ``units``: controls' values by name, ``"pictures"`` and their ``"weights"`` among them.
    """
    from lib_ipadapter.webui import panel
    from lib_ipadapter.webui.controls import COMPONENTS

    pictures, entries = {}, []
    for number, given in enumerate(units, 1):
        keys = [f"{number}-{i}" for i in range(len(given.get("pictures", ())))]
        pictures |= zip(keys, given.get("pictures", ()), strict=True)
        settings = {name: value for name, value in given.items() if name not in ("pictures", "weights")}
        weights = given.get("weights", [1] * len(keys))
        stale = {"weight": -1, "model": "what the sheet says of the unit that is shown"} if number == shown else {}
        images = [{"key": key, "weight": weight} for key, weight in zip(keys, weights, strict=True)]
        images += settings.pop("images", [])
        entries.append({**settings, **stale, "images": images})
    components = [units[shown - 1].get(control.field, control.default) for control in COMPONENTS]
    sheet = json.dumps({"shown": shown, "units": entries})
    return [*[panel.NOT_SENT] * panel.SLOTS, "", tick, sheet, inbox, pictures, *components]


def test_the_panels_units(host: Host) -> None:
    from lib_ipadapter.unit import parse_units
    from lib_ipadapter.webui import panel

    one, two = picture(1), picture(2)
    units = ({}, {"pictures": [one, two], "model": "base", "weight": 0.5}, {"pictures": [one], "model": "plus"})
    for shown in (1, 2, 3):
        found = parse_units(panel.units(tuple(panel_args(host, *units, shown=shown))))
        assert [(number, unit.model, unit.weight, len(unit.references)) for number, unit in found] == [
            (2, "base", 0.5, 2),
            (3, "plus", 1.0, 1),
        ]
    assert panel.units(tuple(panel_args(host, *units, tick=False))) == []
    with pytest.raises(IPAdapterError, match="ticked, but no unit has a reference"):
        panel.units(tuple(panel_args(host, {}, {"model": "base"})))
    with pytest.raises(IPAdapterError, match="unit 1: model is missing"):
        parse_units(panel.units(tuple(panel_args(host, {"pictures": [one]}))))


def test_pictures_that_are_not_there(host: Host) -> None:
    """After a restart the page has its keys, and the server no pictures; or they are still on their way."""
    from lib_ipadapter.webui import panel

    def units(item: dict, **kwargs) -> list:
        unit = {"pictures": [picture(1)], "model": "base", "images": [{"key": "k", "weight": 0.5, **item}]}
        return panel.units(tuple(panel_args(host, {}, {**unit, **kwargs.pop("unit", {})}, **kwargs)))

    with pytest.raises(IPAdapterError, match="^IP-Adapter unit 2: 1 of its 2 references is not on the server any more"):
        units({})
    with pytest.raises(IPAdapterError, match="reload the page, or remove the references and add them again"):
        units({})
    with pytest.raises(IPAdapterError, match="^IP-Adapter unit 2: a reference is still on its way"):
        units({"waiting": True})
    arriving = json.dumps({"key": "k", "data": base64_of(picture(2))})
    (_, unit) = units({"waiting": True}, inbox=arriving)
    assert [one["weight"] for one in unit["images"]] == [1, 0.5]
    assert np.array_equal(np.asarray(unit["images"][1]["image"]), np.asarray(picture(2)))
    with pytest.raises(IPAdapterError, match="no unit has a reference"):
        units({}, unit={"enabled": False})
    args = panel_args(host, {}, {"enabled": False, "images": [{"key": "k"}]})
    with pytest.raises(IPAdapterError, match="unit 2"):  # nothing is left out of a preset
        panel.presets_units(tuple(args[panel.SLOTS + 2 :]))
    for damaged in ("", "null", "[]", '{"shown": 3, "units": [{}]}', '{"shown": 1, "units": [{"images": 3}]}'):
        args = panel_args(host, {})
        args[panel.SLOTS + 2] = damaged
        with pytest.raises(IPAdapterError, match="reload the page"):
            panel.units(tuple(args))


def test_a_clients_units_count_whatever_the_panel_says(host: Host) -> None:
    from lib_ipadapter.webui import panel

    args = panel_args(host, {"pictures": [picture(1)], "model": "base"})
    args[:3] = [{"model": "plus"}, {"enabled": False}, None]
    assert panel.units(tuple(args)) == args[:3]


def test_the_panel_generates_what_the_api_generates(host: Host, plain) -> None:
    """The same units through the page's arguments: the same picture, and the same sentence when one is wrong."""
    from modules import processing, scripts, shared

    def generate(*tabs: dict):
        runner = scripts.scripts_txt2img
        script = next(s for s in runner.alwayson_scripts if s.title() == "IP-Adapter")
        args = [0, *[None] * (len(runner.inputs) - 1)]
        args[script.args_from : script.args_to] = panel_args(host, *tabs)
        p = processing.StableDiffusionProcessingTxt2Img(
            sd_model=shared.sd_model, prompt="a cat", negative_prompt="blurry", seed=1, steps=3, width=64, height=64,
            sampler_name="Euler", do_not_save_samples=True, do_not_save_grid=True,
        )  # fmt: skip
        p.is_api = True  # the page's own sampler and seed controls are left out
        p.scripts, p.script_args = runner, args
        try:
            return pixels(processing.process_images(p))
        finally:
            p.close()

    tab = {"pictures": [picture(0)], "model": "base", "weight": 0.7}
    assert difference(generate(tab, {}, {}), make(host, unit(weight=0.7))) == 0
    with pytest.raises(IPAdapterError, match=r"^IP-Adapter unit 2: adapter wide is for SDXL"):
        generate({}, {**tab, "model": "wide"}, {})


def test_the_page_has_the_panel_in_both_tabs(host: Host) -> None:
    ids = {block.elem_id for block in host.blocks.blocks.values() if getattr(block, "elem_id", None)}
    for tab in ("txt2img", "img2img"):
        assert f"{tab}_ip_adapter" in ids
        assert {f"{tab}_ip_adapter_{name}" for name in ("units", "sheet", "slot", "model", "weight")} <= ids


def test_building_the_panel_is_quick(host: Host) -> None:
    import time

    import gradio as gr

    from lib_ipadapter.webui import callbacks, panel
    from lib_ipadapter.webui.controls import COMPONENTS

    started = time.perf_counter()
    with gr.Blocks() as blocks:
        components = panel.build("txt2img", callbacks.resources, callbacks.store).components
    assert time.perf_counter() - started < 1  # 0.03 s on an idle machine
    assert len(components) == panel.SLOTS + 2 + 3 + len(COMPONENTS)
    assert not any(isinstance(block, gr.Image) for block in blocks.blocks.values())  # the page takes 15 ms for each
    assert len(blocks.blocks) <= 46, len(blocks.blocks)


def test_routes_ask_for_the_apis_password(folder: Path, host: Host) -> None:
    """Last in this file: it starts the host anew with --api-auth."""
    options = {"sd_model_checkpoint": "demo-sd15"}
    with torch.enable_grad():
        guarded = host_start([ROOT], options, ["--ip-adapter-dir", str(folder), "--api-auth", "anna:secret,bob:x"])
    get = guarded.client.get
    assert get("/ip-adapter/models").status_code == 401
    assert get("/ip-adapter/models", auth=("bob", "y")).status_code == 401
    assert get("/ip-adapter/models", auth=("eve", "x")).status_code == 401
    assert get("/ip-adapter/models", auth=("bob", "x")).status_code == 200
