"""What the extension adds to the WebUI's start: its script's import, and its panels, in the miniature WebUI.

Each start is a process of its own, in which gradio and torch are there before, as in the WebUI.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..gpu.measure import AtMost, Row, Spread, ms

SCRIPT, ALL = AtMost(0.15, ms), AtMost(0.3, ms)
ROOT = Path(__file__).resolve().parents[2]


def measure(small: bool) -> Iterator[Row]:
    starts = [_start() for _ in range(1 if small else 9)]
    starts = starts if small else starts[1:]  # the first one fills the system's cache
    for what, taken, target in (
        ("import of the script", [one["import"] for one in starts], SCRIPT),
        ("the script, its panels and routes", [sum(one.values()) for one in starts], ALL),
    ):
        found = Spread.of(taken)
        yield Row(
            f"the WebUI's start, {what}", ms(found.median), found.said(ms), found.count,
            target.of_spread(found, enough=len(starts)),
        )  # fmt: skip


def _start() -> dict[str, float]:
    """Seconds of each part in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        said = subprocess.run(
            [sys.executable, "-m", __name__], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True,
            env={**_environment(), "DEMO_HOST_DATA": folder},
        )  # fmt: skip
    return json.loads(said.stdout.splitlines()[-1])


def _environment() -> dict[str, str]:
    """This one's; compiled files are kept, as they are at a user's second start."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def once() -> dict[str, float]:
    """Start the miniature WebUI with the extension; what its parts take."""
    from demo.start import HOST, host_start

    sys.path.insert(0, str(HOST))
    import gradio  # noqa: F401
    import torch  # noqa: F401
    from modules import script_callbacks, script_loading

    taken = {"import": 0.0, "panels": 0.0, "routes": 0.0}

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return call(*args, **options)
            finally:
                taken[name] += time.perf_counter() - started

        return wrapped

    load = script_loading.load_module

    def load_module(path: str) -> Any:
        if Path(path) != ROOT / "scripts" / "ip_adapter.py":
            return load(path)
        module = timed("import", load)(path)
        module.IPAdapterScript.ui = timed("panels", module.IPAdapterScript.ui)
        return module

    script_loading.load_module = load_module
    script_callbacks.app_started_callback = timed("routes", script_callbacks.app_started_callback)
    host_start([ROOT])
    return taken


if __name__ == "__main__":
    print(json.dumps(once()))
