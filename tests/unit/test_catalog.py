"""The catalogue: what is listed under which name, and what find() says."""

from __future__ import annotations

import hashlib
import os
import struct
import sys
from pathlib import Path

import pytest
import torch

from lib_ipadapter.checkpoint import recognise, ties
from lib_ipadapter.checkpoint.catalog import Catalog
from lib_ipadapter.checkpoint.entries import AdapterEntry
from lib_ipadapter.checkpoint.identify import identify
from lib_ipadapter.errors import CheckpointError
from tests.helpers.checkpoint_files import BASE, FACEID_PLUS, INSTANT, KOLORS, LORA, WIDE, listed, names, write
from tests.helpers.checkpoint_shapes import SD_UNET, open_clip_tower, transformers_tower, unet

# --- what is listed ---------------------------------------------------------------------------------------------------


def test_files_are_listed_by_content_from_all_folders(tmp_path):
    a, b = tmp_path / "adapters", tmp_path / "encoders"
    write(a / "zebra.safetensors", BASE)
    write(a / "deep" / "er" / "Apple.SAFETENSORS", BASE)
    torch.save({key: torch.zeros(shape) for key, shape in BASE.items()}, a / "middle.bin")
    write(a / "clip.pt", transformers_tower(32, 1, 64, 4, 5, 8))
    write(b / "vision.pth", open_clip_tower(64, 1, 64, 4, 5, 16))
    write(a / "lora.safetensors", LORA)
    write(a / "kolors.safetensors", KOLORS)
    write(a / "sd.ckpt", unet(SD_UNET, 768))
    write(a / "not a model.txt", BASE)
    (a / "notes.json").write_text("{}")
    catalog = listed(a, tmp_path / "missing", encoders=[b, a])
    assert names(catalog.adapters) == ["Apple", "middle", "zebra"]
    assert names(catalog.encoders) == ["clip", "vision"]
    assert names(catalog.foreign) == ["kolors"]
    assert names(catalog.problems) == ["kolors", "lora", "sd"]
    assert catalog.folders == [a, tmp_path / "missing", b]
    apple = catalog.adapters[0]
    assert (apple.path, apple.folder) == (a / "deep" / "er" / "Apple.SAFETENSORS", a)
    assert apple.size == apple.path.stat().st_size
    assert apple.spec == identify(BASE)
    assert isinstance(apple, AdapterEntry)


def test_a_new_catalogue_is_empty_and_refresh_sees_what_changed(tmp_path):
    catalog = Catalog([tmp_path], [])
    assert (catalog.adapters, catalog.encoders, catalog.foreign) == ([], [], [])
    path = write(tmp_path / "x.safetensors", BASE)
    catalog.refresh()
    assert catalog.find("x").spec.embedding_width == 32
    write(path, WIDE)
    catalog.refresh()
    assert catalog.find("x").spec.embedding_width == 1024
    path.unlink()
    catalog.refresh()
    assert catalog.adapters == []


def test_links_and_folders_within_folders_are_listed_once(tmp_path):
    write(tmp_path / "a" / "b" / "x.safetensors", BASE)
    (tmp_path / "a" / "b" / "loop").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a" / "self")
    outside = write(tmp_path / "outside" / "y.safetensors", BASE)
    (tmp_path / "a" / "link").symlink_to(outside.parent)
    (tmp_path / "a" / "z.safetensors").symlink_to(outside)
    catalog = listed(tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a", encoders=[tmp_path / "a"])
    assert names(catalog.adapters) == ["x", "y", "z"]


TROUBLE = {
    "empty": (lambda path: path.touch(), "is empty"),
    "corrupt": (lambda path: path.write_bytes(b"\7\0\0\0\0\0\0\0{broken"), "damaged"),
    "ten gigabytes": (lambda path: path.write_bytes(struct.pack("<Q", 10**10) + b"{"), "claims 10,000,000,000 bytes"),
    "folder": (lambda path: path.mkdir(), "folder with a model's name"),
    "broken link": (lambda path: path.symlink_to(path.parent / "nowhere"), "a link to a file that is not there"),
    "link to itself": (lambda path: path.symlink_to(path), "a link to a file that is not there"),
    "pipe": (os.mkfifo, "a pipe or a device"),
    "cut": (lambda path: os.truncate(write(path, BASE), 70_000), "cut short"),
    "half": (
        lambda path: write(path, {key: s for key, s in BASE.items() if "ip_adapter" in key}),
        "half an IP-Adapter",
    ),
}


@pytest.mark.parametrize("name", TROUBLE)
@pytest.mark.parametrize("ending", [".safetensors", ".bin"])
def test_trouble_with_a_file_is_a_problem_and_no_exception(tmp_path, name, ending):
    make, sentence = TROUBLE[name]
    make(tmp_path / f"bad{ending}")
    write(tmp_path / "good.safetensors", BASE)
    catalog = listed(tmp_path, memory=tmp_path / "memory.json")
    again = listed(tmp_path, memory=tmp_path / "memory.json")
    for found in (catalog, again):
        assert names(found.adapters) == ["good"]
        (entry,) = found.problems
        assert entry.name == "bad"
        assert sentence in entry.problem
        with pytest.raises(CheckpointError, match=f"^bad cannot be used. .*{sentence}"):
            found.find("bad")


def test_a_file_inside_a_folder_with_a_models_name_is_found(tmp_path):
    write(tmp_path / "x.safetensors" / "x.safetensors", BASE)
    assert names(listed(tmp_path).adapters) == ["x"]


def test_a_file_that_may_not_be_read_is_tried_again(tmp_path, monkeypatch):
    path, memory = write(tmp_path / "x.safetensors", BASE), tmp_path / "memory.json"

    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:  # root may read everything, so chmod would not do
        patch.setattr(sys, "executable", "")  # no process of its own, in which the next line would do nothing
        patch.setattr("lib_ipadapter.checkpoint.containers.open", refuse, raising=False)
        catalog = listed(tmp_path, memory=memory)
        assert "cannot be read (Permission denied): check" in catalog.problems[0].problem
    catalog.refresh()
    assert names(catalog.adapters) == ["x"]
    assert catalog.find("x").path == path


def test_a_folder_that_may_not_be_read_is_passed_over(tmp_path, monkeypatch):
    write(tmp_path / "a" / "x.safetensors", BASE)
    write(tmp_path / "b" / "y.safetensors", BASE)
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert names(listed(tmp_path).adapters) == ["y"]


def test_names_that_are_no_utf8_do_not_disturb(tmp_path):
    write(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.safetensors")), BASE)
    write(tmp_path / "Ünïcode 猫.safetensors", BASE)
    for _ in range(2):
        catalog = listed(tmp_path, memory=tmp_path / "memory.json")
        assert names(catalog.adapters) == ["caf?", "Ünïcode 猫"]
        assert catalog.find("ÜNÏCODE 猫").name == "Ünïcode 猫"


# --- ties -------------------------------------------------------------------------------------------------------------


def test_ties_are_broken_by_the_name_of_the_file_not_of_its_folder(tmp_path):
    write(tmp_path / "plusv2" / "plain.safetensors", FACEID_PLUS)
    write(tmp_path / "faceid-plusv2.safetensors", FACEID_PLUS)
    write(tmp_path / "unnorm" / "ip-adapter.safetensors", INSTANT)
    write(tmp_path / "mixed.safetensors", INSTANT, "F32", "F16")
    catalog = listed(tmp_path)
    assert {entry.name: (entry.spec.variant, entry.spec.alternatives) for entry in catalog.adapters} == {
        "plain": ("faceid-plus", ("faceid-plus-v2",)),
        "faceid-plusv2": ("faceid-plus-v2", ("faceid-plus",)),
        "ip-adapter": ("instantid", ("faceid-portrait-unnorm",)),
        "mixed": ("faceid-portrait-unnorm", ("instantid",)),
    }


def test_only_a_faceid_plus_whose_name_says_nothing_is_hashed(tmp_path, monkeypatch):
    silent = write(tmp_path / "mine.safetensors", FACEID_PLUS)
    write(tmp_path / "faceid-plus.safetensors", FACEID_PLUS)
    write(tmp_path / "instant.safetensors", INSTANT)
    write(tmp_path / "base.safetensors", BASE)
    monkeypatch.setitem(ties.HASHES, hashlib.sha256(silent.read_bytes()).hexdigest(), "faceid-plus-v2")
    hashed = []
    real = recognise.sha256
    monkeypatch.setattr(recognise, "sha256", lambda path: hashed.append(path) or real(path))
    assert listed(tmp_path, memory=tmp_path / "memory.json").find("mine").spec.variant == "faceid-plus-v2"
    assert listed(tmp_path, memory=tmp_path / "memory.json").find("mine").spec.variant == "faceid-plus-v2"
    assert hashed == [silent]


# --- names ------------------------------------------------------------------------------------------------------------


def test_names_are_as_short_as_they_can_be(tmp_path):
    a, b = tmp_path / "one" / "models", tmp_path / "two" / "models"
    write(a / "plain.safetensors", BASE)
    write(a / "sub" / "twin.safetensors", BASE)
    write(a / "other" / "TWIN.safetensors", BASE)
    write(a / "both.safetensors", BASE)
    write(a / "both.bin", WIDE)
    write(a / "roots.safetensors", BASE)
    write(b / "roots.safetensors", WIDE)
    write(a / "sub" / "lora.safetensors", LORA)
    write(a / "lora.safetensors", BASE)  # files of no use do not lengthen the names of the others
    write(a / "v1.5.fp16.safetensors", BASE)
    catalog = listed(a, b)
    assert names(catalog.adapters) == [
        "both.bin",
        "both.safetensors",
        "lora",
        "one/models/roots",
        "other/TWIN",
        "plain",
        "sub/twin",
        "two/models/roots",
        "v1.5.fp16",
    ]
    for entry in catalog.adapters:
        assert catalog.find(entry.name) == entry
        assert catalog.find(entry.name.upper()) == entry
        assert catalog.find(entry.name.replace("/", "\\")) == entry
    assert catalog.find("PLAIN.safetensors").name == "plain"
    assert catalog.find(" plain ").name == "plain"
    assert catalog.find("sub/twin.safetensors").name == "sub/twin"
    assert catalog.find("v1.5.fp16.safetensors").name == "v1.5.fp16"
    assert catalog.find("both").name == "both.safetensors"  # the ending is optional, and this one is preferred
    for name in ("twin", "twin.safetensors"):
        with pytest.raises(CheckpointError, match="twin.* means several files: choose one of other/TWIN, sub/twin"):
            catalog.find(name)


def test_names_that_are_not_there_bring_the_nearest_or_the_folders(tmp_path):
    write(tmp_path / "ip-adapter_sd15.safetensors", BASE)
    write(tmp_path / "clip-vit.safetensors", transformers_tower(32, 1, 64, 4, 5, 8))
    write(tmp_path / "kolors.safetensors", KOLORS)
    catalog = listed(tmp_path)
    with pytest.raises(CheckpointError, match="'ip-adaptor_sd15': did you mean ip-adapter_sd15?"):
        catalog.find("ip-adaptor_sd15")
    with pytest.raises(CheckpointError, match=f"'qqq': put its file into one of .*{tmp_path}.* refresh"):
        catalog.find("qqq")
    with pytest.raises(CheckpointError, match="clip-vit is an image encoder, not an adapter: choose"):
        catalog.find("clip-vit")
    with pytest.raises(CheckpointError, match="kolors cannot be used. This file is an IP-Adapter-Plus for Kolors: "):
        catalog.find("Kolors.safetensors")
    with pytest.raises(CheckpointError, match="no folder at all"):
        listed().find("x")


def test_a_name_is_only_ever_looked_up_in_the_list(tmp_path):
    outside = write(tmp_path / "outside.safetensors", BASE)
    write(tmp_path / "m" / "x.safetensors", BASE)
    catalog = listed(tmp_path / "m")
    for name in (
        "../outside",
        "../outside.safetensors",
        str(outside),
        "m/../x",
        "./x",
        "",
        "\0",
        "x/",
        "/etc/passwd",
        3,
    ):
        with pytest.raises(CheckpointError, match="no adapter is called"):
            catalog.find(name)
    with pytest.raises(CheckpointError, match="…"):
        catalog.find("y" * 1_000_000)
