"""The miniature host behaves like the real one in what the extension relies on."""

from __future__ import annotations

import ast
import base64
import dataclasses
import importlib
import io
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from demo import host_start, models

ROOT = Path(__file__).parents[1]
MODULES = ROOT / "demo" / "host" / "modules"
CONTRACT = json.loads((ROOT / "tests" / "contract" / "webui-contract.json").read_text())["modules"]

# --- names and signatures -------------------------------------------------------------------------------------------


def signature(node: ast.FunctionDef) -> str:
    for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]:
        if argument is not None:
            argument.annotation = None
    return ast.unparse(node.args)


def fields(body: list[ast.stmt]) -> dict[str, str]:
    found = {}
    for node in body:
        if isinstance(node, ast.AnnAssign):
            value = f" = {ast.unparse(node.value)}" if node.value else ""
            found[node.target.id] = ast.unparse(node.annotation) + value
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = ast.unparse(node.value)
    return found


def functions(body: list[ast.stmt]) -> dict[str, str]:
    return {n.name: signature(n) for n in body if isinstance(n, ast.FunctionDef) and not private(n.name)}


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@pytest.mark.parametrize("name", sorted(CONTRACT))
def test_module_matches_contract(name: str) -> None:
    """Everything public that the demo's module defines is in the real one, with the same signature."""
    table = CONTRACT[name]
    tree = ast.parse((MODULES / Path(*name.split(".")[1:])).with_suffix(".py").read_text())
    assert functions(tree.body).items() <= table["functions"].items()
    for node in tree.body:
        if not isinstance(node, ast.ClassDef) or private(node.name) or node.name not in table["classes"]:
            continue
        real = table["classes"][node.name]
        methods = {k: v for k, v in functions(node.body).items() if k != "__post_init__" or k in real["methods"]}
        assert methods.items() <= real["methods"].items(), node.name
        assert fields(node.body).items() <= real["fields"].items(), node.name


COMPLETE = {
    "modules.processing": [
        "StableDiffusionProcessing",
        "StableDiffusionProcessingTxt2Img",
        "StableDiffusionProcessingImg2Img",
    ],
    "modules.scripts": ["Script", "PostprocessImageArgs"],
    "modules.ui_components": list(CONTRACT["modules.ui_components"]["classes"]),
    "modules.options": ["OptionInfo"],
}


@pytest.mark.parametrize("name", COMPLETE)
def test_classes_that_extensions_subclass_are_complete(host, name: str) -> None:
    """All fields and methods, wherever in the module they come from; the fields of jobs are arguments, too."""
    module = importlib.import_module(name)
    left_out = {"depth2img_image_conditioning", "unclip_image_conditioning", "global_index", "__post_init__"}
    for cls in COMPLETE[name]:
        real = CONTRACT[name]["classes"][cls]
        made = getattr(module, cls)
        assert {*real["fields"], *real["methods"]} - left_out <= {*dir(made), *getattr(made, "__annotations__", ())}
        if dataclasses.is_dataclass(made) and "sampler_name" in dir(made):
            own = {f.name: f for f in dataclasses.fields(made)}
            for field, text in real["fields"].items():
                assert field not in own or own[field].init == ("init=False" not in text), field


def test_what_the_extension_uses_is_there(host) -> None:
    wanted = {
        "scripts": "Script AlwaysVisible basedir ScriptRunner scripts_data scripts_txt2img scripts_img2img",
        "shared": "opts cmd_opts state sd_model OptionInfo options_section parser device",
        "script_callbacks": " ".join(n for n in CONTRACT["modules.script_callbacks"]["functions"] if n[:3] == "on_"),
        "processing": "process_images StableDiffusionProcessingTxt2Img StableDiffusionProcessingImg2Img Processed",
        "sd_models": "model_data get_closet_checkpoint_match reload_model_weights CheckpointInfo checkpoints_list",
        "devices": "device dtype autocast torch_gc cpu",
        "ui_components": "InputAccordion ToolButton FormRow",
        "infotext_utils": "PasteField parse_generation_parameters quote unquote image_from_url_text",
        "paths": "models_path data_path script_path extensions_dir",
        "errors": "report display",
        "sd_samplers": "all_samplers samplers",
        "images": "read save_image",
        "extensions": "extensions active find_extension",
        "hashes": "sha256 calculate_sha256",
        "lowvram": "is_enabled send_everything_to_cpu",
    }
    for module, names in wanted.items():
        loaded = importlib.import_module(f"modules.{module}")
        assert [n for n in names.split() if not hasattr(loaded, n)] == []


# --- a host with a tiny extension -----------------------------------------------------------------------------------

SCRIPT = """
import sys
import gradio as gr
from modules import script_callbacks, scripts, shared

LOG = []
AT_LOAD = {"basedir": scripts.basedir(), "path0": sys.path[0]}
import helper_of_probe  # the extension's own folder is importable while it loads

def note(name):
    def method(self, p, *args, **kwargs):
        LOG.append((name, args, kwargs, getattr(p, "is_hr_pass", None)))
        if args and name == args[0]:
            raise ValueError("probe fails in " + name)
        if name == "process" and args and args[0] == "refuse":
            def init(*_):
                error = ValueError("IP-Adapter unit 1: no")
                error.status_code, error.detail = 422, "IP-Adapter unit 1: no"
                raise error
            p.init = init
        if name == "process" and args and args[0] == "mark":
            p.extra_generation_params["Probe"] = "a: 1, b: 2"
    return method

class Probe(scripts.Script):
    def title(self):
        return "Probe"
    def show(self, is_img2img):
        return scripts.AlwaysVisible
    def ui(self, is_img2img):
        first = gr.Textbox(label="first", value="", elem_id=self.elem_id("first"))
        self.infotext_fields = [(first, "Probe")]
        return [first, gr.Slider(0, 1, 0.5, label="second")]

for name in ("setup before_process process before_process_batch after_extra_networks_activate process_batch "
             "process_before_every_sampling before_hr post_sample postprocess_batch postprocess_batch_list "
             "postprocess_image postprocess_maskoverlay postprocess_image_after_composite postprocess "
             "on_mask_blend").split():
    setattr(Probe, name, note(name))

def on_ui_settings():
    shared.opts.add_option("probe_option", shared.OptionInfo(3, "Probe", section=("probe", "Probe")))

def on_app_started(demo, app):
    LOG.append(("app_started", [r.path for r in app.routes], {}, None))
    app.add_api_route("/probe", lambda: {"ok": True}, methods=["GET"])

def on_cfg_denoiser(params):
    LOG.append(("cfg_denoiser", (len(params.x), len(params.text_cond), params.sampling_step,
                                 params.total_sampling_steps), {}, None))
    raise RuntimeError("swallowed")

script_callbacks.on_ui_settings(on_ui_settings)
script_callbacks.on_app_started(on_app_started)
script_callbacks.on_cfg_denoiser(on_cfg_denoiser)
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    folder = tmp_path_factory.mktemp("extensions")
    probe, later = folder / "b-probe", folder / "a-later"
    for path, text in {
        probe / "scripts" / "probe.py": SCRIPT,
        probe / "helper_of_probe.py": "",
        probe / "preload.py": "def preload(parser):\n    parser.add_argument('--probe-flag', action='append')\n",
        probe / "style.css": ".probe { color: red }",
        probe / "javascript" / "probe.js": "// probe",
        later / "scripts" / "later.py": "import sys\nassert 'b-probe' not in str(sys.path[0])\nfrom modules import "
        "script_callbacks\nscript_callbacks.on_cfg_denoised(lambda params: None)",
        later / "metadata.ini": "[Extension]\nName = a-later\n\n[scripts]\nAfter = b-probe\n",
        folder / "c-broken" / "scripts" / "broken.py": "raise OSError('broken script')",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    from demo.start import HOST  # one process keeps one data folder

    data = None if str(HOST) in sys.path else tmp_path_factory.mktemp("data")
    running = host_start(
        [probe, later, folder / "c-broken"],
        {"pad_cond_uncond": False, "s_min_uncond": 0.0, "skip_early_cond": 0.0},
        ["--probe-flag", "x", "--probe-flag", "y", "--api-auth", "ann:1,bob:2"],
        data_dir=data,
    )
    running.client.auth = ("bob", "2")
    running.probe = next(
        m
        for p, m in sys.modules["modules.script_loading"].loaded_scripts.items()
        if p == str(probe / "scripts" / "probe.py")
    )
    yield running
    running.close()


@pytest.fixture
def log(host):
    host.probe.LOG.clear()
    return host.probe.LOG


@pytest.fixture
def rows(host):
    """Rows of each call of the UNet, as a forward pre-hook sees them."""
    from modules import shared

    seen = []
    unet = shared.sd_model.model.diffusion_model
    hook = unet.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    yield seen
    hook.remove()


def names(log) -> list[str]:
    return [entry[0] for entry in log if entry[0] != "cfg_denoiser"]


def picture(colour="red", size=128) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def probe(value: str) -> dict:
    return {"Probe": {"args": [value]}}


LONG = "one two three four five six seven eight nine ten " * 9

# --- extensions -----------------------------------------------------------------------------------------------------


def test_extension_loading(host) -> None:
    from modules import errors, scripts, shared

    assert host.probe.AT_LOAD["basedir"] == host.probe.AT_LOAD["path0"]
    assert "b-probe" not in str(sys.path)
    assert shared.cmd_opts.probe_flag == ["x", "y"]
    order = [os.path.basename(data.path) for data in scripts.scripts_data]
    assert order == ["probe.py", "sampler.py", "seed.py"]
    files = [os.path.basename(f.filename) for f in scripts.list_scripts("scripts", ".py")]
    assert files.index("probe.py") < files.index("later.py")
    assert "broken script" in [e["exception"] for e in errors.exception_records]
    assert shared.opts.probe_option == 3


def test_unknown_flag_ends_the_start() -> None:
    from modules import shared_cmd_options

    before = dict(vars(shared_cmd_options.cmd_opts))
    with pytest.raises(SystemExit):
        shared_cmd_options._parse(["--no-such-flag"])
    vars(shared_cmd_options.cmd_opts).update(before)


def test_page_links_scripts_and_styles(host) -> None:
    page = host.client.get("/").text
    assert "probe.js" in page and "b-probe/style.css" in page and "script.js" in page
    assert "script_txt2img_probe_first" in page and "setting_probe_option" in page


def test_app_started_comes_after_the_routes(host) -> None:
    assert host.client.get("/probe").json() == {"ok": True}


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
    host.img2img(init_images=[picture()], mask=picture("white"), denoising_strength=0.5, inpaint_full_res=False)
    called = names(log)
    assert called[:3] == ["setup", "before_process", "process"] and "on_mask_blend" in called


def test_deterministic(host) -> None:
    small = {"batch_size": 2, "width": 64, "height": 64}
    first, second = host.txt2img(prompt="a cat", **small), host.txt2img(prompt="a cat", **small)
    assert [i.tobytes() for i in first.images] == [i.tobytes() for i in second.images]
    assert first.images[0].tobytes() != first.images[1].tobytes()
    assert first.images[0].tobytes() != host.txt2img(prompt="a dog", **small).images[0].tobytes()


def test_building_a_model_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    models.build("sd15")
    assert torch.equal(torch.randn(3), expected)


def test_img2img_samples_its_latents_from_the_global_generator(host) -> None:
    def run(seed):
        torch.manual_seed(seed)
        return host.img2img(init_images=[picture()], denoising_strength=0.3).images[0].tobytes()

    assert run(1) == run(1) != run(2)


@pytest.mark.parametrize("sampler", ["Euler", "Euler a", "Heun", "DPM++ 2M", "DDIM", "PLMS"])
def test_samplers_count_steps_like_the_host(host, log, sampler) -> None:
    host.txt2img(width=64, height=64, sampler_name=sampler, steps=4)
    steps = [entry[1][2] for entry in log if entry[0] == "cfg_denoiser"]
    assert {entry[1][3] for entry in log if entry[0] == "cfg_denoiser"} == {4}
    assert steps == {
        "Heun": [0, 0, 0, 1, 1, 2, 2],
        "DDIM": [0, 0, 1],
        "PLMS": [0, 0, 0, 1],
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
        "init_images": [picture(size=64)],
        "width": 64,
        "height": 64,
        "steps": 1,
        "denoising_strength": 1.0,
        "image_cfg_scale": 1.5,
        "override_settings": {"sd_model_checkpoint": kind},
    }
    from modules import sd_models

    loaded = sd_models.load_model

    def load(*args, **kwargs):
        model = loaded(*args, **kwargs)
        model.model.diffusion_model.register_forward_pre_hook(watch, with_kwargs=True)
        return model

    sd_models.load_model = load
    try:
        answer = host.img2img(**payload)
    finally:
        sd_models.load_model = loaded
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


@pytest.mark.parametrize(("kind", "layers"), [("sd15", 16), ("sd2", 16), ("inpaint", 16), ("sdxl", 70)])
def test_layers(kind, layers) -> None:
    unet = models.build_unet(kind, torch.Generator().manual_seed(0))
    attn2 = [module for name, module in unet.named_modules() if name.endswith("attn2")]
    assert len(attn2) == layers and {m.to_k.in_features for m in attn2} == {models.KINDS[kind][1]}
    assert {type(m).__name__ for m in attn2} == {"CrossAttention"}


def test_files_for_the_extension() -> None:
    from demo.files import adapter_state, encoder_state

    state = adapter_state()
    assert sorted(int(k.split(".")[1]) for k in state if k.endswith("to_k_ip.weight")) == list(range(1, 33, 2))
    assert state["ip_adapter.31.to_v_ip.weight"].shape == (128, 768)
    assert encoder_state()["visual_projection.weight"].shape == (1024, 128)


# --- errors, settings, access ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where", ["setup", "before_process", "process", "process_before_every_sampling", "postprocess_image", "postprocess"]
)
def test_exceptions_in_callbacks_are_swallowed(host, where) -> None:
    plain = host.txt2img(width=64, height=64)
    failed = host.txt2img(width=64, height=64, alwayson_scripts=probe(where))
    assert plain.images[0].tobytes() == failed.images[0].tobytes()


@pytest.mark.parametrize("path", ["txt2img", "img2img"])
def test_refusal_through_init(host, log, path) -> None:
    payload = {"alwayson_scripts": probe("refuse"), "init_images": [picture()], "steps": 2, "n_iter": 2}
    response = host.post(path, payload)
    assert response.status_code == 422
    assert response.json() == {
        "error": "ValueError",
        "detail": "IP-Adapter unit 1: no",
        "body": "",
        "errors": "IP-Adapter unit 1: no",
    }
    assert names(log) == ["setup", "before_process", "process"]


def test_other_errors_are_500(host) -> None:
    response = host.post("txt2img", {"enable_hr": True, "hr_upscaler": "none such", "steps": 2})
    assert response.status_code == 500 and response.json()["error"] == "Exception"
    assert host.post("txt2img", {"alwayson_scripts": {"Probe": {"args": {"a": 1}}}}).status_code == 500
    assert host.post("txt2img", {"alwayson_scripts": {"no such": {"args": []}}}).status_code == 422


def test_arguments_are_cut_and_filled(host, log) -> None:
    host.txt2img(width=64, height=64, steps=1, alwayson_scripts={"pRoBe": {"args": ["x", 0.1, "too many"]}})
    host.txt2img(width=64, height=64, steps=1)
    assert [entry[1] for entry in log if entry[0] == "process"] == [("x", 0.1), ("", 0.5)]


def test_override_settings_restores_only_what_the_file_had(host) -> None:
    from modules import shared

    data = dict(shared.opts.data)
    shared.opts.data = {k: v for k, v in data.items() if k != "batch_cond_uncond"}
    try:
        host.txt2img(
            width=64, height=64, steps=1, override_settings={"batch_cond_uncond": False, "pad_cond_uncond": True}
        )
        assert shared.opts.pad_cond_uncond is False
        assert shared.opts.batch_cond_uncond is False
    finally:
        shared.opts.data = data


def test_api_auth(host) -> None:
    host.client.auth = None
    try:
        assert host.client.get("/sdapi/v1/options").status_code == 401
        assert host.client.get("/sdapi/v1/options", auth=("ann", "2")).status_code == 401
        assert host.client.get("/sdapi/v1/options", auth=("ann", "1")).status_code == 200
    finally:
        host.client.auth = ("bob", "2")


def test_plain_routes(host) -> None:
    get = lambda path: host.client.get(f"/sdapi/v1/{path}").json()  # noqa: E731
    assert "probe" in get("scripts")["txt2img"]
    info = next(s for s in get("script-info") if s["name"] == "probe")
    assert [a["label"] for a in info["args"]] == ["first", "second"] and info["args"][1]["maximum"] == 1
    assert {m["model_name"] for m in get("sd-models")} == set(models.CHECKPOINTS)
    assert get("progress")["progress"] == 0
    assert host.client.post("/sdapi/v1/options", json={"probe_option": 4}).status_code == 200
    assert get("options")["probe_option"] == 4


# --- infotext -------------------------------------------------------------------------------------------------------


def test_infotext_round_trip(host) -> None:
    from modules import infotext_utils, script_callbacks

    answer = host.txt2img(prompt="a (red:1.2) cat,\nsitting", negative_prompt="blue", alwayson_scripts=probe("mark"))
    assert answer.images[0].text["parameters"] == answer.infotext
    found = infotext_utils.parse_generation_parameters(answer.infotext)
    assert found["Probe"] == "a: 1, b: 2" and found["Prompt"] == "a (red:1.2) cat,\nsitting"
    assert (found["Negative prompt"], found["Size-1"], found["Steps"]) == ("blue", "128", "4")
    fields_of_tab = infotext_utils.paste_fields["txt2img"]["fields"]
    component, key = next(f for f in fields_of_tab if f.label == "Probe")
    assert infotext_utils._new_value(component, key, found)["value"] == "a: 1, b: 2"
    pasted = []
    script_callbacks.on_infotext_pasted(lambda text, params: pasted.append(params["Probe"]))
    from modules.api.api import encode_pil_to_base64

    answer.images[0].info["parameters"] = answer.infotext
    host.client.post("/sdapi/v1/png-info", json={"image": encode_pil_to_base64(answer.images[0]).decode()})
    assert pasted == ["a: 1, b: 2"]


def test_prompt_weights() -> None:
    from modules.prompt_parser import get_multicond_prompt_list, parse_prompt_attention

    assert parse_prompt_attention("a (b) [c] \\(d\\) (e:1.5) BREAK f") == [
        ["a ", 1.0],
        ["b", 1.1],
        [" ", 1.0],
        ["c", 1 / 1.1],
        [" (d) ", 1.0],
        ["e", 1.5],
        ["", 1.0],
        ["BREAK", -1],
        ["f", 1.0],
    ]
    assert get_multicond_prompt_list(["a AND b :0.5"])[0] == [[(0, 1.0), (1, 0.5)]]


def test_starting_again_with_other_extensions(host) -> None:
    """Must stay last: it ends this module's host."""
    from modules import scripts, shared

    model = shared.sd_model
    again = host_start([], {"s_min_uncond": 0.0})
    assert shared.sd_model is model
    assert again.client.get("/sdapi/v1/scripts").json()["txt2img"] == ["sampler", "seed"]
    assert not hasattr(shared.cmd_opts, "probe_flag") and "probe_option" not in shared.opts.data_labels
    assert len(scripts.scripts_data) == 2
    again.txt2img(width=64, height=64, steps=1)
    with pytest.raises(RuntimeError, match="already keeps its data"):
        host_start([], data_dir="/elsewhere")
