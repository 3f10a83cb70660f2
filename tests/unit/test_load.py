"""Reading files: every container gives the same tensors, and headers are read alone."""

from __future__ import annotations

import io
import struct
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_ipadapter.checkpoint import containers
from lib_ipadapter.checkpoint.containers import read_shapes, read_table
from lib_ipadapter.checkpoint.identify import identify
from lib_ipadapter.checkpoint.load import (
    load_adapter,
    load_encoder_state,
    load_text_state,
    same_image_tower,
)
from lib_ipadapter.checkpoint.tensor_files import open_tensors, read_tensor
from lib_ipadapter.encode.clip_image import ImageEncoder
from lib_ipadapter.errors import CheckpointError
from tests.helpers.checkpoint_shapes import open_clip_tower, open_clip_words, transformers_tower, transformers_words
from tests.helpers.containers import SMALL, WRITERS, same, save_flat, save_legacy, save_safetensors, save_zip, tensors


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
        for key, entry in read_table(tmp_path / "x.pt").entries.items():
            assert same(read_tensor(file, key, entry), state[key].detach()), key


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.float8_e4m3fn]
)
def test_safetensors_files_give_the_librarys_own_tensors_which_nobody_changes_later(tmp_path, dtype):
    generator = torch.Generator().manual_seed(0)
    state = {"a": torch.randn(3, 5, generator=generator), "b": torch.randn(2, generator=generator)}
    state |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3)}
    save_file({key: tensor.to(dtype) for key, tensor in state.items()}, tmp_path / "x")
    theirs = {key: tensor.clone() for key, tensor in load_file(tmp_path / "x").items()}
    with open_tensors(tmp_path / "x") as file:
        ours = {key: file.read(key) for key in file.entries}
        assert {key: (entry.shape, entry.dtype) for key, entry in file.entries.items()} == {
            key: (tuple(tensor.shape), str(dtype).removeprefix("torch.")) for key, tensor in theirs.items()
        }
    with open(tmp_path / "x", "r+b") as file:  # the same file, written over
        size = file.seek(0, 2)
        file.seek(0)
        file.write(b"\xff" * size)
    whole = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}[ours["a"].element_size()]
    for key, tensor in theirs.items():
        assert ours[key].dtype == dtype
        assert torch.equal(ours[key].view(whole), tensor.view(whole)), key
        ours[key].view(whole).zero_()  # and it may be written to


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

    monkeypatch.setattr(containers, "open", lambda path, mode: Counting(io.FileIO(path)), raising=False)
    assert read_shapes(tmp_path / "x") == {"image_proj.a": (1000, 1000), "ip_adapter.b": (1000, 1000)}
    assert 0 < read < 100_000


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e5m2])
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, dtype, poison):
    spec = identify(SMALL["plus"])
    for key in ("image_proj.latents", "image_proj.proj_in.bias", "ip_adapter.5.to_k_ip.weight"):
        state = tensors(SMALL["plus"])
        state[key].view(-1)[7] = poison
        save_safetensors({name: tensor.to(dtype) for name, tensor in state.items()}, tmp_path / "x")
        with pytest.raises(CheckpointError, match=f"not finite.*{key}.*download the original"):
            load_adapter(tmp_path / "x", spec)


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


@pytest.mark.parametrize("write", [save_safetensors, torch.save])
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("at_least", [torch.float16, torch.float32])
@pytest.mark.parametrize("build", [open_clip_tower, transformers_tower])
def test_an_image_tower_is_read_in_more_bits_at_once(tmp_path, write, kind, at_least, build):
    """In fewer never, which might lose what is read; and what was read stays what it was, whoever writes the file."""
    state = {key: tensor.to(kind) for key, tensor in tensors(build(*TOWER)).items()}
    write(state, tmp_path / "x")
    loaded = load_encoder_state(tmp_path / "x", at_least)
    wanted = at_least if (kind, at_least) in [(torch.float16, torch.float32), (torch.bfloat16, torch.float32)] else kind
    with open(tmp_path / "x", "r+b") as file:
        file.write(bytes((tmp_path / "x").stat().st_size))
    prefix = "visual." if build is open_clip_tower else ""
    assert all(same(tensor, state[f"{prefix}{key}"].to(wanted)) for key, tensor in loaded.items())


def parts_of(block: int) -> list[str]:
    return [f"vision_model.encoder.layers.{block}.self_attn.{part}_proj.weight" for part in "qkv"]


@pytest.mark.parametrize("write", [save_safetensors, torch.save])
@pytest.mark.parametrize("at_least", [None, torch.float32])
def test_what_the_tower_has_as_one_tensor_is_read_into_one_memory_and_taken_as_it_is(tmp_path, write, at_least):
    state = {key: tensor.half() for key, tensor in tensors(transformers_tower(*TOWER)).items()}
    write(state, tmp_path / "x")
    loaded = load_encoder_state(tmp_path / "x", at_least)
    wanted = torch.cat([state[key] for key in parts_of(0)]).to(at_least or torch.float16)
    first, *others = [loaded[key] for key in parts_of(0)]
    assert all(one.untyped_storage().data_ptr() == first.data_ptr() for one in others)
    encoder = ImageEncoder.from_state(identify(transformers_tower(*TOWER)), loaded, dtype=wanted.dtype)
    taken = encoder._tower.transformer.resblocks[0].attn.in_proj_weight
    assert taken.data_ptr() == first.data_ptr() and same(taken.data, wanted)


def test_what_has_several_names_in_a_tower_is_read_once(tmp_path):
    state = tensors(transformers_tower(*TOWER))
    one, other = (f"vision_model.encoder.layers.0.layer_norm{number}.weight" for number in (1, 2))
    state[other] = state[one]
    torch.save(state, tmp_path / "x")
    loaded = load_encoder_state(tmp_path / "x")
    assert loaded[other].data_ptr() == loaded[one].data_ptr() and same(loaded[one], state[one])


@pytest.mark.parametrize("write", [save_safetensors, torch.save])
def test_parts_of_one_tensor_that_are_not_alike_are_read_as_they_are(tmp_path, write):
    state = tensors(transformers_tower(*TOWER))
    query, key, value = parts_of(0)
    state[query], state[key], state[value] = state[query].half(), torch.zeros(3, 2), torch.tensor(1.0)
    write(state, tmp_path / "x")
    loaded = load_encoder_state(tmp_path / "x")
    assert all(same(loaded[name], state[name]) for name in state)


def test_a_file_without_an_image_tower_is_no_encoder(tmp_path):
    save_safetensors(tensors(SMALL["base"]), tmp_path / "x")
    with pytest.raises(CheckpointError, match="no image encoder: get"):
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
