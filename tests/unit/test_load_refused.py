"""Files that are damaged or hostile: nothing in a file is ever run, and every refusal is a sentence."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from math import prod
from pathlib import Path

import pytest
import safetensors
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib_ipadapter.checkpoint import pickles
from lib_ipadapter.checkpoint.containers import read_shapes, read_table
from lib_ipadapter.checkpoint.load import load_adapter, load_encoder_state, load_text_state
from lib_ipadapter.checkpoint.tensor_table import StoredTensor
from lib_ipadapter.errors import CheckpointError
from tests.helpers.containers import SMALL, nested, save_legacy, save_safetensors, save_zip, tensors

# --- nothing is run ---------------------------------------------------------------------------------------------------


class Touch:
    """Pickles as a call that makes a file."""

    def __init__(self, path, how=os.system):
        self.path, self.how = path, how

    def __reduce__(self):
        if self.how is os.system:
            return os.system, (f"touch '{self.path}'",)
        return self.how, (self.path, "w")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("how", [os.system, io.open, Path])
@pytest.mark.parametrize(
    "reader", [read_shapes, lambda path: load_adapter(path, None), load_encoder_state, load_text_state]
)
def test_code_in_a_pickle_is_refused_and_never_run(tmp_path, legacy, how, reader):
    mark = tmp_path / "ran"
    state = nested(tensors(SMALL["base"])) | {"extra": Touch(str(mark), how)}
    torch.save(state, tmp_path / "x.bin", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"holds more than tensors.*get the file as \.safetensors"):
        reader(tmp_path / "x.bin")
    assert not mark.exists()
    if how is not Path:  # the file is a real one: read carelessly, it does make the mark
        torch.serialization.load(tmp_path / "x.bin", weights_only=False)
        assert mark.exists()


def zip_of(pickled, path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)


# Pickles by hand: opcodes that a careless reader would follow.
HOSTILE = {
    "global and reduce": b"cposix\nsystem\n(S'touch MARK'\ntR.",
    "instance": b"(S'touch MARK'\nios\nsystem\n.",
    "stack global": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0atouch MARK\x85R.",
    "import through an allowed module": b"\x80\x04\x8c\x05torch\x8c\x10os.system.__call__\x93.",
    "dotted name": b"\x80\x04\x8c\x0bcollections\x8c\x14abc.sys.modules.copy\x93.",
    "builtin eval": b'c__builtin__\neval\n(S\'open("MARK","w")\'\ntR.',
    "attributes of an allowed function": b"ctorch._utils\n_rebuild_tensor\n(N}S'__defaults__'\n(I1\ntstb.",
    "a huge memo": b"]r\xff\xff\xff\xff.",
    "a huge byte array": b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "a huge string": b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "an unknown opcode": b"\xff.",
    "nothing": b"",
    "no dict": b"I1\n.",
    "extension": b"\x82\x01.",
    "persistent id of no storage": b"I1\nQ.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_end_in_a_sentence(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    zip_of(HOSTILE[name], tmp_path / "x.bin")
    try:
        assert read_shapes(tmp_path / "x.bin") == {}
    except CheckpointError as error:
        assert error.detail.endswith("." if "more than tensors" in error.detail else "again.")
    assert not (tmp_path / "MARK").exists()
    assert pickles._rebuild_tensor.__defaults__ is None


def test_a_dict_that_holds_itself_a_million_times_over_is_refused_quickly(tmp_path):
    laughs = {}
    for _ in range(8):
        laughs = {str(i): laughs for i in range(300)}
    zip_of(pickle.dumps(laughs, protocol=2), tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match="more tensors than any model"):
        read_shapes(tmp_path / "x.bin")
    loop = {}
    loop["again"] = loop
    zip_of(pickle.dumps(loop, protocol=2), tmp_path / "x.bin")
    assert read_shapes(tmp_path / "x.bin") == {}


def test_a_torchscript_program_is_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "x.pt"))
    with pytest.raises(CheckpointError, match="TorchScript program, which is never run"):
        read_shapes(tmp_path / "x.pt")


# --- damage -----------------------------------------------------------------------------------------------------------


def header(entries, body=b"", length=None):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def one(**changes):
    return header({"x": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]} | changes}, b"\0" * 4)


DAMAGED = {
    "empty": (b"", r"empty \(0 bytes\): download"),
    "short": (b"\1\2\3", "no safetensors file"),
    "text": (b"hello, hello, hello", "no safetensors file and no PyTorch file"),
    "web page": (b"<!DOCTYPE html><html>", "is a web page"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
    "ten gigabytes of header": (header({"x": 1}, length=10_000_000_000), "claims 10,000,000,000 bytes"),
    "negative header": (header({"x": 1}, length=2**64 - 1), "claims 18,446"),
    "header is cut": (header({"x": 1}, length=99), "claims 99 bytes"),
    "header is no JSON": (header(b'{"x": nonsense'), "damaged"),
    "header nests without end": (header(b'{"x":' * 100_000), "damaged"),
    "header is not UTF-8": (header(b'{"\xff\xfe": 1}'), "damaged"),
    "an entry is a number": (header({"x": 1}), "damaged"),
    "an entry lacks its shape": (header({"x": {"dtype": "F16", "data_offsets": [0, 4]}}), "damaged"),
    "data is cut": (one()[:-1], "cut short: it has 72 of 73 bytes"),
    "data goes on": (one() + b"x", "goes on after its tensors: it has 74 bytes instead of 73"),
    "a shape is too large": (one(shape=[3]), "contradicts itself: sizes and data of a tensor differ"),
    "a shape is negative": (one(shape=[-2, -1]), "damaged"),
    "a shape is a fraction": (one(shape=[2.0]), "damaged"),
    "a shape is true": (one(shape=[2, True]), "damaged"),
    "a shape is a word": (one(shape="ab"), "damaged|contradicts"),
    "offsets run backwards": (one(data_offsets=[4, 0]), "contradicts itself at x"),
    "an offset is before the data": (one(data_offsets=[-4, 0]), "damaged"),
    "an unknown type": (one(dtype=["F16"]), "damaged"),
    "a zip of something else": (None, "no safetensors file and no PyTorch file"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_told_in_a_sentence(tmp_path, name):
    content, sentence = DAMAGED[name]
    path = tmp_path / "x.safetensors"
    if content is None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "hello")
    else:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=sentence) as error:
        read_shapes(path)
    assert "ownload" in error.value.detail[-80:] or "get " in error.value.detail[-100:]


NO_WORD = "damaged, or newer than safetensors .*no word of old"
TOLD_BY_NUMBERS = {
    "data is cut": DAMAGED["data is cut"],
    "data goes on": DAMAGED["data goes on"],
    "a shape is too large": DAMAGED["a shape is too large"],
    "offsets run backwards": DAMAGED["offsets run backwards"],
    "a gap": (one(data_offsets=[2, 6]) + b"xx", "contradicts itself at x"),
    "a shape is larger than any": (one(shape=[2**40, 2**40]), "contradicts itself: sizes and data of a tensor differ"),
    "data without a tensor": (header({"__metadata__": {"a": "b"}}, b"xxxx"), "has 40 bytes instead of 36"),
    "a header of lists": (header(b'{"x": [' + b"1, " * 9 + b"1]}"), NO_WORD),
    "a type of tomorrow": (one(dtype="F3"), NO_WORD),
}


@pytest.mark.parametrize("name", TOLD_BY_NUMBERS)
def test_damage_is_told_whatever_the_library_calls_it(tmp_path, name, monkeypatch):
    def refuses(*_, **__):
        raise safetensors.SafetensorError("Error while deserializing header: no word of old")

    content, sentence = TOLD_BY_NUMBERS[name]
    (tmp_path / "x.safetensors").write_bytes(content)
    monkeypatch.setattr(safetensors, "safe_open", refuses)
    with pytest.raises(CheckpointError, match=sentence):
        read_shapes(tmp_path / "x.safetensors")


@pytest.mark.parametrize("write", [save_safetensors, save_zip, save_legacy])
@pytest.mark.parametrize("share", [0.0001, 0.01, 0.5, 0.9, 0.999])
def test_a_file_cut_anywhere_is_refused_from_its_header(tmp_path, write, share):
    write(tensors(SMALL["base"]), tmp_path / "x")
    content = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match="ownload it again"):
        read_shapes(tmp_path / "x")


def test_a_tensor_that_claims_more_than_the_file_has_is_refused(tmp_path):
    torch.save({"x": torch.zeros(1).expand(1_000_000, 1_000_000)}, tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match="reaches beyond its data"):
        read_shapes(tmp_path / "x.bin")


class Beyond:
    """Pickles as a view that starts where its storage ends."""

    def __init__(self, offset, shape, stride):
        self.arguments = (torch.zeros(4).untyped_storage(), offset, shape, stride)

    def __reduce__(self):
        storage, *place = self.arguments
        typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
        return torch._utils._rebuild_tensor_v2, (typed, *place, False, OrderedDict())


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ((4, (1,), (1,)), "reaches beyond its data"),
        ((1, (4,), (1,)), "reaches beyond its data"),
        ((0, (2, 2), (3, 2)), "reaches beyond its data"),
        ((-1, (1,), (1,)), "contradicts itself"),
        ((3, (2,), (-1,)), "contradicts itself"),
        ((0, (2, 2), (1,)), "contradicts itself"),
        ((3, (1,), (1,)), None),
        ((4, (0,), (1,)), None),
    ],
)
def test_views_beyond_their_storage_are_refused(tmp_path, place, sentence):
    torch.save({"x": Beyond(*place)}, tmp_path / "x.bin")
    if sentence is None:
        assert read_shapes(tmp_path / "x.bin") == {"x": place[1]}
    else:
        with pytest.raises(CheckpointError, match=sentence):
            read_shapes(tmp_path / "x.bin")


@pytest.mark.parametrize("count", [3, 5, -1, 2**62])
def test_a_storage_of_another_length_than_announced_is_refused(tmp_path, count):
    torch.save({"x": torch.zeros(4), "y": torch.ones(4)}, tmp_path / "x", _use_new_zipfile_serialization=False)
    content = (tmp_path / "x").read_bytes()
    written = struct.pack("<q", 4) + torch.zeros(4).numpy().tobytes()
    assert content.count(written) == 1
    (tmp_path / "x").write_bytes(content.replace(written, struct.pack("<q", count) + written[8:]))
    with pytest.raises(CheckpointError, match="storages contradict its table"):
        read_shapes(tmp_path / "x")


def test_a_compressed_zip_is_refused(tmp_path):
    torch.save({"x": torch.zeros(100)}, tmp_path / "x.bin")
    with (
        zipfile.ZipFile(tmp_path / "x.bin") as old,
        zipfile.ZipFile(tmp_path / "y.bin", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(CheckpointError, match="packed again with compression: get the original"):
        read_shapes(tmp_path / "y.bin")


@pytest.mark.parametrize(
    "reader", [read_shapes, lambda path: load_adapter(path, None), load_encoder_state, load_text_state]
)
def test_files_that_cannot_be_opened_are_told_in_a_sentence(tmp_path, reader):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(CheckpointError, match="cannot be read .*check that it is there"):
            reader(path)


CONTENTS: dict[str, bytes] = {}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(writer=st.sampled_from([save_safetensors, save_zip, save_legacy]), data=st.data())
def test_flipped_bytes_never_raise_anything_but_a_sentence(tmp_path, writer, data):
    path = tmp_path / "x"
    if writer.__name__ not in CONTENTS:
        writer({"image_proj.a": torch.zeros(3, 2), "ip_adapter.b": torch.ones(2)}, path)
        CONTENTS[writer.__name__] = path.read_bytes()
    content = bytearray(CONTENTS[writer.__name__])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        entries = read_table(path).entries
    except CheckpointError:
        return
    for entry in entries.values():  # whatever is believed lies within the file
        if isinstance(entry, StoredTensor):
            assert 0 <= entry.position <= entry.position + entry.nbytes <= len(content)
        else:
            assert prod(entry.shape) <= len(content)
