"""What the catalogue remembers of the files that it has read."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from lib_ipadapter.checkpoint import memory as memory_module
from lib_ipadapter.checkpoint.catalog import Catalog
from tests.helpers.checkpoint_files import BASE, INSTANT, KOLORS, LORA, WIDE, listed, names, write


@pytest.fixture
def reads(monkeypatch):
    """The files whose headers have been read."""
    seen = []
    real = memory_module.recognise

    def counting(path, table):
        seen.append(path.name)
        return real(path, table)

    monkeypatch.setattr(memory_module, "recognise", counting)
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
    monkeypatch.setattr(memory_module, "rules", lambda: "newer")
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
        text = json.dumps({"rules": memory_module.rules(), "files": {str(path): content}})
        content = text.replace('"SIZE"', str(stat.st_size)).replace('"TIME"', str(stat.st_mtime_ns)).encode()
    memory.write_bytes(content.replace(b"RULES", memory_module.rules().encode()))
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


def test_a_later_process_reads_no_header_again(tmp_path, monkeypatch):
    for i, shapes in enumerate([BASE, LORA, KOLORS, INSTANT] * 3):
        write(tmp_path / "models" / f"folder {i % 5}" / f"{i}.safetensors", shapes)
    first = listed(tmp_path / "models", memory=tmp_path / "memory.json")

    def fail(path, table):
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr(memory_module, "recognise", fail)
    memory_module.rules.cache_clear()  # as in a new process
    again = listed(tmp_path / "models", memory=tmp_path / "memory.json")
    assert (again.adapters, again.problems) == (first.adapters, first.problems)
    assert (len(again.adapters), len(again.problems)) == (6, 6)


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
