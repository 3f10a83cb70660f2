"""What cannot be honoured is refused in a sentence, and there is no plain picture in its place."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from demo.start import Host
from lib_ipadapter.attend.layers import cross_attention_layers
from lib_ipadapter.errors import IPAdapterError
from tests.helpers.files import base64_of, picture, unit
from tests.helpers.host import loaded_unet, make, ours

pytestmark = pytest.mark.both_faces

BLACK = base64_of(Image.new("L", (8, 8)))
WRONG = {
    "null": (None, "a unit is an object"),
    "text": ("x", "a unit is an object"),
    "unknown field": ({**unit(), "wieght": 1}, "unknown field 'wieght'"),
    "NaN": (unit(weight=float("nan")), "weight is nan"),
    "no model": ({"images": ["x"]}, "model is missing"),
    "unknown model": (unit("nothing-like-it"), "no adapter is called"),
    "other base": (unit("wide"), "choose one of a, b: c, base"),
    "a face adapter": (unit("faceid"), "face"),
    "not a picture": ({"model": "base", "images": ["aGVsbG8gd29ybGQ="]}, "the reference: "),
    "a strip": ({"model": "base", "images": [base64_of(Image.new("RGB", (20000, 1)))]}, "20000"),
    "empty": ({"model": "base", "images": []}, "no reference picture"),
    "a text for a mask": (unit(region_mask="aGVsbG8gd29ybGQ="), "region_mask: The mask is text, not a picture"),
    "a path for a mask": (unit(region_mask="../mask.png"), "region_mask: The mask is not valid base64"),
    "a reference's mask": (
        unit(images=[{"image": base64_of(picture(0)), "mask": "aGVsbG8gd29ybGQ="}]),
        "the reference: The mask is text",
    ),
    "a negative picture": (unit(negative_images=["aGVsbG8gd29ybGQ="]), "negative_images[0]: The picture is text"),
    "an empty region": (unit(region_mask=BLACK, region_feather=0.5), "region_mask: the mask is black all over"),
    "an empty mask": (
        unit(images=[{"image": base64_of(picture(0)), "mask": BLACK}]),
        "the reference: the mask is black all over, so nothing of the picture counts: paint white what counts, or",
    ),
    "an empty mask of several": (
        unit(images=[base64_of(picture(0)), {"image": base64_of(picture(1)), "mask": BLACK}]),
        "images[1]: the mask is black all over",
    ),
    "an empty negative mask": (
        unit(negative_images=[{"image": base64_of(picture(1)), "mask": BLACK}]),
        "negative_images[0]: the mask is black all over",
    ),
    "words without a tower": (unit(subtract_prompt="red"), "unit 1: "),
    "words for hidden states": (unit("plus", subtract_prompt="red"), "subtract_prompt works on pooled embeddings only"),
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


def test_a_picture_without_its_references_is_not_handed_out(host: Host, plain) -> None:
    """Something computes attention without calling the layers: only seen when the picture is made."""
    layers = cross_attention_layers(loaded_unet())

    def forward(self, x, context=None, mask=None):
        linear = torch.nn.functional.linear
        q, k, v = (linear(z, m.weight) for z, m in ((x, self.to_q), (context, self.to_k), (context, self.to_v)))
        q, k, v = (z.unflatten(-1, (self.heads, -1)).transpose(1, 2) for z in (q, k, v))
        return self.to_out(torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    for layer in layers:
        layer.module.forward = forward.__get__(layer.module)
    try:
        answer = host.post("txt2img", {"steps": 1, "width": 64, "height": 64, "alwayson_scripts": ours(unit())})
    finally:
        for layer in layers:
            del layer.module.forward
    assert answer.status_code == 422
    assert "the references were not used in this picture" in answer.json()["detail"]


def test_a_unit_without_a_step_is_noticed(host: Host, plain, monkeypatch) -> None:
    """A sampler that does one step less than it announces, as only its author knows."""
    from lib_ipadapter.webui.host import a1111

    monkeypatch.setattr(a1111, "SHORTER", {})
    payload = {"prompt": "a cat", "steps": 4, "width": 64, "height": 64, "sampler_name": "DDIM"}
    answer = host.post("txt2img", {**payload, "alwayson_scripts": ours(unit(start=0.9))})
    assert answer.status_code == 422
    assert "none of this sampler's steps" in answer.json()["detail"]
    assert host.post("txt2img", {**payload, "alwayson_scripts": ours(unit(start=0.5))}).status_code == 200


def test_an_error_in_a_step_is_no_plain_picture(host: Host, plain, monkeypatch) -> None:
    from lib_ipadapter.webui.host import A1111

    monkeypatch.setattr(A1111, "denoising_step", lambda self, params: 1 / 0)
    answer = host.post("txt2img", {"steps": 2, "width": 64, "height": 64, "alwayson_scripts": ours(unit())})
    assert answer.status_code == 422
    assert "ZeroDivisionError" in answer.json()["detail"]


def test_an_unexpected_error_is_no_plain_picture(host: Host, plain, monkeypatch) -> None:
    from lib_ipadapter.encode.clip_image import ImageEncoder

    def broken(self, *args, **kwargs):
        raise MemoryError("no room")

    monkeypatch.setattr(ImageEncoder, "encode", broken)
    answer = host.post("txt2img", {"prompt": "a cat", "alwayson_scripts": ours(unit(seeds=(51,)))})
    assert answer.status_code == 500
    assert "IP-Adapter: unexpected MemoryError" in answer.json()["detail"]
