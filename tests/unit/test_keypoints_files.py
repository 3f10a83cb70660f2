"""Files of InstantID's network of keypoints: recognised, told from other ControlNets by name, loaded, remembered."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
from safetensors.torch import load_file, save_file

from lib_ipadapter.checkpoint.catalog import Catalog
from lib_ipadapter.checkpoint.containers import read_shapes
from lib_ipadapter.checkpoint.control import layout, own_names
from lib_ipadapter.checkpoint.identify import identify
from lib_ipadapter.checkpoint.load import load_keypoints_state
from lib_ipadapter.checkpoint.refusals import RefusedAdapter
from lib_ipadapter.checkpoint.specs import KeypointsSpec
from lib_ipadapter.errors import CheckpointError
from lib_ipadapter.jobs.resources import Resources
from tests.helpers.files import write_encoder
from tests.helpers.keypoints import diffusers_control, write_keypoints

PUBLISHED = {
    "layers_per_block": 2,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


@pytest.fixture(scope="module")
def published() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published file, by diffusers' own class."""
    with torch.device("meta"):
        network = ControlNetModel(**PUBLISHED)
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_keypoints(tmp_path / "models" / "control_instant_id_sdxl.safetensors")


def catalog_of(tmp_path: Path, memory: Path | None = None) -> Catalog:
    catalog = Catalog([tmp_path / "models"], [], memory)
    catalog.refresh()
    return catalog


def test_the_published_file_is_recognised(published) -> None:
    spec = identify(published)
    assert spec == KeypointsSpec(
        channels=(320, 640, 1280), depths=(0, 2, 10), middle_depth=10, blocks=2, in_channels=4, context_width=2048,
        vector_width=2816, time_width=1280, hint_widths=(16, 16, 32, 32, 96, 96, 256), parameters=1_251_014_160,
    )  # fmt: skip
    assert len(layout(spec)) == len(published)


def test_ldms_names_are_those_that_diffusers_makes_its_own_of() -> None:
    theirs = diffusers_control().state_dict()
    ours = {f"control_model.{name}": theirs[key] for name, key in own_names(theirs).items()}
    back = convert_controlnet_checkpoint(ours, {**diffusers_control().config, "class_embed_type": None})
    not_converted = {name for name in theirs if name.startswith("add_embedding.")}  # by that version of diffusers
    assert back.keys() == theirs.keys() - not_converted
    assert all(torch.equal(back[name], theirs[name]) for name in back)


@pytest.mark.parametrize("prefix", ["", "control_model."])
def test_ldms_form_is_the_same_network(prefix: str, file: Path) -> None:
    state, other = load_file(file), file.with_name("ldm.safetensors")
    save_file({prefix + name: state[key] for name, key in own_names(state).items()}, other)
    spec = identify(read_shapes(file))
    assert identify(read_shapes(other)) == spec
    one, two = load_keypoints_state(file, spec), load_keypoints_state(other, spec)
    assert one.keys() == two.keys() == layout(spec).keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: s | {"control_add_embedding.linear_1.weight": (2, 2)}, "is a ControlNet model: .*own panel"),
        (lambda s: {k: (*v[:-1], 768) if "attn2.to_k" in k else v for k, v in s.items()}, "is a ControlNet model"),
        (lambda s: {k: v for k, v in s.items() if "add_embedding" not in k}, "is a ControlNet model"),
        (
            lambda s: {k: v for k, v in s.items() if k != "mid_block.attentions.0.proj_in.bias"},
            "ControlNet model for SDXL lacks middle_block.1.proj_in.bias. .*InstantX/InstantID",
        ),
        (
            lambda s: s | {"controlnet_mid_block.bias": (1279,)},
            "controlnet_mid_block.bias has shape .*download it again",
        ),
    ],
)
def test_other_control_nets_and_damaged_ones_are_not(change, sentence: str, published) -> None:
    with pytest.raises(CheckpointError, match=sentence) as error:
        identify(change(published))
    assert not isinstance(error.value, RefusedAdapter)


def test_it_is_listed_by_itself_and_remembered(file: Path, tmp_path: Path) -> None:
    write_encoder(tmp_path / "models" / "encoder.safetensors")
    memory = tmp_path / "memory.json"
    catalog = catalog_of(tmp_path, memory)
    (entry,) = catalog.keypoints_networks
    assert (entry.name, entry.spec) == ("control_instant_id_sdxl", identify(read_shapes(file)))
    assert [one.name for one in catalog.encoders] == ["encoder"]
    assert (catalog.adapters, catalog.problems) == ([], [])
    assert "keypoints" in memory.read_text()
    file.write_bytes(file.read_bytes())  # so that its time is another one
    again = Catalog([tmp_path / "models"], [], memory)
    assert again._memory.known[str(file)][2]["kind"] == "keypoints"
    again.refresh()
    assert again.keypoints_networks == [entry]
    with pytest.raises(CheckpointError, match="control_instant_id_sdxl is a ControlNet, not an adapter: choose an"):
        catalog.find("control_instant_id_sdxl")


def put(tmp_path: Path, file: Path, *names: str) -> Catalog:
    """A catalogue of links to one network."""
    file.rename(original := tmp_path / "original.safetensors")
    for name in names:
        (tmp_path / "models" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "models" / name).symlink_to(original)
    return catalog_of(tmp_path)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["any.safetensors"], "any"),
        (["canny.safetensors", "any.safetensors"], "any"),
        (["a/diffusion_pytorch_model.safetensors", "InstantID-net.safetensors", "b.safetensors"], "InstantID-net"),
        (
            ["depth/diffusion_pytorch_model.safetensors", "x/ControlNetModel/diffusion_pytorch_model.safetensors"],
            "x/ControlNetModel/diffusion_pytorch_model",
        ),
        (["instantid/model.safetensors", "other.safetensors"], "model"),
        (["cached.safetensors"], "cached"),
    ],
)
def test_names_choose(names: list[str], chosen: str, file: Path, tmp_path: Path) -> None:
    catalog = put(tmp_path, file, *names)
    assert len(catalog.keypoints_networks) == len(names)
    assert catalog.find_keypoints_network().name == chosen
    assert catalog.find_keypoints_network(chosen.upper()).name == chosen


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (
            [],
            "is missing: download ControlNetModel/diffusion_pytorch_model.safetensors from InstantX/InstantID, put it "
            "into .*models as control_instant_id_sdxl.safetensors, and refresh",
        ),
        (["sdxl_canny.safetensors"], r"is missing \(sdxl_canny is for something else, by its name\): download"),
        (
            ["sdxl_canny.safetensors", "depth.safetensors"],
            r"\(depth, sdxl_canny are for something else, by their names\)",
        ),
        (["t/diffusion_pytorch_model.safetensors", "b.safetensors"], "b, diffusion_pytorch_model. Save InstantID's as"),
    ],
)
def test_where_none_is_it_or_several_a_sentence_says_what_to_do(
    names: list[str], sentence: str, file: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        put(tmp_path, file, *names).find_keypoints_network()


@pytest.mark.parametrize(
    "name", ["control_instant_id_sdxl", "InstantID-ControlNet", "ControlNetModel/diffusion_pytorch_model"]
)
def test_a_damaged_one_is_not_missing(name: str, file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    file.unlink()
    damaged = tmp_path / "models" / f"{name}.safetensors"
    damaged.parent.mkdir(exist_ok=True)
    damaged.write_bytes(whole[: len(whole) // 2])
    (tmp_path / "models" / "ip-adapter_instant_id_sdxl.safetensors").write_bytes(b"another one")
    with pytest.raises(CheckpointError, match=f"{damaged.stem} cannot be used. This file is cut short.*Download it"):
        catalog_of(tmp_path).find_keypoints_network()
    write_keypoints(tmp_path / "models" / "InstantID.safetensors")
    assert catalog_of(tmp_path).find_keypoints_network().name == "InstantID"


def test_a_name_that_is_not_there(file: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no ControlNet for SDXL is called 'x': choose control_instant_id_sdxl"):
        catalog_of(tmp_path).find_keypoints_network("x")


def test_one_network_is_kept_until_all_is_unloaded(file: Path, tmp_path: Path) -> None:
    (tmp_path / "models" / "other.safetensors").write_bytes(file.read_bytes())
    catalog = catalog_of(tmp_path)
    resources, (one, other) = Resources(catalog), catalog.keypoints_networks
    network = resources.keypoints_network(one)
    assert resources.keypoints_network(one) is network
    assert resources.keypoints_network(other) is not network
    again = resources.keypoints_network(one)
    assert again is not network
    resources.unload()
    assert resources._keypoints is None
    assert resources.keypoints_network(one) is not again


def test_changed_and_spoilt_files_are_refused(file: Path, tmp_path: Path) -> None:
    (entry,) = catalog_of(tmp_path).keypoints_networks
    state = load_file(file)
    state["controlnet_mid_block.bias"][0] = float("nan")
    save_file(state, file)
    resources = Resources(catalog_of(tmp_path))
    with pytest.raises(CheckpointError, match="control_instant_id_sdxl.safetensors cannot be used. .*not finite"):
        resources.keypoints_network(entry)
    del state["controlnet_mid_block.bias"]
    save_file(state, file)
    with pytest.raises(CheckpointError, match="lacks middle_block_out.0.bias"):
        resources.keypoints_network(entry)
    write_encoder(file)
    with pytest.raises(CheckpointError, match="has changed since it was listed"):
        resources.keypoints_network(entry)
    file.unlink()
    with pytest.raises(CheckpointError, match="cannot be read any more"):
        resources.keypoints_network(entry)
