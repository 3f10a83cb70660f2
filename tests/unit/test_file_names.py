"""Names of files, and texts out of them, that cannot be sent as they are, or are of any length."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
import torch

from lib_ipadapter.checkpoint.load import load_adapter, load_encoder_state
from lib_ipadapter.errors import SENTENCE_LIMIT, CheckpointError, IPAdapterError
from tests.helpers.checkpoint_files import BASE, listed, names, write
from tests.helpers.containers import SMALL, save_safetensors, save_zip, tensors
from tests.helpers.files import encoder_state


def latin(folder: Path, name: bytes) -> Path:
    return Path(os.fsdecode(os.fsencode(folder) + b"/" + name))


def sent(*texts: str) -> None:
    for text in texts:
        text.encode("utf-8")


@pytest.mark.parametrize("write_one", [save_safetensors, save_zip])
def test_a_file_under_any_name_is_listed_and_loaded(tmp_path: Path, write_one) -> None:
    folder = latin(tmp_path, b"mod\xe8les")
    folder.mkdir()
    state = tensors(SMALL["base"])
    write_one(state, tmp_path / "x")
    (tmp_path / "x").rename(latin(folder, b"caf\xe9.safetensors"))
    torch.save(encoder_state(), latin(folder, b"clip\xff.pth"))
    (folder / latin(folder, b"bad\n\xe9.bin")).write_bytes(b"")
    catalog = listed(folder)
    (adapter,), (encoder,), (bad,) = catalog.adapters, catalog.encoders, catalog.problems
    for entry in (adapter, encoder, bad):
        sent(entry.name, entry.file, entry.file_name)
    assert (adapter.name, encoder.name, bad.name) == ("caf?", "clip?", "bad??")
    assert torch.equal(load_adapter(adapter.path, adapter.spec).key[2], state["ip_adapter.5.to_k_ip.weight"])
    assert load_encoder_state(encoder.path).keys() == encoder_state().keys()
    assert catalog.find("caf?") == adapter
    with pytest.raises(CheckpointError) as error:
        catalog.find("bad??")
    sent(error.value.detail)


def test_files_whose_names_look_alike_can_each_be_chosen(tmp_path: Path) -> None:
    for name in (b"caf\xe8.safetensors", b"caf\xe9.safetensors"):
        write(latin(tmp_path, name), BASE)
    catalog = listed(tmp_path)
    first, second = catalog.adapters
    assert first.name != second.name
    assert (catalog.find(first.name), catalog.find(second.name)) == (first, second)


def test_texts_out_of_files_can_be_sent(tmp_path: Path) -> None:
    torch.save({"lora\ud800_unet": torch.zeros(1), "a\x1b[31m": torch.zeros(1)}, tmp_path / "key.bin")
    lone = json.dumps(
        {"__metadata__": {"image_encoder": "\ud800"}, "x": {"dtype": "F16", "shape": [0], "data_offsets": [0, 0]}}
    )
    (tmp_path / "text.safetensors").write_bytes(struct.pack("<Q", len(lone)) + lone.encode())
    write(tmp_path / "long.safetensors", BASE, metadata={"image_encoder": "e\u0085" * 100_000})
    catalog = listed(tmp_path)
    sent(*(entry.problem for entry in catalog.problems))
    assert names(catalog.problems) == ["key", "text"]
    assert "a?[31m" in catalog.problems[0].problem
    (adapter,) = catalog.adapters
    assert adapter.spec.image_encoder == "e?" * 100


def test_what_a_file_says_of_itself_is_repeated_in_short(tmp_path: Path) -> None:
    long = {"x": {"dtype": "F" * 1_000_000, "shape": [0], "data_offsets": [0, 0]}}
    text = json.dumps(long).encode()
    (tmp_path / "dtype.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    torch.save({"k" * 400: torch.zeros(1), "l" * 400: torch.zeros(2)}, tmp_path / "keys.bin")
    for problem in listed(tmp_path).problems:
        assert len(problem.problem) < 500


def test_a_name_of_many_files_is_told_in_short(tmp_path: Path) -> None:
    for number in range(300):
        write(tmp_path / f"{'d' * 100} {number}" / "same.safetensors", {})
    catalog = listed(tmp_path)
    with pytest.raises(CheckpointError, match="'same' means several files: choose one of .* and 292 more") as error:
        catalog.find("same")
    assert len(error.value.detail) < 2000


def test_no_sentence_is_longer_than_anybody_reads() -> None:
    error = IPAdapterError("x\ud800" * 10_000)
    assert error.detail == "x?" * (SENTENCE_LIMIT // 2 - 1) + "x…"
