"""Starts a program and ends it when nobody holds the leash any more: run by itself, as ``python leash.py COMMAND …``.

Its input is a pipe that the worker holds open. When the worker ends, even by kill -9, the pipe closes.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading


def _with_the_leash() -> None:
    """Where Linux can do it, the program ends with this one, too."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def main() -> int:
    own_group = {"start_new_session": True, "preexec_fn": _with_the_leash} if os.name == "posix" else {}
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, **own_group)  # type: ignore[call-overload]

    def wait_for_the_end() -> None:
        while os.read(0, 4096):
            pass
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    return int(process.wait()) & 0xFF


if __name__ == "__main__":
    sys.exit(main())
