"""Done before a job asks for it: the files of the adapter that was used last are loaded when the WebUI has started, and
references are encoded as soon as they are dropped.

All of it happens on one thread, in pieces: each waits for a turn in which nobody makes a picture, and a job that begins
meanwhile waits for one piece at the most. What the host has and what the settings say is asked in each turn. What is
computed is what the job would compute, under the same key in the cache.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import IPAdapterError
from . import host, options, process

if TYPE_CHECKING:
    from ..jobs.ahead import Piece

log = logging.getLogger("ip-adapter")
QUIET = 3.0  # seconds after the start in which nothing is done: a page is opened then
LONGEST = 15.0  # seconds in which the host begins to load its checkpoint, if it does so at its start
AGAIN = 0.25  # seconds until it is asked again whether the host has loaded its checkpoint
PIECE_ENDS = 10.0  # seconds that are waited for a piece when nothing more is to be done


class Ahead:
    """One thread that does one task after the other. It ends when nothing is left, or with the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tasks: dict[Hashable, Callable[[Ahead], None]] = {}  # that wait, by whom they are for
        self._thread: threading.Thread | None = None
        self._in_piece = threading.Lock()
        self._dropped = False  # whether the present task is to end
        self.done: dict[Hashable, Hashable] = {}  # what each one's latest task that came to its end has done
        self.ended = threading.Event()

    def soon(self, task: Callable[[Ahead], None], of: Hashable = None) -> None:
        """Do it when those before are done, in the place of one that still waits and is ``of`` the same, if of any."""
        key = object() if of is None else of
        with self._lock:
            self._tasks.pop(key, None)
            if self.ended.is_set():
                return
            self._tasks[key] = task
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._work, name="ip-adapter-ahead", daemon=True)
            started = False
            try:
                self._thread.start()
                started = True
            except RuntimeError:  # the system gives no more of them
                log.warning("IP-Adapter: what was to be done before a picture is left to it.", exc_info=True)
            finally:
                if not started:
                    self._thread = None
                    self._tasks.clear()

    def drop(self) -> None:
        """Forget what waits, end what is under way, and return when its piece is over; turns are not waited for."""
        with self._lock:
            self._tasks.clear()
            self._dropped = True
            self.done = {}
        if self._in_piece.acquire(timeout=PIECE_ENDS):
            self._in_piece.release()

    def end(self) -> None:
        """Begin nothing more, and wait for the piece that is under way."""
        self.ended.set()
        if self._thread is not threading.current_thread():
            self.drop()

    def wait(self, seconds: float) -> bool:
        """Until everything is done; False where it takes longer."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)
        return self._thread is None

    @property
    def is_over(self) -> bool:
        """Whether the present task is to do nothing more."""
        return self._dropped or self.ended.is_set()

    def do(self, pieces: Iterable[Piece], wanted: Callable[[], bool] = lambda: True) -> bool:
        """Each in a turn of its own, and so is what finds out which comes next; in each it is asked whether they are
        still ``wanted``. Whether all are done."""
        left = iter(pieces)
        while True:
            with host.current().alone(), self._in_piece:
                if self.is_over or not wanted():
                    return False
                is_loading = host.current().is_loading()
                if not is_loading:
                    piece = next(left, None)
                    if piece is None:
                        return True
                    piece()
            if is_loading:  # the host makes all modules of the process in its own way meanwhile
                self.ended.wait(AGAIN)

    def _work(self) -> None:
        try:
            import torch

            torch.get_num_threads()  # as in jobs/prepare.py: what is computed here is what a job's thread would compute
            while (task := self._next()) is not None:
                try:
                    task(self)
                except IPAdapterError as error:  # the job will say so, in its own words
                    log.debug("IP-Adapter: not done ahead. %s", error.detail)
                except Exception:
                    log.warning("IP-Adapter: what was to be done before a picture is left to it.", exc_info=True)
        finally:
            with self._lock:
                if self._thread is threading.current_thread():  # by an accident
                    self._thread = None

    def _next(self) -> Callable[[Ahead], None] | None:
        """The task that has waited for longest; None, at which the thread is over, where there is none."""
        with self._lock:
            if self.ended.is_set() or not self._tasks:
                self._thread = None
                return None
            self._dropped = False
            return self._tasks.pop(next(iter(self._tasks)))


@functools.cache
def worker() -> Ahead:
    """This process's."""
    return Ahead()


# At the start


def at_start() -> None:
    """The WebUI has started: load what the next unit is likely to want, if the setting says so."""
    if options.load_at_start():
        worker().soon(_load)


def _load(ahead: Ahead) -> None:
    if not _host_is_ready(ahead):
        return
    from ..jobs.ahead import loadings, read_through
    from .panel.model_choice import ModelChoice

    resources = process.resources()
    name = ModelChoice.present(resources).chosen()
    if name is None:
        return
    adapter = resources.catalog.find(name)

    def dtype() -> Any:  # asked in a turn
        process.keep_to_settings(resources)
        return host.current().device().dtype

    for path, piece in loadings(adapter, resources, dtype, keeps_encoder=options.keep_encoder()):
        with suppress(OSError):
            read_through(path, lambda: ahead.is_over)  # beside any job: a piece takes the less time
        if not ahead.do([piece], options.load_at_start):
            return
    log.info("IP-Adapter: adapter %s is ready for the first picture.", name)


def _host_is_ready(ahead: Ahead) -> bool:
    """Wait until the WebUI's start is over, and its checkpoint loaded, unless it comes with the first job: while the
    host loads one, it makes all modules of the process in its own way. False at the process's end."""
    began = time.monotonic()
    while not ahead.ended.wait(0.25):
        waited = time.monotonic() - began
        current = host.current()
        if waited < QUIET or current.is_loading():
            continue
        if current.loaded_model() is not None or waited > LONGEST:
            return True
    return False


# When references are dropped


def encode(settings: Mapping[str, Any], tab: str = "") -> None:
    """Encode the references of a unit that a tab shows, given as an API object, if the settings allow it."""
    if settings.get("enabled", True) and _may_encode():
        worker().soon(functools.partial(_encode, settings=settings, tab=tab), tab)


def _may_encode() -> bool:
    return options.encode_ahead() and options.keep_encoder() and options.cache_bytes() > 0


def _encode(ahead: Ahead, settings: Mapping[str, Any], tab: str) -> None:
    def wanted() -> bool:  # before its first job nothing settles where and how is computed
        return _may_encode() and host.current().loaded_model() is not None

    known: list[Hashable] = []
    if ahead.do(_encodings(ahead, settings, tab, known), wanted) and known:
        ahead.done[tab] = known[0]


def _encodings(ahead: Ahead, settings: Mapping[str, Any], tab: str, known: list[Hashable]) -> Iterator[Piece]:
    """The pieces; ``known`` gets what tells whether they are those that the tab's latest task has done."""
    from ..jobs.ahead import encodings
    from ..unit import Unit
    from .job import decoded
    from .reference_folders import SIDE_BY_SIDE

    resources = process.resources()
    process.keep_to_settings(resources)
    device = host.current().device()
    text = json.dumps(settings, sort_keys=True, default=repr).encode()
    key = (hashlib.sha256(text).digest(), id(resources), resources.cache.clearings, str(device.device), device.dtype)
    if ahead.done.get(tab) == key:
        return
    unit = Unit.parse(settings, 1)
    dropped = tuple(one for one in unit.references if one.folder is None)  # all of a folder is read by the job alone
    if dropped:
        (unit,) = decoded([replace(unit, references=dropped)], walk=SIDE_BY_SIDE)
        yield from encodings(unit, resources, lambda: host.current().device())
    known.append(key)
