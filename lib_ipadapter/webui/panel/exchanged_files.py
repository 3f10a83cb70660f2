"""Files that come from the page or go to it, and of which nothing stays on the disk.

gradio's own component copies what it is given, remembers the copies and never deletes them, nor what was uploaded.
gradio 4 leaves alone what lies in its folder for uploads, and passes files as objects of its own; gradio 3 as dicts.
"""

from __future__ import annotations

import atexit
import contextlib
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

SENT, RECEIVED = 60.0, 600.0  # seconds: a download has begun by then; a question about an upload has been answered


class ExchangedFiles:
    """The files of ``component``, a ``gr.File``. They are deleted when their time is over, and at the process's end;
    each with the folder that it has for itself. Its value is a path, None for no file or one that has gone.

    It must never be answered with ``gr.update``: gradio 4 would put a new component in its place for that page, which
    knows nothing of this."""

    def __init__(self, component: Any) -> None:
        component.preprocess, component.postprocess = self.received, self.sent
        self.model = getattr(component, "data_model", None)  # what gradio 4 passes a file as
        folder = component.DEFAULT_TEMP_DIR if self.model is None else component.GRADIO_CACHE
        self.uploads, self.served = Path(folder).resolve(), component.temp_files
        self._lock = threading.Lock()
        self._ends: dict[Path, float] = {}
        atexit.register(self.delete_all)

    def write(self, name: str, data: bytes) -> Path:
        """A new file of this name for the page."""
        if self.model is not None:
            self.uploads.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix="ip-adapter-", dir=self.model and self.uploads)).resolve() / name
        path.write_bytes(data)
        self.served.add(str(path))
        self.expect(path, SENT)
        return path

    def expect(self, path: Path, seconds: float) -> None:
        """A file is there, and will be wanted for so long."""
        with self._lock:
            self._ends[path] = max(time.monotonic() + seconds, self._ends.get(path, 0.0))
        # The WebUI may end its process without a word to anybody, so that is not waited for.
        timer = threading.Timer(seconds + 1, self.delete_old)
        timer.daemon = True
        timer.start()

    def delete_old(self) -> None:
        now = time.monotonic()
        with self._lock:
            old = [path for path, end in self._ends.items() if end <= now]
        for path in old:
            self.delete(path)

    def delete_all(self) -> None:
        for path in list(self._ends):
            self.delete(path)

    def delete(self, path: Path) -> None:
        """Delete a file and its folder. What the system keeps because somebody reads it stays for the next time."""
        with contextlib.suppress(FileNotFoundError):
            try:
                path.unlink()
            except PermissionError:
                return
        with self._lock:
            self._ends.pop(path, None)
        self.served.discard(str(path))
        with contextlib.suppress(OSError):  # something else is in there
            path.parent.rmdir()

    def received(self, named: Any) -> Path | None:
        """What the page names: an upload or a file of ours, and nothing else that lies on this machine."""
        named = named[0] if isinstance(named, list) and named else named
        if self.model is not None and isinstance(named, self.model):
            path = Path(named.path).resolve()
        elif isinstance(named, dict) and named.get("is_file"):
            path = Path(str(named.get("name"))).resolve()
        else:
            return None
        if not (self.uploads in path.parents or path in self._ends) or not path.is_file():
            return None
        self.expect(path, RECEIVED)
        return path

    def sent(self, path: Path | None) -> Any:
        """A file of ours as the page wants it told, served from where it lies."""
        if path is None or not path.is_file():
            return None
        size = path.stat().st_size
        if self.model is not None:
            return self.model(path=str(path), orig_name=path.name, size=size)
        return {"orig_name": path.name, "name": str(path), "size": size, "data": None, "is_file": True}
