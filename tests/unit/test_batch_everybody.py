"""What is asked of all WebUIs of a run before its rows are sent, and whose fault it is where there is no answer."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lib_ipadapter.batch.crew import DONE, LACKING, Down, Event, Gone, Landed, Outcome, Up, Work
from lib_ipadapter.batch.everybody import Everybody
from lib_ipadapter.batch.facts import Facts
from lib_ipadapter.batch.given import Sources
from lib_ipadapter.batch.paths import Files
from lib_ipadapter.batch.problems import BatchError, NoAnswer, RowError
from lib_ipadapter.batch.request import Reader
from tests.unit.test_batch_rows import ANSWERS, Told

PICTURE = base64.b64encode(b"a picture").decode()
UNIT = {"model": "rare", "image": f"data:image/png;base64,{PICTURE}"}
OTHER = {
    **ANSWERS,
    "/ip-adapter/models": {"adapters": [{"name": "rare", "variant": "base"}]},
    "/sdapi/v1/sd-models": [{"title": "flux", "model_name": "flux"}],
    "/ip-adapter/presets/theirs": {"units": [{"model": "rare", "images": [PICTURE]}]},
}
AWAY = NoAnswer("the connection is gone.")


class Waited:
    """A crew that tells one list of events after the other."""

    def __init__(self, *told: list[Event]) -> None:
        self._told, self._names = list(told), {"a", "b"}

    def names(self) -> Sequence[str]:
        return sorted(self._names)

    def wait(self) -> Sequence[Event]:
        events = self._told.pop(0)
        self._names -= {event.endpoint for event in events if isinstance(event, Gone)}
        return events

    def send(self, endpoint: str, work: Work) -> None:
        outcome = Outcome(DONE if endpoint == "b" else LACKING)
        self._told.insert(0, [Landed(endpoint, work, outcome)])

    def ask(self, name: str, route: str) -> Any:
        raise NotImplementedError


def test_all_webuis_that_are_ready_together_are_known() -> None:
    assert Everybody(Waited([], [Up("a"), Up("b")]), print).first() == ["a", "b"]
    everybody = Everybody(Waited([Up("a"), Up("b"), Down("a")]), print)
    assert everybody.first() == everybody.up == ["b"]
    with pytest.raises(BatchError, match=r"no WebUI is there \(b: tired"):
        Everybody(Waited([Gone("a", "tired.")], [Gone("b", "tired.")]), print).first()


def test_one_that_is_not_ready_is_waited_for_until_it_is_given_up() -> None:
    everybody = Everybody(Waited([Up("a")], [], [Up("b")]), print)
    assert (everybody.first(), everybody.others(), everybody.others()) == (["a"], ["b"], [])
    told: list[str] = []
    everybody = Everybody(Waited([Up("a")], [Gone("c"), Gone("b", "\x1b[31mtired.")]), told.append)
    assert (everybody.first(), everybody.others()) == (["a"], [])
    assert told == ["b: tired."]  # of several that go together, one says why


def test_a_trial_is_made_by_whoever_has_what_it_needs() -> None:
    everybody = Everybody(Waited([Up("a"), Up("b")]), print)
    everybody.first()
    assert everybody.made(Work("make", 0, "/", {}, "trial")).kind == DONE


def reader(tmp_path: Path, *others: dict[str, Any], later: tuple[str, ...] = ()) -> Reader:
    told = Told({"a": ANSWERS, **dict(zip("bc", others, strict=False))}, later)
    return Reader(Facts(told, pause=0), Sources(Files(tmp_path), tmp_path / "given"))


@pytest.mark.parametrize("later", [(), ("b",)])
def test_what_any_webui_has_can_be_asked_for(tmp_path: Path, later: tuple[str, ...]) -> None:
    row = {"checkpoint": "flux", "units": [UNIT, {**UNIT, "model": "Plus"}]}
    for asked in (row, {"preset": "theirs"}):
        assert reader(tmp_path, OTHER, later=later).read(asked)[1] == []
    _, problems = reader(tmp_path, OTHER, later=later).read(
        {"checkpoint": "none", "units": [{**UNIT, "model": "none"}]}
    )
    assert len(problems) == 2 and "there is no checkpoint" in problems[0] and "rare" in problems[1]


@pytest.mark.parametrize("row", [{"checkpoint": "flux"}, {"units": [UNIT]}, {"preset": "theirs"}])
def test_a_webui_that_could_not_be_asked_is_no_fault_of_a_row(tmp_path: Path, row: dict[str, Any]) -> None:
    for route in ("/ip-adapter/models", "/sdapi/v1/sd-models", "/openapi.json"):
        made = reader(tmp_path, {**OTHER, route: AWAY})
        assert made.read({})[1] == []
        with pytest.raises(BatchError, match="b could not be asked"):
            made.read(row)
    silent = {"/ip-adapter/presets/theirs": AWAY}
    with pytest.raises(BatchError, match="b could not be asked"):
        reader(tmp_path, {**ANSWERS, **silent}).read({"preset": "theirs"})


def test_nobody_who_answers_and_nobody_who_has_the_extension_end_the_run() -> None:
    for fault in (AWAY, RowError("Not Found")):
        with pytest.raises(BatchError, match="no WebUI says what it has"):
            Facts(Told({"a": {**ANSWERS, "/ip-adapter/models": fault}}))


def test_a_row_without_a_checkpoint_waits_for_the_name_of_the_loaded_one(tmp_path: Path) -> None:
    answers = {**ANSWERS, "/sdapi/v1/options": {"sd_model_checkpoint": None}}
    told = Told({"a": answers})
    made = Reader(Facts(told, pause=0), Sources(Files(tmp_path), tmp_path / "given"))
    assert made.read({"checkpoint": "xl"})[0].checkpoint == "xl"
    with pytest.raises(BatchError, match="which checkpoint is loaded"):
        made.read({})
    answers["/sdapi/v1/options"] = {"sd_model_checkpoint": "xl"}
    assert made.read({})[0].checkpoint == "xl"


def listed(name: str, hashed: str | None = None) -> dict[str, Any]:
    """What A1111 and Forge say of a file below their folder of checkpoints."""
    title = f"{name} [{hashed}]" if hashed else name
    model = name.rpartition(".")[0].replace("/", "_")
    return {"title": title, "model_name": model, "hash": hashed, "filename": f"/models/{name}"}


NAMES = [
    listed("new [v2].safetensors"),
    listed("new.safetensors"),
    listed("x/new.safetensors"),
    listed("sub/bar.safetensors", "ab12"),
    listed("a/two.safetensors", "ab34"),
    listed("b/two.safetensors", "ab56"),
]


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("new.safetensors", "new"), ("new", "new"), ("new [v2]", "new [v2]"), ("x_new", "x_new"),
        ("sub/bar.safetensors [ab12]", "sub_bar"), ("sub/bar.safetensors", "sub_bar"), ("bar.safetensors", "sub_bar"),
        ("BAR [ab12]", "sub_bar"), (" bar ", "sub_bar"), ("ab12", "sub_bar"), ("two [ab34]", "a_two"),
        ("two [ab56]", "b_two"), ("a/two.safetensors", "a_two"),
    ],
)  # fmt: skip
def test_a_checkpoint_has_all_names_under_which_a_webui_knows_it(name: str, model: str) -> None:
    answers = {**ANSWERS, "/sdapi/v1/sd-models": NAMES, "/sdapi/v1/options": {"sd_model_checkpoint": name}}
    facts = Facts(Told({"a": answers}), pause=0)
    assert facts.checkpoint(name) == model == facts.current


@pytest.mark.parametrize("name", ["two", "TWO.safetensors"])
def test_of_two_checkpoints_of_one_name_none_is_taken(name: str) -> None:
    facts = Facts(Told({"a": {**ANSWERS, "/sdapi/v1/sd-models": NAMES}}), pause=0)
    with pytest.raises(RowError, match="several checkpoints are called .* name one of a_two, b_two"):
        facts.checkpoint(name)


@pytest.mark.parametrize(
    ("loaded", "model"),
    [
        ("new.safetensors [abcdef1234]", "new"), ("new [v2].safetensors [abcdef1234]", "new [v2]"),
        ("new [v2] [abcdef1234]", "new [v2]"), ("x/new.safetensors [abcdef1234]", "x_new"), ("bar [ffff]", "sub_bar"),
    ],
)  # fmt: skip
def test_the_checkpoint_that_is_loaded_has_a_hash_that_it_did_not_have_before(loaded: str, model: str) -> None:
    answers = {**ANSWERS, "/sdapi/v1/sd-models": NAMES, "/sdapi/v1/options": {"sd_model_checkpoint": loaded}}
    assert Facts(Told({"a": answers}), pause=0).current == model


def test_one_that_was_away_and_is_back_counts(tmp_path: Path) -> None:
    answers = {**OTHER, "/ip-adapter/models": AWAY}
    told = Told({"a": ANSWERS, "b": answers})
    made = Reader(Facts(told, pause=0), Sources(Files(tmp_path), tmp_path / "given"))
    told._answers["b"], told._later = OTHER, ["b"]
    assert made.read({"units": [UNIT]})[1] == []
    assert "there is no checkpoint" in made.read({"checkpoint": "none"})[1][0]
