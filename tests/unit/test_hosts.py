"""A host is one class that answers every question of the interface, and one row in the list of hosts."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.fixture
def host(modules: None) -> Any:
    """The package, with every module of it loaded."""
    from lib_ipadapter.webui import host

    for module in pkgutil.iter_modules(host.__path__):
        importlib.import_module(f"{host.__name__}.{module.name}")
    return host


def classes(cls: type) -> list[type]:
    return [one for sub in cls.__subclasses__() for one in (sub, *classes(sub))]


def questions(host: Any) -> dict[str, Any]:
    return {name: getattr(host.Host, name) for name in sorted(host.Host.__abstractmethods__)}


def test_every_host_answers_every_question(host: Any) -> None:
    for cls in classes(host.Host):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        assert not missing, f"{cls.__name__} ({cls.__module__}) does not answer: {missing}"


def test_every_host_answers_what_is_asked(host: Any) -> None:
    for cls in classes(host.Host):
        for name, question in questions(host).items():
            asked, answered = (list(inspect.signature(one).parameters) for one in (question, getattr(cls, name)))
            assert answered == asked, f"{cls.__name__}.{name} takes {answered}, and is given {asked}"


def test_every_host_has_its_row(host: Any) -> None:
    from lib_ipadapter.webui.host.choice import HOSTS

    missing = set(classes(host.Host)) - {type(one) for one in HOSTS}
    assert not missing, f"no row in HOSTS (webui/host/choice.py) for: {', '.join(cls.__name__ for cls in missing)}"


def test_only_the_last_host_takes_every_model(host: Any) -> None:
    """It stands in for the others until a model is loaded, and where none of them knows it."""
    from lib_ipadapter.webui.host.choice import HOSTS

    a1111s = SimpleNamespace(model=SimpleNamespace(diffusion_model=object()))
    for model in (None, object(), a1111s):
        taken_by = [type(one).__name__ for one in HOSTS if one.recognises(model)]
        assert taken_by == [type(HOSTS[-1]).__name__], f"a model like {model} is taken by {', '.join(taken_by)}"
