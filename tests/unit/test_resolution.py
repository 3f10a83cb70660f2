"""Encoders that are shown larger or smaller pictures than their own: positions between theirs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import interpolate

from lib_ipadapter.checkpoint.catalog import Catalog
from lib_ipadapter.encode.clip_image import ImageEncoder, positions
from lib_ipadapter.encode.crops import views
from lib_ipadapter.errors import UnitError
from lib_ipadapter.jobs.resources import Resources
from lib_ipadapter.unit import Unit
from lib_ipadapter.webui.panel import reference_cards
from tests.helpers.files import base64_of, picture, unit, write_adapter
from tests.helpers.image_towers import SPECS, reference
from tests.helpers.jobs import denoise, far, generation
from tests.helpers.tensors import close, draw


def interpolated(model, spec, side: int):
    """transformers' model of ``side`` patches in a row, with the positions of ``interpolate_pos_encoding``."""
    own = spec.image_size // spec.patch
    state = dict(model.state_dict())
    key = "vision_model.embeddings.position_embedding.weight"
    square = state[key][1:].reshape(1, own, own, spec.width).permute(0, 3, 1, 2)
    square = interpolate(square, size=(side, side), mode="bicubic", align_corners=False)
    state[key] = torch.cat([state[key][:1], square.permute(0, 2, 3, 1).reshape(-1, spec.width)])
    state.pop("vision_model.embeddings.position_ids", None)
    larger = type(model)(type(model.config)(**{**model.config.to_dict(), "image_size": side * spec.patch})).eval()
    missing, unexpected = larger.load_state_dict(state, strict=False)
    assert not unexpected and all(name.endswith("position_ids") for name in missing)
    return larger


@pytest.mark.parametrize("side", [1, 2, 4, 6, 9])
@pytest.mark.parametrize("name", ["two heads of 32", "patch 16, 5 layers"])
def test_other_sizes_equal_transformers(name: str, side: int) -> None:
    spec = SPECS[name]
    model = reference(spec)
    pixels = torch.randn(2, 3, side * spec.patch, side * spec.patch, generator=torch.Generator().manual_seed(7))
    made = ImageEncoder.from_state(spec, dict(model.state_dict()), dtype=torch.float32).encode(pixels)
    with torch.no_grad():
        theirs = interpolated(model, spec, side)(pixels, output_hidden_states=True)
    assert made.pooled.shape == (2, spec.projection) and made.penultimate.shape == (2, side**2 + 1, spec.width)
    torch.testing.assert_close(made.pooled, theirs.image_embeds, rtol=0, atol=1e-4)
    torch.testing.assert_close(made.penultimate, theirs.hidden_states[-2], rtol=0, atol=1e-4)


def test_positions_lie_between_their_neighbours_and_its_own_are_untouched() -> None:
    own = draw(17, 8, seed=3)
    assert positions(own, 4) is own
    assert torch.equal(positions(own, 8)[0], own[0])
    ramp = torch.cat([torch.zeros(1, 2), torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0))])
    rows, columns = positions(ramp, 8)[1:].reshape(8, 8, 2)[2:6, 2:6].unbind(-1)
    assert close(columns[0], (torch.arange(2.0, 6) + 0.5) / 2 - 0.5, 1e-1) and close(rows, columns.T, 1e-6)
    half = positions(own.half(), 8)
    assert half.dtype == torch.float32  # in which they are interpolated
    assert close(half, positions(own, 8), 1e-2)


# --- jobs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def trained_larger(unet, folder: Path, tmp_path: Path) -> Resources:
    """Adapters that say 126 in their metadata beside those that say nothing, and what is no size at all."""
    for kind in ("base", "plus"):
        flat = load_file(write_adapter(tmp_path / f"{kind}.safetensors", unet, kind))
        for name, said in {"larger": "126", "odd": "1024x1024", "between": "130", "huge": "99999"}.items():
            save_file(flat, tmp_path / f"{kind} {name}.safetensors", {"resolution": said})
    save_file(load_file(folder / "encoder.safetensors"), tmp_path / "encoder.safetensors")
    catalog = Catalog([tmp_path], [])
    catalog.refresh()
    return Resources(catalog)


@pytest.mark.parametrize("kind", ["base", "plus", "full-face"])
def test_a_units_resolution_is_what_its_encoder_sees(kind: str, unet, resources) -> None:
    plain, larger = (generation(unet, resources, unit(kind, resolution=r)) for r in (None, 126))
    assert far(denoise(unet, larger), denoise(unet, plain))
    tokens = [job.prompts[0][1].kv.keys[0].shape[1] for job in (plain, larger)]
    assert tokens == {"base": [4, 4], "plus": [16, 16], "full-face": [10, 82]}[kind]


@pytest.mark.parametrize("kind", ["base", "plus"])
def test_both_sides_are_encoded_at_it(kind: str, unet, resources) -> None:
    """What is remembered is told apart by it, whichever comes first; noise and negative references follow."""
    more = {"noise": 0.5, "negative_images": [base64_of(picture(5))]}
    made = [denoise(unet, generation(unet, resources, unit(kind, resolution=r, **more))) for r in (None, 126, 112)]
    resources.cache.clear()
    again = [denoise(unet, generation(unet, resources, unit(kind, resolution=r, **more))) for r in (112, 126, None)]
    assert all(torch.equal(a, b) for a, b in zip(made, reversed(again), strict=True))
    assert far(made[0], made[1]) and not torch.equal(made[1], made[2])


def test_an_encoder_of_that_size_makes_the_same(unet, resources, tmp_path: Path) -> None:
    """An encoder whose file has the interpolated positions needs no resolution, and gives the same picture."""
    (entry,) = resources.catalog.encoders
    state = load_file(entry.path)
    key = "vision_model.embeddings.position_embedding.weight"
    state[key] = positions(state[key], 9).contiguous()
    save_file(state, tmp_path / "larger.safetensors")
    write_adapter(tmp_path / "plus.safetensors", unet, "plus")
    catalog = Catalog([tmp_path], [])
    catalog.refresh()
    assert catalog.encoders[0].spec.image_size == 126
    theirs = denoise(unet, generation(unet, Resources(catalog), unit("plus")))
    assert close(denoise(unet, generation(unet, resources, unit("plus", resolution=126))), theirs, 1e-5)


@pytest.mark.parametrize("kind", ["base", "plus"])
def test_an_adapter_that_says_its_resolution_has_it(kind: str, unet, resources, trained_larger) -> None:
    assert [trained_larger.catalog.find(f"{kind}{name}").spec.resolution for name in ("", " larger", " odd")] == [
        None, 126, None
    ]  # fmt: skip
    asked = denoise(unet, generation(unet, resources, unit(kind, resolution=126)))
    said = denoise(unet, generation(unet, trained_larger, unit(f"{kind} larger")))
    assert torch.equal(said, asked)
    overruled = denoise(unet, generation(unet, trained_larger, unit(f"{kind} larger", resolution=112)))
    assert torch.equal(overruled, denoise(unet, generation(unet, resources, unit(kind, resolution=112))))
    odd = denoise(unet, generation(unet, trained_larger, unit(f"{kind} odd")))
    assert torch.equal(odd, denoise(unet, generation(unet, resources, unit(kind))))


def test_what_an_encoder_cannot_be_shown_is_refused_with_a_size_that_it_can(unet, resources, trained_larger) -> None:
    for asked, instead in ((113, 112), (450, 448), (1024, 1022)):
        with pytest.raises(UnitError, match=rf"unit 1: resolution is {asked}, and its image encoder encoder sees multip"
                           rf"les of 14 from 112 to 1022: give {instead}, for example\.$"):  # fmt: skip
            generation(unet, resources, unit(resolution=asked))
    with pytest.raises(UnitError, match="the file of base between says resolution 130, .* set resolution to 126, for"):
        generation(unet, trained_larger, unit("base between"))
    with pytest.raises(UnitError, match="the file of base huge says resolution 99999, .* set resolution to 1022, for"):
        generation(unet, trained_larger, unit("base huge"))
    generation(unet, trained_larger, unit("base between", resolution=126))
    for wrong in (111, 1025, 448.5, "448", True, float("nan")):
        with pytest.raises(UnitError, match="resolution is .*: give a whole number from 112 to 1024."):
            generation(unet, resources, unit(resolution=wrong))


def test_tiles_are_counted_at_it(unet, resources) -> None:
    """A long picture has as many tiles, whatever their size, and they bring as many tokens."""
    long = {"model": "plus", "images": [base64_of(picture(3, (150, 50)))], "crop": "tile", "resolution": 126}
    assert generation(unet, resources, long).prompts[0][1].kv.keys[0].shape[1] == 3 * 16


def test_what_the_encoder_sees_is_shown_at_it(resources, trained_larger) -> None:
    asked = Unit.parse(unit("plus", resolution=126))
    (shown,) = reference_cards.seen(asked, resources.catalog)
    assert shown.tobytes() == views(picture(0), 126)[0].tobytes()
    sizes = [
        reference_cards.encoder_size({"model": model, "resolution": resolution}, trained_larger.catalog)
        for model, resolution in (("plus", None), ("plus larger", None), ("plus larger", 112.0), (None, None))
    ]
    assert sizes == [42, 126, 112, None]
    with pytest.raises(UnitError, match="give 112, for example"):
        reference_cards.seen(dataclasses.replace(asked, resolution=113), resources.catalog)
