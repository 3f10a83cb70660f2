"""Where downloads are ordered and called off: one after the other, each file once, however often it is asked for."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..checkpoint.folders import partial_folder
from ..checkpoint.names import size
from ..errors import printable
from .problems import DownloadError, no_room
from .published import Published, named
from .transfer import Cancelled, Transfer, partly

log = logging.getLogger("ip-adapter")

SPARE = 200_000_000  # bytes that a disk keeps
WAITING, COMING, CHECKING, DONE, FAILED, CANCELLED = "waiting", "coming", "checking", "done", "failed", "cancelled"


class Ordered:
    """A file that somebody has asked for."""

    def __init__(self, file: Published, folder: Path) -> None:
        self.file, self.folder = file, folder
        self.state, self.problem = WAITING, ""
        self.transfer: Transfer | None = None
        self.come = partly(partial_folder(folder, file.name))

    @property
    def done(self) -> int:
        """Bytes that have come."""
        if self.state == DONE and self.file.size is not None:
            return self.file.size
        return self.come if self.transfer is None else self.transfer.done

    @property
    def left(self) -> int:
        """Bytes that are still to come; 0 where the size is not known."""
        return max(0, (self.file.size or 0) - self.done)

    def told(self) -> dict[str, Any]:
        checked = None if self.transfer is None else self.transfer.checked
        state = CHECKING if self.state == COMING and checked is not None else self.state
        found = {
            "file": self.file.name, "folder": printable(str(self.folder)), "size": self.file.size, "state": state,
            "done": self.done,
        }  # fmt: skip
        if state == CHECKING:
            found["checked"] = checked
        return {**found, "problem": self.problem} if self.problem else found


class Desk:
    """``folder_of`` says where a file goes; ``arrived`` is called when one has its name, from a thread of its own.
    Thread-safe."""

    def __init__(self, folder_of: Callable[[Published], Path], arrived: Callable[[], None]) -> None:
        self._folder_of, self._arrived = folder_of, arrived
        self._lock = threading.Lock()
        self._orders: list[Ordered] = []
        self._worker: threading.Thread | None = None

    def start(self, names: Sequence[str]) -> None:
        """Fetch the files of these names; those that are on their way already are not fetched twice.

        Raises CheckpointError for a name that is not in the table, and DownloadError where a folder cannot be made or
        its disk has no room for them.
        """
        files = [named(name) for name in dict.fromkeys(names)]
        with self._lock:
            busy = [order for order in self._orders if order.state in (WAITING, COMING)]
            under_way = {order.file.name for order in busy}
            new = [Ordered(file, self._folder_of(file)) for file in files if file.name not in under_way]
            self._check_room([*busy, *new])
            if not new:
                return
            again = {order.file.name for order in new}
            kept = self._orders if busy else []
            self._orders = [order for order in kept if order.file.name not in again] + new
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="IP-Adapter: downloads", daemon=True)
                self._worker.start()

    def cancel(self) -> None:
        """Call off everything that is on its way, and forget what went wrong. What has come stays, for another time."""
        with self._lock:
            self._orders = [order for order in self._orders if order.state != FAILED]
            busy = [order for order in self._orders if order.state in (WAITING, COMING)]
            for order in busy:
                order.state = CANCELLED
        for order in busy:  # its process may take a while to end: meanwhile others can ask how the downloads are
            if order.transfer is not None:
                order.transfer.cancel()

    def wait(self, seconds: float | None = None) -> None:
        """Until nothing is on its way any more."""
        if (worker := self._worker) is not None:
            worker.join(seconds)

    def state(self) -> dict[str, Any]:
        """What is on its way, and how the last ones ended: ``files``, and of all that is not called off ``done`` and
        ``size`` in bytes, ``speed`` in bytes a second and ``left`` in seconds (None: not known)."""
        with self._lock:
            orders = list(self._orders)
            running = self._worker is not None
        counted = [order for order in orders if order.state != CANCELLED]
        now = next((order.transfer for order in orders if order.state == COMING and order.transfer), None)
        speed = 0.0 if now is None or now.checked is not None else now.speed
        known = all(order.file.size is not None for order in counted)
        rest = sum(order.left for order in counted)
        return {
            "running": running,
            "files": [order.told() for order in orders],
            "done": sum(order.done for order in counted),
            "size": sum(order.file.size or 0 for order in counted) if known else None,
            "speed": round(speed),
            "left": round(rest / speed) if speed and known else None,
        }

    @staticmethod
    def _check_room(orders: Sequence[Ordered]) -> None:
        """Raises DownloadError where a disk has no room for what is still to come."""
        disks: dict[int, list[Ordered]] = {}
        for order in orders:
            try:
                order.folder.mkdir(parents=True, exist_ok=True)
                disks.setdefault(os.stat(order.folder).st_dev, []).append(order)
            except OSError as error:
                raise DownloadError(
                    f"the folder {printable(str(order.folder))} cannot be made ({error.strerror}): make it by hand, or "
                    "let the WebUI write where it is to be."
                ) from None
        for there in disks.values():
            needed = sum(order.left for order in there if not (order.folder / order.file.name).exists())
            free = shutil.disk_usage(there[0].folder).free
            if needed and needed + SPARE > free:
                raise DownloadError(no_room(needed + SPARE, free, there[0].folder))

    def _work(self) -> None:
        while True:
            with self._lock:
                order = next((one for one in self._orders if one.state == WAITING), None)
                if order is None:
                    self._worker = None
                    return
                order.state = COMING
                order.transfer = Transfer(order.file, order.folder)
            self._fetch(order, order.transfer)

    def _fetch(self, order: Ordered, transfer: Transfer) -> None:
        name, ended = order.file.name, FAILED
        log.info("IP-Adapter: downloading %s into %s", name, order.folder)
        try:
            transfer.run()
            ended = DONE
            log.info("IP-Adapter: downloaded %s (%s)", name, size(transfer.done))
        except Cancelled:
            ended = CANCELLED
        except DownloadError as error:
            order.problem = error.detail
            log.warning("IP-Adapter: %s", error.detail)
        except Exception as error:  # nothing may keep the next one from its turn
            order.problem = f"{name}: it could not be fetched ({type(error).__name__}): try again."
            log.exception("IP-Adapter: downloading %s", name)
        if ended == DONE:
            try:
                self._arrived()
            except Exception:
                log.exception("IP-Adapter: looking for files after a download")
        with self._lock:
            order.state = ended
