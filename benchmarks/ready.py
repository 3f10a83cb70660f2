"""How much sooner a picture is there for what was done ahead, and what the start pays for it, in the miniature WebUI.

    python -m benchmarks.ready [--rounds 7]

Each round starts a process with the setting "Load the adapter that was used last" and one without, in turns, with an
adapter for SD1.5 and a small image encoder. Prints medians and quartiles of: the start; a plain picture; the first one
with a reference, when what was to be loaded is; one with a new reference ("cold"); and one whose new reference was
encoded ahead ("warm").
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def child(folder: Path, data: Path, load: bool) -> None:
    """One process: start, then pictures, timed."""
    from demo.start import host_start
    from tests.helpers.files import base64_of, picture

    began = time.perf_counter()
    options = {"sd_model_checkpoint": "demo-sd15", "ip_adapter_load_at_start": load}
    host = host_start([REPOSITORY], options, ["--ip-adapter-dir", str(folder)], data_dir=data)
    started = time.perf_counter() - began
    from lib_ipadapter.webui import ahead, process

    def seconds(**unit: object) -> float:
        at = time.perf_counter()
        units = {"alwayson_scripts": {"IP-Adapter": {"args": [unit]}}} if unit else {}
        host.txt2img(prompt="a cat", width=64, height=64, steps=2, **units)
        return time.perf_counter() - at

    def reference(seed: int) -> dict[str, object]:
        return {"model": "plus", "images": [base64_of(picture(seed))]}

    plain = [seconds() for _ in range(2)][1]  # a checkpoint is loaded
    process.used_models().note("SD1.5", ["plus"])
    ahead.worker().wait(300)
    first = seconds(**reference(0))
    seconds(**reference(1))
    cold = seconds(**reference(2))
    ahead.encode(reference(3))
    ahead.worker().wait(300)
    warm = seconds(**reference(3))
    print(json.dumps({"start": started, "plain": plain, "first": first, "cold": cold, "warm": warm}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--child", nargs=3)
    options = parser.parse_args()
    if options.child:
        folder, data, load = options.child
        child(Path(folder), Path(data), load == "with")
        return
    from tests.helpers.files import write_adapter, write_encoder
    from tests.helpers.unets import sd_unet

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "models"
        write_adapter(folder / "plus.safetensors", sd_unet(), "plus")
        write_encoder(folder / "encoder.safetensors")
        found: dict[str, list[dict[str, float]]] = {"with": [], "without": []}
        for number in range(options.rounds):
            for load in ("with", "without") if number % 2 else ("without", "with"):
                given = ["--child", str(folder), f"{made}/data-{load}", load]
                command = [sys.executable, "-m", "benchmarks.ready", *given]
                answer = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
                found[load].append(json.loads(answer.stdout.splitlines()[-1]))
        for name in ("start", "plain", "first", "cold", "warm"):
            of = {load: _spread([one[name] for one in rounds]) for load, rounds in found.items()}
            print(f"{name:6} with {of['with']}   without {of['without']}", flush=True)


def _spread(seconds: list[float]) -> str:
    low, middle, high = statistics.quantiles(seconds, n=4)
    return f"{middle:.3f} s ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
