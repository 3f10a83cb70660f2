"""One job at a time, and what the page shows when a job fails."""

import contextlib
import functools
import html
import threading
import time

from modules import errors, progress, shared

queue_lock = threading.Lock()


@contextlib.contextmanager
def turn(task, job=None):
    """Wait for the host to be free and hold it for ``task``, which the progress bar follows. It is idle afterwards,
    however the task ends."""
    progress.tasks.wait(task)
    with queue_lock:
        shared.state.begin(job=job or task)
        progress.tasks.start(task)
        try:
            yield
        finally:
            progress.tasks.finish(task)
            shared.state.end()


def wrap_queued_call(func):
    @functools.wraps(func)
    def queued(*args, **kwargs):
        with queue_lock:
            return func(*args, **kwargs)

    return queued


def wrap_gradio_gpu_call(func, extra_outputs=None):
    """``func`` as a button's function: its first argument names the task, its last result is a log in HTML.

    An exception becomes a line of that log, after ``extra_outputs`` for the other results.
    """

    @functools.wraps(func)  # gradio looks through this for the parameter that takes the request
    def press(task, *args, **kwargs):
        started = time.perf_counter()
        try:
            with turn(task):
                *results, log = func(task, *args, **kwargs)
        except Exception as error:
            errors.report("A job of the page failed", exc_info=True)
            results = list(extra_outputs or ())
            log = f"<div class='error'>{html.escape(f'{type(error).__name__}: {error}')}</div>"
        return *results, f"{log}<div class='performance'>{time.perf_counter() - started:.1f} s</div>"

    return press
