"""Small things that have to stay quick, each as the least of several rounds.

    python -m benchmarks.small

Listing 500 adapters that were read before; drawing the demo family's pictures, of which training takes many; and
install.py where nothing is missing, as the WebUI runs it before each start.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from lib_ipadapter.checkpoint.catalog import Catalog

ROOT = Path(__file__).resolve().parents[1]


def least(action: Callable[[], object], rounds: int = 5) -> float:
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return min(times)


def listing(folder: Path, count: int = 500) -> float:
    """Of a new catalogue that remembers all files."""
    shapes = {f"ip_adapter.{2 * i + 1}.to_{name}_ip.weight": (8, 768) for i in range(16) for name in "kv"}
    shapes |= {"image_proj.proj.weight": (4 * 768, 32), "image_proj.proj.bias": (4 * 768,)}
    shapes |= {"image_proj.norm.weight": (768,), "image_proj.norm.bias": (768,)}
    state = {key: torch.zeros(shape, dtype=torch.float16) for key, shape in shapes.items()}
    for number in range(count):
        path = folder / "models" / f"folder {number % 20}" / f"{number}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, path)

    def listed() -> None:
        catalog = Catalog([folder / "models"], [], folder / "memory.json")
        catalog.refresh()
        if len(catalog.adapters) != count:
            raise RuntimeError(f"{len(catalog.adapters)} of {count} adapters were listed")

    listed()
    return least(listed)


def drawing(count: int = 256) -> float:
    """Pictures for each second."""
    from demo.family import world

    rng = world.generator(11)
    return count / least(lambda: [world.draw(world.scenes(64, rng)) for _ in range(count // 64)])


def looking() -> float:
    return least(lambda: subprocess.run([sys.executable, str(ROOT / "install.py")], check=True))


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print(f"500 adapters listed again: {listing(Path(folder)):.3f} s")
    print(f"the demo family's pictures drawn: {drawing():.0f} each second")
    print(f"install.py where nothing is missing: {looking():.2f} s")


if __name__ == "__main__":
    main()
