"""The catalogue: what is listed under which name, what is remembered, and what find() says."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import threading
import time
from math import prod
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lib_ipadapter.checkpoint import catalog as catalog_module
from lib_ipadapter.checkpoint import identify as rules
from lib_ipadapter.checkpoint.catalog import Catalog
from lib_ipadapter.errors import CheckpointError

from .test_identify import (
    NARROW_SD,
    NARROW_XL,
    SD_UNET,
    XL_WIDTHS,
    adapter,
    base,
    faceid_plus,
    open_clip_tower,
    open_clip_words,
    resampler,
    transformers_tower,
    transformers_words,
    unet,
)

BASE = adapter(base(32, 768), NARROW_SD)
WIDE = adapter(base(1024, 768), NARROW_SD)
FACEID_PLUS = adapter(faceid_plus(768), NARROW_SD)
INSTANT = adapter(resampler(512, 16, 1, 2048, depth=1), NARROW_XL, 2048)
KOLORS = adapter(resampler(1024, 2048, 1, 2048, depth=1), XL_WIDTHS, 2048)
LORA = {"lora_unet_x.lora_down.weight": (4, 8)}


def write(path, shapes, dtype="F16", pairs_dtype=None, metadata=None):
    """A safetensors file with these shapes; its data is a hole, so that even full-size files cost nothing."""
    header, end = {} if metadata is None else {"__metadata__": metadata}, 0
    for key, shape in shapes.items():
        kind = pairs_dtype if pairs_dtype and key.startswith("ip_adapter.") else dtype
        first, end = end, end + prod(shape) * {"F16": 2, "F32": 4}[kind]
        header[key] = {"dtype": kind, "shape": list(shape), "data_offsets": [first, end]}
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path


def listed(*folders, encoders=(), memory=None):
    catalog = Catalog(folders, encoders, memory)
    catalog.refresh()
    return catalog


def names(entries):
    return [entry.name for entry in entries]


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
    assert apple.spec == rules.identify(BASE)
    assert apple.problem is None


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
        patch.setattr("lib_ipadapter.checkpoint.load.open", refuse, raising=False)
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


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch):
    """The files whose headers have been read."""
    seen = []
    real = catalog_module.load.read_slots

    def counting(path):
        seen.append(path.name)
        return real(path)

    monkeypatch.setattr(catalog_module.load, "read_slots", counting)
    return seen


def test_only_changed_files_are_read_again(tmp_path, reads):
    memory = tmp_path / "deep" / "memory.json"
    for name in "abc":
        write(tmp_path / "m" / f"{name}.safetensors", BASE)
    write(tmp_path / "m" / "bad.bin", LORA)
    first = listed(tmp_path / "m", memory=memory)
    assert sorted(reads) == ["a.safetensors", "b.safetensors", "bad.bin", "c.safetensors"]
    reads.clear()
    first.refresh()
    second = listed(tmp_path / "m", memory=memory)
    assert reads == []
    assert second.adapters == first.adapters
    assert second.problems == first.problems
    write(tmp_path / "m" / "b.safetensors", WIDE)  # another size
    os.utime(tmp_path / "m" / "c.safetensors", ns=(1, 1))  # another time
    (tmp_path / "m" / "a.safetensors").rename(tmp_path / "m" / "d.safetensors")  # another path
    third = listed(tmp_path / "m", memory=memory)
    assert sorted(reads) == ["b.safetensors", "c.safetensors", "d.safetensors"]
    assert third.find("b").spec.embedding_width == 1024
    assert [path.name for path in memory.parent.iterdir()] == ["memory.json"]  # nothing left of writing it


def test_memory_is_dropped_when_the_rules_change(tmp_path, reads, monkeypatch):
    write(tmp_path / "x.safetensors", BASE)
    listed(tmp_path, memory=tmp_path / "memory.json")
    monkeypatch.setattr(catalog_module, "_rules", lambda: "newer")
    listed(tmp_path, memory=tmp_path / "memory.json")
    assert reads == ["x.safetensors"] * 2


DAMAGED = [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"files": 3}', b'{"rules": "RULES", "files": [1]}']
RECORDS = [
    None,
    7,
    [],
    ["SIZE", "TIME", None],
    ["SIZE", "TIME", "adapter"],
    ["SIZE", "TIME", {}],
    ["SIZE", "TIME", {"kind": "adapter", "spec": {"variant": "base"}}],
    ["SIZE", "TIME", {"kind": "adapter", "spec": 3}],
    ["SIZE", "TIME", {"kind": "none", "spec": {}}],
    ["SIZE", "TIME", {"problem": "half a record."}],
]


@pytest.mark.parametrize("content", [*DAMAGED, *RECORDS])
def test_a_damaged_memory_is_ignored_and_mended(tmp_path, content, reads):
    path, memory = write(tmp_path / "x.safetensors", BASE), tmp_path / "memory.json"
    stat = path.stat()
    if not isinstance(content, bytes):
        text = json.dumps({"rules": catalog_module._rules(), "files": {str(path): content}})
        content = text.replace('"SIZE"', str(stat.st_size)).replace('"TIME"', str(stat.st_mtime_ns)).encode()
    memory.write_bytes(content.replace(b"RULES", catalog_module._rules().encode()))
    for _ in range(2):
        assert names(listed(tmp_path, memory=memory).adapters) == ["x"]
    assert reads == ["x.safetensors"]


def test_a_memory_that_cannot_be_written_is_no_trouble(tmp_path):
    write(tmp_path / "m" / "x.safetensors", BASE)
    (tmp_path / "file").touch()
    (tmp_path / "folder.json").mkdir()
    for memory in (tmp_path / "file" / "memory.json", tmp_path / "folder.json", Path("/proc/memory.json")):
        assert names(listed(tmp_path / "m", memory=memory).adapters) == ["x"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.json", "m"]


def test_the_second_listing_of_500_files_is_quick(tmp_path, monkeypatch):
    sdxl = adapter(base(32, 2048), NARROW_XL, 2048)
    for i in range(500):
        folder = tmp_path / "models" / f"folder {i % 20}"
        write(folder / f"{i}.safetensors", [BASE, sdxl, LORA, KOLORS, INSTANT][i % 5])
    listed(tmp_path / "models", memory=tmp_path / "memory.json")

    def fail(path):
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr(catalog_module.load, "read_slots", fail)
    times = []
    for _ in range(3):
        catalog_module._rules.cache_clear()  # as in a new process
        start = time.perf_counter()
        catalog = listed(tmp_path / "models", memory=tmp_path / "memory.json")
        times.append(time.perf_counter() - start)
    assert len(catalog.adapters) == 300
    assert len(catalog.problems) == 200
    assert min(times) < 0.2, times


def test_refreshing_from_several_threads_lists_everything_once(tmp_path):
    for i in range(20):
        write(tmp_path / f"{i}.safetensors", BASE)
    catalog = Catalog([tmp_path], [], tmp_path / "memory.json")
    threads = [threading.Thread(target=catalog.refresh) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(catalog.adapters) == 20
    json.loads((tmp_path / "memory.json").read_text())


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
    monkeypatch.setitem(rules.HASHES, hashlib.sha256(silent.read_bytes()).hexdigest(), "faceid-plus-v2")
    hashed = []
    real = catalog_module._sha256
    monkeypatch.setattr(catalog_module, "_sha256", lambda path: hashed.append(path) or real(path))
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


# --- encoders ---------------------------------------------------------------------------------------------------------


def test_the_encoder_is_chosen_by_width_and_the_published_one_first(tmp_path):
    write(tmp_path / "a odd.safetensors", transformers_tower(1280, 2, 64, 14, 257, 1024))
    write(tmp_path / "b H.safetensors", transformers_tower(1280, 32, 5120, 14, 257, 1024))
    write(tmp_path / "c H too.safetensors", open_clip_tower(1280, 32, 5120, 14, 257, 1024))
    write(tmp_path / "d G.safetensors", open_clip_tower(1664, 48, 8192, 14, 257, 1280))
    write(tmp_path / "e L336.safetensors", transformers_tower(1024, 24, 4096, 14, 577, 768))
    write(tmp_path / "f L.safetensors", transformers_tower(1024, 24, 4096, 14, 257, 768))
    write(tmp_path / "g small.safetensors", transformers_tower(48, 2, 64, 4, 5, 24))
    catalog = listed(encoders=[tmp_path])
    chosen = {
        ("pooled", 1024): "b H",
        ("penultimate", 1280): "b H",
        ("pooled", 1280): "d G",
        ("penultimate", 1664): "d G",
        ("pooled", 768): "f L",
        ("penultimate", 1024): "f L",
        ("pooled", 24): "g small",
        ("penultimate", 48): "g small",
    }
    for (source, width), name in chosen.items():
        assert catalog.find_encoder(width, source).name == name
    (tmp_path / "b H.safetensors").unlink()
    (tmp_path / "c H too.safetensors").unlink()
    catalog.refresh()
    assert catalog.find_encoder(1024, "pooled").name == "a odd"  # it fits, though nobody published it


def test_an_adapter_that_names_its_encoder_gets_that_one_alone(tmp_path):
    """Two encoders of one width are not one encoder: taking the other would make noise that looks like an effect."""
    small = transformers_tower(48, 2, 64, 4, 5, 1024)
    write(tmp_path / "H.safetensors", transformers_tower(1280, 32, 5120, 14, 257, 1024))
    write(tmp_path / "adapter.safetensors", WIDE)
    write(tmp_path / "own.safetensors", WIDE, metadata={"image_encoder": "small one"})
    write(tmp_path / "odd.safetensors", WIDE, metadata={"image_encoder": 5})
    catalog, memory = listed(tmp_path), tmp_path / "memory.json"
    assert catalog.find("adapter").spec.image_encoder is catalog.find("odd").spec.image_encoder is None
    assert catalog.find("own").spec.image_encoder == "small one"
    with pytest.raises(CheckpointError, match="encoder 'small one', which the adapter was trained with, is missing"):
        catalog.find_encoder(1024, "pooled", trained_with="small one")
    write(tmp_path / "A.safetensors", small, metadata={"image_encoder": "small one"})
    for _ in range(2):  # read from the files, then from memory
        catalog = listed(tmp_path, memory=memory)
        assert catalog.find_encoder(1024, "pooled", trained_with="small one").name == "A"
        assert catalog.find_encoder(1024, "pooled").name == "H"
    (tmp_path / "H.safetensors").unlink()
    with pytest.raises(CheckpointError, match="ViT-H-14 is missing"):
        listed(tmp_path).find_encoder(1024, "pooled")


def test_a_missing_encoder_is_named_with_its_file_and_folder(tmp_path):
    catalog = listed(tmp_path / "adapters", encoders=[tmp_path / "clip_vision", tmp_path / "more"])
    with pytest.raises(CheckpointError) as error:
        catalog.find_encoder(1280, "penultimate")
    assert error.value.detail == (
        "the image encoder ViT-H-14 is missing (penultimate embeddings 1280 wide): download "
        f"models/image_encoder/model.safetensors from h94/IP-Adapter, put it into {tmp_path / 'clip_vision'} as "
        "CLIP-ViT-H-14.safetensors, and refresh the list of models."
    )
    with pytest.raises(CheckpointError, match="ViT-bigG-14 .*sdxl_models/image_encoder.*put it into /here as"):
        catalog.find_encoder(1280, "pooled", "/here")
    with pytest.raises(CheckpointError, match="pooled embeddings 33 wide, and no published one does: put the encoder"):
        catalog.find_encoder(33, "pooled")
    with pytest.raises(CheckpointError, match=f"put it into {tmp_path / 'adapters'} as"):
        listed(tmp_path / "adapters").find_encoder(768, "pooled")


# --- text towers ------------------------------------------------------------------------------------------------------

SMALL = transformers_tower(48, 2, 64, 4, 5, 24)


def save(path, shapes, seed, metadata=None, dtype=torch.float32):
    """A file with numbers in it: an image tower's are the same for the same ``seed``, in either layout."""
    state = {key: torch.ones(shape, dtype=dtype) for key, shape in shapes.items()}
    generator = torch.Generator().manual_seed(seed)
    for key in state:
        if key.endswith("class_embedding"):
            state[key] = torch.randn(state[key].shape, generator=generator).to(dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(state, path, metadata)
    else:
        torch.save(state, path)


def test_an_encoder_with_its_words_is_its_own_text_tower(tmp_path):
    save(tmp_path / "a.safetensors", SMALL | transformers_words(64, 1, 100, 24), 1)
    save(tmp_path / "b.safetensors", SMALL | transformers_words(64, 1, 100, 24), 1)
    for _ in range(2):  # read from the files, then from memory
        catalog = listed(encoders=[tmp_path], memory=tmp_path / "memory.json")
        for entry in catalog.encoders:
            assert entry.spec == rules.identify(SMALL | transformers_words(64, 1, 100, 24))
            assert entry.spec.text is not None
            assert catalog.find_text_tower(entry) == entry


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_another_file_of_the_same_image_tower_lends_its_text_tower(tmp_path, ending):
    save(tmp_path / "alone.safetensors", SMALL, 1, dtype=torch.float16)
    whole = open_clip_tower(48, 2, 64, 4, 5, 24) | open_clip_words(64, 1, 100, 24)
    save(tmp_path / f"a other training.{ending}", whole, 2)
    narrow = transformers_tower(48, 2, 64, 4, 5, 8) | transformers_words(64, 1, 9, 8)
    save(tmp_path / "b other width.safetensors", narrow, 1)
    save(tmp_path / "c other name.safetensors", SMALL | transformers_words(64, 1, 100, 24), 1, {"image_encoder": "x"})
    catalog = listed(encoders=[tmp_path])
    (alone,) = (entry for entry in catalog.encoders if entry.name == "alone")
    with pytest.raises(CheckpointError, match="alone has no text encoder"):
        catalog.find_text_tower(alone)
    save(tmp_path / f"z whole.{ending}", whole, 1)
    catalog.refresh()
    assert catalog.find_text_tower(alone).name == "z whole"
    (tmp_path / f"z whole.{ending}").write_bytes(b"")  # changed since it was listed
    with pytest.raises(CheckpointError, match="alone has no text encoder"):
        catalog.find_text_tower(alone)


def test_a_named_encoder_takes_words_of_its_name_alone(tmp_path):
    save(tmp_path / "alone.safetensors", SMALL, 1, {"image_encoder": "x"})
    save(tmp_path / "b.safetensors", SMALL | transformers_words(64, 1, 100, 24), 1)
    catalog = listed(encoders=[tmp_path])
    (alone,) = (entry for entry in catalog.encoders if entry.name == "alone")
    with pytest.raises(CheckpointError, match="download the whole CLIP model that alone was taken from, put it into"):
        catalog.find_text_tower(alone)
    save(tmp_path / "c.safetensors", SMALL | transformers_words(64, 1, 100, 24), 1, {"image_encoder": "x"})
    catalog.refresh()
    assert catalog.find_text_tower(alone).name == "c"


def test_a_missing_text_tower_is_named_with_its_file_and_folder(tmp_path):
    write(tmp_path / "H.safetensors", transformers_tower(1280, 32, 5120, 14, 257, 1024))
    write(tmp_path / "G.safetensors", transformers_tower(1664, 48, 8192, 14, 257, 1280))
    write(tmp_path / "L.safetensors", transformers_tower(1024, 24, 4096, 14, 257, 768))
    write(tmp_path / "small.safetensors", SMALL)
    catalog = listed(encoders=[tmp_path])
    entries = {entry.name: entry for entry in catalog.encoders}
    with pytest.raises(CheckpointError) as error:
        catalog.find_text_tower(entries["H"])
    assert error.value.detail == (
        "the image encoder H has no text encoder, which gives words their meaning: download "
        f"open_clip_pytorch_model.bin from laion/CLIP-ViT-H-14-laion2B-s32B-b79K, put it into {tmp_path}, and refresh "
        "the list of models."
    )
    for name, file in (("G", "laion/CLIP-ViT-bigG-14"), ("L", "openai/clip-vit-large"), ("small", "the whole CLIP")):
        with pytest.raises(CheckpointError, match=f"{name} has no text encoder.*{file}"):
            catalog.find_text_tower(entries[name])
