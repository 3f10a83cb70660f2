"""Writes the tables in this folder anew from the hosts' sources, for a person who has these.

``python -m tests.contract.make webui=FOLDER forge=FOLDER reforge=FOLDER classic=FOLDER``

``forge-contract.json``: signatures of what the miniature host's second face has. ``host-names.json``: the names that
each host has in the modules that the extension imports.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

from tests.helpers.contract import attributes, defined, fields, functions, imported, parse
from tests.helpers.paths import ROOT

HERE = Path(__file__).parent
OURS = [ROOT / "preload.py", *(ROOT / "scripts").glob("*.py"), *(ROOT / "lib_ipadapter").rglob("*.py")]
HOSTS = {
    "webui": "AUTOMATIC1111 WebUI v1.10.1",
    "forge": "Forge dfdcbab",
    "reforge": "reForge 3b56b26",
    "classic": "Forge classic",
}
# Forge's modules, and the functions and classes of theirs that the second face of the miniature host has.
FACE = {
    "modules.sd_models": "FakeInitialModel SdModelData forge_model_reload load_model reload_model_weights "
    "get_empty_cond send_model_to_device send_model_to_trash apply_token_merging",
    "modules.lowvram": "is_needed is_enabled apply send_everything_to_cpu",
    "modules.sd_unet": "get_unet_option",
    "modules.sd_samplers_cfg_denoiser": "CFGDenoiser",
    "modules.sd_samplers_kdiffusion": "CFGDenoiserKDiffusion",
    "modules.sd_samplers_timesteps": "CFGDenoiserTimesteps CompVisTimestepsDenoiser",
    "modules.processing": "StableDiffusionProcessing StableDiffusionProcessingTxt2Img StableDiffusionProcessingImg2Img",
    "modules.script_callbacks": "CFGDenoiserParams AfterCFGCallbackParams",
    "k_diffusion.external": "ForgeScheduleLinker",
    "backend.memory_management": "get_free_memory free_memory soft_empty_cache unload_all_models",
    "backend.modules.k_model": "KModel",
    "backend.modules.k_prediction": "AbstractPrediction Prediction",
    "backend.nn.unet": "IntegratedUNet2DConditionModel CrossAttention",
    "backend.patcher.base": "ModelPatcher",
    "backend.patcher.unet": "UnetPatcher",
    "backend.diffusion_engine.base": "ForgeObjects ForgeDiffusionEngine",
    "backend.diffusion_engine.sd15": "StableDiffusion",
}


def file_of(module: str, root: Path) -> Path | None:
    path = root.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _class(node: ast.ClassDef) -> dict[str, Any]:
    return {"bases": [ast.unparse(base) for base in node.bases], "fields": fields(node.body),
            "methods": functions(node.body), "init_attributes": attributes(node)}  # fmt: skip


def face_table(forge: Path) -> dict[str, Any]:
    table = {}
    for module, wanted in FACE.items():
        file = file_of(module, forge)
        body = parse(file).body if file else []
        found = functions([n for n in body if getattr(n, "name", "") in wanted.split()])
        classes = {n.name: _class(n) for n in body if isinstance(n, ast.ClassDef) and n.name in wanted.split()}
        table[module] = {"functions": found, "classes": classes}
    return table


def names(root: Path, modules: set[str]) -> dict[str, str]:
    """What each of the modules has, for those that are there; the package itself has its modules."""
    stems = {path.stem for path in (root / "modules").iterdir() if path.suffix in ("", ".py")}
    found = {"modules": " ".join(sorted(stems - {"__pycache__", "__init__"}))}
    for module in sorted(modules - {"modules"}):
        file = file_of(module, root)
        if file is not None:
            found[module] = " ".join(sorted({n for n in defined(parse(file).body) if not n.startswith("_")}))
    return found


def _asked() -> set[str]:
    """The host's modules that any import of ours names, in functions as well."""
    found = {"modules"}
    for path in OURS:
        tree = parse(path)
        every = ast.Module([node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))], [])
        for module, name in imported(every):
            if module == "modules" and name:
                found.add(f"modules.{name}")
            elif module.startswith("modules."):
                found.add(module)
    return found


def _written(data: dict[str, Any], name: str) -> None:
    (HERE / name).write_text(json.dumps(data, indent=1) + "\n", encoding="utf8")


if __name__ == "__main__":
    folders = {name: Path(folder) for name, _, folder in (given.partition("=") for given in sys.argv[1:])}
    _written({"host": HOSTS["forge"], "modules": face_table(folders["forge"])}, "forge-contract.json")
    _written({HOSTS[name]: names(folder, _asked()) for name, folder in folders.items()}, "host-names.json")
