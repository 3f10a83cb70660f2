"""The figures' statistics, verdicts, turns and document: what is written is what was measured, and no more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from benchmarks.bench import step
from benchmarks.bench.__main__ import with_time
from benchmarks.bench.kept import kept
from benchmarks.bench.rotation import Rounds, in_turns, ordered
from benchmarks.bench.webui import CONTROLNET, OURS, PLAIN, TIME, Asked, first_told, put_together, told
from benchmarks.errors import Trouble
from benchmarks.gpu import memory, report, unets
from benchmarks.gpu.bench import Bench, Scene
from benchmarks.gpu.measure import AtMost, Row, Spread, ms, share
from benchmarks.gpu.report import CARDS, CPUS, Machine
from benchmarks.gpu.run import Part, Section
from benchmarks.webui import WebUI
from lib_ipadapter.attend.layers import cross_attention_layers
from tests.helpers.files import base64_of, picture
from tests.helpers.likeness import SmallWebUI
from tests.helpers.paths import ROOT

CPU = torch.device("cpu")
LIMIT = AtMost(1.01, share)


# --- statistics and verdicts


def test_the_medians_interval_is_the_sign_tests() -> None:
    twenty = Spread.of([float(i) for i in range(20, 0, -1)])
    assert (twenty.median, twenty.low, twenty.high) == (10.5, 6.0, 15.0)  # the 6th and 15th, as in printed tables
    six = Spread.of([3.0, 1.0, 2.0, 6.0, 5.0, 4.0])
    assert (six.low, six.high) == (1.0, 6.0)
    assert six.said(str).startswith("95 %")
    assert Spread.of([1.0, 2.0]).said(str) == "extremes: 1.0 to 2.0"


@pytest.mark.parametrize(
    ("low", "high", "count", "verdict"),
    [
        (0.99, 1.01, 40, "≤ 1.01: met"),
        (0.99, 1.0101, 40, "≤ 1.01: not shown"),
        (1.0101, 1.02, 40, "≤ 1.01: missed"),
        (0.5, 0.6, 39, "≤ 1.01: not shown (39 of 40 pairs)"),
        (2.0, 3.0, 39, "≤ 1.01: not shown (39 of 40 pairs)"),
    ],
)
def test_a_target_is_met_by_the_whole_interval_of_enough_pairs(low, high, count, verdict) -> None:
    assert LIMIT.of_spread(Spread((low + high) / 2, low, high, count)) == verdict


def test_a_count_has_no_spread() -> None:
    assert AtMost(0.3, ms).of_number(0.3) == "≤ 300 ms: met"
    assert AtMost(0.3, ms).of_number(0.3001) == "≤ 300 ms: missed"


# --- turns


def test_every_thing_comes_first_and_last_and_order_is_reversed() -> None:
    names = ["a", "b", "c"]
    rounds = [ordered(names, number) for number in range(6)]
    assert rounds[0] == names and rounds[1] == names[::-1]
    assert {one[0] for one in rounds} == {one[-1] for one in rounds} == set(names)
    assert all(one == other[::-1] for one, other in zip(rounds[::2], rounds[1::2], strict=True))


def test_ratios_are_of_one_round() -> None:
    """The second round is ten times as slow; the ratio is what it was."""
    found = Rounds({"plain": [1.0, 10.0], "ours": [1.5, 15.0]})
    assert found.ratios("ours", "plain") == [1.5, 1.5]
    row = found.compared("figure", "ours", "plain", LIMIT)
    assert (row.value, row.count, row.target) == ("1.500", 2, "≤ 1.01: not shown (2 of 40 pairs)")


def test_rounds_end_with_their_time_and_count_whole() -> None:
    bench = Bench(CPU, budget=60)
    found = in_turns(bench, {"a": lambda: 1.0, "b": lambda: 2.0}, 30, most=40)
    assert [len(taken) for taken in found.taken.values()] == [40, 40]
    assert len(in_turns(bench, {"a": lambda: 1.0}, 0).taken["a"]) == 1


# --- the document


def section(name: str) -> Section:
    def parts(_bench: Bench) -> Iterator[Part]:
        yield from ()

    return Section(name, name.title(), 1, parts)


EMPTY = "\n".join((
    "# Head\n", CPUS.marks[0], CPUS.none_yet, CPUS.marks[1], "middle", CARDS.marks[0], CARDS.none_yet, CARDS.marks[1],
    "foot\n",
))  # fmt: skip
STEPS, MODES = section("steps"), section("modes")
CARD, OTHER = Machine("Card A", "2.11.0", "80 GiB"), Machine("Card A", "2.12.0", "80 GiB")
PROCESSOR = Machine("Card A", "2.11.0", "24 GiB", CPUS)  # of the same name, which is no card's


def updated(document: str, machine: Machine, found: dict[Section, list[Row]]) -> str:
    return report.updated(document, machine, found, "measure --only")


def test_the_document_keeps_other_blocks_and_other_sections() -> None:
    one = updated(EMPTY, CARD, {STEPS: [Row("step", "1 ms")], MODES: [Row("fp16", "1e-3")]})
    assert CARDS.none_yet not in one and CPUS.none_yet in one
    assert "| step | 1 ms |  |  |  |" in one
    assert "`measure --only steps`" in one and "`measure --only modes`" in one
    two = updated(one, OTHER, {STEPS: [Row("step", "2 ms")]})
    three = updated(two, CARD, {STEPS: [Row("step", "3 ms")], MODES: [Row("fp16", "failed: no memory")]})
    assert "1 ms" not in three
    assert all(text in three for text in ("2 ms", "3 ms", "1e-3", "### Card A, torch 2.11.0", "# Head", "foot"))
    assert three.count("### Card A") == 2
    assert three.count("80 GiB") == 2
    assert updated(three, CARD, {STEPS: [Row("step", "3 ms")]}) == three


def test_a_cpus_figures_never_replace_a_cards() -> None:
    card = updated(EMPTY, CARD, {STEPS: [Row("step", "1 ms")]})
    both = updated(card, PROCESSOR, {STEPS: [Row("step", "5 s")]})
    assert "| step | 1 ms |" in both and "| step | 5 s |" in both
    assert both.index("5 s") < both.index("middle") < both.index("1 ms")
    again = updated(both, PROCESSOR, {STEPS: [Row("step", "6 s")]})
    assert "| step | 1 ms |" in again and "5 s" not in again


def test_the_document_takes_no_broken_marks() -> None:
    with pytest.raises(ValueError, match="marks"):
        updated("# Head", CARD, {STEPS: [Row("step", "1 ms")]})


def test_what_cannot_be_written_is_said(tmp_path) -> None:
    (tmp_path / "m.md").write_text("# Head")
    assert "was not written" in (report.write(tmp_path / "m.md", CARD, {}, "x") or "")
    assert "was not written" in (report.write(tmp_path / "none.md", CARD, {}, "x") or "")
    (tmp_path / "m.md").write_text(EMPTY, "utf-8")
    assert report.write(tmp_path / "m.md", CARD, {STEPS: [Row("step", "1 ms")]}, "x") is None
    assert "| step | 1 ms |" in (tmp_path / "m.md").read_text("utf-8")


def test_the_projects_document_has_its_marks() -> None:
    document = (ROOT / "docs" / "measured.md").read_text("utf-8")
    for machine in (CARD, PROCESSOR):
        assert "| step | 1 ms |" in updated(document, machine, {STEPS: [Row("step", "1 ms")]})


def test_a_machine_says_what_it_is_and_what_is_compared() -> None:
    here = Machine.here(CPU)
    assert here.area is CPUS and "core" in here.card
    assert "diffusers " in here.details and "open_clip " in here.details and "Python " in here.details


def test_a_cell_cannot_break_the_table() -> None:
    assert report.line(Row("a|b", "c\nd", count=3, target="≤ 1")) == "| a\\|b | c d |  | 3 | ≤ 1 |"


# --- models


def test_shared_weights_leave_all_layers_and_give_the_same_as_copies() -> None:
    sizes = unets.SDXL.shallow()
    shared = unets.build_sharing(sizes, CPU)
    assert len(cross_attention_layers(shared)) == len(cross_attention_layers(unets.build(sizes, CPU)))
    own = unets.twin(shared, torch.float32)
    count = [len({id(p) for p in unet.parameters()}) for unet in (shared, own)]
    assert count[0] < count[1]
    bench = Bench(CPU, small=True)
    scene = Scene.draw(bench, shared, latent=16)
    assert scene.x.shape == (2, 4, 16, 16)
    assert torch.equal(scene.plain(), scene.on(own, torch.float32).plain())
    assert all(float(p.abs().max()) > 0.01 for p in shared.parameters())


def test_what_hooks_keep_is_the_cond_side_and_the_uncond_side_once() -> None:
    with torch.device("meta"):
        unet = unets.UNet(unets.SDXL.shallow())
    token = 2 * 2 * sum(layer.width for layer in cross_attention_layers(unet))  # keys and values, fp16
    for references, pictures in ((1, 1), (4, 8)):
        assert kept(unet, memory.references(unet, 16 * references), pictures) == (16 * references + 16) * token


# --- a WebUI


def test_both_extensions_are_asked_for_the_same_adapter() -> None:
    like = {"variant": "base", "base": "SD1.5", "file": "base.safetensors"}
    names = ("ControlNet/base", "ipadapter/base")  # a file of this name is in two folders
    there = SmallWebUI(models={"adapters": [{"name": name, **like} for name in names]})
    asked = Asked(WebUI("http://x/", there))
    assert asked.who == [PLAIN, OURS, CONTROLNET]
    image = base64_of(picture(0))
    for whose in asked.who:
        assert asked.seconds(whose, image) >= 0
    plain, ours, theirs = (body["alwayson_scripts"] for body in there.asked)
    assert plain == {}
    assert ours == {"IP-Adapter": {"args": [{"model": "ControlNet/base", "images": [image], "weight": 0.7}]}}
    (unit,) = theirs["controlnet"]["args"]
    assert (unit["model"], unit["module"], unit["image"]) == ("base [8a7b]", "ip-adapter_clip_sd15", image)
    assert len({body["steps"] for body in there.asked}) == len({body["seed"] for body in there.asked}) == 1


def test_without_controlnet_ours_is_measured_alone() -> None:
    asked = Asked(WebUI("http://x", SmallWebUI(model_list=(404, {}))))
    assert asked.who == [PLAIN, OURS]
    rows = list(told(Rounds({PLAIN: [1.0, 2.0, 2.5], OURS: [1.1, 2.3, 2.7]}), asked))
    assert [row.value for row in rows[:2]] == ["2.00 s", "200 ms"]
    assert not rows[2].measured and "no sd-webui-controlnet" in rows[2].value


def test_a_request_of_twenty_steps_is_put_together_of_steps_and_what_is_beside_them() -> None:
    rounds = Rounds({PLAIN: [1.0, 2.0, 1.0], step.OURS[0]: [1.1, 2.2, 1.1]})
    row = step.of_a_request("it", rounds, [2.0, 4.0], "beside them")
    assert (row.value, row.count) == ("1.200", 3)  # 2 of 20, 4 of 40 and 2 of 20 beside a tenth
    assert "beside them 3.00 s" in row.spread


def test_a_webuis_requests_are_put_together_of_steps_made_here() -> None:
    row = put_together(Bench(CPU, small=True, budget=60), [1000.0])
    assert row.count == 2 and float(row.value) > 2 and "in the WebUI, 1000" in row.spread


def test_a_webui_that_lacks_something_says_what_to_do() -> None:
    with pytest.raises(Trouble, match="install it there"):
        Asked(WebUI("http://x", SmallWebUI(models=(404, {}))))
    with pytest.raises(Trouble, match="put one into"):
        Asked(WebUI("http://x", SmallWebUI(models={"adapters": []})))
    with pytest.raises(Trouble, match="--api"):
        Asked(WebUI("http://127.0.0.1:9"))


def test_requests_in_a_webui_have_time_of_their_own() -> None:
    sections = [
        Section(name, "", seconds, lambda bench: iter(())) for name, seconds in (("a", 60), ("webui", 1), ("b", 40))
    ]
    chosen, budget = with_time(sections, 2000.0, "http://x")
    shares = {one.name: one.seconds for one in chosen}
    assert budget == 2000.0 + TIME
    assert [round(budget * shares[name] / sum(shares.values())) for name in ("a", "webui", "b")] == [1200, TIME, 800]
    assert with_time(sections[:1], 2000.0, None) == (sections[:1], 2000.0)
    assert with_time(sections[1:2], 600.0, "http://x") == (sections[1:2], 600.0)


def test_first_requests_are_compared_by_two_starts_of_either_order() -> None:
    """Whoever comes first is slower by 2."""
    rows = list(first_told({OURS: [3.0, 1.0, 3.0, 1.0, 9.0], CONTROLNET: [8.0, 10.0, 8.0, 10.0, 9.0]}))
    assert rows[-1].value == "0.222" and rows[-1].count == 2 and rows[-1].target == "≤ 0.333: met"
    assert list(first_told({OURS: [1.0], CONTROLNET: [4.0]}))[-1].value == "0.250"
    assert len(list(first_told({OURS: [1.0], CONTROLNET: []}))) == 1
