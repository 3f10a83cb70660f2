"""The adapter that a unit takes where nobody has chosen one: by content, readiness, and what was used lately."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_ipadapter.attend.layers import Topology
from lib_ipadapter.checkpoint.catalog import Catalog
from lib_ipadapter.errors import CheckpointError
from lib_ipadapter.jobs.choose import check_ready, chosen, in_order, is_for_faces, missing
from tests.helpers.checkpoint_files import listed, names, write
from tests.helpers.checkpoint_shapes import PUBLISHED, SD_WIDTHS, TOWERS, XL_WIDTHS, transformers_tower

SD15, SDXL = Topology(768, SD_WIDTHS), Topology(2048, XL_WIDTHS)
# What is saved under a name, by its key in PUBLISHED. The published files' own names begin with "ip-adapter".
SD15_FILES = {
    "ip-adapter_sd15": "sd15",
    "ip-adapter_sd15_light": "sd15",
    "ip-adapter-plus_sd15": "plus_sd15",
    "ip-adapter-plus-face_sd15": "plus_sd15",
    "ip_plus_composition_sd15": "plus_sd15",
    "ip-adapter-full-face_sd15": "full-face_sd15",
    "ip-adapter-faceid_sd15": "faceid_sd15",
    "ip-adapter-faceid-plusv2_sd15": "faceid-plus_sd15",
}


def here(folder: Path, files: dict[str, str], *encoders: str) -> Catalog:
    for name, kind in files.items():
        write(folder / f"{name}.safetensors", PUBLISHED[kind][0])
    for kind in encoders:
        write(folder / f"{kind}.safetensors", transformers_tower(*TOWERS[kind][0]))
    return listed(folder)


def name(found) -> str | None:
    return None if found is None else found.name


def test_the_order_of_kinds(tmp_path: Path) -> None:
    catalog = here(tmp_path, {**SD15_FILES, "xl": "sdxl_vit-h"}, "ViT-H-14")
    assert names(in_order(catalog, SD15)) == [
        "ip-adapter-plus_sd15", "ip-adapter_sd15", "ip-adapter_sd15_light", "ip_plus_composition_sd15",
        "ip-adapter-faceid-plusv2_sd15", "ip-adapter-faceid_sd15", "ip-adapter-plus-face_sd15",
        "ip-adapter-full-face_sd15",
    ]  # fmt: skip
    assert name(chosen(catalog, SD15)) == "ip-adapter-plus_sd15"
    assert name(chosen(catalog, SD15, faces=True)) == "ip-adapter-faceid-plusv2_sd15"
    assert name(chosen(catalog, SDXL)) == "xl"
    assert chosen(catalog, None) is None
    assert chosen(catalog, SDXL, faces=True) is None


def test_content_counts_and_a_name_only_where_content_leaves_it_open(tmp_path: Path) -> None:
    """A base adapter that is called "plus-face" is one all the same, and "surface" is no face."""
    catalog = here(tmp_path, {"a-plus-face": "sd15", "z": "plus_sd15", "surface": "plus_sd15"}, "ViT-H-14")
    assert names(in_order(catalog, SD15)) == ["surface", "z", "a-plus-face"]
    assert [is_for_faces(one) for one in catalog.adapters] == [False, False, False]


def test_what_was_used_last_comes_first_as_long_as_it_can_be_used(tmp_path: Path) -> None:
    files = {"plus": "plus_sd15", "light": "sd15", "g": "sd15_vit-G", "xl": "sdxl_vit-h"}
    catalog = here(tmp_path, files, "ViT-H-14")
    assert name(chosen(catalog, SD15, ["LIGHT", "plus"])) == "light"
    assert name(chosen(catalog, SD15, ["gone", "light"])) == "light"
    assert name(chosen(catalog, SD15, ["xl", "g", "light"])) == "light"  # does not fit; without its encoder
    write(tmp_path / "bigG.safetensors", transformers_tower(*TOWERS["ViT-bigG-14"][0]))
    catalog.refresh()
    assert name(chosen(catalog, SD15, ["xl", "g", "light"])) == "g"


def test_one_for_faces_wants_its_pack_and_instantid_its_network(tmp_path: Path) -> None:
    catalog = here(tmp_path, {"face": "faceid_sdxl", "instant-id": "instantid / unnorm"})
    packs = {"buffalo_l"}
    assert name(chosen(catalog, SDXL, has_pack=packs.__contains__)) == "face"
    assert name(chosen(catalog, SDXL, ["instant-id"], has_pack=lambda pack: True)) == "face"  # the network lacks
    assert name(chosen(catalog, SDXL, faces=False, has_pack=lambda pack: True)) is None
    packs.clear()
    assert chosen(catalog, SDXL, has_pack=packs.__contains__) is None
    (tmp_path / "instant-id.safetensors").unlink()
    catalog.refresh()
    (face,) = catalog.adapters
    with pytest.raises(CheckpointError, match="the face pack buffalo_l is missing: download https"):
        check_ready(face, catalog, packs.__contains__)


@pytest.mark.parametrize(
    ("topology", "says"),
    [
        (SD15, "no adapter here is for SD1.5: download models/ip-adapter-plus_sd15.safetensors from h94"),
        (SDXL, "no adapter here is for SDXL: download sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors from h94"),
        (Topology(1024, SD_WIDTHS), "no adapter here is for SD2.x: get one, or load a checkpoint for SD1.5 or SDXL"),
    ],
)
def test_what_is_missing_is_said(topology: Topology, says: str, tmp_path: Path) -> None:
    folder = tmp_path / "ipadapter"
    folder.mkdir()
    assert missing(listed(tmp_path, folder), topology).startswith(says)
    if topology.base != "SD2.x":
        told = missing(listed(tmp_path, folder), topology)
        assert f"put it into {folder}; for its image encoder download models/image_encoder/model.safetensors" in told
        assert told.endswith(" as CLIP-ViT-H-14.safetensors, and refresh the list of models.")
        with_encoder = here(tmp_path, {}, "ViT-H-14")
        assert missing(with_encoder, topology).endswith(f"put it into {tmp_path}, and refresh the list of models.")
        strange = Catalog([tmp_path / "a\nb"], [])
        assert f"put it into {tmp_path}/a?b; for" in missing(strange, topology)
