"""Adapters for FLUX: recognised, loaded, listed, and told where they cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lib_ipadapter import bases
from lib_ipadapter.attend.layers import Topology
from lib_ipadapter.checkpoint.catalog import Catalog
from lib_ipadapter.checkpoint.identify import identify
from lib_ipadapter.checkpoint.load import load_adapter
from lib_ipadapter.checkpoint.recognise import recognise
from lib_ipadapter.checkpoint.refusals import RefusedAdapter
from lib_ipadapter.checkpoint.specs import AdapterSpec
from lib_ipadapter.checkpoint.wanted import encoder_wanted
from lib_ipadapter.errors import CheckpointError, MismatchError
from lib_ipadapter.jobs.choose import in_order, missing
from lib_ipadapter.jobs.fit import check_fit, encoder_for, fits, made_for
from lib_ipadapter.projections import PROJECTIONS
from tests.helpers.checkpoint_files import listed, names, write
from tests.helpers.checkpoint_shapes import (
    PUBLISHED,
    PUBLISHED_FLUX,
    SD_WIDTHS,
    TOWERS,
    instantx,
    redux,
    siglip_tower,
    transformers_tower,
    without,
    xlabs,
)
from tests.helpers.projections import tensors

FLUX = Topology(4096, (3072,) * 19, 19)
TINY = {"width": 16, "context": 24, "embeds": 20}


@pytest.mark.parametrize("name", PUBLISHED_FLUX)
def test_published_files_are_recognised_with_their_published_sizes(name: str) -> None:
    shapes, variant, projection, source, family, width, tokens, layers, parameters = PUBLISHED_FLUX[name]
    spec = identify(shapes)
    assert spec == AdapterSpec(
        variant=variant,
        base="FLUX",
        projection=projection,
        source=source,
        embedding_width=width,
        clip_width=None,
        tokens=tokens,
        context_width=4096,
        layer_widths=(3072,) * layers,
        parameters=parameters,
        has_lora=False,
        alternatives=(),
        family=family,
    )
    assert identify(dict(sorted(shapes.items(), reverse=True))) == spec
    assert identify({f"state_dict.{key}": shape for key, shape in shapes.items()}) == spec
    assert projection in PROJECTIONS


def test_xlabs_through_diffusers_names_is_the_same() -> None:
    renamed = {}
    for key, shape in xlabs(16).items():
        key = key.replace("ip_adapter_proj_model.", "image_proj.").replace("double_blocks.", "ip_adapter.")
        key = key.replace("processor.ip_adapter_double_stream_k_proj", "to_k_ip")
        renamed[key.replace("processor.ip_adapter_double_stream_v_proj", "to_v_ip")] = shape
    assert identify(renamed) == identify(xlabs(16)) and not any("stream" in key for key in renamed)


def test_small_ones_are_recognised_by_their_shapes() -> None:
    spec = identify(xlabs(4, 2, **TINY))
    assert (spec.variant, spec.layer_widths, spec.context_width, spec.tokens) == ("xlabs", (16, 16), 24, 4)
    spec = identify(instantx(8, 4, **TINY))
    assert (spec.variant, spec.layer_widths, spec.context_width, spec.tokens) == ("instantx", (16,) * 4, 24, 8)
    spec = identify(redux(16, 24))
    assert (spec.variant, spec.layer_widths, spec.context_width, spec.embedding_width) == ("redux", (), 24, 16)


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        (without(xlabs(), "proj_model"), "half of XLabs' IP-Adapter for FLUX"),
        (without(xlabs(), "proj_model.norm.bias"), r"lacks image_proj\.norm\.bias"),
        (without(xlabs(), "double_blocks.7.processor.ip_adapter_double_stream_v"), r"lacks ip_adapter\.7\.to_v_ip"),
        (without(xlabs(), "double_blocks.7."), "XLabs' IP-Adapter for FLUX with 18 attention pairs, .* has 19"),
        (without(xlabs(), "double_blocks.18."), "XLabs' IP-Adapter for FLUX with 18 attention pairs, .* has 19"),
        (xlabs() | {"double_blocks.3.processor.more": (2,)}, None),  # no tensor of an adapter's
        (xlabs() | {"image_proj.more": (2,)}, r"holds image_proj\.more"),
        (without(instantx(), "ip_adapter.56."), "InstantX' IP-Adapter for FLUX with 56 attention pairs, .* has 57"),
        (without(instantx(), "image_proj"), "half of InstantX' IP-Adapter for FLUX"),
        (without(instantx(), "proj.0"), "with another projection than it was published with"),
        (without(redux(), "redux_up"), "half of FLUX Redux: it lacks redux_up"),
        (without(redux(), "redux_down"), r"lacks redux_down\.weight"),
        (redux() | {"redux_up.bias": (3,)}, r"redux_up\.bias has shape \(3,\)"),
        (xlabs(4, context=4000), None),
        (without(xlabs(), "proj_model") | {"ip_adapter_proj_model.proj.weight": (16384, 768),
          "ip_adapter_proj_model.norm.weight": (2048,)}, "come from different base models"),
    ],
)  # fmt: skip
def test_what_is_not_whole_is_refused_with_its_name(shapes: dict[str, tuple[int, ...]], sentence: str | None) -> None:
    if sentence is None:
        assert identify(shapes).variant == "xlabs"
        return
    with pytest.raises(RefusedAdapter, match=sentence) as error:
        identify(shapes)
    assert error.value.detail.endswith("again.") or "get an adapter" in error.value.detail


def test_adapters_for_sd_are_what_they_were() -> None:
    for shapes, variant, *_ in PUBLISHED.values():
        assert identify(shapes).variant == variant
    numbered_wrong = {key.replace("ip_adapter.1.", "ip_adapter.0."): s for key, s in PUBLISHED["sd15"][0].items()}
    with pytest.raises(RefusedAdapter, match="not numbered 1, 3, 5"):
        identify(numbered_wrong)


@pytest.mark.parametrize("shapes", [xlabs(4, 2, **TINY), instantx(8, 4, **TINY), redux(16, 24)])
def test_they_are_loaded_whole(shapes: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    state = tensors(shapes)
    save_file(state, tmp_path / "one.safetensors")
    spec = recognise(tmp_path / "one.safetensors")
    assert isinstance(spec, AdapterSpec)
    weights = load_adapter(tmp_path / "one.safetensors", spec)
    assert weights.nbytes == 4 * spec.parameters
    assert len(weights.key) == len(weights.value) == len(spec.layer_widths)
    if spec.variant == "xlabs":
        stream = "double_blocks.1.processor.ip_adapter_double_stream"
        assert torch.equal(weights.key[1], state[f"{stream}_k_proj.weight"])
        assert torch.equal(weights.value[1], state[f"{stream}_v_proj.weight"])
        assert torch.equal(weights.key_bias[1], state[f"{stream}_k_proj.bias"])
        assert torch.equal(weights.value_bias[1], state[f"{stream}_v_proj.bias"])
        assert torch.equal(weights.image_proj["proj.bias"], state["ip_adapter_proj_model.proj.bias"])
    elif spec.variant == "instantx":
        assert torch.equal(weights.value[3], state["ip_adapter.3.to_v_ip.weight"]) and not weights.value_bias
    else:
        assert weights.image_proj.keys() == state.keys()
    state = {**state, next(iter(state)): torch.full_like(next(iter(state.values())), torch.nan)}
    save_file(state, tmp_path / "one.safetensors")
    with pytest.raises(CheckpointError, match="not finite"):
        load_adapter(tmp_path / "one.safetensors", spec)


# --- among other files ----------------------------------------------------------------------------------------------


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    for name, (shapes, *_) in PUBLISHED_FLUX.items():
        write(tmp_path / f"{name}.safetensors", shapes)
    write(tmp_path / "sd15.safetensors", PUBLISHED["sd15"][0])
    write(tmp_path / "siglip.safetensors", siglip_tower(1152, 27, 4304, 14, 729))
    write(tmp_path / "clip.safetensors", transformers_tower(*TOWERS["ViT-L-14"][0]))
    return listed(tmp_path)


def test_they_are_listed_with_what_feeds_them(catalog: Catalog) -> None:
    rows = {one.name: (one.spec.variant, one.spec.base, encoder_wanted(one.spec)) for one in catalog.adapters}
    assert rows == {
        "InstantX": ("instantx", "FLUX", "SigLIP so400m 384"),
        "Redux": ("redux", "FLUX", "SigLIP so400m 384"),
        "XLabs v1": ("xlabs", "FLUX", "ViT-L-14"),
        "XLabs v2": ("xlabs", "FLUX", "ViT-L-14"),
        "sd15": ("base", "SD1.5", "ViT-H-14"),
    }
    encoders = {one.name: encoder_for(one, catalog) for one in catalog.adapters if one.name != "sd15"}
    assert {name: one.name for name, one in encoders.items() if one} == {
        "InstantX": "siglip", "Redux": "siglip", "XLabs v1": "clip", "XLabs v2": "clip",
    }  # fmt: skip


def test_a_family_is_never_taken_for_the_other(catalog: Catalog) -> None:
    with pytest.raises(CheckpointError, match="siglip is SigLIP so400m 384, where the adapter takes a CLIP encoder"):
        encoder_for(catalog.find("XLabs v1"), catalog, "siglip")
    with pytest.raises(CheckpointError, match="clip is ViT-L-14, where the adapter takes a SigLIP encoder: choose sig"):
        encoder_for(catalog.find("Redux"), catalog, "clip")
    with pytest.raises(CheckpointError, match="ViT-H-14 is missing"):
        encoder_for(catalog.find("sd15"), catalog)


def test_they_fit_flux_and_nothing_else(catalog: Catalog) -> None:
    assert FLUX.base == "FLUX"
    fitting = [one.name for one in catalog.adapters if fits(one, FLUX)]
    assert fitting == ["InstantX", "Redux", "XLabs v1", "XLabs v2"]
    assert names(in_order(catalog, FLUX))[0] == "Redux"
    assert not any(fits(one, Topology(4096, (3072,) * 16, 16)) for one in catalog.adapters)  # no FLUX
    tiny = Topology(24, (16, 16), 2, "FLUX")
    assert tiny.base == "FLUX" and not any(fits(one, tiny) for one in catalog.adapters)
    for one in catalog.adapters:
        assert fits(one, made_for(one.spec)) and made_for(one.spec).base == one.spec.base
        assert made_for(one.spec).blocks == (19 if one.spec.base == "FLUX" else 16)


@pytest.mark.parametrize(("shapes", "doubles"), [(xlabs(4, 2, **TINY), 2), (instantx(8, 5, **TINY), 2)])
def test_small_ones_fit_a_small_flux(shapes: dict[str, tuple[int, ...]], doubles: int, tmp_path: Path) -> None:
    write(tmp_path / "one.safetensors", shapes)
    (one,) = listed(tmp_path).adapters
    assert fits(one, Topology(24, (16,) * doubles, doubles, "FLUX"))
    assert not fits(one, Topology(24, (16,) * 6, 6, "FLUX")) and not fits(one, Topology(24, (8, 8), 2, "FLUX"))
    assert not fits(one, Topology(24, (16,) * doubles, doubles))


SD = Topology(768, SD_WIDTHS, 16)


def test_a_host_without_flux_says_which_have_it(catalog: Catalog) -> None:
    with pytest.raises(MismatchError) as error:
        check_fit(catalog.find("Redux"), SD, catalog)
    assert error.value.detail == (
        "adapter Redux is for FLUX, which this WebUI cannot load, and the model is SD1.5. FLUX runs on Forge and Forge "
        "Neo: use the adapter there, or choose one of sd15."
    )


def test_a_host_with_flux_asks_for_a_checkpoint(catalog: Catalog) -> None:
    catalog.runs_flux = lambda: True
    with pytest.raises(MismatchError) as error:
        check_fit(catalog.find("Redux"), SD, catalog, "the checkpoint")
    assert error.value.detail == (
        "adapter Redux is for FLUX, the checkpoint is SD1.5: load a FLUX checkpoint, or choose one of sd15."
    )
    with pytest.raises(MismatchError, match='set hires to "base"'):
        check_fit(catalog.find("Redux"), SD, catalog, "the hires checkpoint x", 'set hires to "base"')


def test_an_sd_adapter_on_flux_is_the_usual_mismatch(catalog: Catalog) -> None:
    with pytest.raises(MismatchError, match=r"adapter sd15 is for SD1.5, the model is FLUX: choose one of InstantX, R"):
        check_fit(catalog.find("sd15"), FLUX, catalog)
    write(catalog.adapter_folders[0] / "alone" / "sd15.safetensors", PUBLISHED["sd15"][0])
    alone = listed(catalog.adapter_folders[0] / "alone")
    with pytest.raises(MismatchError, match=r"load a checkpoint for SD1.5, or get an adapter for FLUX\.$"):
        check_fit(alone.find("sd15"), FLUX, alone)
    assert missing(alone, FLUX).startswith("no adapter here is for FLUX: ")


def test_a_flux_of_another_size_is_told_with_both(catalog: Catalog) -> None:
    tiny = Topology(24, (16, 16), 2, "FLUX")
    with pytest.raises(MismatchError, match="is for 19 .* layers of 19 × 3072 channels, context 4096, the model is 2 "):
        check_fit(catalog.find("XLabs v1"), tiny, catalog)


def test_flux_is_known_with_its_numbers() -> None:
    flux = bases.FLUX_SIZES
    assert flux.name == bases.FLUX
    assert (flux.context_width, flux.width, flux.head_width) == (4096, 3072, 128)
    assert (flux.double_blocks, flux.single_blocks, flux.blocks) == (19, 38, 19)
