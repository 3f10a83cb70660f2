"""The miniature host has the real ones' names and signatures, and the extension asks for what all hosts have."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.make import OURS
from tests.helpers.contract import fields, functions, imported, parse, private
from tests.helpers.demo_host import CONTRACT
from tests.helpers.paths import ROOT

MODULES, FACE = ROOT / "demo" / "host" / "modules", ROOT / "demo" / "forge"


def table_of(file: str) -> dict[str, Any]:
    return json.loads((ROOT / "tests" / "contract" / file).read_text(encoding="utf8"))


@pytest.mark.parametrize("name", sorted(CONTRACT))
def test_module_matches_contract(name: str) -> None:
    """Everything public that the demo's module defines is in the real one, with the same signature."""
    table = CONTRACT[name]
    tree = parse((MODULES / Path(*name.split(".")[1:])).with_suffix(".py"))
    assert functions(tree.body).items() <= table["functions"].items()
    for node in tree.body:
        if not isinstance(node, ast.ClassDef) or private(node.name) or node.name not in table["classes"]:
            continue
        real = table["classes"][node.name]
        methods = {k: v for k, v in functions(node.body).items() if k != "__post_init__" or k in real["methods"]}
        assert methods.items() <= real["methods"].items(), node.name
        assert fields(node.body).items() <= real["fields"].items(), node.name


# --- Forge ----------------------------------------------------------------------------------------------------------

FORGE = table_of("forge-contract.json")["modules"]
# What the second face defines: {file: {its name: where the real one has it}}; without a name, the file's functions.
FACE_OF = {
    "checkpoints": {
        "": "modules.sd_models", "FakeInitialModel": "modules.sd_models", "SdModelData": "modules.sd_models",
    },
    "memory": {"": "backend.memory_management"},
    "jobs": {
        "StableDiffusionProcessingTxt2Img": "modules.processing",
        "StableDiffusionProcessingImg2Img": "modules.processing",
    },
    "guidance": {
        "CFGDenoiser": "modules.sd_samplers_cfg_denoiser", "ForgeScheduleLinker": "k_diffusion.external",
        "CFGDenoiserKDiffusion": "modules.sd_samplers_kdiffusion",
        "CompVisTimestepsDenoiser": "modules.sd_samplers_timesteps",
        "CFGDenoiserTimesteps": "modules.sd_samplers_timesteps",
    },
    "engine": {
        "IntegratedUNet2DConditionModel": "backend.nn.unet", "Predictor": "backend.modules.k_prediction",
        "KModel": "backend.modules.k_model", "UnetPatcher": "backend.patcher.unet",
        "ForgeObjects": "backend.diffusion_engine.base", "ForgeDiffusionEngine": "backend.diffusion_engine.base",
    },
}  # fmt: skip
OTHERWISE = {"Predictor": "Prediction"}  # classes' names there
# What the classes have from their bases, or from what is one of them.
ABOVE = {
    "Predictor": [("backend.modules.k_prediction", "AbstractPrediction")],
    "UnetPatcher": [("backend.patcher.base", "ModelPatcher")],
    "ForgeDiffusionEngine": [("backend.diffusion_engine.sd15", "StableDiffusion")],
    "StableDiffusionProcessingTxt2Img": [("modules.processing", "StableDiffusionProcessing")],
    "StableDiffusionProcessingImg2Img": [("modules.processing", "StableDiffusionProcessing")],
}
OWN = {
    "stub", "take_up", "alike", "forges_unet",  # the face's own functions
    "get_unet_option",  # of another module
}  # fmt: skip
BUILT = {"__init__", "memory_required"}  # what the classes are made from is the demo's, and so are bytes


def reals(name: str, module: str) -> Iterator[dict[str, Any]]:
    yield FORGE[module]["classes"][OTHERWISE.get(name, name)]
    yield from (FORGE[other]["classes"][base] for other, base in ABOVE.get(name, ()))


@pytest.mark.parametrize(("file", "name"), [(file, name) for file, names in FACE_OF.items() for name in names])
def test_the_second_face_matches_forge(file: str, name: str) -> None:
    body = parse(FACE / f"{file}.py").body
    module = FACE_OF[file][name]
    if not name:
        ours = {k: v for k, v in functions(body).items() if k not in OWN}
        assert ours and ours.items() <= FORGE[module]["functions"].items()
        return
    node = next(n for n in body if isinstance(n, ast.ClassDef) and n.name == name)
    methods = {k: v for base in reversed([*reals(name, module)]) for k, v in base["methods"].items()}
    known = {k: v for base in reversed([*reals(name, module)]) for k, v in base["fields"].items()}
    ours = {k: v for k, v in functions(node.body).items() if k not in BUILT}
    assert ours.items() <= methods.items()
    told = {k for base in reals(name, module) for k in base["init_attributes"]}
    wrong = {k: v for k, v in fields(node.body).items() if k not in told and known.get(k) != v}
    assert not wrong


def test_forge_has_what_the_faces_functions_stand_for() -> None:
    """What ``face`` puts in the place of the WebUI's is there by that name."""
    for module in ("modules.sd_models", "modules.lowvram", "modules.sd_unet"):
        assert FORGE[module]["functions"]
    data = FORGE["modules.sd_models"]["classes"]["SdModelData"]
    assert "loaded_sd_models" not in data["init_attributes"] and "sd_model" in data["init_attributes"]
    assert "x" in FORGE["modules.script_callbacks"]["classes"]["CFGDenoiserParams"]["init_attributes"]


# --- all hosts ------------------------------------------------------------------------------------------------------

HOSTS = table_of("host-names.json")
GAPS = {"Forge Neo": {"like": "Forge dfdcbab", "modules": {"lowvram"}, "packages": {"open_clip"}}}
"""Hosts of which no sources are at hand: like another one, without these."""


def lacking(host: str, module: str, name: str | None) -> bool:
    """Whether the host has no such module, or no such name in it."""
    gap = GAPS.get(host, {})
    table, gone = HOSTS[gap.get("like", host)], gap.get("modules", set())
    if module == "modules" and name is not None:
        return name in gone or name not in table["modules"].split()
    if module.removeprefix("modules.") in gone or module not in table:
        return True
    return name is not None and name not in table[module].split()


@pytest.mark.parametrize("host", [*HOSTS, *GAPS])
def test_what_is_imported_at_load_time_is_in_every_host(host: str) -> None:
    asked = {(path.relative_to(ROOT).as_posix(), *found) for path in OURS for found in imported(parse(path))}
    of_host = {(path, module, name) for path, module, name in asked if module.split(".")[0] == "modules"}
    assert len(of_host) > 20
    assert not {(path, module, name) for path, module, name in of_host if lacking(host, module, name)}
    packages = GAPS.get(host, {}).get("packages", set())
    assert not {(path, module) for path, module, _ in asked if module.split(".")[0] in packages}


def test_a_module_that_a_host_lacks_is_noticed() -> None:
    assert lacking("Forge Neo", "modules", "lowvram") and lacking("Forge classic", "modules", "lowvram")
    assert lacking("Forge Neo", "modules.lowvram", None) and lacking("Forge Neo", "modules.lowvram", "is_enabled")
    assert lacking("Forge dfdcbab", "modules.shared", "no_such_name") and not lacking("Forge Neo", "modules", "shared")
    found = {*imported(ast.parse("try:\n    from modules import lowvram\nexcept ImportError:\n    pass"))}
    assert found == {("modules", "lowvram")}
    assert not [*imported(ast.parse("def f():\n    from modules import lowvram"))]
