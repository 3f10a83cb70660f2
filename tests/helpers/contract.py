"""Names and signatures in Python sources, without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path


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


def attributes(node: ast.ClassDef) -> list[str]:
    """What ``__init__`` puts on the object."""
    return sorted(
        target.attr
        for method in node.body
        if isinstance(method, ast.FunctionDef) and method.name == "__init__"
        for part in ast.walk(method)
        if isinstance(part, (ast.Assign, ast.AnnAssign))
        for target in (part.targets if isinstance(part, ast.Assign) else [part.target])
        if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self"
    )


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def defined(body: list[ast.stmt]) -> Iterator[str]:
    """The names that a module has once it is imported, those in ``if`` and ``try`` among them."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name))
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            yield from defined([*node.body, *getattr(node, "orelse", []), *getattr(node, "finalbody", [])])


def imported(tree: ast.Module) -> Iterator[tuple[str, str | None]]:
    """(module, name in it, None for the module itself) of every import that runs when the module is loaded."""
    pending = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
        elif isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from ((node.module, alias.name) for alias in node.names)
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            pending += [
                child for child in ast.iter_child_nodes(node) if isinstance(child, (ast.stmt, ast.ExceptHandler))
            ]


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf8"))
