"""An architecture is one class: its layout recognises files without torch, and a row in the table is all it takes."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch

from lib_ipadapter import bases, projections
from lib_ipadapter.checkpoint import memory
from lib_ipadapter.checkpoint.identify import identify
from lib_ipadapter.checkpoint.load import load_adapter
from lib_ipadapter.checkpoint.refusals import RefusedAdapter
from lib_ipadapter.checkpoint.shapes import Shapes, dims, layer_norm
from lib_ipadapter.encode.clip_image import OneSource
from lib_ipadapter.jobs.fit import SOURCES
from lib_ipadapter.projections import Architecture, Layout, build
from tests.helpers.checkpoint_shapes import PUBLISHED, PUBLISHED_FLUX
from tests.helpers.paths import ROOT

SD15 = bases.SD15


class Toy(Architecture):
    """One token, the normalised embedding."""

    recognised_by = "toy.weight"
    as_wide_as_a_token = "toy.weight"

    @classmethod
    def layout(cls, shapes: Shapes, context_width: int, has_lora: bool) -> Layout:
        (width,) = dims(shapes, "toy.weight", 1)
        return Layout("toy", "pooled", width, 1, layer_norm("toy", context_width))

    def __call__(self, pooled: torch.Tensor) -> torch.Tensor:
        return self.layer_norm("toy", pooled.float())[:, None]


def toy_state(**changed: torch.Tensor) -> dict[str, torch.Tensor]:
    width = SD15.context_width
    pairs = {
        f"ip_adapter.{2 * layer + 1}.to_{side}_ip.weight": torch.ones(2, width)
        for layer in range(SD15.layers)
        for side in "kv"
    }
    return {"image_proj.toy.weight": torch.full((width,), 2.0), "image_proj.toy.bias": torch.ones(width), **pairs}


def shapes_of(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def test_a_new_architecture_is_one_class_and_one_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    state = toy_state()
    with pytest.raises(RefusedAdapter, match=r"a projection that this version does not know \(it holds toy"):
        identify(shapes_of(state))
    monkeypatch.setitem(projections.PROJECTIONS, "Toy", Toy)
    spec = identify(shapes_of(state))
    assert (spec.variant, spec.base, spec.projection, spec.tokens) == ("toy", "SD1.5", "Toy", 1)
    torch.save(state, tmp_path / "toy.bin")
    weights = load_adapter(tmp_path / "toy.bin", spec)
    pooled = torch.randn(3, SD15.context_width, generator=torch.Generator().manual_seed(0))
    tokens = build(spec.projection, weights.image_proj, spec.context_width)(pooled)
    expected = torch.nn.functional.layer_norm(pooled, pooled.shape[-1:]) * 2 + 1
    assert torch.allclose(tokens, expected[:, None])


def test_what_all_architectures_share_is_checked_for_a_new_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(projections.PROJECTIONS, "Toy", Toy)
    shapes = shapes_of(toy_state())
    with pytest.raises(RefusedAdapter, match=r"lacks image_proj\.toy\.bias"):
        identify({key: shape for key, shape in shapes.items() if not key.endswith("toy.bias")})
    with pytest.raises(RefusedAdapter, match="image tokens 1024 wide, but its attention pairs take 768"):
        identify(shapes | {"image_proj.toy.weight": (1024,)})
    with pytest.raises(RefusedAdapter, match=r"holds image_proj\.other"):
        identify(shapes | {"image_proj.other": (1,)})


def test_the_tables_order_keeps_architectures_apart_whose_tensors_overlap() -> None:
    order = list(projections.PROJECTIONS)
    for first, later in (("FaceIDPlus", "FaceIDMLP"), ("MLPProj", "FaceIDMLP")):
        assert order.index(first) < order.index(later)
    assert {cls.__name__: cls for cls in projections.PROJECTIONS.values()} == projections.PROJECTIONS


def architectures(cls: type[Architecture] = Architecture) -> set[type[Architecture]]:
    """The classes of lib_ipadapter/projections that an adapter may be recognised as."""
    for module in pkgutil.iter_modules(projections.__path__):
        importlib.import_module(f"{projections.__name__}.{module.name}")
    found = {cls} if "recognised_by" in vars(cls) and cls.__module__.startswith(projections.__name__) else set()
    return found.union(*map(architectures, cls.__subclasses__()))


def test_every_architecture_has_its_row_in_the_table() -> None:
    missing = [cls.__name__ for cls in architectures() - set(projections.PROJECTIONS.values())]
    assert not missing, f"no row in PROJECTIONS (lib_ipadapter/projections/__init__.py) for: {', '.join(missing)}"


def test_every_row_is_a_whole_architecture() -> None:
    for name, cls in projections.PROJECTIONS.items():
        own = set().union(*(vars(base) for base in cls.__mro__ if base not in (Architecture, object)))
        lacking = [part for part in ("recognised_by", "as_wide_as_a_token", "layout", "__call__") if part not in own]
        assert not lacking, f"{name} has no {', '.join(lacking)} of its own"


def test_every_architecture_is_recognised_from_published_names_and_shapes() -> None:
    missing = set(projections.PROJECTIONS) - {row[3] for row in PUBLISHED.values()}
    missing -= {row[2] for row in PUBLISHED_FLUX.values()}
    assert not missing, f"no file in PUBLISHED (tests/helpers/checkpoint_shapes.py) has: {', '.join(missing)}"


def test_every_architecture_is_fed_with_what_can_be_made_here() -> None:
    known = set(SOURCES)
    unknown = {row[4] for row in PUBLISHED.values()} | {row[3] for row in PUBLISHED_FLUX.values()}
    unknown -= known
    assert not unknown, f"nothing makes {', '.join(unknown)}: known sources are {', '.join(sorted(known))}"
    assert set(get_args(OneSource)) < known, "an encoder's outputs are not what jobs/fit.py takes for them"


def test_every_architecture_is_compared_with_another_implementation() -> None:
    tree = ast.parse((ROOT / "tests" / "unit" / "test_projections.py").read_text(encoding="utf-8"))
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "build")
    missing = set(projections.PROJECTIONS) - {ast.literal_eval(call.args[0]) for call in calls}
    assert not missing, f"no comparison in tests/unit/test_projections.py of: {', '.join(missing)}"


RECOGNISE = """
import sys
from lib_ipadapter.checkpoint.identify import identify
pairs = {f"ip_adapter.{n}.to_{s}_ip.weight": (2, 768) for n in range(1, 33, 2) for s in "kv"}
proj = {"proj.weight": (3072, 1024), "proj.bias": (3072,), "norm.weight": (768,), "norm.bias": (768,)}
assert identify(pairs | {f"image_proj.{key}": shape for key, shape in proj.items()}).variant == "base"
import lib_ipadapter.checkpoint.recognise, lib_ipadapter.checkpoint.catalog, lib_ipadapter.checkpoint.load
heavy = {"torch", "numpy", "PIL", "open_clip", "safetensors"} & set(sys.modules)
assert not heavy, heavy
print(*(name for name in sys.modules if name.startswith("lib_ipadapter")))
"""


NO_RULES = ("lib_ipadapter", "lib_ipadapter.errors", "lib_ipadapter.replace_file")


def test_recognising_files_needs_no_torch_and_all_its_modules_are_the_rules() -> None:
    result = subprocess.run([sys.executable, "-c", RECOGNISE], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    rules = {file for pattern in memory.RULES for file in memory.LIBRARY.glob(pattern)}
    for name in result.stdout.split():
        file = ROOT.joinpath(*name.split("."))
        file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
        assert file in rules or name in NO_RULES, name


def test_the_rules_change_with_each_of_their_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for pattern in memory.RULES:
        for file in memory.LIBRARY.glob(pattern):
            copy = tmp_path / file.relative_to(memory.LIBRARY)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(file.read_bytes())
    before = memory.rules()
    monkeypatch.setattr(memory, "LIBRARY", tmp_path)
    assert memory.rules.__wrapped__() == before
    for name in ("bases.py", "checkpoint/pickles.py", "projections/plus.py"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content + b"#")
        assert memory.rules.__wrapped__() != before
        (tmp_path / name).write_bytes(content)
