"""Two commands in one folder."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from lib_ipadapter.batch import lock
from lib_ipadapter.batch.lock import NAME, alone, locked
from lib_ipadapter.batch.problems import BatchError, DiskError
from tests.helpers.paths import ROOT


def test_a_folder_is_one_commands_and_that_of_nobody_who_was_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from lib_ipadapter.batch.lock import alone\n"
        f"with alone(Path({str(tmp_path)!r})): print('in', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "in\n"
        with pytest.raises(BatchError, match="a run is at work"), alone(tmp_path):
            pass
        assert (tmp_path / NAME).read_text().split()[1] == str(other.pid)
        other.kill()
    with alone(tmp_path):
        assert (tmp_path / NAME).read_text().split()[1] == str(os.getpid())


class Msvcrt(ModuleType):
    """Windows' locks as its documentation has them: of bytes from where the file stands, and refused with EACCES where
    another process has them."""

    LK_NBLCK = 2

    def __init__(self) -> None:
        super().__init__("msvcrt")
        self.calls: list[tuple[int, int, int]] = []
        self.taken: set[int] = set()

    def locking(self, descriptor: int, mode: int, count: int) -> None:
        place = os.lseek(descriptor, 0, os.SEEK_CUR)
        self.calls.append((place, mode, count))
        if place in self.taken:
            raise OSError(errno.EACCES, "Permission denied")
        self.taken.add(place)


def test_on_windows_everybody_locks_the_same_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = Msvcrt()
    monkeypatch.setitem(sys.modules, "msvcrt", system)
    (tmp_path / NAME).write_text("of an earlier run, which it stands behind")
    with (tmp_path / NAME).open("a+") as first, (tmp_path / NAME).open("a+") as second:
        assert locked(first, "nt") and not locked(second, "nt")
    assert system.calls == [(0, Msvcrt.LK_NBLCK, 1)] * 2


def test_a_disk_without_locks_is_told_and_is_nobodys_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(file: object) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "locked", without)
    with pytest.raises(DiskError, match=f"{tmp_path} .*No locks available"), alone(tmp_path):
        pass
