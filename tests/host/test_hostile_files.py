"""Whatever lies in the folders, listing it takes bounded time and memory, and never the process."""

from __future__ import annotations

import json
import logging
import os
import signal
import struct
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors
import torch

from lib_ipadapter.checkpoint import child, memory, reading, torch_files
from lib_ipadapter.checkpoint.containers import read_shapes, read_table
from lib_ipadapter.checkpoint.reading import Reading
from lib_ipadapter.errors import CheckpointError
from tests.helpers.checkpoint_files import BASE, listed, names, write
from tests.helpers.containers import SMALL, save_zip, tensors


def put(number: int) -> bytes:
    return b"r" + struct.pack("<I", number)


def doubled(depth: int = 40) -> bytes:
    """A tuple of twice a tuple of twice … : 2^depth to whoever looks inside."""
    code = b")" + put(0)
    for number in range(1, depth):
        code += b"j" + struct.pack("<I", number - 1) + b"\x86" + put(number)
    return code


def text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word.encode())) + word.encode()


STORAGE = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x01tQ"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
# Pickles that take for ever to a reader that looks inside before it looks at what it has.
ENDLESS = {
    "a dict's key": b"\x80\x02}" + doubled() + b"K\x01s.",
    "one of a dict's keys": b"\x80\x02}(" + text("x") + b"K\x01" + doubled() + b"K\x01u.",
    "the key of an OrderedDict's item": b"\x80\x02ccollections\nOrderedDict\n]" + doubled() + b"K\x01\x86a\x85R.",
    "a member of a set": b"\x80\x04\x8f(" + doubled() + b"\x90.",
    "a frozen set": b"\x80\x04(" + doubled() + b"\x91.",
    "a storage's key": b"\x80\x02" + STORAGE.replace(text("0"), doubled()) + b".",
    "a storage's type": b"\x80\x02(" + text("storage") + doubled() + text("0") + text("cpu") + b"K\x01tQ.",
    "a tensor's shape": b"\x80\x02" + REBUILD + b"(" + STORAGE + b"K\x00" + doubled() + b")\x89)tR.",
    "torch.Size": b"\x80\x02ctorch\nSize\n" + doubled() + b"\x85R.",
    "a million sizes": b"\x80\x02" + REBUILD + b"(" + STORAGE + b"K\x00(" + b"K\x01" * 900_000 + b"t)\x89)tR.",
    "a number of 255 digits as a key": b"\x80\x02}\x8a\xff" + b"\x7f" * 255 + b"K\x01s.",
    "a list copied without end": b"\x80\x02](" + b"K\x01" * 500_000 + b"e" + put(0) + b"ctorch\nSize\n" + put(1)
    + b"".join(b"h\x01h\x00\x85R0" for _ in range(60_000)) + b".",
}  # fmt: skip


def zip_of(pickled: bytes, path: Path, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("archive/data.pkl", pickled)
    return path


def worked() -> float:
    """Seconds of work of this process and of those that it has ended: others may have the processor meanwhile."""
    return sum(os.times()[:4])


def refused(path: Path, within: float = 2.0) -> str:
    """The sentence about a file, which comes soon."""
    begin = worked()
    with pytest.raises(CheckpointError) as error:
        read_table(path)
    assert worked() - begin < within
    assert len(error.value.detail) < 500
    return error.value.detail


@pytest.mark.parametrize("name", ENDLESS)
def test_pickles_that_would_take_for_ever_are_refused_at_once(tmp_path: Path, name: str) -> None:
    assert "gain" in refused(zip_of(ENDLESS[name], tmp_path / "x.pth"))


def test_the_keys_of_old_files_storages_are_names(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(1)}, tmp_path / "x", _use_new_zipfile_serialization=False)
    before, _ = (tmp_path / "x").read_bytes().rsplit(b"\x80\x02", 1)  # the last pickle is the list of keys
    (tmp_path / "x").write_bytes(before + b"\x80\x02]" + doubled() + b"a." + struct.pack("<qf", 1, 0))
    assert "storages contradict" in refused(tmp_path / "x")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("member", ["data.pkl", "byteorder", "data/0"])
def test_a_packed_member_is_not_unpacked(tmp_path: Path, method: int, member: str) -> None:
    """1.3 KB of bz2 are 3.4 GB; even the word in ``byteorder`` may be a page of them."""
    save_zip(tensors(SMALL["base"]), tmp_path / "x")
    with zipfile.ZipFile(tmp_path / "x") as old, zipfile.ZipFile(tmp_path / "y.pth", "w") as new:
        held = {
            "archive/byteorder" if "/" not in n else f"archive/{n.split('/', 1)[1]}": old.read(n)
            for n in old.namelist()
        }
        held["archive/byteorder"] = b"little"
        for name, data in held.items():
            new.writestr(name, data, method if name == f"archive/{member}" else zipfile.ZIP_STORED)
    assert "packed again with compression" in refused(tmp_path / "y.pth")


def test_what_is_read_of_a_file_for_its_table_is_bounded(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "many", "w") as archive:
        for number in range(20_000):
            archive.writestr(zipfile.ZipInfo(f"{number:0400}"), b"")
    assert "larger than any model's" in refused(tmp_path / "many", 5)
    zip_of(b"\x80\x02" + b"N" * torch_files.PICKLE_LIMIT + b".", tmp_path / "long")
    assert "larger than any model's" in refused(tmp_path / "long")
    with open(tmp_path / "text", "wb") as file:  # a text of 3 GB, in a file that has as much
        file.write(b"\x80\x02X" + struct.pack("<I", 3 * 10**9))
        file.truncate(4 * 10**9)
    assert "larger than any model's" in refused(tmp_path / "text")


def header(entries: object, length: int | None = None, body: bytes = b"") -> bytes:
    told = entries if isinstance(entries, bytes) else json.dumps(entries, separators=(",", ":")).encode()
    return struct.pack("<Q", len(told) if length is None else length) + told + body


def entry(**changes: object) -> dict[str, object]:
    return {"dtype": "F16", "shape": [2], "data_offsets": [0, 4], **changes}


@pytest.mark.parametrize("count", [33, 40_000, 1_000_000])
def test_a_tensor_of_a_million_sizes_is_refused_at_once(tmp_path: Path, count: int) -> None:
    (tmp_path / "x").write_bytes(header({"x": entry(shape=[1] * count, data_offsets=[0, 2])}, body=b"\0\0"))
    assert "sizes that no tensor has" in refused(tmp_path / "x")


def test_a_header_is_capped_before_the_library_sees_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(header(b"{" + b" " * 8_000_000 + b"}"))
    monkeypatch.setattr(safetensors, "safe_open", None)
    assert "8,000,000 are allowed" in refused(tmp_path / "x")


def test_names_and_their_number_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(header({"x" * 501: entry()}, body=b"\0" * 4))
    assert "more tensors than any model" in refused(tmp_path / "x")
    many = {str(i): {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(50_001)}
    (tmp_path / "x").write_bytes(header(many))
    assert "more tensors than any model" in refused(tmp_path / "x", 5)


def test_half_precisions_and_eight_bits_are_listed(tmp_path: Path) -> None:
    entries = {
        "a": entry(dtype="BF16"), "b": entry(dtype="F8_E5M2", data_offsets=[4, 6]),
        "c": entry(dtype="F8_E4M3", data_offsets=[6, 8]), "d": entry(dtype="U16", data_offsets=[8, 12]),
    }  # fmt: skip
    (tmp_path / "x").write_bytes(header({"__metadata__": {"k": "v"}, **entries}, body=b"\0" * 12))
    table = read_table(tmp_path / "x")
    dtypes = {name: entry.dtype for name, entry in table.entries.items()}
    assert dtypes == {"a": "bfloat16", "b": "float8_e5m2", "c": "float8_e4m3fn", "d": "u16"}
    assert table.metadata == {"k": "v"}


def test_a_file_of_many_tensors_takes_no_longer_than_their_number_asks_for(tmp_path: Path) -> None:
    many = {f"ip_adapter.{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(45_000)}
    (tmp_path / "x.safetensors").write_bytes(header(many))
    begin = worked()
    assert "half an IP-Adapter" in listed(tmp_path).problems[0].problem
    assert worked() - begin < 10


# --- claims -----------------------------------------------------------------------------------------------------------


def test_tensors_may_not_share_their_bytes_in_safetensors(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(header({"x": entry(), "y": entry()}, body=b"\0" * 4))
    assert "contradicts itself" in refused(tmp_path / "x")
    (tmp_path / "x").write_bytes(header({"x": entry(data_offsets=[2, 6])}, body=b"\0" * 6))
    assert "contradicts itself" in refused(tmp_path / "x")


def test_tensors_may_not_take_more_than_the_file_has(tmp_path: Path) -> None:
    whole = torch.zeros(100_000)
    torch.save({str(i): whole[i : 50_000 + i] for i in range(100)}, tmp_path / "views")
    assert "tensors claim 20,000,000 bytes" in refused(tmp_path / "views")
    torch.save({str(i): whole for i in range(100)}, tmp_path / "tied")  # one tensor with many names is none the larger
    assert len(read_shapes(tmp_path / "tied")) == 100


def test_storages_may_not_lie_on_one_another(tmp_path: Path) -> None:
    torch.save({str(i): torch.full((1000,), float(i)) for i in range(3)}, tmp_path / "x")
    content = bytearray((tmp_path / "x").read_bytes())
    with zipfile.ZipFile(tmp_path / "x") as archive:
        (first, *_, last) = (info for info in archive.infolist() if "/data/" in info.filename)
        start = archive.start_dir
    place = content.index(last.filename.encode(), start) - 4  # where the directory says that it begins
    assert struct.unpack_from("<I", content, place)[0] == last.header_offset
    struct.pack_into("<I", content, place, first.header_offset)
    (tmp_path / "x").write_bytes(content)
    assert "storages overlap" in refused(tmp_path / "x")


# --- the process that reads -------------------------------------------------------------------------------------------


@pytest.fixture
def spoilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A process for reading that does, with files of certain names, what the reader should never do."""

    def spoil(line: str, wait: float = 60.0) -> None:
        (tmp_path / "spoilt.py").write_text(
            "import json, os, sys, time\n"
            "from lib_ipadapter.checkpoint import child\n"
            "real = child.read_table\n"
            "def read_table(path):\n"
            f"    if 'bad' in path: {line}\n"
            "    return real(path)\n"
            "child.read_table = read_table\n"
        )
        begin = reading.BEGIN.replace("; from lib", "; import spoilt; from lib")
        monkeypatch.setattr(reading, "BEGIN", begin)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(reading, "WORK", 0.5)
        monkeypatch.setattr(reading, "WAIT", wait)  # long on a busy machine, where it is not what is asked

    return spoil


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("hash(__import__('functools').reduce(lambda t, _: (t, t), range(40), ()))", "takes far longer to read than"),
        ("[' ' * 10**9 for _ in range(99)]", "takes more memory to read than"),
        ("os.abort()", "ends the process that reads its header: it is damaged"),
        ("sys.exit()", "ends the process that reads its header"),
        ("return (_ for _ in ()).throw(RecursionError())", "ends the process that reads its header"),
    ],
)
def test_a_file_that_harms_its_reader_is_named_remembered_and_the_only_one(tmp_path, spoilt, caplog, line, sentence):
    folder, memory = tmp_path / "m", tmp_path / "memory.json"
    for name in ("a", "bad", "z"):
        write(folder / f"{name}.safetensors", BASE)
    spoilt(line)
    with caplog.at_level(logging.INFO, "ip-adapter"):
        catalog = listed(folder, memory=memory)
    assert names(catalog.adapters) == ["a", "z"]
    assert sentence in catalog.problems[0].problem
    told = [record.getMessage() for record in caplog.records]
    assert f"IP-Adapter: reading {folder / 'bad.safetensors'}" in told
    caplog.clear()
    with caplog.at_level(logging.INFO, "ip-adapter"):
        again = listed(folder, memory=memory)
    assert sentence in again.problems[0].problem and caplog.records == []


def test_a_disk_that_does_not_answer_is_asked_again_another_time(tmp_path, spoilt):
    folder, memory = tmp_path / "m", tmp_path / "memory.json"
    write(folder / "bad.safetensors", BASE)
    spoilt("time.sleep(60)", wait=1.0)
    catalog = listed(folder, memory=memory)
    assert "could not be read within 1 seconds" in catalog.problems[0].problem
    (tmp_path / "spoilt.py").write_text("")
    assert names(listed(folder, memory=memory).adapters) == ["bad"]


def test_many_harmful_files_take_less_and_less_time(tmp_path, spoilt, monkeypatch):
    for number in range(4):
        write(tmp_path / "m" / f"bad {number}.safetensors", BASE)
    spoilt("time.sleep(60)", wait=1.0)
    monkeypatch.setattr(reading, "LEAST", 0.1)
    told = [entry.problem for entry in listed(tmp_path / "m").problems]
    assert [sentence.split(" within ")[1].split(" sec")[0] for sentence in told] == ["1", "0.5", "0.25", "0.2"]


def test_a_process_that_takes_too_much_is_ended_where_the_system_has_no_limits(tmp_path, spoilt, monkeypatch):
    write(tmp_path / "m" / "bad.safetensors", BASE)
    spoilt("time.sleep(60)", wait=1.0)
    monkeypatch.setattr(sys, "platform", "darwin")
    info = SimpleNamespace(rss=3 * child.MEMORY_LIMIT)
    process = SimpleNamespace(memory_info=lambda: info, children=lambda recursive: [])
    monkeypatch.setitem(sys.modules, "psutil", SimpleNamespace(Process=lambda pid: process))
    assert "takes more memory" in listed(tmp_path / "m").problems[0].problem
    monkeypatch.setitem(sys.modules, "psutil", None)  # not installed: only the time is watched
    monkeypatch.delattr(signal, "setitimer")
    catalog = listed(tmp_path / "m", memory=tmp_path / "memory.json")
    assert "could not be read within" in catalog.problems[0].problem
    (tmp_path / "spoilt.py").write_text("")
    again = listed(tmp_path / "m", memory=tmp_path / "memory.json")
    assert "could not be read within" in again.problems[0].problem


@pytest.mark.parametrize("python", ["", "/nowhere/python", "/bin/true"])
def test_where_there_can_be_no_process_files_are_read_within(tmp_path, monkeypatch, caplog, python):
    write(tmp_path / "x.safetensors", BASE)
    zip_of(ENDLESS["a dict's key"], tmp_path / "y.pth")
    monkeypatch.setattr(sys, "executable", python)
    with caplog.at_level(logging.WARNING, "ip-adapter"):
        catalog = listed(tmp_path)
    assert names(catalog.adapters) == ["x"] and names(catalog.problems) == ["y"]
    told = [record.getMessage() for record in caplog.records]
    assert "without a process of their own" in told[0]
    assert told[1:] == [f"IP-Adapter: reading {tmp_path / name}" for name in ("x.safetensors", "y.pth")]


def test_the_process_imports_no_torch_and_gives_the_same_tables(tmp_path):
    write(tmp_path / "x.safetensors", BASE, metadata={"image_encoder": "e" * 1000, "other": "text"})
    save_zip(tensors(SMALL["faceid"]), tmp_path / "y.bin")
    with Reading() as reader:
        table = reader.table(tmp_path / "x.safetensors")
        assert table.entries == read_table(tmp_path / "x.safetensors").entries
        assert table.metadata == {"image_encoder": "e" * 200}  # asked for without having been announced
        ours = {name: (e.dtype, e.shape) for name, e in reader.table(tmp_path / "y.bin").entries.items()}
        assert ours == {name: (e.dtype, e.shape) for name, e in read_table(tmp_path / "y.bin").entries.items()}
        pid = reader._child._process.pid
        mapped = Path(f"/proc/{pid}/maps").read_text()
    assert "_safetensors_rust" in mapped and "torch" not in mapped
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("python", ["", sys.executable])
def test_a_missing_package_is_named_and_not_held_against_the_file(tmp_path, monkeypatch, python):
    write(tmp_path / "m" / "x.safetensors", BASE)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "safetensors", None)
        patch.setattr(sys, "executable", python)
        patch.setattr(reading, "BEGIN", f"import sys; sys.modules['safetensors'] = None; {reading.BEGIN}")
        catalog = listed(tmp_path / "m", memory=tmp_path / "memory.json")
        assert "package safetensors, which is missing: install it" in catalog.problems[0].problem
    assert names(listed(tmp_path / "m", memory=tmp_path / "memory.json").adapters) == ["x"]


def test_a_file_that_no_rule_expected_is_a_problem_of_its_own(tmp_path, monkeypatch):
    write(tmp_path / "x.safetensors", BASE)
    write(tmp_path / "bad.safetensors", BASE)
    real = memory.recognise

    def recognise(path, table):
        if path.stem == "bad":
            raise ZeroDivisionError
        return real(path, table)

    monkeypatch.setattr(memory, "recognise", recognise)
    catalog = listed(tmp_path)
    assert names(catalog.adapters) == ["x"]
    assert "cannot be recognised (ZeroDivisionError): download" in catalog.problems[0].problem


def test_layers_with_odd_numbers_are_no_layers(tmp_path):
    attn = "transformer_blocks.0.attn2.to_q.weight"
    for number in ("", "1..1", "9" * 400, "²"):
        write(tmp_path / "x.safetensors", {f"model.diffusion_model.input_blocks.{number}.{attn}": (2, 2)})
        assert "without a Stable Diffusion UNet" in listed(tmp_path).problems[0].problem


def test_folders_without_end_are_left_at_some_depth(tmp_path):
    folder = tmp_path
    for _ in range(60):
        folder = folder / "d"
        folder.mkdir()
    write(folder / "deep.safetensors", BASE)
    write(tmp_path / "d" / "x.safetensors", BASE)
    assert names(listed(tmp_path).adapters) == ["x"]
