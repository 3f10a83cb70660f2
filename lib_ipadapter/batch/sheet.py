"""A contact sheet of the latest pictures, as a page that any browser opens from the folder."""

from __future__ import annotations

import base64
import contextlib
import html
import json
import sqlite3
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..replace_file import replace_file
from .ledger import Ledger
from .pictures import preview
from .problems import BatchError
from .say import plain
from .shards import shard_file

NAME = "sheet.html"
LATEST = 48
EVERY = 10.0  # seconds; the page loads itself anew as often
AT_MOST = 0.1  # of the time is for sheets, where pictures are large or many
STYLE = (
    "body{font:14px system-ui,sans-serif;margin:16px;background:Canvas;color:CanvasText;color-scheme:light dark}"
    "main{display:grid;gap:12px;grid-template-columns:repeat(auto-fill,minmax(180px,1fr))}"
    "figure{margin:0}img{width:100%;height:180px;object-fit:contain;background:#8883}"
    "figcaption{overflow-wrap:anywhere}"
)


class Sheet:
    """The page of the run in ``folder``. A picture's preview is made once, as long as it is among the latest."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._previews: dict[str, str] = {}
        self._page = ""

    def write(self, ledger: Ledger, line: str) -> Path:
        """Write the page anew; ``line`` says how far the run is. Raises OSError."""
        rows = ledger.latest(LATEST)
        known, self._previews = self._previews, {}
        figures = "\n".join(self._figure(row, known) for row in rows)
        title = html.escape(plain(self._folder.resolve().name))
        page = (
            '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
            f'<meta http-equiv="refresh" content="{EVERY:.0f}">\n'
            f"<title>{title}</title><style>{STYLE}</style>\n"
            f"<h1>{title}</h1><p>{html.escape(plain(line))}</p>\n<main>\n{figures}\n</main></html>\n"
        )
        path = self._folder / NAME
        if page != self._page:
            replace_file(path, page)
            self._page = page
        return path

    def _figure(self, row: dict[str, Any], known: dict[str, str]) -> str:
        """A row's first picture, small, with a link to the whole one, or to the tar file that it lies in."""
        pictures = json.loads(row["pictures"])
        if not pictures:
            return ""
        file = pictures[0]["file"]
        shown = known[file] if file in known else self._made(row["shard"], file)
        if shown is not None:
            self._previews[file] = shown
        place = html.escape(file if row["shard"] is None else shard_file(row["shard"]))
        name = html.escape(f"row {row['number']}" + (f" · {plain(row['id'])}" if row["id"] else ""))
        words = html.escape(plain(pictures[0]["infotext"].partition("\n")[0][:300]))
        image = f'<img src="{shown}" alt="{name}" title="{words}">' if shown else name
        return f'<figure><a href="{place}">{image}</a><figcaption>{name}<br>seed {row["seed"]}</figcaption></figure>'

    def _made(self, shard: int | None, file: str) -> str | None:
        """A preview as an address of its own; "" where a picture has none, None where it cannot be read now."""
        try:
            data = (
                (self._folder / file).read_bytes() if shard is None else _inside(self._folder / shard_file(shard), file)
            )
        except (OSError, KeyError, tarfile.TarError):  # it is just being packed, for instance
            return None
        small = preview(data)
        return f"data:image/jpeg;base64,{base64.b64encode(small).decode()}" if small else ""


def _inside(shard: Path, file: str) -> bytes:
    with tarfile.open(shard) as opened:
        found = opened.extractfile(Path(file).name)
        return b"" if found is None else found.read()


def _reading(path: Path) -> contextlib.closing[Ledger]:
    return contextlib.closing(Ledger(path, reads_only=True))


@contextlib.contextmanager
def showing(sheet: Sheet, path: Path, line: Callable[[], str]) -> Iterator[None]:
    """While the body runs, the page is written again and again by a thread of its own: previews take longer than rows
    may wait. ``path``: the run's ledger. What cannot be written is tried again the next time."""
    is_over = threading.Event()

    def work() -> None:
        pause = EVERY
        while not is_over.wait(pause):
            begun = time.monotonic()
            with contextlib.suppress(OSError, sqlite3.Error, BatchError), _reading(path) as ledger:
                sheet.write(ledger, line())
            pause = max(EVERY, (time.monotonic() - begun) / AT_MOST)

    thread = threading.Thread(target=work, name="IP-Adapter: sheet", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
