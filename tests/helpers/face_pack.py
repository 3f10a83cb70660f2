"""Real face analysis for tests, and photographs of people. Made at the first use: see ``tests.setup.faces``."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from lib_ipadapter.encode.faces.finder import InsightFace
from lib_ipadapter.encode.faces.packs import FILES
from lib_ipadapter.encode.faces.process import Environment
from tests.setup import faces as setup


def photo(name: str) -> Image.Image:
    """``person_a_1``, ``person_a_2``, ``person_b_1``, ``person_b_2``, ``impostor_1`` or ``impostor_2``."""
    return Image.open(setup.ready().photos / f"{name}.jpg").convert("RGB")


def astronaut() -> Image.Image:
    return Image.fromarray(skimage.data.astronaut())


def noise(size: tuple[int, int] = (256, 256)) -> Image.Image:
    """A picture without a face."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


def environment(*before: Path) -> Environment:
    """The real packages, with the folders ``before`` in front of them."""
    return Environment("the test's packages", (*map(str, before), str(setup.ready().packages)))


def finder(folders: Sequence[Path] | None = None, *before: Path, cache: Path | None = None, **settings) -> InsightFace:
    """One with the real packages; ``folders`` are where packs are looked for."""
    files = setup.ready()
    settings.setdefault("environments", lambda folder: [environment(*before)])
    folders = [files.packs] if folders is None else folders
    return InsightFace(lambda: folders, files.packages, cache or files.packs / "none", **settings)


def write_pack(folder: Path, name: str = "buffalo_l", content: bytes = b"a network") -> None:
    """Files of a pack's names, of no use."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in FILES[name]:
        (folder / file).write_bytes(content)


def write_archive(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_shim(folder: Path, code: str) -> Path:
    """A folder whose ``onnxruntime`` runs ``code``, with the one behind it as ``real``, and then is that."""
    (folder / "onnxruntime").mkdir(parents=True)
    (folder / "onnxruntime" / "__init__.py").write_text(
        f"import importlib, sys\nsys.path.remove({str(folder)!r})\ndel sys.modules['onnxruntime']\n"
        f"real = importlib.import_module('onnxruntime')\n{code}\n"
    )
    return folder


NETWORKS = """
import json, os, sys, time
import numpy as np
CALLS = {calls!r}

class Session:
    def get_inputs(self): return [type("Input", (), {{"shape": [1, 3, "height", "width"]}})]

class Network:
    def __init__(self, file, providers):
        self.taskname = "detection" if "det" in file else "recognition"
        self.session = Session()
        with open(CALLS, "a") as calls:
            calls.write(json.dumps([os.path.basename(file), providers, os.getpid()]) + "\\n")
    def detect(self, picture, input_size):
        {detect}
        box = np.array([[10, 10, 40, 40, 0.9]])
        return box, np.array([[[15, 20], [35, 20], [25, 28], [18, 34], [32, 34]]], float)
    def get_feat(self, crop):
        {recognise}
        return np.ones((1, 512), np.float32)

def get_model(file, providers):
    {load}
    return Network(file, providers)
"""


def write_networks(folder: Path, *, load: str = "", detect: str = "", recognise: str = "") -> tuple[Environment, Path]:
    """Packages that stand in for insightface and onnxruntime, one face in every picture, with lines of Python at the
    beginning of what they do; and the file in which they write down what they load."""
    calls = folder / "calls"
    for package in ("onnxruntime", "insightface"):
        (folder / package).mkdir(parents=True)
    (folder / "onnxruntime" / "__init__.py").write_text("")
    (folder / "insightface" / "__init__.py").write_text("print('insightface is chatty', flush=True)\n")
    code = NETWORKS.format(
        calls=str(calls), load=load or "pass", detect=detect or "pass", recognise=recognise or "pass"
    )  # fmt: skip
    (folder / "insightface" / "model_zoo.py").write_text(code)
    numpy_there = Path(np.__file__).parents[1]
    return Environment("a stand-in", (str(folder), str(numpy_there))), calls
