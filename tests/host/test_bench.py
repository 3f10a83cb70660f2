"""The run for CPUs on narrow models: every section gives figures, and says what is wrong where something is."""

from __future__ import annotations

import sys

import pytest
import torch

from benchmarks.bench import isolated, sections, step
from benchmarks.bench.__main__ import main
from benchmarks.gpu import modes, unets
from benchmarks.gpu.bench import Bench, Scene
from benchmarks.gpu.measure import Row
from benchmarks.gpu.modes import Mode
from lib_ipadapter.attend import inject, merged

CPU = torch.device("cpu")


def cells(printed: str) -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    return {figure: rest for figure, *rest in lines if rest}


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_sections_of_this_process_run(capsys, threads, monkeypatch) -> None:
    names = ["encode", "references", "precision", "webui", "sdxl", "step"]
    monkeypatch.setattr(merged, "has_plenty", lambda _device, _nbytes: True)
    monkeypatch.setattr(merged, "has_compiled", lambda: False)
    assert main(["--small", "--only", *names]) == 0
    found = cells(capsys.readouterr().out)
    left_out = {"whole requests in a WebUI", "SD1.5, narrow, fp16"}  # older torch computes no fp16 on the CPU
    assert {figure for figure, (value, *_) in found.items() if not Row("", value).measured} <= left_out
    for case in step.OURS:
        assert float(found[f"SD1.5 fp32, 64², batch 2, {case}: with / without"][0]) > 0
    for case in step.SDXL_OURS:
        assert float(found[f"SDXL fp32, 64², batch 2, 70 layers, {case}: with / without"][0]) > 0
    assert float(found["SD1.5 fp32, 64², batch 2, diffusers' IP-Adapter (1 base): with / without"][0]) > 0
    (encoding,) = (rest for figure, rest in found.items() if figure.endswith("ours / open_clip's"))
    assert "off its embedding by 0.0e+00" in encoding[1]
    formats = {figure: rest[1] for figure, rest in found.items() if " off fp32 by" in figure and "ViT-H's" in figure}
    assert len(formats) == 4 and sum("float16 weights, computed in float32" in figure for figure in formats) == 2
    assert all(float(beside.removeprefix("smallest cosine ")) > 0.999 for beside in formats.values())
    deviations = {figure: rest for figure, rest in found.items() if figure.startswith("SD1.5, narrow, float32, ")}
    assert len(deviations) == 2 * len(modes.WAYS)
    for value, beside, *_ in deviations.values():
        assert float(value.split()[0]) < 1e-5 and "; effect 0." in beside
    targets = [rest[3] for rest in found.values() if len(rest) > 3 and rest[3].startswith("≤")]
    assert targets and all("not shown (2 of" in target for target in targets)


def test_sections_with_processes_of_their_own_run(capsys, threads) -> None:
    names = ["files", "start", "memory", "faults"]
    assert {section.name for section in sections.SECTIONS} == {
        *names, "encode", "references", "precision", "webui", "sdxl", "step",
    }  # fmt: skip
    assert main(["--small", "--only", *names]) == 0
    found = cells(capsys.readouterr().out)
    assert [figure for figure, (value, *_) in found.items() if not Row("", value).measured] == []
    assert any(figure.startswith("listing 50 adapters, once known") for figure in found)
    assert any(figure.startswith("the WebUI's start, import of the script") for figure in found)
    (kept,) = (rest for figure, rest in found.items() if "in its file's fp16: main memory / file" in figure)
    assert 1.0 <= float(kept[0]) < 1.3
    for figure in ("10 hostile requests: wrong", "10 hostile files: wrong", "4 hostile archives: wrong"):
        assert found[figure][0] == "0" and found[figure][3] == "none: met"
    assert found["a process that changes presets killed (SIGKILL): lost or half"][0] == "0"


def test_a_process_that_fails_says_why(monkeypatch) -> None:
    with pytest.raises(RuntimeError, match="No module named"):
        list(isolated.isolated(Bench(CPU, small=True), "nothing"))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(OSError):
        list(isolated.isolated(Bench(CPU, small=True), "listing"))


def test_narrow_models_are_not_written(capsys) -> None:
    assert main(["--small", "--write"]) == 2
    assert "--write" in capsys.readouterr().err


def test_prompts_that_do_nothing_are_seen(monkeypatch) -> None:
    bench = Bench(CPU, small=True)
    scene = Scene.draw(bench, unets.build(unets.SD15.shallow(), CPU))
    assert step.without_effect(scene, step.OURS) == []
    monkeypatch.setattr(inject.Injection, "attach", lambda self: self)
    rows = step.without_effect(scene, step.OURS)
    assert [row.figure for row in rows] == [*step.OURS] and all("NO EFFECT" in row.value for row in rows)


@pytest.mark.parametrize("roomy", [True, False])
def test_a_lora_is_timed_in_the_weights_where_there_is_room(roomy: bool, monkeypatch) -> None:
    monkeypatch.setattr(merged, "has_plenty", lambda _device, _nbytes: roomy)
    monkeypatch.setattr(merged, "has_compiled", lambda: False)
    bench = Bench(CPU, small=True)
    scene = Scene.draw(bench, unets.build(unets.SD15.shallow(), CPU))
    rows = {row.figure.partition("70 layers, ")[2]: row.value for row in step._sdxl(bench, scene)}
    timed = {figure for figure, value in rows.items() if float(value.partition(" ")[0].replace("left", "nan")) > 0}
    assert f"{step.BESIDE}, as in a job's first steps: with / without" in timed
    assert (f"{step.FACE}: with / without" in timed) == roomy == any("20 steps" in figure for figure in timed)
    assert rows.get(step.FACE, "").startswith("left out") != roomy


@pytest.mark.parametrize("way", modes.WAYS, ids=lambda way: way.name)
def test_a_way_leaves_the_unet_as_it_was(way) -> None:
    bench = Bench(CPU, small=True)
    scene = Scene.draw(bench, unets.build(unets.SD15.shallow(), CPU))
    plain, state = scene.plain(), {name: p.clone() for name, p in scene.unet.named_parameters()}
    with way.entered(Mode("", torch.float32).scene(scene)) as other:
        inside = other.plain()
    assert (inside - plain).abs().max() < 1e-4 * plain.abs().max()
    assert torch.equal(scene.plain(), plain) and scene.hooks == 0
    assert all(torch.equal(p, state[name]) for name, p in scene.unet.named_parameters())
    assert not any("forward" in vars(module) for module in scene.unet.modules())
