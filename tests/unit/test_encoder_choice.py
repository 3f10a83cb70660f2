"""Which image encoder feeds an adapter where several could, what is told of those that cannot, and numbers that are
none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lib_ipadapter.checkpoint.catalog import Catalog
from lib_ipadapter.checkpoint.load import load_encoder_state, load_text_state
from lib_ipadapter.checkpoint.recognise import recognise
from lib_ipadapter.encode.clip_image import ImageEncoder
from lib_ipadapter.errors import CheckpointError, IPAdapterError
from lib_ipadapter.jobs.fit import other_encoders
from lib_ipadapter.jobs.resources import Resources
from tests.helpers.checkpoint_files import WIDE, listed, names, save, write
from tests.helpers.checkpoint_shapes import open_clip_tower, open_clip_words, transformers_tower, transformers_words
from tests.helpers.files import encoder_state, unit, write_adapter
from tests.helpers.image_towers import make_spec, reference
from tests.helpers.jobs import denoise, far, generation
from tests.helpers.tensors import close, draw

H, BIG_G = (1280, 32, 5120, 14, 257, 1024), (1664, 48, 8192, 14, 257, 1280)
L = (1024, 24, 4096, 14, 257, 768)

# --- numbers that are none --------------------------------------------------------------------------------------------


@pytest.fixture
def spoilt(tmp_path: Path, unet):
    """A folder with an adapter and an image encoder, one of whose numbers is another one."""

    def spoil(value: float, key: str) -> Resources:
        state = encoder_state()
        state[key].view(-1)[7] = value
        save_file(state, tmp_path / "clip-H.safetensors")
        write_adapter(tmp_path / "base.safetensors", unet)
        return Resources(listed(tmp_path))

    return spoil


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_an_encoder_with_numbers_that_are_not_finite_is_named_and_nothing_is_kept(unet, spoilt, value: float) -> None:
    resources = spoilt(value, "vision_model.encoder.layers.0.mlp.fc1.weight")
    with pytest.raises(IPAdapterError) as error:
        generation(unet, resources, unit())
    assert error.value.detail.startswith(
        "IP-Adapter unit 1: clip-H.safetensors cannot be used. This image encoder holds"
    )
    assert "not finite (NaN or infinity) in vision_model.encoder.layers.0.mlp.fc1.weight" in error.value.detail
    assert len(resources.cache) == 0 and resources._encoder is None


def test_an_encoder_that_puts_out_what_is_not_finite_is_named_and_nothing_is_kept(unet, spoilt, tmp_path) -> None:
    resources = spoilt(3e38, "visual_projection.weight")
    state = encoder_state()
    state["visual_projection.weight"][:] = 3e38
    save_file(state, tmp_path / "clip-H.safetensors")
    resources.catalog.refresh()
    for _ in range(2):
        with pytest.raises(IPAdapterError) as error:
            generation(unet, resources, unit())
        assert error.value.detail == (
            "IP-Adapter unit 1: the image encoder clip-H.safetensors puts out numbers that are not finite (NaN or "
            "infinity): download the file again, or, if that changes nothing, start the WebUI with --no-half."
        )
        assert len(resources.cache) == 0
    save_file(encoder_state(), tmp_path / "clip-H.safetensors")  # the same reference, with a whole file
    resources.catalog.refresh()
    assert far(denoise(unet, generation(unet, resources, unit())), denoise(unet, None))


def test_a_text_tower_is_checked_as_well(tmp_path: Path) -> None:
    state = {key: torch.ones(shape) for key, shape in transformers_words(64, 1, 100, 24).items()}
    state["text_model.final_layer_norm.bias"][3] = float("nan")
    save_file(state, tmp_path / "x")
    with pytest.raises(CheckpointError, match="This text encoder holds numbers that are not finite.*final_layer_norm"):
        load_text_state(tmp_path / "x")


# --- several that fit -------------------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path: Path, unet) -> Catalog:
    """Two image encoders that fit the adapter "base", and one that does not."""
    write_adapter(tmp_path / "base.safetensors", unet)
    for name, seed in (("a.safetensors", 11), ("b.safetensors", 12)):
        save_file(encoder_state(seed), tmp_path / name)
    save(tmp_path / "narrow.safetensors", transformers_tower(48, 2, 64, 4, 5, 24), 1)
    return listed(tmp_path)


def test_a_unit_can_choose_its_encoder(unet, two: Catalog) -> None:
    resources = Resources(two)
    auto, a, b = (
        denoise(unet, generation(unet, resources, unit(encoder=name))) for name in ("auto", "a", "B.safetensors")
    )
    assert torch.equal(auto, a)
    assert far(a, b)
    assert torch.equal(denoise(unet, generation(unet, resources, unit(encoder=""))), auto)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("c", "no image encoder is called 'c': choose a, b, or leave the unit's encoder at “auto”."),
        (
            "narrow",
            "the image encoder narrow (ViT (48 wide, 2 layers)) makes pooled embeddings 24 wide, where the adapter "
            "takes 32: choose a, b, or leave the unit's encoder at “auto”.",
        ),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused_with_those_that_do(
    unet, two: Catalog, name: str, sentence: str
) -> None:
    with pytest.raises(IPAdapterError) as error:
        generation(unet, Resources(two), unit(encoder=name))
    assert error.value.detail == f"IP-Adapter unit 1: {sentence}"


def test_the_others_that_fit_are_known(two: Catalog) -> None:
    adapter = two.find("base")
    chosen = two.find_encoder(32, "pooled")
    assert (chosen.name, names(other_encoders(adapter, chosen, two))) == ("a", ["b"])


@pytest.mark.parametrize(
    ("name", "metadata", "shapes", "kind"),
    [
        ("DFN5B-CLIP-ViT-H-14", None, transformers_tower(*H), "ViT-H-14-quickgelu"),
        ("metaclip_h14_fullcc2.5b", None, open_clip_tower(*H), "ViT-H-14-quickgelu"),
        ("anything", {"activation": "quick_gelu"}, transformers_tower(*H), "ViT-H-14-quickgelu"),
        ("ViT-H-14-quickgelu", {"activation": "gelu"}, transformers_tower(*H), "ViT-H-14"),
        ("CLIP-ViT-H-14-laion2B", None, transformers_tower(*H), "ViT-H-14"),
        ("CLIP-ViT-L-14-laion2B", None, transformers_tower(*L), "ViT-L-14 with GELU"),
        ("clip-vit-large-patch14", {"activation": "nonsense"}, transformers_tower(*L), "ViT-L-14"),
    ],
)
def test_the_same_sizes_with_another_activation_are_told_apart(tmp_path: Path, name, metadata, shapes, kind) -> None:
    spec = recognise(write(tmp_path / f"{name}.safetensors", shapes, metadata=metadata))
    assert spec.kind == kind
    assert spec.quick_gelu == (kind in ("ViT-H-14-quickgelu", "ViT-L-14"))
    assert spec.retrained == (kind not in ("ViT-H-14", "ViT-L-14"))


def test_another_training_is_never_taken_for_the_published_one(tmp_path: Path) -> None:
    write(tmp_path / "base.safetensors", WIDE)
    write(tmp_path / "a dfn.safetensors", transformers_tower(*H))
    catalog = listed(tmp_path)
    with pytest.raises(CheckpointError) as error:
        catalog.find_encoder(1024, "pooled")
    assert (
        "ViT-H-14 is missing (pooled embeddings 1024 wide; a dfn.safetensors is there, but it is ViT-H-14-quickgelu, "
        "which can be chosen as the unit's encoder): download"
    ) in error.value.detail
    assert catalog.find_encoder(1024, "pooled", name="a dfn").name == "a dfn"
    write(tmp_path / "DFN5B-H-378.safetensors", transformers_tower(1280, 32, 5120, 14, 730, 1024))
    catalog.refresh()
    with pytest.raises(CheckpointError, match="DFN5B-H-378.safetensors is there, but it is .*-quickgelu, which can be"):
        catalog.find_encoder(1024, "pooled")
    write(tmp_path / "b.safetensors", transformers_tower(*H))
    catalog.refresh()
    assert catalog.find_encoder(1024, "pooled").name == "b"


def test_an_adapter_that_names_its_encoder_gets_it_whatever_its_activation(tmp_path: Path) -> None:
    named = {"image_encoder": "mine", "activation": "quick_gelu"}
    write(tmp_path / "mine.safetensors", transformers_tower(*H), metadata=named)
    write(tmp_path / "odd-quickgelu.safetensors", transformers_tower(48, 2, 64, 4, 5, 24))
    catalog = listed(tmp_path)
    assert catalog.find_encoder(1024, "pooled", trained_with="mine").name == "mine"
    assert catalog.find_encoder(24, "pooled").name == "odd-quickgelu"  # no published one is that wide


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("told", [True, False])
def test_a_told_activation_is_computed_with_as_transformers_does(tmp_path: Path, quick: bool, told: bool) -> None:
    model = reference(make_spec(width=128, quick_gelu=quick))
    metadata = {"activation": "quick_gelu" if quick else "gelu"} if told else {}
    save_file(dict(model.state_dict()), tmp_path / "x.safetensors", metadata)
    found = recognise(tmp_path / "x.safetensors")
    assert found.quick_gelu == (told and quick)
    state = load_encoder_state(tmp_path / "x.safetensors")
    pixels = draw(1, 3, 42, 42, seed=1)
    ours = ImageEncoder.from_state(found, state, dtype=torch.float32).encode(pixels, "pooled").pooled
    with torch.no_grad():
        theirs = model(pixels).image_embeds
    assert close(ours, theirs, 1e-4) == (found.quick_gelu == quick)


def test_the_text_tower_has_its_image_towers_activation(tmp_path: Path) -> None:
    whole = open_clip_tower(48, 2, 64, 4, 5, 24) | open_clip_words(64, 1, 100, 24)
    spec = recognise(write(tmp_path / "x-quickgelu.safetensors", whole))
    assert spec.quick_gelu and spec.text is not None and spec.text.quick_gelu


# --- files that seem to be the one that is missing --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CLIP-ViT-H-14", "clip_h", "CLIP ViT H 14 laion2B s32B b79K", "clip-h"])
def test_another_encoder_under_the_missing_ones_name_is_told(tmp_path: Path, name: str) -> None:
    write(tmp_path / "ip-adapter_sd15_vit-h.safetensors", WIDE)
    write(tmp_path / f"{name}.safetensors", transformers_tower(*BIG_G))
    catalog = listed(tmp_path)
    with pytest.raises(CheckpointError) as error:
        catalog.find_encoder(1024, "pooled")
    assert error.value.detail == (
        f"the image encoder ViT-H-14 is missing (pooled embeddings 1024 wide; {name}.safetensors is there, but it is "
        f"ViT-bigG-14): download models/image_encoder/model.safetensors from h94/IP-Adapter, put it into {tmp_path} as "
        "CLIP-ViT-H-14.safetensors, and refresh the list of models."
    )


def test_a_damaged_file_under_the_missing_ones_name_is_told(tmp_path: Path) -> None:
    whole = write(tmp_path / "CLIP-ViT-bigG-14.safetensors", transformers_tower(*BIG_G))
    with open(whole, "r+b") as file:
        file.truncate(10**9)
    write(tmp_path / "ip-adapter_sdxl_vit-g.safetensors", {"image_proj.x": (2,)})  # an adapter, if only half of one
    with pytest.raises(CheckpointError) as error:
        listed(tmp_path).find_encoder(1280, "pooled")
    assert (
        "wide; CLIP-ViT-bigG-14.safetensors is there, but it is cut short): download sdxl_models" in error.value.detail
    )


@pytest.mark.parametrize("number", [1, 2])
def test_a_part_of_an_encoder_is_told_as_that(tmp_path: Path, number: int) -> None:
    whole = list(transformers_tower(*H).items())
    part = dict(whole[:300] if number == 1 else whole[300:])
    write(tmp_path / f"model-0000{number}-of-00002.safetensors", part)
    write(tmp_path / "model-00001-of-00001.safetensors", dict(whole))
    catalog = listed(tmp_path)
    assert catalog.problems[0].problem == (
        f"This file is part {number} of 2 of a model that was saved in parts: get the model in one file, or join its "
        "parts into one .safetensors file."
    )
    assert names(catalog.encoders) == ["model-00001-of-00001"]


def test_an_encoder_that_lacks_a_block_is_none(tmp_path: Path) -> None:
    whole = {key: shape for key, shape in transformers_tower(*H).items() if ".layers.7." not in key}
    write(tmp_path / "x.safetensors", whole)
    assert "lacks some of its blocks" in listed(tmp_path).problems[0].problem
