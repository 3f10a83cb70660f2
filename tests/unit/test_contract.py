"""The miniature host has the real one's names and signatures."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.helpers.demo_host import CONTRACT
from tests.helpers.paths import ROOT

MODULES = ROOT / "demo" / "host" / "modules"


def signature(node: ast.FunctionDef) -> str:
    for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]:
        if argument is not None:
            argument.annotation = None
    return ast.unparse(node.args)


def fields(body: list[ast.stmt]) -> dict[str, str]:
    found = {}
    for node in body:
        if isinstance(node, ast.AnnAssign):
            value = f" = {ast.unparse(node.value)}" if node.value else ""
            found[node.target.id] = ast.unparse(node.annotation) + value
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = ast.unparse(node.value)
    return found


def functions(body: list[ast.stmt]) -> dict[str, str]:
    return {n.name: signature(n) for n in body if isinstance(n, ast.FunctionDef) and not private(n.name)}


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@pytest.mark.parametrize("name", sorted(CONTRACT))
def test_module_matches_contract(name: str) -> None:
    """Everything public that the demo's module defines is in the real one, with the same signature."""
    table = CONTRACT[name]
    tree = ast.parse((MODULES / Path(*name.split(".")[1:])).with_suffix(".py").read_text())
    assert functions(tree.body).items() <= table["functions"].items()
    for node in tree.body:
        if not isinstance(node, ast.ClassDef) or private(node.name) or node.name not in table["classes"]:
            continue
        real = table["classes"][node.name]
        methods = {k: v for k, v in functions(node.body).items() if k != "__post_init__" or k in real["methods"]}
        assert methods.items() <= real["methods"].items(), node.name
        assert fields(node.body).items() <= real["fields"].items(), node.name
