"""A unit for FLUX from its files to the picture: equal to diffusers' on the same weights."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lib_ipadapter.checkpoint.catalog import Catalog
from lib_ipadapter.encode import stored
from lib_ipadapter.errors import UnitError
from lib_ipadapter.jobs.embeddings import look_of
from lib_ipadapter.jobs.resources import Resources
from lib_ipadapter.unit import Unit
from tests.helpers.files import base64_of, encoder_state, picture, unit
from tests.helpers.flux import call, packed, plain, reference, tiny_flux
from tests.helpers.jobs import DEVICE, generation
from tests.helpers.tensors import close

CLIP = "ViT (128 wide, 3 layers)"  # what files of embeddings call the small image encoder


def resources(folder: Path) -> Resources:
    """The adapters and the encoder of the reference file, each in a file of its own."""
    for name, begin in (("xlabs", "xlabs"), ("redux", "redux"), ("siglip", "siglip.odd")):
        begin += ".weights."
        state = {key.removeprefix(begin): one for key, one in reference().items() if key.startswith(begin)}
        save_file(state, folder / f"{name}.safetensors")
    tower = encoder_state()
    tower["visual_projection.weight"] = tower["visual_projection.weight"].repeat(2, 1)[:20]
    save_file(tower, folder / "clip.safetensors")
    catalog = Catalog([folder], [])
    catalog.refresh()
    return Resources(catalog)


def embeddings(part: str, *tensors: torch.Tensor) -> str:
    """A file of embeddings, a reference for each, as a client sends it."""
    return base64.b64encode(stored.write([{part: one} for one in tensors], [1.0] * len(tensors), {part: CLIP})).decode()


def test_xlabs_from_its_file_is_diffusers(tmp_path: Path) -> None:
    model, r = tiny_flux(), reference()
    given = embeddings("pooled", *r["xlabs.embeds"].split(1))
    job = generation(
        model, resources(tmp_path), {"model": "xlabs", "images": [given], "weight": 0.6, "batch": "per image"}
    )
    made = call(model, [prompt for _, prompt, _ in job.prompts])
    assert close(packed(made), r["xlabs.output"], 1e-4)
    assert not close(packed(made), r["flux.plain"], 1e-2)


def test_the_unconditional_side_of_xlabs_is_a_black_picture(tmp_path: Path) -> None:
    found = resources(tmp_path)
    shown = (Image.new("RGB", (50, 30)), picture())
    black, other = (
        generation(tiny_flux(), found, {"model": "xlabs", "images": [base64_of(one)]}).prompts[0].prompt.kv
        for one in shown
    )
    for layer in range(2):
        assert close(other.keys[layer][1], black.keys[layer][0], 1e-6)
        assert not close(other.keys[layer][0], black.keys[layer][0], 1e-2)
        assert close(other.values[layer][1], black.values[layer][0], 1e-6)


def test_redux_from_a_picture_is_its_tokens_behind_the_text(tmp_path: Path) -> None:
    model, r = tiny_flux(), reference()
    found = resources(tmp_path)
    settings = unit("redux")
    job = generation(model, found, settings)
    (made,) = [prompt for _, prompt, _ in job.prompts]
    longer = torch.cat([r["flux.txt"], made.appended.cond.expand(2, -1, -1)], dim=1)
    assert close(call(model, [made]), plain(model, context=longer), 1e-5)
    nothing = generation(model, found, {**settings, "images": [{"image": base64_of(picture()), "weight": 0}]})
    assert torch.equal(call(model, [prompt for _, prompt, _ in nothing.prompts]), plain(model))
    (half,) = (prompt for _, prompt, _ in generation(model, found, {**settings, "weight": 0.5}).prompts)
    weighted = {**settings, "images": [{"image": base64_of(picture()), "weight": 0.5}]}
    (inside,) = (prompt for _, prompt, _ in generation(model, found, weighted).prompts)
    assert close(call(model, [half]), call(model, [inside]), 1e-5)  # a reference's weight is a unit's
    assert not close(call(model, [half]), call(model, [made]), 1e-3)


def test_a_reference_without_weight_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    model, found = tiny_flux(), resources(tmp_path)
    (one,) = (prompt for _, prompt, _ in generation(model, found, unit("redux")).prompts)
    two = [{"image": base64_of(picture(0))}, {"image": base64_of(picture(1)), "weight": 0}]
    (both,) = (prompt for _, prompt, _ in generation(model, found, {"model": "redux", "images": two}).prompts)
    assert torch.equal(call(model, [one]), call(model, [both]))


def test_a_look_for_flux_is_its_references(tmp_path: Path) -> None:
    model, found = tiny_flux(), resources(tmp_path)
    shown = [base64_of(picture(seed)) for seed in (0, 1)]
    for name in ("redux", "xlabs"):
        given = {"model": name, "images": shown}
        file = base64.b64encode(look_of(Unit.parse(given), "mine", lambda seen: b"", found, DEVICE)).decode()
        pictures, look = (
            [prompt for _, prompt, _ in generation(model, found, settings).prompts]
            for settings in (given, {"model": name, "images": [{"embeddings": file}]})
        )
        assert torch.equal(call(model, look), call(model, pictures))
        assert not torch.equal(call(model, look), plain(model))
    with pytest.raises(UnitError, match="negative references cannot go into a look for Redux"):
        look_of(
            Unit.parse({"model": "redux", "images": shown, "negative_images": shown}),
            "no",
            lambda seen: b"",
            found,
            DEVICE,
        )


def test_what_means_nothing_there_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UnitError, match="weight_type means nothing here"):
        generation(tiny_flux(), resources(tmp_path), unit("redux", weight_type="style transfer"))
