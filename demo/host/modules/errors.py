"""Errors that are reported instead of raised. The last ones are kept for whoever asks."""

import sys
import traceback

exception_records = []
KEPT = 5


def record_exception():
    error = sys.exc_info()[1]
    if error is not None:
        where = [[f"{f.filename}:{f.lineno}, {f.name}", f.line] for f in traceback.extract_tb(error.__traceback__)]
        exception_records[:] = [*exception_records, {"exception": str(error), "traceback": where}][-KEPT:]


def get_exceptions():
    return list(reversed(exception_records))


def report(message: str, *, exc_info: bool = False) -> None:
    record_exception()
    print(f"*** {message}", file=sys.stderr)
    if exc_info:
        traceback.print_exc()


def display(e: Exception, task, *, full_traceback=False):
    record_exception()
    print(f"{task}:", file=sys.stderr)
    traceback.print_exception(e)
