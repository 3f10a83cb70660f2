"""The miniature host behaves like the real one towards extensions: loading, settings, access, parameters."""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys

import pytest

from demo import host_start, models
from tests.helpers.demo_host import CONTRACT, names, plain_colour, probe

pytestmark = pytest.mark.host("probe")

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
    for module, asked in wanted.items():
        loaded = importlib.import_module(f"modules.{module}")
        assert [n for n in asked.split() if not hasattr(loaded, n)] == []


# --- extensions -----------------------------------------------------------------------------------------------------


def test_extension_loading(host) -> None:
    from modules import scripts, shared

    assert host.probe.AT_LOAD["basedir"] == host.probe.AT_LOAD["path0"]
    assert "b-probe" not in str(sys.path)
    assert shared.cmd_opts.probe_flag == ["x", "y"]
    order = [os.path.basename(data.path) for data in scripts.scripts_data]
    assert order == ["probe.py", "sampler.py", "seed.py"]
    files = [os.path.basename(f.filename) for f in scripts.list_scripts("scripts", ".py")]
    assert files.index("probe.py") < files.index("later.py")
    assert "broken script" in host.errors_at_start
    assert shared.opts.probe_option == 3


def test_unknown_flag_ends_the_start(host) -> None:
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
    payload = {"alwayson_scripts": probe("refuse"), "init_images": [plain_colour()], "steps": 2, "n_iter": 2}
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


@pytest.mark.host("no extension")
def test_starting_again_with_other_extensions(hosts) -> None:
    hosts.get("probe")
    from modules import scripts, shared

    model = shared.sd_model
    again = hosts.get("no extension")
    assert shared.sd_model is model
    assert again.client.get("/sdapi/v1/scripts").json()["txt2img"] == ["sampler", "seed"]
    assert not hasattr(shared.cmd_opts, "probe_flag") and "probe_option" not in shared.opts.data_labels
    assert len(scripts.scripts_data) == 2
    again.txt2img(width=64, height=64, steps=1)
    with pytest.raises(RuntimeError, match="already keeps its data"):
        host_start([], data_dir="/elsewhere")
