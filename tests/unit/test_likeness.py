"""benchmarks/likeness: scores against transformers' CLIPModel, intervals, what is made and what is told."""

from __future__ import annotations

import base64
import csv
import io
import json
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import requests
import torch
from PIL import Image
from transformers import CLIPImageProcessor

from benchmarks.errors import Trouble
from benchmarks.likeness import drawn, figures, report
from benchmarks.likeness.__main__ import main
from benchmarks.likeness.figures import Figure, Score, figure, median
from benchmarks.likeness.made import Kept, duration
from benchmarks.likeness.plan import CONTROLNET, OURS, PLAIN, Plan, plain_words, references, scenes
from benchmarks.likeness.scores import Clip, clip_i, clip_t
from benchmarks.webui import AUTH, WebUI
from lib_ipadapter.encode.clip_text import token_ids
from lib_ipadapter.errors import UnitError
from tests.helpers.likeness import SIZE, SmallWebUI, clip_model, write_clip, write_references
from tests.unit.test_clip_image import to_open_clip as image_to_open_clip
from tests.unit.test_clip_text import to_open_clip as text_to_open_clip


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "whole.safetensors")


@pytest.fixture(scope="module")
def clip(clip_file: Path) -> Clip:
    return Clip.open(clip_file)


def pictures(n: int = 3) -> list[Image.Image]:
    """Of different sizes and forms."""
    rng = np.random.default_rng(5)
    return [
        Image.fromarray(rng.integers(0, 256, (50 + 9 * (i % 7), 70 - 5 * (i % 9), 3), dtype=np.uint8)) for i in range(n)
    ]


CAPTIONS = ["a red circle on blue stripes", "a cat", "Ünïcode 猫"]


# --- scores -----------------------------------------------------------------------------------------------------------


def open_clips(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    text = {k: v for k, v in state.items() if k.startswith("text_")}
    image = {k: v for k, v in state.items() if k.startswith("vis")}
    made = {**text_to_open_clip(text), **image_to_open_clip(image, "visual."), "logit_scale": state["logit_scale"]}
    return {key: value.contiguous() for key, value in made.items()}


@pytest.mark.parametrize("change", [dict, open_clips], ids=["transformers", "open_clip"])
def test_both_scores_are_transformers(tmp_path: Path, change) -> None:
    clip, model = Clip.open(write_clip(tmp_path / "whole.safetensors", change)), clip_model()
    crop = {"height": SIZE, "width": SIZE}
    seen = CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=crop)(pictures(), return_tensors="pt")
    wanted = model(**seen, input_ids=open_clip.tokenize(CAPTIONS))
    images, texts = clip.images(pictures()), clip.texts(CAPTIONS)
    torch.testing.assert_close(images, wanted.image_embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(texts, wanted.text_embeds, rtol=0, atol=1e-5)
    # transformers' own cosines, by its own product and temperature
    cosines = wanted.logits_per_image / model.logit_scale.exp()
    for i in range(3):
        for j in range(3):
            assert clip_t(images[i], texts[j]).item() == pytest.approx(2.5 * max(cosines[i, j].item(), 0), abs=1e-5)
    assert cosines.min() > 0.05 and clip_t(-images, texts).tolist() == [0, 0, 0]  # both sides of 0
    among = wanted.image_embeds @ wanted.image_embeds.T
    assert clip_i(images[0], images[1]).item() == pytest.approx(among[0, 1].item(), abs=1e-5)


def test_a_picture_is_like_itself_and_order_and_batches_do_not_matter(clip: Clip) -> None:
    some = pictures(19)
    together = clip.images(some)
    assert torch.allclose(clip_i(together, clip.images(some)), torch.ones(19))
    assert torch.allclose(together.flip(0), clip.images(some[::-1]), atol=1e-6)
    assert clip_i(together[0], together[1:]).max() < 0.999
    grown = some[0].resize((some[0].width * 4, some[0].height * 4), Image.Resampling.NEAREST)
    assert clip_i(clip.images([grown])[0], together[0]) > clip_i(together[0], together[1:]).max()


def test_words_that_the_tower_does_not_take_are_left_out(clip: Clip) -> None:
    assert clip.fitting("a cat") == "a cat"
    long = " ".join(f"cat{i}" for i in range(80))
    fitting = clip.fitting(long)
    assert long.startswith(fitting) and len(fitting) < len(long)
    assert clip.texts([fitting]).shape == (1, 24)
    assert clip.fitting("") == ""


@pytest.mark.parametrize("text", [
    ",".join(f"tag_{i}" for i in range(80)), "赤い丸の上に青い縞模様があり、猫がその前に座っている。" * 9,
], ids=["tags", "Japanese"])  # fmt: skip
@pytest.mark.parametrize("before", ["", "a cat "], ids=["alone", "behind words"])
def test_of_text_without_spaces_the_beginning_counts(clip: Clip, text: str, before: str) -> None:
    fitting = clip.fitting(before + text)
    assert (before + text).startswith(fitting)
    taken = len(token_ids(fitting))
    assert 70 < taken <= 77
    with pytest.raises(UnitError):
        token_ids((before + text)[: len(fitting) + 8])


def test_a_caption_of_which_nothing_fits_is_told_as_one_without_words(tmp_path: Path, clip: Clip, monkeypatch) -> None:
    (tmp_path / "prompts.txt").write_text("a cat")
    plan = Plan(tuple(scenes(references(write_references(tmp_path / "refs")), tmp_path / "prompts.txt")), (1,), (), ())
    assert figures.Measuring(plan, None, None, clip).wordless == []
    monkeypatch.setattr(Clip, "fitting", lambda *_: "")
    measuring = figures.Measuring(plan, None, None, clip)
    assert (measuring.wordless, measuring.shortened) == (["a cat"], [])


def test_what_is_no_whole_clip_is_refused(tmp_path: Path, clip_file: Path) -> None:
    image_alone = write_clip(tmp_path / "a.safetensors", lambda s: {k: v for k, v in s.items() if "text" not in k})
    other = write_clip(tmp_path / "b.safetensors", lambda s: {"something": s["logit_scale"].reshape(1)})
    lacking = write_clip(
        tmp_path / "c.safetensors", lambda s: {k: v for k, v in s.items() if "layers.0.mlp.fc2" not in k}
    )
    nothing = tmp_path / "d.safetensors"
    nothing.write_bytes(b"nothing")
    for path, said in {
        image_alone: "without its text encoder", other: "neither", lacking: "", nothing: "", tmp_path / "e": "no file",
    }.items():  # fmt: skip
        with pytest.raises(Trouble, match=said) as error:
            Clip.open(path)
        assert "--clip names a whole CLIP model" in str(error.value) and str(path) in str(error.value)


def test_the_activation_is_told(clip_file: Path, clip: Clip) -> None:
    quick = Clip.open(clip_file, activation="quick_gelu")
    assert (clip.name, quick.name) == ("ViT (64 wide, 3 layers), GELU", "ViT (64 wide, 3 layers), QuickGELU")
    assert not torch.allclose(quick.images(pictures(1)), clip.images(pictures(1)), atol=1e-3)
    assert not torch.allclose(quick.texts(["a cat"]), clip.texts(["a cat"]), atol=1e-3)


# --- intervals --------------------------------------------------------------------------------------------------------


def test_an_interval_of_constants_is_a_point() -> None:
    assert figure([("a", 0.5), ("b", 0.5), ("c", 0.5)]) == Figure(0.5, 0.5, 0.5, 3, 3)
    assert figure([]).n == 0 and figure([]).told() == "–"


def test_references_are_drawn_and_not_pictures() -> None:
    """Two equal pictures are one: they make no interval narrower. Of one reference, its pictures are drawn."""
    values = [(f"{i}", v) for i, v in enumerate(np.random.default_rng(1).normal(size=12))]
    one, two = figure(values), figure(values * 2)
    assert (one.value, one.low, one.high) == pytest.approx((two.value, two.low, two.high))
    assert (one.n, two.n, two.groups) == (12, 24, 12)
    alone = figure([("a", v) for _, v in values])
    assert (alone.low, alone.high) == (one.low, one.high) and alone.groups == 1


def test_intervals_move_with_the_values_and_hold_the_mean() -> None:
    values = np.random.default_rng(2).normal(size=30)
    first = figure((f"{i % 10}", v) for i, v in enumerate(values))
    other = figure((f"{i % 10}", 10 - 2 * v) for i, v in enumerate(values))
    assert first.value == pytest.approx(values.mean())
    assert (other.low, other.high) == pytest.approx((10 - 2 * first.high, 10 - 2 * first.low))
    assert first.low < first.value < first.high


@pytest.mark.parametrize("statistic", [figures.mean, median])
def test_nineteen_of_twenty_intervals_hold_the_truth(statistic) -> None:
    rng, held = np.random.default_rng(3), 0
    for _ in range(150):
        centres = rng.normal(size=25)
        found = figure(((f"{i}", c + rng.normal()) for i, c in enumerate(centres) for _ in "ab"), statistic, draws=300)
        held += found.low <= 0 <= found.high
    assert 0.86 <= held / 150 <= 0.99


def test_the_median_is_of_all_pictures() -> None:
    assert figure([("a", 1.0), ("a", 2.0), ("b", 90.0)], median).value == 2.0


# --- rows, paired by seeds --------------------------------------------------------------------------------------------


def score(method: str, weight: float | None, seed: int = 1, reference: str = "r", **fields) -> Score:
    common = {
        "clip_i": 0.5, "clip_t": 0.6, "others": None, "seconds": fields.get("ratio", 1.0), "ratio": 1.0,
        "session": "1", "is_plain": False,
    }  # fmt: skip
    return Score(reference, "p", seed, method, weight, **{**common, **fields})


PLAN = Plan((), (1, 2), (0.0, 1.0), (OURS, CONTROLNET))


def some_scores(shift: float = 0.0) -> list[Score]:
    made = []
    for number, reference in enumerate("rst"):
        for seed in (1, 2):
            base = 0.1 * number + 0.01 * seed
            made.append(score(PLAIN, None, seed, reference, clip_i=base + shift, clip_t=0.3, is_plain=True))
            made += [
                score(
                    method, weight, seed, reference, clip_i=base + more * weight, clip_t=0.3 - 0.1 * weight,
                    ratio=1.0 + weight * more, is_plain=not weight,
                )
                for method, more in ((OURS, 0.4), (CONTROLNET, 0.3)) for weight in (0.0, 1.0)
            ]  # fmt: skip
    return made


def test_differences_are_taken_seed_by_seed() -> None:
    rows = {(row.method, row.weight): row for row in figures.rows(PLAN, some_scores())}
    ours = rows[OURS, 1.0]
    assert ours.over_clip_i.told("+") == "+0.400 (+0.400 to +0.400)"  # what differs between references cancels out
    assert ours.clip_i.high - ours.clip_i.low > 0.05
    assert ours.over_clip_t.value == pytest.approx(-0.1) and ours.time.value == pytest.approx(1.4)
    assert rows[OURS, 0.0].over_clip_i.value == 0 and rows[OURS, 0.0].same == 6 and ours.same == 0
    assert rows[PLAIN, None].over_clip_i.n == 0 and rows[PLAIN, None].clip_i.n == 6
    moved = {(row.method, row.weight): row for row in figures.rows(PLAN, some_scores(0.05))}
    assert moved[OURS, 1.0].over_clip_i.value == pytest.approx(0.35)
    assert moved[OURS, 1.0].clip_i == ours.clip_i


def test_one_less_the_other() -> None:
    zero, one = figures.against(PLAN, some_scores(), OURS, CONTROLNET)
    assert (zero.weight, zero.clip_i.value, zero.time.value) == (0.0, 0, 1)
    assert (one.clip_i.low, one.clip_i.high) == pytest.approx((0.1, 0.1))
    assert one.time.value == pytest.approx(1.4 / 1.3)
    back = figures.against(PLAN, some_scores(), CONTROLNET, OURS)[1]
    assert back.clip_i.value == pytest.approx(-one.clip_i.value)
    lines = report.against_table([zero, one], OURS, CONTROLNET)
    assert lines[-1] == "| 1 | +0.100 (+0.100 to +0.100) | +0.000 (+0.000 to +0.000) | 1.08 (1.08 to 1.08) |"


def test_times_of_two_runs_are_not_compared() -> None:
    some = [replace(s, ratio=None) if s.seed == 1 and s.method == OURS else s for s in some_scores()]
    rows = figures.rows(PLAN, some)
    assert [row.time.n for row in rows if row.method == OURS] == [3, 3]
    assert any("within one run" in note for note in report.notes(PLAN, rows, 9))
    assert not any("within one run" in note for note in report.notes(PLAN, figures.rows(PLAN, some_scores()), 9))


def test_the_table_has_a_cell_for_each_column() -> None:
    lines = report.table(figures.rows(PLAN, some_scores()))
    assert len(lines) == 2 + 1 + 4 and {line.count("|") for line in lines} == {10}
    assert lines[2].startswith("| without |  | ") and lines[4].startswith("| IP-Adapter | 1 | ")


def test_what_has_not_acted_is_told() -> None:
    rows = figures.rows(PLAN, [replace(s, is_plain=True) if s.method == CONTROLNET else s for s in some_scores()])
    told = list(report.notes(PLAN, rows, 3, shortened=2))
    assert any("ControlNet at weight 1: 6 of 6" in note and "has not acted" in note for note in told)
    assert any("IP-Adapter at weight 0: 6 of 6 are the plain picture" in note for note in told)
    assert any("3 references are few" in note for note in told) and any("2 prompts are longer" in note for note in told)


# --- what is to be made -----------------------------------------------------------------------------------------------


def test_prompts_for_all_references_and_for_one(tmp_path: Path) -> None:
    found = references(write_references(tmp_path / "refs"))
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeff# a comment\na cat\n\nref-1.png\t a dog \na cat\n", encoding="utf-8")
    made = scenes(found, file)
    assert [(s.reference.name, s.prompt) for s in made] == [
        ("ref-0.png", "a cat"), ("ref-1.png", "a cat"), ("ref-1.png", "a dog")]  # fmt: skip
    alone = scenes(found, file, image_alone=True)
    assert {s.prompt for s in alone} == {""} and [s.caption for s in alone] == [s.caption for s in made]


def test_each_picture_once_and_a_plain_one_beside_each(tmp_path: Path) -> None:
    found = references(write_references(tmp_path / "refs", 3))
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\na dog")
    plan = Plan(tuple(scenes(found, file)), (1, 2), (0.0, 0.5, 1.0), (OURS, CONTROLNET))
    cells = [*plan.cells()]
    assert len(cells) == len(set(cells)) == 3 * 2 * 2 * (1 + 2 * 3)
    assert cells == [*plan.cells()]
    plain = [divmod(i, 7) for i, cell in enumerate(cells) if cell.method == PLAIN]
    assert [block for block, _ in plain] == [*range(12)]
    assert len({place for _, place in plain}) > 3  # not always the first of its block
    alone = Plan(tuple(scenes(found, file, image_alone=True)), (1, 2), (1.0,), (OURS,))
    assert len([*alone.cells()]) == 3 * 2 * 2


@pytest.mark.parametrize(("text", "said"), [("", "holds no prompt"), ("gone.png\ta cat", "line 1.*'gone.png'")])
def test_prompts_that_cannot_be_used(tmp_path: Path, text: str, said: str) -> None:
    found = references(write_references(tmp_path / "refs"))
    (tmp_path / "prompts.txt").write_text(text)
    with pytest.raises(Trouble, match=said):
        scenes(found, tmp_path / "prompts.txt")
    with pytest.raises(Trouble, match="cannot be read"):
        scenes(found, tmp_path / "another.txt")
    with pytest.raises(Trouble, match="holds no picture"):
        references(tmp_path)
    with pytest.raises(Trouble, match="is no folder"):
        references(tmp_path / "nowhere")


@pytest.mark.parametrize(("prompt", "words"), [
    ("a cat", "a cat"), ("a (red:1.3) cat, [blurry]", "a red cat, blurry"), ("a <lora:fur:0.8> cat", "a cat"),
    ("a cat :0.7 AND a dog :0.3", "a cat a dog"), ("at 16:9 BREAK wide", "at 16:9 wide"), (r"a \(b\)", "a (b)"),
    ("a [cow|horse] here", "a cow horse here"), ("a [cat:dog:0.5] here", "a cat dog here"),
    ("[fur:0.5] cat", "fur cat"), ("[fur::8] cat", "fur cat"), ("a (red:+1.2) cat", "a red cat"),
    ("a :+1 AND b", "a b"), ("now: a|b", "now: a|b"),
    ("a [cat:[wet|dry] dog:0.3]", "a cat wet dry dog"), ("[(a:1.1):b:.5]", "a b"), (r"\[a|b\]", "[a|b]"),
])  # fmt: skip
def test_words_without_what_the_webui_alone_reads(prompt: str, words: str) -> None:
    assert plain_words(prompt) == words


@pytest.mark.parametrize(("seconds", "said"), [(12.3, "12 s"), (600, "10 min"), (7500, "2 h 05 min")])
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


# --- the whole command ------------------------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path: Path, clip_file: Path) -> list[str]:
    (tmp_path / "prompts.txt").write_text("a cat\nref-0.png\ta dog")
    return [
        "--webui", "http://webui", "--references", str(write_references(tmp_path / "refs")), "--prompts",
        str(tmp_path / "prompts.txt"), "--clip", str(clip_file), "--out", str(tmp_path / "out"), "--size", "48x48",
        "--steps", "3", "--weights", "0,1", "--seeds", "2",
    ]  # fmt: skip


def cells_of(path: Path) -> dict[tuple[str, str, str], float]:
    with path.open() as file:
        return {(r["method"], r["weight"], r["figure"]): float(r["value"]) for r in csv.DictReader(file)}


def test_a_run_and_what_it_leaves(tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture) -> None:
    webui = SmallWebUI()
    assert main(command, webui) == 0
    assert len(webui.asked) == 2 + 3 * 2 * (1 + 2)  # what loads the models, then three scenes
    assert {len(body.get("alwayson_scripts", {})) for body in webui.asked} == {0, 1}
    found = cells_of(tmp_path / "out" / "likeness.csv")
    assert found["IP-Adapter", "0.0", "over_clip_i"] == 0
    # At weight 1 this WebUI sends the reference itself.
    assert found["IP-Adapter", "1.0", "clip_i"] == pytest.approx(1, abs=0.02)
    assert found["IP-Adapter", "1.0", "over_clip_i"] > 0.02 and found["plain", "", "clip_i"] < 0.98
    out, progress = capsys.readouterr()
    assert "| IP-Adapter | 1 | " in out and "IP-Adapter at weight 0: 6 of 6 are the plain picture" in out
    assert "ViT (64 wide, 3 layers), GELU" in out and "WebUI v1.10.1" in out
    assert "18 pictures, 0 of them there already, 18 to make" in progress and "left" in progress
    with (
        Image.open(tmp_path / "out" / "likeness.png") as plot,
        Image.open(tmp_path / "out" / "contact-sheet.png") as page,
    ):
        assert plot.size == (1500, 450) and page.width > 600 and page.height > 3 * 144
    with (tmp_path / "out" / "scores.csv").open() as file:
        assert len([*csv.DictReader(file)]) == 3 * 2 * 3


def test_a_second_run_makes_what_is_missing(tmp_path: Path, command: list[str], monkeypatch) -> None:
    monkeypatch.setattr(drawn, "plot", lambda *args: None)
    webui = SmallWebUI()
    webui.ends_after = 9
    assert main(command, webui) == 130
    kept = [*(tmp_path / "out" / "pictures").glob("*.png")]
    assert len(kept) == 7
    (tmp_path / "out" / "pictures" / f"{next(iter(Kept(tmp_path / 'out').notes))}.png").unlink()
    with (tmp_path / "out" / "pictures.jsonl").open("a") as file:
        file.write('{"key": "cut o')
    again = SmallWebUI()
    assert main(command, again) == 0
    assert len(again.asked) == 2 + 18 - 6
    with (tmp_path / "out" / "scores.csv").open() as file:  # of a block that both runs have made, times are no pairs
        ratios = [row["ratio"] for row in csv.DictReader(file) if row["method"] == OURS]
    assert 0 < ratios.count("") < len(ratios)
    third = SmallWebUI(options={"sd_model_checkpoint": "small"})  # before it has loaded it
    assert main(command, third) == 0 and third.asked == []
    more = SmallWebUI()
    assert main([*command, "--weights", "0,1,1.5"], more) == 0
    assert len(more.asked) == 2 + 6 and {
        b["alwayson_scripts"]["IP-Adapter"]["args"][0]["weight"] for b in more.asked[2:]
    } == {1.5}
    for line in (tmp_path / "out" / "pictures.jsonl").read_text().splitlines():
        if "cut o" not in line:
            assert json.loads(line)["seconds"] >= 0
    other = SmallWebUI(options={"sd_model_checkpoint": "another"})
    assert main(command, other) == 0 and len(other.asked) == 2 + 18
    assert len(Kept(tmp_path / "out").notes) == 18 + 6 + 18


def test_beside_controlnet(tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture) -> None:
    webui = SmallWebUI()
    assert main([*command, "--against", "controlnet"], webui) == 0
    units = [
        b["alwayson_scripts"]["ControlNet"]["args"][0]
        for b in webui.asked
        if "ControlNet" in b.get("alwayson_scripts", {})
    ]
    assert {(unit["model"], unit["module"]) for unit in units} == {("base [8a7b]", "ip-adapter_clip_sd15")}
    found = cells_of(tmp_path / "out" / "likeness.csv")
    assert found["ControlNet", "0.0", "over_clip_i"] == 0
    both = found["IP-Adapter", "1.0", "clip_i"] - found["ControlNet", "1.0", "clip_i"]
    assert found["IP-Adapter / ControlNet", "1.0", "clip_i difference"] == pytest.approx(both)
    assert "| weight | CLIP-I, IP-Adapter less ControlNet |" in capsys.readouterr().out


@pytest.mark.parametrize(("adapter", "module"), [
    ({"name": "base", "encoder": "ViT-H-14", "variant": "plus"}, "ip-adapter_clip_sd15"),
    ({"name": "base", "encoder": "ViT-bigG-14", "variant": "base"}, "ip-adapter_clip_sdxl"),
    ({"name": "base", "encoder": "faces", "variant": "faceid-plus-v2"}, "ip-adapter-auto"),
])  # fmt: skip
def test_controlnets_module_is_the_one_for_the_adapter(adapter: dict, module: str) -> None:
    known = ["none", "ip-adapter-auto", "ip-adapter_clip_sd15", "ip-adapter_clip_sdxl"]
    webui = WebUI("http://webui", SmallWebUI(module_list={"module_list": known}))
    assert webui.controlnet(adapter) == ("base [8a7b]", module)
    assert webui.controlnet({"name": "other"}, "base", "none") == ("base [8a7b]", "none")


def test_controlnet_that_does_nothing_ends_the_run(command: list[str], capsys: pytest.CaptureFixture) -> None:
    webui = SmallWebUI()
    webui.controlnet_acts = False
    assert main([*command, "--against", "controlnet"], webui) == 2
    assert "ControlNet has made the plain picture" in capsys.readouterr().err
    assert len(webui.asked) == 3


GONE = requests.ConnectionError("refused")
WRONG = {
    "not reachable": ({"models": GONE}, [], "does not answer (ConnectionError): start the WebUI with --api"),
    "no extension": ({"models": (404, {"detail": "Not Found"})}, [], "has no routes of this extension"),
    "no API": ({"options": (404, {"detail": "Not Found"})}, [], "has no API"),
    "password": ({"models": (401, {"detail": "no"})}, [], f"set the environment's {AUTH}=user:password"),
    "another adapter": ({}, ["--adapter", "plus"], "no adapter called 'plus': give --adapter one of base"),
    "no adapter": ({"models": {"adapters": []}}, [], "put one into its models/ipadapter"),
    "several adapters": ({"models": {"adapters": [{"name": "a"}, {"name": "b"}]}}, [], "with --adapter: a, b"),
    "refused": ({"txt2img": (422, {"detail": "IP-Adapter unit 1: no."})}, [], "IP-Adapter unit 1: no."),
    "no picture": ({"txt2img": {"images": [], "info": "{}"}}, [], "has sent no picture"),
    "broken picture": ({"txt2img": {"images": ["aGVsbG8="], "info": "{}"}}, [], "something that is no picture"),
    "an error page": ({"txt2img": (502, "<html>Bad gateway</html>")}, [], "502"),
    "no address": ({}, ["--webui", "localhost:7860"], "is no address"),
    "too heavy": ({}, ["--weights", "0,4"], "--weights holds 4, and IP-Adapter takes -1 to 3"),
    "too heavy there": ({}, ["--against", "controlnet", "--weights", "0,2.5"], "ControlNet takes 0 to 2"),
    "a random seed": ({}, ["--first-seed", "-1"], "--first-seed is at least 0"),
    "no ControlNet": ({"model_list": (404, {})}, ["--against", "controlnet"], "has no sd-webui-controlnet"),
    "another model": ({}, ["--against", "controlnet", "--controlnet-model", "x"], "give --controlnet-model one of"),
    "another module": ({}, ["--against", "controlnet", "--controlnet-module", "x"], "has no module x"),
    "a page": ({"options": "<html>"}, [], "answers what is no answer of its API"),
    "options are a list": ({"options": [1]}, [], "answers what is no answer of its API"),
    "options without checkpoint": ({"options": {}}, [], "answers what is no answer of its API"),
    "adapters are a list": ({"models": [1]}, [], "answers what is no answer of its API"),
    "adapters without names": ({"models": {"adapters": [{"a": 1}]}}, [], "answers what is no answer of its API"),
    "checkpoints are text": ({"sd_models": ["a"]}, [], "no answer of its API (its 'checkpoints')"),
    "models are none": ({"model_list": {"model_list": None}}, ["--against", "controlnet"], "no answer of its API"),
    "modules are a list": ({"module_list": []}, ["--against", "controlnet"], "no answer of its API"),
    "pictures are a page": ({"txt2img": "<html>"}, [], "answers what is no answer of its API"),
    "pictures are a list": ({"txt2img": [1]}, [], "answers what is no answer of its API"),
    "base64 is none": ({"txt2img": {"images": ["abc"], "info": "{}"}}, [], "something that is no picture"),
    "a picture of numbers": ({"txt2img": {"images": [[1]], "info": "{}"}}, [], "answers what is no answer of its API"),
    "info is no JSON": ({"txt2img": {"images": ["aGVsbG8="], "info": "<p>"}}, [], "no answer of its API (its 'info')"),
    "info is a list": ({"txt2img": {"images": ["aGVsbG8="], "info": "[]"}}, [], "answers what is no answer of its API"),
    "a bad address": ({}, ["--webui", "http://[::1"], "is no address"),
    "a bad port": ({}, ["--webui", "http://webui:port"], "is no address"),
    "no device": ({}, ["--device", "cuda:77"], "--device cuda:77 cannot be used"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_in_a_sentence(case: str, command: list[str], capsys: pytest.CaptureFixture) -> None:
    answers, more, said = WRONG[case]
    webui = SmallWebUI(**answers)
    assert main([*command, *more], webui) == 2
    told = capsys.readouterr().err
    assert said in told and "Traceback" not in told


def test_without_clip_nothing_is_asked(command: list[str], capsys: pytest.CaptureFixture) -> None:
    at = command.index("--clip")
    webui = SmallWebUI()
    assert main([*command[:at], *command[at + 2 :]], webui) == 2
    assert "--clip names a whole CLIP model" in capsys.readouterr().err and webui.asked == []


@pytest.mark.parametrize("digest", ["0123", None])
def test_a_reference_that_is_no_picture_is_told_before_any_is_made(digest, command: list[str], capsys) -> None:
    folder = Path(command[command.index("--references") + 1])
    (folder / "x.png").write_bytes(b"nothing")
    webui = SmallWebUI(sd_models=[{"title": "small.safetensors", "hash": digest}])
    assert main(command, webui) == 2
    assert "x.png" in capsys.readouterr().err and webui.asked == []


def test_the_password_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(AUTH, "anna:se:cret")
    assert WebUI("http://127.0.0.1:7860/")._session.auth == ("anna", "se:cret")
    monkeypatch.setenv(AUTH, "anna")
    with pytest.raises(Trouble, match="user:password"):
        WebUI("http://127.0.0.1:7860")
    monkeypatch.delenv(AUTH)
    assert WebUI("http://192.168.0.7:7860")._session.trust_env and not WebUI("http://localhost:1")._session.trust_env
    assert WebUI("http://127.0.0.1:7860")._session.auth is None


@pytest.mark.parametrize("wrong", [
    ["--weights", "0,x"], ["--weights", "nan"], ["--size", "512"], ["--seeds", "0"],
    ["--guidance", "nan"], ["--guidance", "x"], ["--timeout", "0"], ["--timeout", "inf"], ["--timeout", "-3"],
])  # fmt: skip
def test_options_that_are_none(command: list[str], wrong: list[str]) -> None:
    with pytest.raises(SystemExit):
        main([*command, *wrong], SmallWebUI())


# --- one run, one set of models ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("field", "value"), [
    ("sd_model_name", "other"), ("sd_model_hash", "4567"), ("sd_vae_name", "new.vae.pt"), ("clip_skip", 2),
])  # fmt: skip
def test_a_webui_that_is_changed_while_it_runs_ends_the_run(
    field: str, value, tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture
) -> None:
    webui = SmallWebUI()

    def changing(body):
        if len(webui.asked) == 6:
            webui.info[field] = value
        return webui._txt2img(body)

    webui.answers["txt2img"] = changing
    assert main(command, webui) == 2
    told = capsys.readouterr().err
    assert str(value) in told and "was changed" in told and "Traceback" not in told
    assert len(Kept(tmp_path / "out").notes) == 4  # without the warm-up's two, and without the changed one
    again = SmallWebUI()
    again.info[field] = value  # also when it is taken up: what is there is of the other
    assert main(command, again) == 2 and len(Kept(tmp_path / "out").notes) == 4


@pytest.mark.parametrize("how", ["interrupted", "skipped"])
def test_a_picture_that_somebody_interrupts_ends_the_run_and_is_not_kept(
    how: str, tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture
) -> None:
    webui = SmallWebUI()
    webui.answers["progress"] = lambda _body: {"state": {"interrupted": False, how: len(webui.asked) == 6}}
    assert main(command, webui) == 2
    told = capsys.readouterr().err
    assert "has interrupted a picture" in told and "same command" in told and "Traceback" not in told
    assert len(Kept(tmp_path / "out").notes) == 3  # without the warm-up's two, and without the interrupted one
    assert len([*(tmp_path / "out" / "pictures").iterdir()]) == 3
    again = SmallWebUI(progress={"state": {"interrupted": False, "skipped": False}})
    assert main(command, again) == 0 and len(again.asked) == 2 + 15


@pytest.mark.parametrize("said", [(404, {"detail": "Not Found"}), (200, "<p>"), [], {}, {"state": None}])
def test_a_webui_that_does_not_tell_of_interruptions_is_believed(said, command: list[str]) -> None:
    assert main(command, SmallWebUI(progress=said)) == 0


@pytest.mark.parametrize(("path", "said"), [
    ("sd_models", [{"title": "small.safetensors [89ab]", "model_name": "small", "hash": "89ab"}]),
    ("options", {"sd_model_checkpoint": "small.safetensors", "sd_vae": "new.vae.pt"}),
    ("options", {"sd_model_checkpoint": "small.safetensors", "CLIP_stop_at_last_layers": 2}),
    ("options", {"sd_model_checkpoint": "small.safetensors", "ip_adapter_instantid": "in ControlNet's units"}),
    ("options", {"sd_model_checkpoint": "small.safetensors", "randn_source": "CPU"}),
])  # fmt: skip
def test_other_settings_of_the_webui_make_pictures_of_their_own(path: str, said, command: list[str]) -> None:
    assert main(command, SmallWebUI()) == 0
    other = SmallWebUI(**{path: said})
    assert main(command, other) == 0 and len(other.asked) == 2 + 18
    same = SmallWebUI(options={"sd_model_checkpoint": "small", "samples_format": "jpg"})
    assert main(command, same) == 0 and same.asked == []


def test_a_checkpoint_that_was_never_loaded_is_loaded_to_know_its_hash(command: list[str]) -> None:
    webui = SmallWebUI()

    def listed(_body):
        return [{"title": "small.safetensors", "hash": "0123" if webui.asked else None}]

    webui.answers["sd_models"] = listed
    assert main(command, webui) == 0 and len(webui.asked) == 1 + 2 + 18
    again = SmallWebUI()
    assert main(command, again) == 0 and again.asked == []


def test_references_are_neither_kept_nor_decoded_all_at_once(tmp_path: Path, clip: Clip, monkeypatch) -> None:
    found = references(write_references(tmp_path / "refs", 40))
    (tmp_path / "prompts.txt").write_text("a cat")
    plan = Plan(tuple(scenes(found, tmp_path / "prompts.txt")), (1,), (1.0,), (OURS,))
    sizes: list[int] = []
    embed = Clip.images
    monkeypatch.setattr(Clip, "images", lambda self, some: sizes.append(len(some)) or embed(self, some))
    measuring = figures.Measuring(plan, None, None, clip)
    assert sizes == [16, 16, 8]
    for one in found:
        assert one.digest and not any(isinstance(value, bytes | bytearray) for value in vars(one).values())
    together = embed(clip, [one.image() for one in found])
    assert torch.allclose(torch.stack([*measuring._references.values()]), together, atol=1e-6)


def test_the_other_references_are_summed_once(
    tmp_path: Path, command: list[str], clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_references(tmp_path / "refs", 5)
    assert main(command, SmallWebUI()) == 0
    embedded = {one.name: clip.images([one.image()])[0] for one in references(folder)}
    kept = Kept(tmp_path / "out")
    made = {
        tuple(str(note[name]) for name in ("reference", "prompt", "seed", "method", "weight")): key
        for key, note in kept.notes.items()
    }
    with (tmp_path / "out" / "scores.csv").open() as file:
        scored = [row for row in csv.DictReader(file) if row["weight"] != "0.0"]
    for row in scored[::7]:
        where = row["reference"], row["prompt"], row["seed"], row["method"], row["weight"] or "None"
        picture = clip.images([kept.image(made[where])])[0]
        wanted = np.mean([float(picture @ e) for name, e in embedded.items() if name != row["reference"]])
        assert float(row["others"]) == pytest.approx(wanted, abs=1e-6)
    sizes: list[int] = []
    stack = torch.stack
    monkeypatch.setattr(torch, "stack", lambda some, *more, **how: sizes.append(len(some)) or stack(some, *more, **how))
    assert main(command, SmallWebUI()) == 0
    assert 4 not in sizes and sizes.count(5) <= 1


# --- addresses and passwords ------------------------------------------------------------------------------------------


def test_a_password_in_the_address_is_the_sessions_and_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(AUTH, "other:one")
    webui = WebUI("http://anna:se%3Acret@127.0.0.1:7860/")
    assert webui.url == "http://127.0.0.1:7860" and webui._session.auth == ("anna", "se:cret")
    with pytest.raises(Trouble, match="is no address") as error:
        WebUI("http://anna:s/ecret@host:7860")
    assert "ecret" not in str(error.value)


@pytest.mark.parametrize("form", [["--webui", "http://anna:secret@webui"], ["--webui=http://anna:secret@webui"]])
@pytest.mark.parametrize("answers", [{}, {"models": GONE}, {"txt2img": (500, {"detail": "no"})}])
def test_a_password_is_written_nowhere(tmp_path: Path, command: list[str], form, answers, capsys) -> None:
    webui = SmallWebUI(**answers)
    main([*form, *command[2:]], webui)
    out, err = capsys.readouterr()
    assert webui.urls and "secret" not in f"{webui.urls}{out}{err}" and "http://webui" in f"{webui.urls}"
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or b"secret" not in path.read_bytes()
    assert answers or "http://webui" in out


def test_only_the_address_loses_what_stands_before_an_at(command: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main([*command, "--negative", "a//b@c"], SmallWebUI()) == 0
    assert "--negative a//b@c" in capsys.readouterr().out


# --- what is kept -----------------------------------------------------------------------------------------------------


def whole(folder: Path, *keys: str) -> Kept:
    kept = Kept(folder)
    file = io.BytesIO()
    pictures(1)[0].save(file, "PNG")
    for key in keys:
        kept.add(key, file.getvalue(), seconds=1.0, session="1", prompt="猫\u2028on a sofa")
    return kept


@pytest.mark.parametrize("line", [
    '{"key": "b", "prompt": "猫'.encode()[:-1], b'{"seconds": 1}', b"[]", b"3", b'{"key": "b"}', b'{"key": ["b"]}',
    b'{"key": "b", "seconds": "x", "session": "1"}', b"\xff\xfe",
])  # fmt: skip
def test_a_damaged_line_is_a_missing_picture(tmp_path: Path, line: bytes) -> None:
    whole(tmp_path, "a", "b")
    path = tmp_path / "pictures.jsonl"
    first, _ = path.read_bytes().split(b"\n")[:2]
    path.write_bytes(first + b"\n" + line)
    kept = Kept(tmp_path)
    assert "a" in kept and "b" not in kept
    whole(tmp_path, "c")
    assert "a" in Kept(tmp_path) and "c" in Kept(tmp_path)


def test_a_line_separator_in_a_name_ends_no_line(tmp_path: Path) -> None:
    whole(tmp_path, "a")
    assert "a" in Kept(tmp_path) and Kept(tmp_path).notes["a"]["prompt"] == "猫\u2028on a sofa"
    assert (tmp_path / "pictures.jsonl").read_bytes().isascii()


@pytest.mark.parametrize("size", [0, 60, 3000])
def test_a_cut_picture_is_a_missing_one(tmp_path: Path, size: int) -> None:
    kept = whole(tmp_path, "a", "b")
    data = kept.path("a").read_bytes()
    assert len(data) > 3000
    kept.path("a").write_bytes(data[:size])
    assert "a" not in kept and "b" in kept


# --- what else is told ------------------------------------------------------------------------------------------------


def test_faults_of_the_program_are_no_answers(command: list[str]) -> None:
    """Only what requests raises is told as an answer that did not come."""
    with pytest.raises(ZeroDivisionError):
        main(command, SmallWebUI(models=ZeroDivisionError()))


@pytest.mark.parametrize("weights", [["--weights", "-1,0,1"], ["--weights=-1,0,1"], ["--weights", "-.5,1"]])
def test_weights_may_begin_with_a_negative_one(tmp_path: Path, command: list[str], weights: list[str]) -> None:
    assert main([*command, *weights], SmallWebUI()) == 0
    assert {weight for _, weight, _ in cells_of(tmp_path / "out" / "likeness.csv")} > {"1.0"}


def test_one_picture_has_no_interval(tmp_path: Path) -> None:
    one = figure([("a", 0.5)])
    assert one.told() == "0.500 (–)" and one.told("+", 2) == "+0.50 (–)"
    assert figure([("a", 0.5)], median).told() == "0.500 (–)"
    assert figure([("a", 0.5), ("a", 0.5)]).told() == "0.500 (0.500 to 0.500)"
    rows = figures.rows(Plan((), (1,), (1.0,), (OURS,)), [score(PLAIN, None), score(OURS, 1.0)])
    report.write_csv(tmp_path / "a.csv", rows, [], (OURS,))
    with (tmp_path / "a.csv").open() as file:
        assert {(row["low"], row["high"]) for row in csv.DictReader(file)} == {("", "")}
    drawn.plot(rows, tmp_path / "a.png")


def test_intervals_of_many_pictures_need_little_memory() -> None:
    values = [(f"{i}", float(i + j)) for i in range(3000) for j in range(4)]
    for statistic in (figures.mean, median):
        tracemalloc.start()
        figure(values, statistic)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 100e6


def test_few_is_the_same_in_words() -> None:
    page = (Path(__file__).parents[2] / "docs" / "likeness.md").read_text("utf-8")
    assert f"rough below {report.FEW} of them" in " ".join(page.split())
    rows = figures.rows(PLAN, some_scores())
    assert any("are few" in note for note in report.notes(PLAN, rows, report.FEW - 1))
    assert not any("are few" in note for note in report.notes(PLAN, rows, report.FEW))


def test_the_report_says_how_it_was_made(tmp_path: Path, command: list[str], capsys) -> None:
    assert main([*command, "--negative", "bad|ugly hands", "--seeds", "1"], SmallWebUI()) == 0
    text, told = capsys.readouterr()
    assert "python -m benchmarks.likeness --webui http://webui" in text and "--negative 'bad|ugly hands'" in text
    assert "negative prompt “bad|ugly hands”" in text and ", seed 1." in text and ", seeds 1" not in text
    assert "likeness.png, contact-sheet.png" in told.splitlines()[-1]


def test_the_last_line_names_what_is_there(tmp_path: Path, command: list[str], monkeypatch, capsys) -> None:
    def missing(*_):
        raise ImportError("matplotlib")

    monkeypatch.setattr(drawn, "plot", missing)
    assert main(command, SmallWebUI()) == 0
    told = capsys.readouterr().err.splitlines()
    assert "matplotlib is not installed" in told[-2]
    names = told[-1].partition(": ")[2].split(", ")
    assert {*names} == {"likeness.md", "likeness.csv", "scores.csv"}
    assert all((tmp_path / "out" / name).exists() for name in names)


@pytest.mark.parametrize("part", ["_image", "_text"])
def test_a_full_device_is_told_and_the_pictures_stay(tmp_path: Path, command, part, monkeypatch, capsys) -> None:
    assert main(command, SmallWebUI()) == 0

    def full(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    opened = Clip.open
    clip = opened(Path(command[command.index("--clip") + 1]))
    monkeypatch.setattr(getattr(clip, part), "encode" if part == "_image" else "embed", full)
    monkeypatch.setattr(Clip, "open", lambda *_: clip)
    capsys.readouterr()
    assert main(command, SmallWebUI()) == 2
    told = capsys.readouterr().err
    assert "no room" in told and "--device" in told and "Traceback" not in told
    assert len([*(tmp_path / "out" / "pictures").glob("*.png")]) == 18
    monkeypatch.setattr(getattr(clip, part), "encode" if part == "_image" else "embed", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(command, SmallWebUI())


def test_prompts_without_words_are_told(tmp_path: Path, command: list[str], capsys) -> None:
    assert main(command, SmallWebUI()) == 0
    assert "without words" not in capsys.readouterr().out
    (tmp_path / "prompts.txt").write_text("a cat\n<lora:fur:1>")
    assert main(command, SmallWebUI()) == 0
    assert "- 1 prompt is without words for CLIP (<lora:fur:1>)" in capsys.readouterr().out


def test_methods_of_one_run_are_timed_where_the_plain_picture_is_of_another() -> None:
    some = [replace(s, ratio=None) if s.seed == 1 else s for s in some_scores()]
    assert figures.against(PLAN, some, OURS, CONTROLNET)[1].time.n == 6
    apart = [replace(s, session="2") if s.seed == 1 and s.method == OURS else s for s in some_scores()]
    assert figures.against(PLAN, apart, OURS, CONTROLNET)[1].time.n == 3


def test_output_that_lacks_letters_ends_nothing(command: list[str], monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    Path(command[command.index("--prompts") + 1]).write_text("ein Kätzchen", "utf-8")
    assert main(command, SmallWebUI()) == 0


def test_equal_references_count_once(tmp_path: Path, command: list[str], capsys) -> None:
    folder = tmp_path / "refs"
    (folder / "zwin.png").write_bytes((folder / "ref-1.png").read_bytes())
    (tmp_path / "prompts.txt").write_text("a cat\nzwin.png\ta dog")
    webui = SmallWebUI()
    assert main(command, webui) == 0 and len(webui.asked) == 2 + 3 * 2 * 3
    assert "zwin.png is the same file as ref-1.png, and counts once" in capsys.readouterr().err
    with (tmp_path / "out" / "scores.csv").open() as file:
        found = {(row["reference"], row["prompt"]) for row in csv.DictReader(file)}
    assert found == {("ref-0.png", "a cat"), ("ref-1.png", "a cat"), ("ref-1.png", "a dog")}


def test_both_methods_get_the_upright_picture(tmp_path: Path, command: list[str]) -> None:
    folder = tmp_path / "refs"
    for path in folder.iterdir():
        path.unlink()
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 50), dtype=np.uint8)).convert("RGBA")
    turned.putalpha(100)
    turned.save(folder / "ref-0.png", exif=exif)
    webui = SmallWebUI()
    assert main([*command, "--against", "controlnet"], webui) == 0
    sent = set()
    for body in webui.asked:
        for name, said in body.get("alwayson_scripts", {}).items():
            (unit,) = said["args"]
            sent.add((name, base64.b64decode(unit["images"][0] if name == "IP-Adapter" else unit["image"])))
    assert {name for name, _ in sent} == {OURS, CONTROLNET} and len({data for _, data in sent}) == 1
    with Image.open(io.BytesIO(next(iter(sent))[1])) as image:
        assert (image.size, image.mode) == ((30, 50), "RGB") and not image.getexif()


def test_the_page_says_what_clipscore_and_time_are() -> None:
    page = " ".join((Path(__file__).parents[2] / "docs" / "likeness.md").read_text("utf-8").split())
    for said in ("“A photo depicts”", "ViT-B/32", "--activation gelu", "--weights"):
        assert said in page
