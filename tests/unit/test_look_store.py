"""Looks in their folder: names, files, and what is none."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from lib_ipadapter.encode import stored
from lib_ipadapter.encode.look_files import MAX_HEADER, as_look, head_of, in_order
from lib_ipadapter.errors import IPAdapterError, PictureError, UnitError
from lib_ipadapter.presets.document import PresetError, PresetExists
from lib_ipadapter.presets.looks import Looks, UnknownLook, file_name, with_files
from lib_ipadapter.presets.thumbnails import board
from lib_ipadapter.reference import Reference
from tests.helpers.files import picture


def embeddings(seed: int = 0, uncond: bool = False) -> bytes:
    parts = {"pooled": torch.randn(1, 8, generator=torch.Generator().manual_seed(seed))}
    return stored.write([parts], [0.5], {"pooled": "ViT-H-14"}, parts if uncond else None)


@pytest.fixture
def looks(tmp_path: Path) -> Looks:
    return Looks(tmp_path / "looks")


def test_a_look_is_kept_under_its_name(looks: Looks) -> None:
    small = board([picture(0), picture(1), picture(2)])
    assert looks.all() == [] and not looks.folder.exists()
    assert looks.save(" Oil é ", as_look(embeddings(), "other", "base", small)) == "Oil é"
    (one,) = looks.all()
    assert (one.name, one.head.adapter, one.head.count, one.head.thumbnail) == ("Oil é", "base", 1, small)
    assert one.head.holds == {"pooled": "ViT-H-14"}
    assert stored.read(looks.file("OIL É")).look == "Oil é"
    with pytest.raises(PresetExists, match="There is a look “Oil é” already: choose another name"):
        looks.save("oil É", embeddings(1))
    looks.save("oil É", embeddings(1), overwrite=True)
    assert [one.name for one in looks.all()] == ["oil É"] and len(list(looks.folder.iterdir())) == 1
    looks.delete("Oil é")
    assert looks.all() == [] and [*looks.folder.iterdir()] == []
    with pytest.raises(UnknownLook, match="There is no look “Oil é”: keep one first"):
        looks.file("Oil é")


def test_the_same_look_is_the_same_file(looks: Looks) -> None:
    looks.save("a", embeddings())
    first = looks.file("a")
    looks.save("b", first)
    looks.save("a", looks.file("b"), overwrite=True)
    assert looks.file("a") == first
    assert stored.read(first).weights == (0.5,)


@pytest.mark.parametrize("name", ["", " ", "a/b", "a\\b", "a\0", "a\nb", "..", ".", "a" * 101, 5, None])
def test_what_is_no_name_reaches_no_path(name: object, looks: Looks) -> None:
    for act in (lambda: looks.save(name, embeddings()), lambda: looks.file(name), lambda: looks.delete(name)):
        with pytest.raises(PresetError, match="The name of a look has 1 to 100 characters"):
            act()
    assert not looks.folder.exists()


@pytest.mark.parametrize("name", ["CON", "a:b*?", "é" * 100, "…", "-", "a.safetensors", "~", "%2e%2e"])
def test_any_name_is_a_file_of_the_folder_itself(name: str, looks: Looks) -> None:
    looks.save(name, embeddings())
    (path,) = looks.folder.iterdir()
    assert path.name == file_name(name) and len(path.name) < 100 and path.name.isascii()
    assert looks.find(name).name == name


def test_files_that_somebody_puts_there_count_and_others_do_not(looks: Looks, tmp_path: Path) -> None:
    looks.save("kept", embeddings())
    (looks.folder / "by hand.safetensors").write_bytes(embeddings(1))
    (looks.folder / "adapter.safetensors").write_bytes(save({"x": torch.zeros(1)}))
    (looks.folder / "half.safetensors").write_bytes(embeddings(1)[:50])
    (looks.folder / "text.txt").write_text("x")
    (looks.folder / "folder.safetensors").mkdir()
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(as_look(embeddings(), "outside"))
    os.symlink(outside, looks.folder / "link.safetensors")
    assert [one.name for one in looks.all()] == ["by hand", "kept"]
    looks.delete("by hand")
    assert [one.name for one in looks.all()] == ["kept"]
    assert outside.exists()


def test_a_name_in_a_foreign_file_is_tamed(looks: Looks) -> None:
    looks.folder.mkdir()
    (looks.folder / "x.safetensors").write_bytes(as_look(embeddings(), "../../a\n<b>"))
    (look,) = looks.all()
    assert look.name == ".._.._a_<b>"
    assert looks.file(look.name)


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (b"", "no file of this extension"),
        (b"\x89PNG", "no file of this extension"),
        (save({"x": torch.zeros(1)}), "no file of this extension"),
        (embeddings()[:-1], "no file of this extension"),
        (embeddings().replace(b"embeddings 1", b"embeddings 9"), "of a newer version"),
        (embeddings(uncond=True).replace(b"embeddings 2", b"embeddings 1"), "damaged"),
        (embeddings().replace(b"embeddings 1", b"embeddings 2"), "damaged"),
        ((MAX_HEADER + 1).to_bytes(8, "little") + b"{" + b" " * MAX_HEADER, "damaged"),
    ],
)
def test_what_is_no_look_is_refused(file: bytes, says: str, looks: Looks) -> None:
    with pytest.raises(PictureError, match=says):
        looks.save("a", file)
    assert not looks.folder.exists()


def test_a_large_file_is_refused_unread(looks: Looks, monkeypatch: pytest.MonkeyPatch) -> None:
    looks.save("a", embeddings())
    monkeypatch.setattr("lib_ipadapter.presets.looks.MAX_FILE", 20)
    monkeypatch.setattr(stored, "read", lambda file: pytest.fail("it was read"))
    with pytest.raises(PresetError, match="larger than"):
        looks.save("b", embeddings())
    with pytest.raises(PresetError, match="larger than"):
        looks.file("a")


@pytest.mark.parametrize("thumbnail", ["x", "", 5, "A" * 40_000, "iVBORw0KGgo="])
def test_a_foreign_small_picture_is_not_believed(thumbnail: object) -> None:
    file = embeddings()
    length = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + length])
    header["__metadata__"]["thumbnail"] = thumbnail
    text = json.dumps(header).encode()
    assert head_of(len(text).to_bytes(8, "little") + text + file[8 + length :]).thumbnail == b""


def test_the_disk_s_trouble_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "looks").write_text("a file")
    for act in (lambda looks: looks.all(), lambda looks: looks.save("a", embeddings())):
        with pytest.raises(IPAdapterError, match="cannot be") as error:
            act(Looks(tmp_path / "looks"))
        assert error.value.status_code == 500


# Files that somebody has made to do harm, or without meaning to


@pytest.mark.parametrize("weights", ["[1" + "0" * 400 + "]", "[1e999]", "[NaN]", "[-1001]", "[true]", '["1"]', "[[]]"])
def test_weights_that_none_has_are_refused(weights: str) -> None:
    with pytest.raises(PictureError, match="damaged"):
        head_of(in_order(embeddings(), {"weights": weights}))


@pytest.mark.parametrize("error", [OverflowError, RecursionError, KeyError, MemoryError])
def test_one_bad_file_is_no_other_look_s_trouble(error: type, looks: Looks, monkeypatch: pytest.MonkeyPatch) -> None:
    looks.save("kept", embeddings())
    bad = in_order(embeddings(), {"weights": "[1" + "0" * 400 + "]", "name": "bad"})
    (looks.folder / "bad.safetensors").write_bytes(bad)
    assert [one.name for one in looks.all()] == ["kept"]

    def raises(file: bytes) -> object:
        if b"bad" in file:
            raise error
        return head_of(file)

    monkeypatch.setattr("lib_ipadapter.presets.looks.head_of", raises)
    assert [one.name for one in Looks(looks.folder).all()] == ["kept"]


@pytest.mark.parametrize("value", [5, None, ["x"], {"a": "b"}, [[[]]]])
def test_only_texts_are_names(value: object) -> None:
    file = embeddings()
    length = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + length])
    header["__metadata__"] |= {"name": value, "adapter": value, "face": value, "encoder": value}
    text = json.dumps(header).encode()
    head = head_of(len(text).to_bytes(8, "little") + text + file[8 + length :])
    assert (head.name, head.adapter, head.face, head.encoder) == ("", "", "", "")


def test_no_more_are_kept_than_are_looked_at(looks: Looks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib_ipadapter.presets.looks.MAX_LOOKS", 3)
    looks.folder.mkdir()
    for i in range(5):  # what is no look takes nobody's place
        (looks.folder / f"adapter {i}.safetensors").write_bytes(save({"x": torch.zeros(1)}))
    for name in ("a", "b", "zebra"):
        looks.save(name, embeddings())
        assert looks.find(name).name == name
    for overwrite in (False, True):
        with pytest.raises(PresetError, match="There are 3 looks, which is all that there may be: delete one first"):
            looks.save("d", embeddings(), overwrite=overwrite)
    looks.save("B", embeddings(1), overwrite=True)
    with pytest.raises(PresetExists):
        looks.save("b", embeddings())
    (looks.folder / "0 by hand.safetensors").write_bytes(embeddings())
    assert [one.name for one in looks.all()] == ["0 by hand", "a", "B"]
    looks.delete("a")
    assert [one.name for one in looks.all()] == ["0 by hand", "B", "zebra"]


def test_what_could_not_be_read_again_is_not_kept(looks: Looks, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = in_order(embeddings(), {"more": ""})
    room = MAX_HEADER - int.from_bytes(plain[:8], "little")
    full = in_order(embeddings(), {"more": "x" * room})
    assert stored.read(full)  # as it comes, it can be read
    with pytest.raises(PictureError, match="with the look's name, its head is larger than 64 KB: get it from POST"):
        looks.save("é" * 100, full)
    named = len(as_look(embeddings(), "a" * 100))
    monkeypatch.setattr("lib_ipadapter.presets.looks.MAX_FILE", named - 1)
    with pytest.raises(PresetError, match="The file is larger than"):
        looks.save("a" * 100, embeddings())
    assert not looks.folder.exists()


# Several who write


def test_a_name_is_one_file_whatever_its_case(looks: Looks) -> None:
    assert len({file_name(name) for name in ("Oil É", "oil é", "OIL E\u0301")}) == 1


def test_of_two_who_keep_one_name_at_once_one_is_refused(looks: Looks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes: neither has seen the other's file before it writes."""
    other = Looks(looks.folder)
    monkeypatch.setattr(other, "all", list)
    looks.save("Oil", embeddings())
    kept = looks.file("Oil")
    with pytest.raises(PresetExists, match="There is a look “OIL” already"):
        other.save("OIL", embeddings(1))
    assert looks.file("oil") == kept and len([*looks.folder.iterdir()]) == 1
    other.save("OIL", embeddings(1), overwrite=True)
    assert [one.name for one in looks.all()] == ["OIL"] and len([*looks.folder.iterdir()]) == 1


def test_threads_that_keep_one_name_at_once(looks: Looks) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def keep(seed: int) -> bool:
        try:
            looks.save("oIl" if seed % 2 else "OiL", embeddings(seed))
        except PresetExists:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(keep, range(8))) == 1
    assert len([*looks.folder.iterdir()]) == 1


def test_deleting_takes_all_files_of_that_name(looks: Looks) -> None:
    looks.save("Oil", embeddings())
    (looks.folder / "copy.safetensors").write_bytes(as_look(embeddings(1), "OIL"))
    (looks.folder / "oil.safetensors").write_bytes(embeddings(2))
    (looks.folder / "other.safetensors").write_bytes(as_look(embeddings(2), "Ink"))
    looks.delete("oil")
    assert [one.name for one in looks.all()] == ["Ink"]


def test_a_look_that_goes_while_it_is_wanted_is_unknown(looks: Looks, monkeypatch: pytest.MonkeyPatch) -> None:
    looks.save("Oil", embeddings())
    look = looks.find("Oil")
    monkeypatch.setattr(looks, "find", lambda name: look)
    look.path.unlink()
    with pytest.raises(UnknownLook, match="There is no look “Oil”: keep one first"):
        looks.file("Oil")


# Names that the files have not


@pytest.mark.parametrize(
    ("given", "tamed"), [("a/b\nc", "a_b_c"), (" x ", "x"), ("..", "_"), (" ", ""), ("a" * 120, "a" * 100)]
)
def test_a_name_in_any_file_of_embeddings_is_tamed(given: str, tamed: str) -> None:
    file = as_look(embeddings(), given)
    assert head_of(file).name == stored.read(file).look == tamed


def test_a_look_is_used_under_the_name_that_it_is_listed_under(looks: Looks) -> None:
    looks.folder.mkdir()
    (looks.folder / "by hand.safetensors").write_bytes(embeddings())
    assert stored.read(looks.file("By hand")).look == "by hand"
    (looks.folder / "by hand.safetensors").write_bytes(as_look(embeddings(), "a/b"))
    assert stored.read(looks.file("a_b")).look == "a_b"


# In units


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ({"look": "a", "image": "x"}, "look is given beside image: leave one out."),
        ({"look": "a", "controlnet": 1}, "look is given beside controlnet: leave one out."),
        ({"look": "a", "mask": "x"}, "look is given beside mask: leave one out."),
        ({"look": 5}, "look is 5: give a name that GET /ip-adapter/looks lists."),
        ({"look": " "}, "look is ' ': give a name"),
        ({"look": "a" * 101}, "give a name"),
        ({"look": "a", "weight": 9}, "weight is 9"),
    ],
)
def test_an_item_with_a_look_is_checked(item: dict, says: str) -> None:
    with pytest.raises(UnitError) as error:
        Reference.parse(item, "")
    assert says in error.value.detail


def test_an_item_with_a_look_comes_and_goes() -> None:
    item = {"look": "Oil", "weight": 0.5}
    assert Reference.parse(item, "") == Reference(None, 0.5, look="Oil")
    assert Reference.parse(item, "").to_item() == item


def test_an_object_gets_the_looks_files(looks: Looks) -> None:
    looks.save("Oil", embeddings())
    unit = {"images": ["x", {"look": "oil", "weight": 0.5}], "negative_images": [{"look": "Oil"}], "image": None}
    file = looks.file("Oil")
    assert with_files(unit, looks) == {
        "images": ["x", {"image": file, "weight": 0.5}], "negative_images": [{"image": file}], "image": None
    }  # fmt: skip
    with pytest.raises(UnitError, match="images\\[0\\]: there is no look “Ink”: choose one of “Oil”."):
        with_files({"images": [{"look": "Ink"}]}, looks)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5])
def test_a_board_is_a_small_picture(count: int) -> None:
    from io import BytesIO

    from PIL import Image

    file = board([picture(seed) for seed in range(count)])
    if not count:
        assert file == b""
        return
    with Image.open(BytesIO(file)) as image:
        assert image.format == "JPEG" and max(image.size) <= 128 and len(file) <= 10_000
