"""What a run prints, and its contact sheet: small pictures, foreign texts, readers that go."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lib_ipadapter.batch import pictures, sheet
from lib_ipadapter.batch.ledger import DONE, Ledger, Made, Result
from lib_ipadapter.batch.pictures import SIDE, preview
from lib_ipadapter.batch.progress import Progress
from lib_ipadapter.batch.say import plain, say
from lib_ipadapter.batch.shards import Packer
from lib_ipadapter.batch.sheet import LATEST, Sheet, showing
from lib_ipadapter.batch.status import LEDGER, lines, status
from lib_ipadapter.batch.webui import OwnWebUI, Start
from tests.helpers.paths import ROOT
from tests.unit.test_batch_drive import rows_of

WILD = "\x1b[31mred\x1b[0m \x1b]0;title\x07<b>\x9b2J\x00 \x1b(B\u200bé"


def noise(kind: str = "PNG", mode: str = "RGB", side: int = 800) -> bytes:
    """A picture that no packing makes small."""
    made = Image.fromarray(np.random.default_rng(1).integers(0, 255, (side, side // 2, 3), np.uint8))
    made.convert(mode).save(file := BytesIO(), kind)
    return file.getvalue()


def made_rows(folder: Path, count: int, data: bytes, infotext: str = "", ending: str = "png") -> Ledger:
    ledger = rows_of(folder, [("one", "")] * count)
    (folder / "pictures").mkdir()
    ledger.put(planned="1", name="jobs.csv")
    results = []
    for number in range(1, count + 1):
        file = f"pictures/{number:09}.{ending}"
        (folder / file).write_bytes(data)
        results.append(Result(number, DONE, "a", finished=float(number), pictures=[Made(file, "", 1, infotext)]))
    ledger.record(results)
    return ledger


def shown(page: str) -> list[bytes]:
    return [base64.b64decode(text) for text in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)]


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("JPEG", "RGB"), ("WEBP", "RGB")]
)
def test_the_sheet_has_small_pictures_in_the_place_of_whole_ones(tmp_path: Path, kind: str, mode: str) -> None:
    data = noise(kind, mode)
    page = Sheet(tmp_path).write(made_rows(tmp_path, 60, data, ending=kind.lower()), "60 of 60").read_text()
    found = shown(page)
    assert len(found) == LATEST and page.count('<a href="pictures/') == LATEST
    for one in found:
        small = Image.open(BytesIO(one))
        assert small.size == (SIDE // 2, SIDE) and small.format == "JPEG"
    assert len(page) < LATEST * len(data) / 4


def test_a_preview_is_made_once_and_nothing_is_written_where_nothing_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, made = made_rows(tmp_path, 3, noise(side=300)), []
    monkeypatch.setattr(sheet, "preview", lambda data: made.append(1) or preview(data))
    page = Sheet(tmp_path)
    first = page.write(ledger, "3 of 3")
    stamp = first.stat().st_mtime_ns
    page.write(ledger, "3 of 3")
    assert len(made) == 3 and first.stat().st_mtime_ns == stamp
    page.write(ledger, "still 3 of 3")
    assert len(made) == 3 and "still 3 of 3" in first.read_text() and len(shown(first.read_text())) == 3


@pytest.mark.parametrize("data", [b"", b"no picture", noise()[:500], noise()[:-9000]])
def test_what_is_no_picture_has_no_preview(data: bytes) -> None:
    assert preview(data) == b""


def test_a_picture_that_is_too_large_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = noise(side=300)
    assert preview(data)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 300 * 150 - 1)
    assert preview(data) == b""


def test_pictures_in_tar_files_are_shown_and_the_tar_file_is_named(tmp_path: Path) -> None:
    ledger = made_rows(tmp_path, 4, noise(side=300))
    assert Packer(ledger, tmp_path, 2).pack(5) == 2
    page = Sheet(tmp_path).write(ledger, "").read_text()
    assert len(shown(page)) == 4 and 'href="shards/000001.tar"' in page


def test_the_sheet_is_written_beside_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet, "EVERY", 0.02)
    ledger = made_rows(tmp_path, 2, noise(side=300))
    ledger.close()
    with showing(Sheet(tmp_path), tmp_path / LEDGER, lambda: "2 of 2"):
        end = time.monotonic() + 30
        while not (tmp_path / "sheet.html").exists() and time.monotonic() < end:
            time.sleep(0.01)
    assert len(shown((tmp_path / "sheet.html").read_text())) == 2


def test_no_foreign_text_steers_a_terminal_or_a_page(tmp_path: Path) -> None:
    assert plain(WILD) == "red <b>?2J? \u200bé"
    ledger = made_rows(tmp_path, 1, noise(side=300), infotext=WILD)
    ledger._base.execute("UPDATE rows SET id = ?, endpoint = ?", (WILD, WILD))
    ledger.record([Result(1, "refused", WILD, sentence=WILD)])
    told = "\n".join(lines(status(tmp_path)))
    out = io.StringIO()
    progress = Progress("rows", 1, 0, out)
    progress.trouble(WILD)
    progress.ended("rows", Result(1, DONE, WILD), 1)
    progress.ended("rows", Result(1, "refused", sentence=WILD), 1)
    ledger.record([Result(1, DONE, finished=1.0, pictures=[Made("pictures/000000001.png", "", 1, WILD)])])
    page = Sheet(tmp_path).write(ledger, WILD).read_text()
    for text in (told, out.getvalue(), page):
        assert "red" in text and not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)
    assert "<b>" not in page


def test_the_last_words_of_a_webui_are_plain(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(f"first\n{WILD}\n")
    assert OwnWebUI(Start(str(tmp_path)), tmp_path / "log").last_words() == plain(WILD)


def test_a_reader_that_goes_and_a_log_that_is_full_end_nothing() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    say("a", Full())
    closed = io.StringIO()
    closed.close()
    say("a", closed)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_pipe_that_is_closed_is_no_traceback(tmp_path: Path, stream: str) -> None:
    """``status FOLDER | head -1``, and a run whose progress is piped so."""
    made_rows(tmp_path, 1, b"").close()
    code = (
        "import sys; from lib_ipadapter.batch.say import say\n"
        f"for number in range(3000): say('x' * 100, sys.{stream})\n"
        "from lib_ipadapter.batch.__main__ import main\n"
        f"assert main(['status', {str(tmp_path)!r}]) == 0\n"
    )
    read, write = os.pipe()
    other = {"stdout": "stderr", "stderr": "stdout"}[stream]
    command = [sys.executable, "-c", code]
    pipes: dict[str, Any] = {stream: write, other: subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        os.close(write)
        os.read(read, 10)
        os.close(read)
        told = b"".join(part or b"" for part in process.communicate(timeout=60))
    assert process.returncode == 0 and b"Traceback" not in told and b"BrokenPipe" not in told


def test_a_terminal_that_lacks_a_character_ends_nothing(tmp_path: Path) -> None:
    ledger = made_rows(tmp_path, 1, b"")
    ledger.record([Result(1, "refused", sentence="猫 is no adapter: correct it.")])
    ledger.close()
    done = subprocess.run(
        [sys.executable, "-m", "lib_ipadapter.batch", "status", str(tmp_path)],
        cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "? is no adapter" in done.stdout
    assert json.loads(json.dumps(done.stderr)) == ""
