"""Done before a job asks for it: the files of the adapter that was used last are loaded when the WebUI has started, and
references are encoded as soon as they are dropped.

All of it happens on one thread of the lowest priority, in pieces: each waits until nobody makes a picture, and a job
that begins meanwhile waits for one piece at the most. What is computed is what the job would compute, under the same
key in the cache.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
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
TASKS = 32  # that wait at the most; older ones are left to the jobs
LOWEST = 19  # of Linux' nice levels, where a thread has one of its own


class Ahead:
    """One thread that does one task after the other. It ends when nothing is left, or with the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tasks: deque[Callable[[Ahead], None]] = deque(maxlen=TASKS)
        self._thread: threading.Thread | None = None
        self.ended = threading.Event()

    def soon(self, task: Callable[[Ahead], None]) -> None:
        """Do it when those before are done."""
        with self._lock:
            self._tasks.append(task)
            if self._thread is None and not self.ended.is_set():
                self._thread = threading.Thread(target=self._work, name="ip-adapter-ahead", daemon=True)
                self._thread.start()

    def end(self) -> None:
        """Begin nothing more, and wait for what is under way."""
        self.ended.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(10)

    def wait(self, seconds: float) -> bool:
        """Until everything is done; False where it takes longer."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)
        return self._thread is None

    def do(self, pieces: Iterable[Piece]) -> None:
        """Each while nobody makes a picture, and so is what finds out which comes next."""
        left = iter(pieces)
        while True:
            with host.current().alone():
                piece = None if self.ended.is_set() else next(left, None)
                if piece is None:
                    return
                piece()

    def _work(self) -> None:
        import torch

        torch.get_num_threads()  # as in jobs/prepare.py: what is computed here is what a job's thread would compute
        with suppress(OSError, AttributeError):  # other systems give threads no priority of their own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST)
        while True:
            with self._lock:
                if self.ended.is_set() or not self._tasks:
                    self._thread = None
                    return
                task = self._tasks.popleft()
            try:
                task(self)
            except IPAdapterError as error:  # the job will say so, in its own words
                log.debug("IP-Adapter: not done ahead. %s", error.detail)
            except Exception:
                log.warning("IP-Adapter: what was to be done before a picture is left to it.", exc_info=True)


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
    adapter, dtype = resources.catalog.find(name), host.current().device().dtype
    for path, piece in loadings(adapter, resources, dtype, keeps_encoder=options.keep_encoder()):
        with suppress(OSError):
            read_through(path)  # beside any job: a piece takes the less time
        ahead.do([piece])
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


def encode(settings: Mapping[str, Any]) -> None:
    """Encode the references of a unit, given as an API object, if the settings allow it."""
    if not options.encode_ahead() or not options.keep_encoder() or options.cache_bytes() == 0:
        return
    worker().soon(functools.partial(_encode, settings=settings))


def _encode(ahead: Ahead, settings: Mapping[str, Any]) -> None:
    if host.current().loaded_model() is None:
        return  # its first job settles where and how is computed
    from ..jobs.ahead import encodings
    from ..unit import Unit
    from .job import decoded
    from .reference_folders import SIDE_BY_SIDE

    unit = Unit.parse(settings, 1)
    dropped = tuple(one for one in unit.references if one.folder is None)  # all of a folder is read by the job alone
    (unit,) = decoded([replace(unit, references=dropped)], walk=SIDE_BY_SIDE)
    ahead.do(encodings(unit, process.resources(), host.current().device()))
