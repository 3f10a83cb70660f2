"""What the panel costs when the WebUI starts, and when its page is opened: with the extension and without, in turns.

    python -m benchmarks.panel_load --webui ~/stable-diffusion-webui [--python …] [--starts 7] [--loads 15] [-- FLAGS]

starts the WebUI (FLAGS are its own, such as ``--no-half``) once with and once without the extension in each round, the
order changing from round to round. At the end both run side by side, and Chromium opens the one's page and the
other's in turns. The WebUI's settings and files are left as they are. With two WebUIs that run already:

    python -m benchmarks.panel_load --url http://127.0.0.1:7860 --without-url http://127.0.0.1:7861 [--loads 15]

Start: the WebUI's own count (``Startup time`` in its log) and its shares. Page: from the navigation, with an empty
cache, until *Generate* is on view ("ready"), and until the page has nothing more to do or to fetch for half a second
("settled", that half second not counted); "computing" is the time that the page's main thread has computed until then,
without what it has waited for. Figures are medians of the paired differences, with quartiles,
and with the median's own 95 % interval (bootstrap).

Needs playwright and a Chromium (`make browser`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.setup import browser as setup

REPOSITORY = Path(__file__).resolve().parents[1]
LIMIT = 600  # seconds for one start
SHARES = ("load scripts", "create ui", "app_started_callback")
# Nothing is fetched from elsewhere. It is not for Playwright to see to that: it would handle each request by itself.
BROWSER = ("--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
WATCH = """() => {
    const watch = () => {
        const button = document.querySelector("gradio-app")?.querySelector("#txt2img_generate");
        if (button?.offsetParent) window.readyAt = performance.now(); else requestAnimationFrame(watch);
    };
    watch();
    new PerformanceObserver((list) => list.getEntries().forEach((entry) => {
        window.busyUntil = Math.max(window.busyUntil ?? 0, entry.startTime + entry.duration);
    })).observe({entryTypes: ["longtask", "resource"]});
}"""


class WebUI:
    """One running WebUI: started here, and ended with ``stop``."""

    def __init__(self, options: argparse.Namespace, extension: bool, folder: Path) -> None:
        self.port = options.port + (not extension) if options.port else _free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"log-{self.port}"
        settings = json.loads(options.settings.read_text()) if options.settings.is_file() else {}
        off = [name for name in settings.get("disabled_extensions", ()) if name != options.extension]
        settings["disabled_extensions"] = off if extension else [*off, options.extension]
        own = folder / f"settings-{self.port}.json"
        own.write_text(json.dumps({**settings, "auto_launch_browser": "Disable"}))
        command = [
            options.python, "launch.py", "--port", str(self.port), "--skip-prepare-environment",
            "--ui-settings-file", str(own), "--ui-config-file", str(folder / f"ui-{self.port}.json"), *options.flags,
        ]  # fmt: skip
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                cwd=options.webui,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
            )
        end = time.monotonic() + LIMIT
        while "Startup time" not in self.log.read_text(errors="replace"):
            if self.process.poll() is not None or time.monotonic() > end:
                self.stop()
                sys.exit(f"The WebUI did not start. {self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.2)

    def times(self) -> dict[str, float]:
        with urllib.request.urlopen(f"{self.address}/internal/profile-startup") as answer:
            record = json.loads(answer.read())
        return {"total": record["total"], **{name: record["records"].get(name, 0.0) for name in SHARES}}

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _told(name: str, pairs: Sequence[tuple[float, float]], unit: str = "s") -> None:
    """``pairs``: (with, without)."""
    more = [a - b for a, b in pairs]
    low, middle, high = statistics.quantiles(more, n=4) if len(more) > 1 else more * 3
    drawn = random.Random(0)
    medians = sorted(statistics.median(drawn.choices(more, k=len(more))) for _ in range(2000))
    ours, plain = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"{name:28} with {ours:7.3f}   without {plain:7.3f}   difference {middle:+.3f} {unit} "
        f"(quartiles {low:+.3f} to {high:+.3f}; 95 %: {medians[50]:+.3f} to {medians[-51]:+.3f}; {len(pairs)} pairs)",
        flush=True,
    )  # fmt: skip


def starts(options: argparse.Namespace, folder: Path) -> None:
    found: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    for number in range(options.starts):
        for extension in (True, False) if number % 2 else (False, True):
            webui = WebUI(options, extension, folder)
            found[extension].append(webui.times())
            webui.stop()
    for name in ("total", *SHARES):
        _told(f"start: {name}", [(a[name], b[name]) for a, b in zip(found[True], found[False], strict=True)])


def _load(browser: Any, address: str) -> dict[str, float]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    try:
        context.add_init_script(f"({WATCH})()")
        page = context.new_page()
        counter = context.new_cdp_session(page)
        counter.send("Performance.setTimeDomain", {"timeDomain": "threadTicks"})
        counter.send("Performance.enable")
        page.goto(address)
        page.wait_for_function("window.readyAt !== undefined", timeout=120_000)
        page.wait_for_function("performance.now() - Math.max(busyUntil, readyAt) > 500", timeout=120_000)
        ready, busy = page.evaluate("[readyAt, Math.max(busyUntil, readyAt)]")
        metrics = {m["name"]: m["value"] for m in counter.send("Performance.getMetrics")["metrics"]}
        return {"ready": ready / 1000, "settled": busy / 1000, "computing": metrics["TaskDuration"]}
    finally:
        context.close()


def loads(ours: str, plain: str, count: int) -> None:
    from playwright.sync_api import sync_playwright

    executable = setup.find()
    found: dict[str, list[dict[str, float]]] = {ours: [], plain: []}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(BROWSER))
        for address in (ours, plain):
            _load(browser, address)  # the first one of a server fills its caches
        for _ in range(count):
            for address in random.sample((ours, plain), 2):
                found[address].append(_load(browser, address))
        browser.close()
    for name in ("ready", "settled", "computing"):
        _told(f"page: {name}", [(a[name], b[name]) for a, b in zip(found[ours], found[plain], strict=True)])


@contextlib.contextmanager
def _both(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, str]]:
    with contextlib.ExitStack() as running:
        addresses = []
        for extension in (True, False):
            webui = WebUI(options, extension, folder)
            running.callback(webui.stop)
            addresses.append(webui.address)
        yield addresses[0], addresses[1]


def main() -> None:
    own, flags = sys.argv[1:], []
    if "--" in own:
        own, flags = own[: own.index("--")], own[own.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--webui", type=Path, help="its folder")
    parser.add_argument("--python", help="the WebUI's Python; its own venv's if left out")
    parser.add_argument("--settings", type=Path, help="its settings file; config.json in its folder if left out")
    parser.add_argument("--extension", default=REPOSITORY.name, help="name of the extension's folder in extensions/")
    parser.add_argument("--starts", type=int, default=7)
    parser.add_argument("--loads", type=int, default=15)
    parser.add_argument("--port", type=int, help="this one and the next are used; any free ones if left out")
    parser.add_argument("--url", help="of a running WebUI with the extension")
    parser.add_argument("--without-url", help="of a running WebUI without it")
    options = parser.parse_args(own)
    options.flags = flags
    if options.url and options.without_url:
        loads(options.url, options.without_url, options.loads)
        return
    if not options.webui:
        parser.error("give --webui, or --url and --without-url")
    options.python = options.python or str(options.webui / "venv" / "bin" / "python")
    options.settings = (options.settings or options.webui / "config.json").absolute()
    with tempfile.TemporaryDirectory() as folder:
        if options.starts:
            starts(options, Path(folder))
        if options.loads:
            with _both(options, Path(folder)) as (ours, plain):
                loads(ours, plain, options.loads)


if __name__ == "__main__":
    main()
