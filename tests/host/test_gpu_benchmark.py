"""The run for cards, on the CPU: its models are the published ones, and it says what is wrong where something is."""

from __future__ import annotations

import ast
import importlib.util
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmarks.gpu import (
    compiled,
    flux,
    flux_steps,
    keypoints,
    memory,
    modes,
    report,
    scarcity,
    steps,
    tower,
    unets,
)
from benchmarks.gpu import run as running
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.bench import Bench, Scene, image_prompt
from benchmarks.gpu.job import Jobs, jobs
from benchmarks.gpu.measure import Deviation, Row, nbytes, reason
from benchmarks.gpu.run import Part, Section, run
from lib_ipadapter.attend import inject, lora, merged, residuals
from lib_ipadapter.attend.injection import detach_all
from lib_ipadapter.attend.layers import Topology, count_blocks, cross_attention_layers
from lib_ipadapter.attend.models import topology_of
from lib_ipadapter.attend.prompt import ImagePrompt
from lib_ipadapter.checkpoint.control import layout
from lib_ipadapter.checkpoint.identify import identify
from lib_ipadapter.encode import clip_image as clip
from lib_ipadapter.encode.clip_image import ImageEncoder
from lib_ipadapter.jobs import generation
from tests.helpers.tensors import close, draw
from tests.helpers.unets import sd_unet, sdxl_unet

CPU = torch.device("cpu")


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Bench(CPU, small=True, budget=120) as bench:
        yield bench


@pytest.fixture
def scene(bench: Bench) -> Scene:
    return bench.scene(replace(unets.SD15, multipliers=(1, 2), depths=(1, 1)))


@pytest.fixture(autouse=True)
def _room() -> Iterator[None]:
    """There is room for a LoRA in the weights, whatever this machine has, and other tests have compiled."""
    with pytest.MonkeyPatch.context() as patch:  # of its own: a test undoes what it has changed itself
        patch.setattr(merged, "has_plenty", lambda _device, _nbytes: True)
        patch.setattr(merged, "has_compiled", lambda: False)
        yield


# --- the models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "parameters", "layers", "blocks", "base"),
    [(unets.SD15, 859_520_964, 16, 16, "SD1.5"), (unets.SDXL, 2_567_463_684, 70, 11, "SDXL")],
)
def test_the_unets_have_the_published_sizes(sizes, parameters: int, layers: int, blocks: int, base: str) -> None:
    with torch.device("meta"):
        unet = unets.UNet(sizes)
    found = cross_attention_layers(unet)
    assert sum(p.numel() for p in unet.parameters()) == parameters
    assert (len(found), count_blocks(found), Topology.of(found).base) == (layers, blocks, base)


@pytest.mark.parametrize(
    ("make", "sizes"),
    [
        (sd_unet, replace(unets.SD15.narrow(), heads=8)),
        (sdxl_unet, replace(unets.SDXL.narrow(), heads=4, vector=None)),
    ],
)
def test_the_unets_give_what_ldms_give(make, sizes: unets.Sizes) -> None:
    theirs, ours = make(), unets.build(sizes, CPU)
    ours.load_state_dict(theirs.state_dict())
    x, t, text = draw(2, 4, 16, 16, seed=1), torch.tensor([500.0, 7.0]), draw(2, 77, sizes.context, seed=2)
    assert close(ours(x, t, context=text), theirs(x, t, context=text))


def test_no_weight_is_zero_and_seeds_tell() -> None:
    one, same, other = (unets.build(unets.SDXL.shallow(), CPU, seed=seed) for seed in (1, 1, 2))
    for name, weight in one.named_parameters():
        assert weight.abs().max() > 0.01
        assert torch.equal(weight, same.get_parameter(name))
        assert not torch.equal(weight, other.get_parameter(name))


@pytest.mark.parametrize("quick", [False, True])
def test_the_tower_gives_what_open_clips_gives(quick: bool, monkeypatch) -> None:
    state = tower.random_state(tower.SMALL, CPU)
    spec = replace(identify({key: tuple(weight.shape) for key, weight in state.items()}), quick_gelu=quick)
    pixels = draw(2, 3, 42, 42, seed=3)
    theirs = ImageEncoder.from_state(spec, dict(state), dtype=torch.float32).encode(pixels)
    monkeypatch.setattr(clip, "_empty_tower", tower.empty_tower)
    encoder = ImageEncoder.from_state(spec, state, dtype=torch.float32)
    assert isinstance(encoder._tower, tower.VisionTransformer)
    ours = encoder.encode(pixels)
    assert close(ours.pooled, theirs.pooled)
    assert close(ours.penultimate, theirs.penultimate)


def test_the_tower_is_used_where_open_clip_is_not(monkeypatch) -> None:
    monkeypatch.setattr(clip, "_empty_tower", clip._empty_tower)
    assert tower.provide().startswith("open_clip ")
    assert clip._empty_tower is not tower.empty_tower
    monkeypatch.setitem(sys.modules, "open_clip.transformer", None)
    assert tower.provide().startswith("own ")
    assert clip._empty_tower is tower.empty_tower


def test_the_encoder_is_vit_h() -> None:
    spec = identify(tower.state_shapes(tower.VIT_H))
    assert (spec.kind, spec.parameters) == ("ViT-H-14", 632_076_800)


def test_nothing_but_torch_and_what_the_library_needs_is_imported() -> None:
    """Anywhere in the run's files, at their top or in functions."""
    found = set()
    for file in Path(steps.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            found |= {name.split(".")[0] for name in names}
    assert found - sys.stdlib_module_names == {"torch", "PIL", "lib_ipadapter", "open_clip"}


# --- the run --------------------------------------------------------------------------------------------------------


def cells(printed: str) -> dict[str, list[str]]:
    lines = [line.split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    return {figure.removeprefix("| "): rest for figure, *rest in lines}


def test_every_section_runs_on_the_cpu(capsys, monkeypatch) -> None:
    names = ["steps", "modes", "flux", "memory", "keypoints", "encoder", "scarcity"]
    guarded, strangers = running._guarded, []

    def noting(bench: Bench, figure: str, *more) -> list[Row]:
        rows = [*guarded(bench, figure, *more)]
        strangers.extend((figure, row.figure) for row in rows if not report.is_of(row.figure, Row(figure, "")))
        return rows

    monkeypatch.setattr(running, "_guarded", noting)
    assert main(["--device", "cpu", "--small", "--budget", "900", "--only", *names]) == 0
    assert strangers == []  # a part that was left out is known by its rows of an older run, and these by its name
    found = cells(capsys.readouterr().out)
    half = "SD1.5, fp16"  # older torch cannot compute in fp16 on the CPU
    assert [figure for figure, (value, *_) in found.items() if not Row("", value).measured and figure != half] == []
    assert float(found["SD1.5 float32, latent 8², 4 base units: with / without"][0]) > 0
    assert found["SD1.5, fp32, 1 base unit: off fp32 by"][0] == "0.0e+00 (max 0.0e+00)"
    for figure, (_, beside, *_) in found.items():
        if figure.endswith("off fp32 by") and figure.startswith("SD1.5"):
            assert "; effect 0." in beside
    of_flux = "FLUX float32, 1 + 2 blocks, 64 + 16 places"
    for case in flux_steps.CASES:
        assert float(found[f"{of_flux}, {case}: with / without"][0]) > 0
    for what in ("a line", "a matrix, as a region needs"):
        assert float(found[f"attention, bias as {what}, over 89 places, 2 heads: with / without"][0]) > 0
    assert found["SD1.5, 4 base units: after detaching"][0] == "0 B"
    assert found["SD1.5, 4 base units: during a step, at most"][1] != "kept between steps 0 B"
    for way in ("keypoints", "keypoints, weights in turn"):
        figure = f"SDXL float32, latent 8², {way}"
        assert float(found[f"{figure}: with / without"][0]) > 0
        assert found[f"{figure}: after detaching"][0] == "0 B"
    assert found["SD1.5, 1 face unit with its LoRA: after detaching"][0] == "0 B"
    assert float(found["SD1.5 float32, latent 8², 1 face unit with its LoRA: with / without"][0]) > 0
    for place in ("the encoder's move", "encoding", "projecting", "keys and values", "gathering", "sampling"):
        assert found[f"no memory at {place}: the caller gets"][0]
        assert found[f"no memory at {place}: hooks left in the UNet"][:2] == ["0", "a plain step is bit-identical"]
        assert found[f"no memory at {place}: the next job's step"][0] == "bit-identical"


def test_without_a_card_one_sentence_says_what_to_do(capsys, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    assert "No CUDA card" in error


def test_what_is_not_installed_is_said_in_one_line(capsys, monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("numpy", "PIL") else find(name))
    assert main(["--device", "cpu", "--small", "--budget", "0", "--only", "encoder"]) == 0
    out, error = capsys.readouterr()
    assert error.count("\n") == 1
    assert error.endswith("python -m pip install numpy pillow\n")
    assert "The image encoder, the rest | left out: no time left" in out


@pytest.mark.parametrize("more", [["--small"], []])
def test_a_cpus_figures_are_not_written(more: list[str], capsys) -> None:
    assert main(["--device", "cpu", "--write", *more]) == 2
    assert "--write" in capsys.readouterr().err


def rows_of(bench: Bench, *parts: Part, budget: float = 60.0) -> list[Row]:
    """What a run of these parts tells."""
    found: list[Row] = []
    section = Section("name", "About", 1, lambda _bench: (part for part in parts))
    run(bench, [section], budget, lambda _section, row: found.append(row))
    return found


def test_a_fault_is_a_row_and_the_run_goes_on(bench: Bench) -> None:
    def faulty() -> Iterator[Row]:
        yield Row("before", "1")
        raise ValueError("this\nand that")

    good = Part("good", lambda: [Row("after", "2")])
    assert rows_of(bench, Part("faulty", faulty), good) == [
        Row("before", "1"), Row("faulty", "failed: ValueError: this"), Row("after", "2"),
    ]  # fmt: skip
    assert not Row("faulty", "failed: ValueError: this").measured


def test_a_section_whose_models_cannot_be_made_is_a_row(bench: Bench) -> None:
    def parts(_bench: Bench) -> Iterator[Part]:
        raise ModuleNotFoundError("No module named 'PIL'", name="PIL")
        yield

    found: list[Row] = []
    sections = [Section("bad", "Bad", 1, parts), Section("good", "Good", 1, lambda _: iter_of(Row("fine", "1")))]
    run(bench, sections, 60, lambda _section, row: found.append(row))
    assert [row.figure for row in found] == ["Bad, making its models", "fine"]
    assert found[0].value.endswith("python -m pip install pillow")


def iter_of(*rows: Row) -> Iterator[Part]:
    yield Part("some", lambda: rows)


def test_what_has_no_time_left_says_so() -> None:
    bench = Bench(CPU, budget=60)
    assert rows_of(bench, Part("long", lambda: [Row("no", "no")], needs=100)) == [
        Row("long", "left out: no time left (it needs 100 s)")
    ]
    bench.deadline = time.monotonic()
    assert rows_of(bench, Part("any", lambda: [Row("no", "no")])) == [Row("About, the rest", "left out: no time left")]


def test_what_takes_too_long_is_stopped() -> None:
    bench, ended = Bench(CPU, budget=1.2), []
    row, rest = rows_of(bench, Part("endless", lambda: time.sleep(30) or ended.append(True) or []))
    assert ended == []
    assert row.value.startswith("left out: stopped after ")
    assert rest == Row("About, the rest", "left out: no time left")


def test_time_is_kept_for_later_sections() -> None:
    bench, given = Bench(CPU, budget=100), []

    def parts(_bench: Bench) -> Iterator[Part]:
        given.append(bench.left)
        yield from ()

    run(bench, [Section("a", "A", 30, parts), Section("b", "B", 70, parts)], 100, lambda *_: None)
    assert given == pytest.approx([30, 100], abs=5)  # what the first leaves is the second's


# --- each section can fail ------------------------------------------------------------------------------------------


def test_the_transformer_has_the_published_sizes() -> None:
    with torch.device("meta"):
        made = flux.Flux(replace(flux.FULL, double_blocks=19, single_blocks=38))
    published = 11_901_408_320  # of which the stand-in lacks some millions outside of the blocks
    assert sum(p.numel() for p in made.parameters()) == pytest.approx(published, rel=0.005)
    assert topology_of(made) == Topology(4096, (3072,) * 19, 19, "FLUX")


def test_flux_image_prompts_that_do_nothing_are_seen(bench: Bench, monkeypatch) -> None:
    scene = flux_steps.FluxScene.draw(bench)
    make = flux_steps.CASES["Redux, weight 0.5 (a bias)"]
    assert flux_steps._redux(scene)[0].appended.cond.shape[1] == 9
    monkeypatch.setattr(flux_steps.FluxInjection, "begin", lambda *_: None)
    (row,) = flux_steps._with(bench, scene, "case", make)
    assert "NO EFFECT" in row.value
    monkeypatch.undo()
    assert len(list(flux_steps._with(bench, scene, "case", make))) == 1


def test_hooks_that_do_nothing_are_seen(bench: Bench, scene: Scene, monkeypatch) -> None:
    monkeypatch.setattr(inject.Injection, "attach", lambda self: self)
    (row,) = steps._with(bench, scene, "case", steps.CASES["1 base unit"])
    assert "NO EFFECT" in row.value
    monkeypatch.undo()
    assert len(list(steps._with(bench, scene, "case", steps.CASES["1 base unit"]))) == 2

    monkeypatch.setattr(lora.LoraHooks, "attach", lambda self: [])
    (row,) = steps._with(bench, scene, "case", steps.CASES["1 face unit with its LoRA"])
    assert "NO EFFECT of the LoRA" in row.value
    monkeypatch.undo()
    _, beside, merging, row = steps._with(bench, scene, "case", steps.CASES["1 face unit with its LoRA"])
    assert "beside the layers" in beside.figure and "is merged" in merging.figure and " and a LoRA of " in row.spread

    mode = next(mode for mode in modes.modes(bench) if mode.last)
    acting = Scene.with_prompts
    monkeypatch.setattr(modes, "modes", lambda _bench: [mode])
    calls: list[int] = []

    def only_for_the_reference(scene: Scene, prompts: list) -> torch.Tensor:
        calls.append(1)
        return acting(scene, prompts) if len(calls) <= 2 else scene.plain()  # without a LoRA, and with one

    monkeypatch.setattr(Scene, "with_prompts", only_for_the_reference)
    rows = rows_of(bench, *modes.parts(bench))
    assert len(rows) == 2 * (1 + len(modes.WAYS)) and all("NO EFFECT" in row.spread for row in rows)


def test_a_network_that_adds_nothing_is_seen(bench: Bench, monkeypatch) -> None:
    monkeypatch.setattr(residuals.Residuals, "hooks", lambda self: [])
    found = rows_of(bench, *keypoints.parts(bench))
    assert [row.value for row in found if "NO EFFECT" in row.value] == [
        "failed: NO EFFECT, so there is no cost to " "measure"
    ] * 2


def test_the_network_has_the_published_size() -> None:
    spec = keypoints.spec_for(unets.SDXL)
    assert sum(map(prod, layout(spec).values())) == 1_251_014_160


def held(scene: Scene, prompt: ImagePrompt) -> int:
    """Bytes of a prompt on the device between steps: keys and values in fp32, as they are in main memory, and the
    weights with its LoRA in them, which the LoRA's own numbers are not kept beside."""
    layers = [one for layer in cross_attention_layers(scene.unet) for one in (layer.module, layer.self_attention)]
    return prompt.kv.nbytes + sum(lora.linear(one, name).weight.nbytes for one in layers for name in lora.LAYERS)


def test_what_detaching_leaves_is_seen(bench: Bench, scene: Scene, monkeypatch) -> None:
    detach = inject.Injection.detach

    def forgetful(self: inject.Injection) -> None:
        gathered = [dict(hooks.gathered) for hooks in self.layers]
        detach(self)
        for hooks, kept in zip(self.layers, gathered, strict=True):
            hooks.gathered.update(kept)

    def after() -> Row:
        return list(memory.measured_step(bench, scene, "case", [image_prompt(scene.unet)]))[1]

    assert after() == Row("case: after detaching", "0 B", "as it should be")
    face = steps.CASES["1 face unit with its LoRA"](scene)
    during, done = memory.measured_step(bench, scene, "case", face)
    assert done.value == "0 B"
    assert during.spread == f"kept between steps {nbytes(held(scene, face[0]))}, its LoRA in the weights"
    monkeypatch.setattr(inject.Injection, "detach", forgetful)
    assert after().spread == "it should be 0 B"


def test_hooks_left_behind_and_lost_effects_are_seen(bench: Bench, monkeypatch) -> None:
    unet_scene = bench.scene(unets.SD15, all_layers=True)
    with jobs(bench, unet_scene) as made:
        job = made.generation(made.resources())
        plain, wanted = unet_scene.plain(), made.step(job)
        job.detach()
        (place,) = (place for place in scarcity.places() if place.name == "sampling")
        measure = partial(scarcity._at, bench, made, place, plain)
        outcome, _, _, again = measure(wanted)
        assert outcome.value.startswith("OutOfMemoryError")
        assert again.value == "bit-identical"
        monkeypatch.setattr(generation.Generation, "detach", lambda self: None)
        _, _, hooks, again = measure(plain)
        assert int(hooks.value) > 32
        assert hooks.spread.startswith("a plain step is off by ")
        assert again.value.startswith("off by ")
        detach_all(unet_scene.unet)


def test_a_place_that_is_never_reached_is_seen(bench: Bench) -> None:
    unet_scene = bench.scene(unets.SD15, all_layers=True)
    with jobs(bench, unet_scene) as made:
        place = scarcity.Place("nowhere", lambda made, act: scarcity.before_first(Jobs, "resources", act))
        (row,) = scarcity._at(bench, made, place, unet_scene.plain(), unet_scene.plain())
    assert row.value.startswith("failed: ")


def test_a_cards_memory_is_taken_to_the_last_piece_and_given_back(bench: Bench, monkeypatch) -> None:
    free, limits, empty = [3 * 2**20 + 5000], [], torch.empty

    def allocate(count: int, *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        if count > free[0]:
            raise torch.cuda.OutOfMemoryError("full")
        free[0] -= count
        return empty(count, dtype=dtype)

    monkeypatch.setattr(Bench, "is_card", True)
    monkeypatch.setattr(Bench, "tidy", lambda self: None)
    monkeypatch.setattr(torch, "empty", allocate)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: SimpleNamespace(total_memory=1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 250)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, _device: limits.append(share))
    scarce = scarcity.Scarcity(bench)
    scarce.take()
    assert free[0] < 4096
    assert sum(map(len, scarce.ballast)) == 3 * 2**20 + 4096
    scarce.give()
    assert limits == [0.25, 1.0]
    assert scarce.ballast == []


def test_a_compiler_that_leaves_hooks_out_is_seen(bench: Bench, monkeypatch) -> None:
    monkeypatch.setattr(torch._dynamo, "reset", lambda: None)
    monkeypatch.setattr(compiled, "WAYS", compiled.WAYS[1:2])

    def rows() -> list[Row]:
        return rows_of(bench, *compiled.parts(bench))

    monkeypatch.setattr(torch, "compile", lambda what, backend: what)
    acting, again, other = rows()
    assert acting.value.startswith("effect 0.")
    assert again.value == "off the first by 0.0e+00 (max 0.0e+00)"
    assert other.value.startswith("effect 0.")

    class Blind(nn.Module):
        """Compiled without a look at hooks."""

        def __init__(self, unet: nn.Module) -> None:
            super().__init__()
            self.unet = (unet,)

        def forward(self, *args, **options) -> torch.Tensor:
            (unet,) = self.unet
            kept = [(m, h, dict(h)) for m in unet.modules() for h in (m._forward_hooks, m._forward_pre_hooks)]
            for _, hooks, _ in kept:
                hooks.clear()
            try:
                return unet(*args, **options)
            finally:
                for _, hooks, old in kept:
                    hooks.update(old)

    monkeypatch.setattr(torch, "compile", lambda what, backend: Blind(what))
    acting, _, other = rows()
    assert acting.value.startswith("NO EFFECT")
    assert acting.value.endswith("the library says so")
    assert other.value.startswith("NO EFFECT")


# --- numbers and the document ---------------------------------------------------------------------------------------


def test_a_deviation_is_in_shares_of_the_reference() -> None:
    found = Deviation.of(torch.tensor([1.0, 2.0, 5.0]), torch.tensor([1.0, 2.0, 3.0]))
    assert (round(found.mean, 6), round(found.largest, 6)) == (round(1 / 3, 6), round(2 / 3, 6))
    assert str(Deviation.of(torch.tensor([float("nan")]), torch.ones(1))) == "NaN or infinity"


def test_a_missing_package_is_named_with_its_remedy() -> None:
    error = ModuleNotFoundError("No module named 'PIL'", name="PIL.Image")
    assert reason(error).endswith("PIL.Image is not installed: python -m pip install pillow")
