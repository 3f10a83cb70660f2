"""SigLIP: recognised from its tensors, equal to transformers', and never mistaken for CLIP."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lib_ipadapter.checkpoint.catalog import Catalog
from lib_ipadapter.checkpoint.identify import identify
from lib_ipadapter.checkpoint.load import load_encoder_state
from lib_ipadapter.checkpoint.recognise import recognise
from lib_ipadapter.checkpoint.specs import CLIP, SIGLIP, EncoderSpec
from lib_ipadapter.checkpoint.ties import with_activation
from lib_ipadapter.encode.crops import CROPS, views
from lib_ipadapter.encode.pixels import to_pixels
from lib_ipadapter.encode.siglip_image import SiglipEncoder
from lib_ipadapter.errors import CheckpointError
from tests.helpers.checkpoint_shapes import siglip_tower, transformers_tower, transformers_words, without
from tests.helpers.files import picture, write_encoder
from tests.helpers.flux_reference import FILE
from tests.helpers.tensors import close

NAMES = ("odd", "even")


@functools.cache
def stored() -> dict[str, torch.Tensor]:
    return {name: tensor.float() for name, tensor in load_file(FILE).items()}


def weights(name: str) -> dict[str, torch.Tensor]:
    begin = f"siglip.{name}.weights."
    return {key.removeprefix(begin): tensor for key, tensor in stored().items() if key.startswith(begin)}


def spec_of(name: str) -> EncoderSpec:
    """The small tower's: what the shapes cannot tell, its heads and what its patches do not fill, is said here."""
    spec = identify({key: tuple(tensor.shape) for key, tensor in weights(name).items()})
    assert isinstance(spec, EncoderSpec)
    return replace(spec, heads=2, image_size={"odd": 22, "even": 16}[name])


def encoder(name: str, dtype: torch.dtype = torch.float32) -> SiglipEncoder:
    return SiglipEncoder.from_state(spec_of(name), weights(name), dtype=dtype)


@pytest.mark.parametrize(
    ("patch", "tokens", "kind", "size"),
    [(14, 729, "SigLIP so400m 384", 384), (16, 1024, "SigLIP so400m 512", 512), (14, 256, "SigLIP so400m 224", 224)],
)
def test_published_towers_are_recognised_whatever_stands_before_or_beside(
    patch: int, tokens: int, kind: str, size: int
) -> None:
    shapes = siglip_tower(1152, 27, 4304, patch, tokens)
    spec = identify(shapes)
    assert spec == EncoderSpec(
        kind, "transformers", 1152, 27, 16, 4304, patch, size, 1152, False, spec.parameters, family=SIGLIP
    )
    if tokens == 729:
        assert spec.parameters == 428_225_600
    words = {f"text_model.encoder.layers.{n}.mlp.fc1.weight": (4304, 1152) for n in range(27)}
    words |= {"text_model.embeddings.token_embedding.weight": (32000, 1152), "logit_scale": (1,), "logit_bias": (1,)}
    ids = {"vision_model.embeddings.position_ids": (1, tokens)}
    assert identify(shapes | words | ids) == spec
    assert identify({f"siglip.{key}": shape for key, shape in shapes.items()}) == spec
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in shapes.items()}
        made = SiglipEncoder.from_state(spec, state, dtype=torch.float16)
    assert made.nbytes == 2 * spec.parameters and not state


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ("patch_embedding", "SigLIP image encoder without a usable .*sigclip_vision_patch14_384"),
        ("layers.0.", "SigLIP image encoder without a usable .*layers.0.mlp.fc1"),
        ("layers.1.", "SigLIP image encoder that lacks some of its blocks"),
    ],
)
def test_a_tower_that_is_not_whole_is_refused(part: str, sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        identify(without(siglip_tower(32, 3, 64, 4, 25), part))


def test_positions_that_are_no_square_are_refused() -> None:
    with pytest.raises(CheckpointError, match="26 positions, which are no square of patches: get a SigLIP encoder"):
        identify(siglip_tower(32, 3, 64, 4, 26))


@pytest.mark.parametrize("name", NAMES)
def test_it_equals_transformers(name: str) -> None:
    made = encoder(name).encode(stored()[f"siglip.{name}.pixels"])
    assert made.last is not None and made.pooled is not None and made.penultimate is None
    assert close(made.last, stored()[f"siglip.{name}.last_hidden_state"], 1e-5)
    assert close(made.pooled, stored()[f"siglip.{name}.pooler_output"], 1e-5)
    assert made.last.shape == (2, 25 if name == "odd" else 16, 16) and made.pooled.shape == (2, 16)


def test_asked_for_one_source_it_gives_the_same_and_leaves_the_other_out() -> None:
    tower, pixels = encoder("odd"), stored()["siglip.odd.pixels"]
    both = tower.encode(pixels)
    last, pooled = tower.encode(pixels, "last"), tower.encode(pixels, "pooled")
    assert torch.equal(last.of("last"), both.of("last")) and last.pooled is None
    assert torch.equal(pooled.of("pooled"), both.of("pooled")) and pooled.last is None
    with pytest.raises(ValueError, match="penultimate"):
        tower.encode(pixels, "penultimate")


def test_other_sizes_interpolate_positions_and_its_own_needs_no_whole_patches() -> None:
    tower = encoder("odd")
    larger = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    assert tower.encode(larger, "last").of("last").shape == (1, 64, 16)
    pixels = stored()["siglip.odd.pixels"]
    same = torch.cat([pixels[..., :20], torch.full((2, 3, 22, 2), 9.0)], dim=-1)  # what no patch sees
    assert torch.equal(tower.encode(same, "last").of("last"), tower.encode(pixels, "last").of("last"))
    with pytest.raises(ValueError, match="22 or a multiple of 4"):
        tower.encode(torch.zeros(1, 3, 21, 21))


def test_half_precision_weights_compute_in_fp32_on_the_cpu() -> None:
    pixels = stored()["siglip.even.pixels"]  # stored weights are fp16's, so nothing is lost
    half = encoder("even", torch.float16)
    assert half.dtype == torch.float16
    assert close(half.encode(pixels).of("pooled"), encoder("even").encode(pixels).of("pooled"), 1e-6)


def test_building_draws_nothing() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    encoder("odd")
    assert torch.equal(before, torch.get_rng_state())


def test_pictures_are_prepared_as_published() -> None:
    image = Image.fromarray(stored()["siglip.picture"].byte().numpy())
    made = to_pixels(image, 22, "stretch", family=SIGLIP)
    assert close(made[0], stored()["siglip.processed"], 1e-6)
    assert not close(to_pixels(image, 22, "stretch", family=CLIP)[0], stored()["siglip.processed"], 0.1)


@pytest.mark.parametrize("crop", CROPS)
def test_every_crop_gives_what_its_views_show(crop: str) -> None:
    image, mask = picture(1, (60, 24)), picture(2, (60, 24)).convert("L")
    for given in (None, mask):
        seen = [to_pixels(view, 22, "stretch", family=SIGLIP)[0] for view in views(image, 22, crop, given, SIGLIP)]
        made = to_pixels(image, 22, crop, given, SIGLIP)
        assert close(made, torch.stack(seen), 2.1 / 255)  # rounded to 8 bits twice
        if crop == "pad":
            assert made[..., 0, :].eq(0).all()


def test_the_file_loads_and_the_catalogue_keeps_the_families_apart(tmp_path: Path) -> None:
    save_file(
        {f"model.{key}": tensor.contiguous() for key, tensor in weights("even").items()}
        | {"text_model.embeddings.token_embedding.weight": torch.zeros(3, 2)},
        tmp_path / "siglip.safetensors",
    )
    write_encoder(tmp_path / "clip.safetensors")
    assert load_encoder_state(tmp_path / "siglip.safetensors").keys() == weights("even").keys()
    catalog = Catalog([], [tmp_path], tmp_path / "memory.json")
    catalog.refresh()
    again = Catalog([], [tmp_path], tmp_path / "memory.json")
    again.refresh()
    for one in (catalog, again):
        assert {entry.name: entry.spec.family for entry in one.encoders} == {"clip": CLIP, "siglip": SIGLIP}
    assert catalog.find_encoder(16, "last", family=SIGLIP).name == "siglip"
    for source, width in (("pooled", 16), ("penultimate", 16)):
        with pytest.raises(CheckpointError, match="no image encoder here"):
            catalog.find_encoder(width, source)
        with pytest.raises(
            CheckpointError, match=r"siglip is SigLIP \(16 wide, 2 layers\), where the adapter takes a CLIP encoder"
        ):
            catalog.find_encoder(width, source, name="siglip")
    with pytest.raises(CheckpointError, match="where the adapter takes a SigLIP encoder: choose siglip"):
        catalog.find_encoder(16, "last", name="clip", family=SIGLIP)


def test_where_it_is_missing_the_file_and_its_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="SigLIP so400m 384 is missing .*sigclip_vision_patch14_384.*Comfy-Org"):
        Catalog([], [tmp_path]).find_encoder(1152, "last", family=SIGLIP)


def test_a_file_name_tells_siglip_2_and_nothing_of_its_activation() -> None:
    shapes = siglip_tower(1152, 27, 4304, 14, 729)
    spec = identify(shapes)
    assert with_activation(spec, "sigclip_vision_patch14_384") == spec
    assert with_activation(spec, "siglip_laion_quickgelu", "quick_gelu") == spec
    second = with_activation(spec, "siglip2-so400m-patch14-384")
    assert (second.kind, second.retrained) == ("SigLIP 2 so400m 384", True)
    larger = with_activation(identify(siglip_tower(1152, 27, 4304, 16, 1024)), "siglip2_so400m_patch16_512")
    assert (larger.kind, larger.retrained) == ("SigLIP 2 so400m 512", False)


def test_a_text_encoder_alone_is_still_none(tmp_path: Path) -> None:
    save_file({"text_model.embeddings.token_embedding.weight": torch.zeros(3, 2)}, tmp_path / "text.safetensors")
    with pytest.raises(CheckpointError, match="a text encoder"):
        recognise(tmp_path / "text.safetensors")
    assert identify(transformers_tower(32, 1, 64, 4, 5, 8) | transformers_words(64, 2, 200, 8)).family == CLIP


def test_what_the_panel_shows_of_a_reference_has_the_families_own_colour_around_it() -> None:
    clip, siglip = (views(picture(1, (40, 20)), 40, "pad", family=family)[0] for family in (CLIP, SIGLIP))
    assert siglip.getpixel((0, 0)) == (128, 128, 128) != clip.getpixel((0, 0))
