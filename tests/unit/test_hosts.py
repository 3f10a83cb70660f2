"""A host is one class that answers every question of the interface, and one row in the list of hosts."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
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


# --- LoRAs in prompts -----------------------------------------------------------------------------------------------


class Styles:
    """The host's styles: a text behind a prompt."""

    def apply_styles_to_prompt(self, prompt: str, styles: list[str]) -> str:
        return ", ".join([prompt, *(f"<lora:from_{style}:1>" for style in styles)])


@pytest.fixture
def a1111(host: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    from modules import shared

    from lib_ipadapter.webui.host.a1111 import A1111

    monkeypatch.setattr(shared, "opts", SimpleNamespace(sd_lora="None"))
    monkeypatch.setattr(shared, "prompt_styles", Styles(), raising=False)
    return A1111()


def networks_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's own LoRA extension, with two files; two more share an alias, so it stands for none."""
    one = SimpleNamespace(name="my_face", alias="ip-adapter-faceid_sd15_lora")
    two, three = SimpleNamespace(name="two", alias="same"), SimpleNamespace(name="three", alias="same")
    networks = SimpleNamespace(
        available_networks={"my_face": one, "two": two, "three": three},
        available_network_aliases={"my_face": one, one.alias: one, "two": two, "three": three, "same": three},
        forbidden_network_aliases={"same": 1, "none": 1},
    )
    monkeypatch.setitem(sys.modules, "networks", networks)


@pytest.mark.parametrize(
    ("job", "names"),
    [
        ({"prompt": "a man"}, []),
        ({"prompt": "a man <lora:one:0.5> <lora:two>", "negative_prompt": "<lora:three:1>"}, ["one", "two"]),
        ({"prompt": "<lyco:old:1><hypernet:other:1><lora:one:1><lora:one:0.3>"}, ["old", "one"]),
        ({"prompt": ["<lora:one:1>", "a <lora:two:1> b"]}, ["one", "two"]),
        ({"prompt": "x", "styles": ["face"]}, ["from_face"]),
        ({"prompt": "x", "styles": None}, []),
        ({"prompt": "__any__", "all_prompts": ["<lora:wild:1>", "<lora:card:1>"]}, ["wild", "card"]),
        ({"prompt": "<lora:one:1>", "hr_prompt": "<lora:two:1>", "enable_hr": True}, ["one", "two"]),
        ({"prompt": "<lora:one:1>", "hr_prompt": "<lora:two:1>", "enable_hr": False}, ["one"]),
        ({"prompt": "", "all_hr_prompts": ["<lora:two:1>"], "all_prompts": None, "enable_hr": True}, ["two"]),
        ({"prompt": "<lora:one:1>", "disable_extra_networks": True}, []),
        ({"prompt": "<lora:off:0><lora:unet:1:0><lora:text:0:1><lora:odd:x>"}, ["text", "odd"]),
        ({"prompt": "<lora:n:te=0><lora:u:0:unet=1><lora:b:te=0:unet=0.2>"}, ["u", "b"]),
        ({"prompt": "<lora::1> <lora:> < lora:no:1>"}, []),
    ],
)  # fmt: skip
def test_the_loras_of_a_jobs_prompts_are_named(job: dict[str, Any], names: list[str], a1111: Any) -> None:
    assert a1111.prompt_loras(SimpleNamespace(**job)) == names


def test_a_loras_file_may_have_another_name(a1111: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    networks_on_disk(monkeypatch)

    def named(prompt: str) -> list[str]:
        return a1111.prompt_loras(SimpleNamespace(prompt=prompt))

    assert named("<lora:my_face:1>") == ["my_face", "ip-adapter-faceid_sd15_lora"]
    assert named("<lora:ip-adapter-faceid_sd15_lora:1>") == ["ip-adapter-faceid_sd15_lora", "my_face"]
    assert named("<lora:same:1><lora:absent:1>") == ["same", "absent"]
    assert named("<lora:two:1>") == ["two", "same"]


def test_what_the_hosts_loras_will_write_to_weights_is_told(a1111: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By all that it compares itself, at the moment of asking."""
    from lib_ipadapter.webui.host.a1111 import prompts

    assert prompts.networks() == ()
    networks_on_disk(monkeypatch)
    assert prompts.networks() == ()
    one = SimpleNamespace(name="one", te_multiplier=1.0, unet_multiplier=1.0, dyn_dim=None)
    sys.modules["networks"].loaded_networks = [one]
    found = [prompts.networks()]
    for change in ({"unet_multiplier": 0.5}, {"te_multiplier": 0.5}, {"dyn_dim": 4}, {"name": "two"}):
        vars(one).update(change)
        found.append(prompts.networks())
    sys.modules["networks"].loaded_networks = []
    assert len({*found, prompts.networks()}) == 6


def test_a_lora_of_the_settings_is_in_every_prompt(a1111: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules import shared

    monkeypatch.setattr(shared, "opts", SimpleNamespace(sd_lora="my_face"))
    assert a1111.prompt_loras(SimpleNamespace(prompt="x")) == []
    networks_on_disk(monkeypatch)
    assert a1111.prompt_loras(SimpleNamespace(prompt="x")) == ["my_face", "ip-adapter-faceid_sd15_lora"]
    monkeypatch.setattr(shared, "opts", SimpleNamespace(sd_lora="None"))
    assert a1111.prompt_loras(SimpleNamespace(prompt="x")) == []


# --- gradio's versions ----------------------------------------------------------------------------------------------


def test_a_changed_list_gets_its_choices_as_gradio_takes_them(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from lib_ipadapter.webui.host import page

    monkeypatch.setattr(page, "LABELLED", False)
    assert page.listing(["None", "a"]) == ["None", "a"]
    monkeypatch.setattr(page, "LABELLED", True)
    assert page.listing(["None", "a"]) == [("None", "None"), ("a", "a")]
