"""Reading files: every container gives the same tensors, headers are read alone, and nothing in a file is ever run."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lib_ipadapter.checkpoint import load
from lib_ipadapter.checkpoint.identify import identify
from lib_ipadapter.checkpoint.load import (
    load_adapter,
    load_encoder_state,
    load_text_state,
    read_shapes,
    read_slots,
    same_image_tower,
)
from lib_ipadapter.errors import CheckpointError

from .test_identify import (
    NARROW_SD,
    adapter,
    base,
    faceid,
    open_clip_tower,
    open_clip_words,
    resampler,
    transformers_tower,
    transformers_words,
)

SMALL = {
    "base": adapter(base(32, 768), NARROW_SD),
    "plus": adapter(resampler(24, 16, 1, 768, depth=1), NARROW_SD),
    "faceid": adapter(faceid(768, 4), NARROW_SD, with_lora=True),
}


def tensors(shapes, dtype=torch.float16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=generator).to(dtype) for key, shape in shapes.items()}


def nested(state):
    """tencent's containers: two dicts in a dict."""
    halves = {"image_proj": OrderedDict(), "ip_adapter": OrderedDict()}
    for key, tensor in state.items():
        half, _, rest = key.partition(".")
        halves[half][rest] = tensor
    halves["image_proj"]._metadata = OrderedDict(version=1)  # what Module.state_dict() adds; pickled as BUILD
    return halves


def save_safetensors(state, path):
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path, metadata={"format": "pt"})


def save_zip(state, path):
    torch.save(nested(state), path)


def save_legacy(state, path):
    torch.save(nested(state), path, _use_new_zipfile_serialization=False)


def save_flat(state, path):
    torch.save(state | {"epoch": 3, "name": "x", "lr": [0.1, None, True]}, path)


WRITERS = [save_safetensors, save_zip, save_legacy, save_flat]


def same(ours, theirs):
    return ours.dtype == theirs.dtype and ours.shape == theirs.shape and torch.equal(ours, theirs)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_container_gives_the_tensors_that_were_saved(tmp_path, write, dtype):
    state = tensors(SMALL["plus"], dtype)
    path = tmp_path / "x.any"
    write(state, path)
    assert read_shapes(path) == SMALL["plus"]
    weights = load_adapter(path, identify(SMALL["plus"]))
    assert weights.image_proj.keys() == {k.removeprefix("image_proj.") for k in state if k.startswith("image_proj.")}
    assert all(same(tensor, state[f"image_proj.{key}"]) for key, tensor in weights.image_proj.items())
    assert len(weights.key) == len(weights.value) == 16
    for i in range(16):
        assert same(weights.key[i], state[f"ip_adapter.{2 * i + 1}.to_k_ip.weight"])
        assert same(weights.value[i], state[f"ip_adapter.{2 * i + 1}.to_v_ip.weight"])
    assert weights.lora == {}


def test_dtypes_may_differ_and_a_lora_comes_along(tmp_path):
    state = tensors(SMALL["faceid"])
    state |= {key: tensor.float() for key, tensor in state.items() if key.startswith("image_proj.")}
    save_zip(state, tmp_path / "x.bin")
    weights = load_adapter(tmp_path / "x.bin", identify(SMALL["faceid"]))
    assert weights.image_proj["norm.weight"].dtype == torch.float32
    assert weights.key[0].dtype == torch.float16
    assert len(weights.lora) == 32 * 8
    assert same(weights.lora["31.to_out_lora.up.weight"], state["ip_adapter.31.to_out_lora.up.weight"])


@pytest.mark.parametrize("legacy", [False, True])
def test_views_transposes_and_parameters_are_read_as_torch_reads_them(tmp_path, legacy):
    whole = torch.arange(24.0).reshape(4, 6)
    state = {
        "transposed": whole.t(),
        "rows": whole[1:3],
        "columns": whole[:, 2:5],
        "every other": whole[:, ::2],
        "parameter": torch.nn.Parameter(whole[3]),
        "scalar": whole[2, 2],
        "empty": torch.zeros(0, 3),
    }
    torch.save(state, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
    with open(tmp_path / "x.pt", "rb") as file:
        for key, slot in read_slots(tmp_path / "x.pt").items():
            assert same(load._tensor(file, key, slot), state[key].detach()), key


@pytest.mark.parametrize("write", [save_safetensors, save_flat, save_legacy])
def test_prefixes_of_training_are_read_too(tmp_path, write):
    state = tensors(SMALL["base"])
    renamed = {
        key.replace("image_proj.", "image_proj_model.").replace("ip_adapter.", "adapter_modules."): tensor
        for key, tensor in state.items()
    }
    if write is save_legacy:
        torch.save(renamed, tmp_path / "x", _use_new_zipfile_serialization=False)
    else:
        write(renamed | {"unet.conv_in.bias": torch.zeros(4)}, tmp_path / "x")
    weights = load_adapter(tmp_path / "x", identify(SMALL["base"]))
    assert same(weights.image_proj["proj.weight"], state["image_proj.proj.weight"])
    assert same(weights.value[15], state["ip_adapter.31.to_v_ip.weight"])


def test_a_header_whose_length_looks_like_a_pickle_is_still_a_header(tmp_path):
    header = b'{"x":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}'
    for length in (0x0280, 0x3C):  # "\x80\x02" begins a pickle, "<" a web page
        (tmp_path / "x").write_bytes(struct.pack("<Q", length) + header.ljust(length) + b"\0\0")
        assert read_shapes(tmp_path / "x") == {"x": (1,)}


@pytest.mark.parametrize("write", [save_safetensors, save_zip])
def test_shapes_are_read_without_the_tensors(tmp_path, write, monkeypatch):
    state = {"image_proj.a": torch.zeros(1000, 1000), "ip_adapter.b": torch.zeros(1000, 1000)}
    write(state, tmp_path / "x")
    read = 0

    class Counting(io.BufferedReader):
        def read(self, n=-1):
            nonlocal read
            data = super().read(n)
            read += len(data)
            return data

    monkeypatch.setattr(load, "open", lambda path, mode: Counting(io.FileIO(path)), raising=False)
    assert read_shapes(tmp_path / "x") == {"image_proj.a": (1000, 1000), "ip_adapter.b": (1000, 1000)}
    assert 0 < read < 100_000


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e5m2])
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_finite_weights_are_asked_for_unless_told_otherwise(tmp_path, dtype, poison):
    spec = identify(SMALL["plus"])
    for key in ("image_proj.latents", "image_proj.proj_in.bias", "ip_adapter.5.to_k_ip.weight"):
        state = tensors(SMALL["plus"])
        state[key].view(-1)[7] = poison
        save_safetensors({name: tensor.to(dtype) for name, tensor in state.items()}, tmp_path / "x")
        with pytest.raises(CheckpointError, match=f"not finite.*{key}.*download the original"):
            load_adapter(tmp_path / "x", spec)
        assert load_adapter(tmp_path / "x", spec, check_finite=False).spec is spec


def test_large_finite_weights_and_a_poisoned_lora_are_told_apart(tmp_path):
    state = {key: torch.full(shape, 1e300, dtype=torch.float64) for key, shape in SMALL["base"].items()}
    save_safetensors(state, tmp_path / "x")
    assert load_adapter(tmp_path / "x", identify(SMALL["base"])).key[0].max() == 1e300
    state = tensors(SMALL["faceid"])
    state["ip_adapter.4.to_q_lora.up.weight"][0, 0] = float("nan")
    save_safetensors(state, tmp_path / "x")
    with pytest.raises(CheckpointError, match=r"ip_adapter\.4\.to_q_lora\.up\.weight"):
        load_adapter(tmp_path / "x", identify(SMALL["faceid"]))


def test_eight_bit_floats_are_kept_and_whole_numbers_refused(tmp_path):
    spec = identify(SMALL["base"])
    eight = tensors(SMALL["base"], torch.float8_e4m3fn)
    save_safetensors(eight, tmp_path / "x")
    assert load_adapter(tmp_path / "x", spec).key[0].dtype == torch.float8_e4m3fn
    whole = {key: torch.ones(shape, dtype=torch.int8) for key, shape in SMALL["base"].items()}
    save_safetensors(whole, tmp_path / "x")
    with pytest.raises(CheckpointError, match="as int8.*get it in fp16"):
        load_adapter(tmp_path / "x", spec)


def test_a_file_that_has_become_another_is_not_loaded(tmp_path):
    save_safetensors(tensors(SMALL["base"]), tmp_path / "x")
    with pytest.raises(CheckpointError, match="changed since it was listed: refresh"):
        load_adapter(tmp_path / "x", identify(SMALL["plus"]))
    chosen = replace(identify(SMALL["base"]), variant="chosen by the user")
    assert load_adapter(tmp_path / "x", chosen).spec is chosen


# --- encoders -------------------------------------------------------------------------------------------------------

TOWER = (32, 1, 64, 4, 5, 8)
EXTRA = {
    "text_model.x": (3, 3),
    "transformer.resblocks.0.ln_1.weight": (3,),
    "logit_scale": (),
    "token_embedding.w": (2,),
}


@pytest.mark.parametrize("write", [save_safetensors, torch.save])
@pytest.mark.parametrize("build", [open_clip_tower, transformers_tower])
def test_only_the_image_tower_is_loaded(tmp_path, write, build):
    state = tensors(build(*TOWER) | EXTRA)
    state["vision_model.embeddings.position_ids"] = torch.arange(5)
    write(state, tmp_path / "x")
    loaded = load_encoder_state(tmp_path / "x")
    prefix = "visual." if build is open_clip_tower else ""
    assert {prefix + key for key in loaded} == build(*TOWER).keys()
    assert all(same(tensor, state[prefix + key]) for key, tensor in loaded.items())
    assert identify({key: tuple(tensor.shape) for key, tensor in loaded.items()}) == identify(build(*TOWER))


def test_a_file_without_an_image_tower_is_no_encoder(tmp_path):
    save_safetensors(tensors(SMALL["base"]), tmp_path / "x")
    with pytest.raises(CheckpointError, match="no CLIP image encoder: get"):
        load_encoder_state(tmp_path / "x")


@pytest.mark.parametrize("write", [save_safetensors, torch.save])
@pytest.mark.parametrize(
    ("image", "text"), [(open_clip_tower, open_clip_words), (transformers_tower, transformers_words)]
)
def test_only_the_text_tower_is_loaded(tmp_path, write, image, text):
    words = text(64, 2, 100, 8, vocabulary=90)
    state = tensors(image(*TOWER) | words | {"logit_scale": (), "attn_mask": (77, 77)})
    state["text_model.embeddings.position_ids"] = torch.arange(77)
    write(state, tmp_path / "x")
    loaded = load_text_state(tmp_path / "x")
    assert loaded.keys() == words.keys()
    assert all(same(tensor, state[key]) for key, tensor in loaded.items())
    write({f"module.{key}": value for key, value in state.items()}, tmp_path / "wrapped")
    assert load_text_state(tmp_path / "wrapped").keys() == words.keys()


def test_a_file_without_a_text_tower_has_no_words(tmp_path):
    save_safetensors(tensors(transformers_tower(*TOWER)), tmp_path / "x")
    with pytest.raises(CheckpointError, match="no CLIP text encoder: get a whole CLIP model"):
        load_text_state(tmp_path / "x")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_image_towers_are_told_apart_by_what_they_learnt(tmp_path, dtype):
    one, other = (tensors(transformers_tower(*TOWER)) for _ in range(2))
    key = "vision_model.embeddings.class_embedding"
    one[key], other[key] = torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    save_safetensors(one, tmp_path / "one")
    save_safetensors(other, tmp_path / "other")
    twin = tensors(open_clip_tower(*TOWER)) | {"visual.class_embedding": one[key].to(dtype)}
    torch.save(twin, tmp_path / "twin")
    assert same_image_tower(tmp_path / "one", tmp_path / "twin")
    assert not same_image_tower(tmp_path / "one", tmp_path / "other")
    save_safetensors(tensors(transformers_tower(64, *TOWER[1:])), tmp_path / "wider")
    assert not same_image_tower(tmp_path / "one", tmp_path / "wider")
    save_safetensors(tensors(SMALL["base"]), tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="no CLIP image encoder"):
        same_image_tower(tmp_path / "one", tmp_path / "adapter")


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
    assert load._rebuild_tensor.__defaults__ is None


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
    "a shape is too large": (one(shape=[3]), "contradicts itself at x"),
    "a shape is negative": (one(shape=[-2, -1]), "contradicts itself"),
    "a shape is a fraction": (one(shape=[2.0]), "contradicts itself"),
    "a shape is true": (one(shape=[2, True]), "contradicts itself"),
    "a shape is a word": (one(shape="ab"), "damaged|contradicts"),
    "offsets run backwards": (one(data_offsets=[4, 0]), "contradicts itself"),
    "an offset is before the data": (one(data_offsets=[-4, 0]), "contradicts itself"),
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


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
        slots = read_slots(path)
    except CheckpointError:
        return
    for slot in slots.values():  # whatever is believed lies within the file
        assert 0 <= slot.position <= slot.position + slot.nbytes <= len(content)
