"""InstantID in ControlNet's units, where the settings leave it to these."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from demo.start import Host
from tests.helpers.controlnet import ARRAY, array, ask, its_script, make, ours, stand_in, text, theirs
from tests.helpers.files import base64_of, picture, write_adapter
from tests.helpers.host import FAR, difference
from tests.helpers.unets import sdxl_unet

pytestmark = pytest.mark.host("controlnet")


@pytest.fixture
def faces(host: Host, monkeypatch):
    """The files of InstantID for the demo's SDXL, and what ControlNet calls them: adapter and points."""
    from modules import shared

    from lib_ipadapter.webui import process
    from lib_ipadapter.webui.neighbours import instantid
    from lib_ipadapter.webui.neighbours.controlnet.models import label_hash

    catalog = process.resources().catalog
    folder = catalog.find("base").folder
    points = {
        "controlnet_cond_embedding.conv_in.weight": torch.zeros(4, 3, 3, 3),
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight": torch.zeros(4, 2048),
    }
    files = {"ip-adapter_instant_id_sdxl": None, "control_instant_id_sdxl": points, "control_xl": points}
    names = {}
    for name, state in files.items():
        file = folder / f"{name}.safetensors"
        write_adapter(file, sdxl_unet(), "instantid") if state is None else save_file(state, file)
        names[name] = f"{name} [{label_hash(file)}]"
        monkeypatch.setitem(stand_in(host).models, names[name], str(file))
    catalog.refresh()
    monkeypatch.setattr(instantid, "_installed", lambda _package: True)
    monkeypatch.setitem(shared.opts.data, "ip_adapter_instantid", "in ControlNet's units")
    yield list(names.values())[:2]
    for name in files:
        (folder / f"{name}.safetensors").unlink()
    catalog.refresh()


XL = {"override_settings": {"sd_model_checkpoint": "demo-sdxl"}}
PHOTO = {"model": "ip-adapter_instant_id_sdxl"}


def test_instantid_fills_two_of_controlnets_units(host: Host, faces, clean) -> None:
    plain = make(host, **XL)
    canny = theirs(3, module="canny")
    unit = ours(1, weight=0.6, start=0.25, end=0.75, keypoints_weight=0.5, **PHOTO)
    answer = ask(host, unit, controlnet=[canny], **XL)
    _, face, points = its_script().seen[-1]
    assert [face.model, points.model] == faces
    assert (face.module, points.module) == ("instant_id_face_embedding", "instant_id_face_keypoints")
    assert (face.weight, points.weight) == (0.6, 0.5)
    for filled in (face, points):
        assert (filled.guidance_start, filled.guidance_end, filled.enabled) == (0.25, 0.75, True)
        assert np.array_equal(filled.get_input_images_rgba()[0][:, :, :3], ARRAY)
    assert difference(array(answer), make(host, controlnet=[canny], **XL)) > FAR / 10
    assert "keypoints_weight: 0.5" in answer.info["extra_generation_params"]["IP-Adapter 1"]
    assert difference(make(host, **XL), plain) == 0
    newest = host.client.get("/ip-adapter/presets").json()["recent"][0]
    (kept,) = host.client.get(f"/ip-adapter/presets/{newest}").json()["units"]
    assert (kept["model"], len(kept["images"])) == (PHOTO["model"], 1)


def test_instantid_beside_another_unit_of_ours(host: Host, faces, clean) -> None:
    """The other unit is refused, and ControlNet's units are not filled then."""
    with pytest.raises(RuntimeError, match="IP-Adapter unit 2: adapter base is for SD1.5"):
        ask(host, ours(1, **PHOTO), ours(), **XL)
    assert array(ask(host, ours(1, **PHOTO), ours(enabled=False), **XL)).shape == (64, 64, 3)


NOT_POSSIBLE = {
    "SD1.5": ({}, [], {}, "adapter ip-adapter_instant_id_sdxl is for SDXL, the model is SD1.5"),
    "weight": ({"weight": 2.5}, [], XL, "weight is 2.5: InstantID runs in ControlNet, which allows 0 to 2."),
    "hires": ({"hires": "base"}, [], XL, "which has no hires: leave it at its default."),
    "two photos": ({"images": [text(1), text(2)]}, [], XL, "InstantID takes one photo, not 2: leave one."),
    "no room": ({}, [{}, {"enabled": True}], XL, "no two such are disabled: disable them"),
}


@pytest.mark.parametrize("what", NOT_POSSIBLE)
def test_instantid_says_what_is_not_possible(what: str, host: Host, faces, clean) -> None:
    change, units, override, says = NOT_POSSIBLE[what]
    units = [theirs(**unit) if unit else {} for unit in units]
    with pytest.raises(RuntimeError) as error:
        ask(host, {**ours(1, **PHOTO), **change}, controlnet=units, **override)
    assert str(error.value).startswith("422: ")
    assert says in str(error.value)


def test_instantid_says_all_that_is_missing(host: Host, faces, clean, monkeypatch) -> None:
    from lib_ipadapter.webui.neighbours import instantid

    for one in faces:
        monkeypatch.delitem(stand_in(host).models, one)
    monkeypatch.setattr(instantid, "_installed", lambda package: package != "insightface")
    with pytest.raises(RuntimeError) as error:
        ask(host, ours(1, **PHOTO), **XL)
    for what in (
        "ControlNet lacks ip-adapter_instant_id_sdxl.safetensors in a folder that it searches",
        "saved as models/ControlNet/control_instant_id_sdxl.safetensors",
        "pip install insightface",
    ):
        assert what in str(error.value)


def test_instantid_without_controlnet(host: Host, faces, monkeypatch, clean) -> None:
    with (
        monkeypatch.context() as patch,
        pytest.raises(RuntimeError, match="InstantID is left to sd-webui-controlnet, which is"),
    ):
        patch.delitem(sys.modules, "internal_controlnet.external_code")
        ask(host, ours(1, **PHOTO), **XL)


def test_what_controlnet_fails_at_is_told(host: Host, faces, monkeypatch, clean) -> None:
    def fail(self, p, *args):
        raise RuntimeError("Insightface: No face found in image.")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="ControlNet could not set up InstantID"):
        patch.setattr(type(its_script()), "process", fail)
        ask(host, ours(1, **PHOTO), **XL)


def test_one_start_picture_is_one_photo(host: Host, faces, clean) -> None:
    """ControlNet has one for all pictures of a batch."""
    itself = {**PHOTO, "images": [{"start_picture": True}]}
    begun = {"path": "img2img", "init_images": [base64_of(picture(seed, (64, 64))) for seed in (4, 5)], "batch_size": 2}
    with pytest.raises(RuntimeError, match="InstantID in ControlNet has one photo for all pictures of a batch, and"):
        ask(host, itself, **begun, **XL)
