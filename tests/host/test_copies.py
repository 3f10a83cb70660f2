"""Copies of a job's processing object: those that a script makes its jobs with and never closes, and those that other
extensions make beside it."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest

from demo.start import Host
from tests.helpers.files import unit
from tests.helpers.host import FAR, ask, difference, hooks, loaded_unet, make, ours, pixels

LINES = "a cat\na red dog"


def lines(*units: dict, text: str = LINES, **payload: Any) -> dict:
    return {"prompt": "", "negative_prompt": "blurry", "width": 64, "height": 64, "steps": 3, "seed": 1,
            "sampler_name": "Euler", "script_name": "Prompts from file or textbox", "script_args": [text],
            "alwayson_scripts": ours(*units), **payload}  # fmt: skip


@pytest.fixture
def originals(host: Host, monkeypatch) -> list:
    """Every object that is closed."""
    from modules.processing import StableDiffusionProcessing

    closed, close = [], StableDiffusionProcessing.close
    monkeypatch.setattr(StableDiffusionProcessing, "close", lambda p: closed.append(p) or close(p))
    return closed


# What a script makes with copies


@pytest.mark.both_faces
@pytest.mark.host("tiling")
def test_each_copy_is_a_job(host: Host, plain, originals) -> None:
    from modules.api.api import decode_base64_to_image

    answer = host.post("txt2img", lines(unit()))
    assert answer.status_code == 200
    for text, prompt in zip(answer.json()["images"], LINES.splitlines(), strict=True):
        assert difference(pixels([decode_base64_to_image(text)]), make(host, unit(), prompt=prompt)) == 0
    assert not [name for name in vars(originals[0]) if name.startswith("ip_adapter")]
    assert "close" not in vars(originals[0])


@pytest.mark.both_faces
@pytest.mark.host("tiling")
@pytest.mark.parametrize("which", [1, 2])
def test_a_copy_that_fails_late_is_told(which: int, host: Host, plain, originals, monkeypatch) -> None:
    from lib_ipadapter.webui.host import A1111

    announced = A1111.denoising_step

    def broken(self: Any, params: Any) -> Any:
        if params.denoiser.p.prompt == LINES.splitlines()[which - 1]:
            raise ZeroDivisionError
        return announced(self, params)

    monkeypatch.setattr(A1111, "denoising_step", broken)
    answer = host.post("txt2img", lines(unit()))
    assert answer.status_code == 422
    assert "the references were not used in this picture: ZeroDivisionError" in answer.json()["detail"]
    assert hooks() == [] and "close" not in vars(originals[0])


@pytest.mark.both_faces
@pytest.mark.host("tiling")
def test_an_error_in_a_copys_step_leaves_nothing(host: Host, plain) -> None:
    def explode(*_args: Any) -> None:
        raise RuntimeError("out of memory")

    handle = loaded_unet().output_blocks[3].register_forward_pre_hook(explode)
    try:
        assert host.post("txt2img", lines(unit())).status_code == 500
    finally:
        handle.remove()
    assert hooks() == []


@pytest.mark.host("tiling")
def test_a_script_without_units_leaves_nothing(host: Host, plain, originals) -> None:
    for script in (lines(), {**lines(), "script_name": "Twice", "script_args": []}):
        assert host.post("txt2img", script).status_code == 200
    assert len(originals) == 2
    for p in originals:
        assert not [name for name in vars(p) if name.startswith("ip_adapter")] and "close" not in vars(p)


@pytest.mark.host("tiling")
def test_of_a_scripts_jobs_the_first_is_kept(host: Host, store) -> None:
    for script in (lines(unit()), {**lines(unit()), "script_name": "Twice", "script_args": []}):
        before = len(store.recent())
        assert host.post("txt2img", script).status_code == 200
        assert len(store.recent()) == before + 1


# What other extensions make beside a job


def test_a_copy_inside_a_job_may_be_run_and_closed(host: Host, plain, monkeypatch) -> None:
    """The job goes on with its references."""
    from modules import processing, scripts, shared

    expected, finish = make(host, unit(), n_iter=2), scripts.ScriptRunner.postprocess_image
    inner: list = []

    def meddle(self: Any, p: Any, pp: Any) -> None:
        finish(self, p, pp)
        state = {**vars(shared.state)}
        p2 = copy.copy(p)
        p2.scripts, p2.n_iter, p2.prompt, p2.seed = None, 1, "a red dog", 1
        inner.append(pixels(processing.process_images(p2)))
        p2.close()
        vars(shared.state).update(state)

    monkeypatch.setattr(scripts.ScriptRunner, "postprocess_image", meddle)
    made = make(host, unit(), n_iter=2)
    monkeypatch.undo()
    assert difference(made, expected) == 0
    assert len(inner) == 2
    for images in inner:
        assert difference(images, make(host, prompt="a red dog")) == 0


@pytest.mark.both_faces
def test_a_copy_after_a_job_is_a_job_by_itself(host: Host, plain, monkeypatch) -> None:
    from modules import processing, scripts

    after, inner = scripts.ScriptRunner.postprocess, []

    def meddle(self: Any, p: Any, processed: Any) -> None:
        after(self, p, processed)
        for prompt in ("a red dog", "a blue lake"):
            p2 = copy.copy(p)
            p2.scripts, p2.prompt = None, prompt
            inner.append(pixels(processing.process_images(p2)))
        inner.append(pixels(processing.process_images(p2)))

    monkeypatch.setattr(scripts.ScriptRunner, "postprocess", meddle)
    make(host, unit())
    monkeypatch.undo()
    for images, prompt in zip(inner, ("a red dog", "a blue lake", "a blue lake"), strict=True):
        assert difference(images, make(host, prompt=prompt)) == 0
    assert difference(inner[0], inner[1]) > FAR / 10


class Made:
    """A processing object."""

    def __init__(self) -> None:
        self.prompt, self.prompts, self.closed = "a", "", 0

    def setup_prompts(self) -> None:
        self.prompts = self.prompt

    def close(self) -> None:
        self.closed += 1


def process_images_inner(p: Any, inside: Any = lambda: None) -> None:
    """As the host's function of that name."""
    p.setup_prompts()
    inside()


@pytest.fixture
def acts(host: Host) -> Any:
    """An object, what stands before its methods, and how often that has acted."""
    from lib_ipadapter.webui.host.replaced import Before

    found = SimpleNamespace(p=Made(), begun=[], ended=[])
    found.before = lambda: Before(found.p, "setup_prompts", lambda: found.begun.append(1))
    found.at_the_end = lambda: Before(found.p, "close", lambda: found.ended.append(1), in_job=False)
    return found


def test_a_copys_methods_are_its_own(acts: Any) -> None:
    acts.before()
    p, p2 = acts.p, copy.copy(acts.p)
    p2.prompt = "b"
    process_images_inner(p2)
    process_images_inner(p2)
    assert (acts.begun, p2.prompts, p.prompts) == ([], "b", "")
    process_images_inner(p)
    assert (acts.begun, p.prompts, vars(p).get("setup_prompts")) == ([1], "a", None)
    acts.at_the_end()
    process_images_inner(p, lambda: copy.copy(p).close())
    assert (acts.ended, p.closed) == ([], 0)
    p.close()
    assert (acts.ended, p.closed) == ([1], 1)
    p.close()
    assert (acts.ended, p.closed) == ([1], 2)


@pytest.mark.parametrize("renewed", [1, 2])
def test_another_extensions_method_is_called_and_stays(renewed: int, acts: Any) -> None:
    p = acts.p
    theirs = p.setup_prompts = lambda: setattr(p, "prompts", "theirs")
    for _ in range(renewed):
        acts.before()
    process_images_inner(p)
    assert (acts.begun, p.prompts, vars(p)["setup_prompts"]) == ([1], "theirs", theirs)


def test_below_another_extensions_method_it_acts_once(acts: Any) -> None:
    acts.before()
    p, ours_too = acts.p, acts.p.setup_prompts
    theirs = p.setup_prompts = lambda: ours_too()
    for _ in range(2):
        process_images_inner(p)
    assert (acts.begun, p.prompts, vars(p)["setup_prompts"]) == ([1], "a", theirs)


# What is said of units


@pytest.fixture
def idle_at_first(host: Host, monkeypatch) -> None:
    """Unit 1 has not acted in the first batch that is made."""
    from lib_ipadapter.jobs.generation import Generation, Inaction

    calls: list[int] = []

    def inactions(self: Any) -> list[Inaction]:
        calls.append(1)
        return [Inaction(1, False, False)] if len(calls) == 1 else []

    monkeypatch.setattr(Generation, "inactions", inactions)


@pytest.mark.host("tiling")
def test_what_units_have_not_done_is_said_of_that_job(host: Host, idle_at_first) -> None:
    first, second = (ask(host, unit()).infotext for _ in range(2))
    assert "IP-Adapter units not used: 1" in first and "IP-Adapter 1: " not in first
    assert "not used" not in second and "IP-Adapter 1: " in second


@pytest.mark.host("tiling")
def test_what_units_have_not_done_in_one_run_is_not_said_of_the_next(host: Host, idle_at_first) -> None:
    """A script, or img2img's batch of files, makes several runs of one object."""
    text = ask(host, unit(), script_name="Twice", script_args=[]).infotext
    assert "not used" not in text and "IP-Adapter 1: " in text


def test_what_units_have_not_done_is_said_of_that_batch(host: Host, idle_at_first) -> None:
    first, second = ask(host, unit(), n_iter=2).info["infotexts"]
    assert "IP-Adapter units not used: 1" in first and "IP-Adapter 1: " not in first
    assert "not used" not in second and "IP-Adapter 1: " in second


def test_calls_that_are_lost_in_one_batch_are_not_said_of_the_next(host: Host, monkeypatch) -> None:
    from lib_ipadapter.attend.rows import RowCursor

    take, calls = RowCursor.take, []

    def forgets_one(self: Any, *args: Any, **more: Any) -> Any:
        calls.append(1)
        return None if len(calls) == 1 else take(self, *args, **more)

    monkeypatch.setattr(RowCursor, "take", forgets_one)
    first, second = ask(host, unit(), n_iter=2).info["infotexts"]
    assert "IP-Adapter not used in: some calls" in first and "not used" not in second


@pytest.mark.host("tiling")
def test_a_copy_inside_a_job_says_nothing_of_the_job(host: Host, monkeypatch) -> None:
    """With scripts it is a job of its own, whose units may do other things."""
    from modules import processing, scripts

    finish, seen = scripts.ScriptRunner.postprocess_image, []

    def meddle(self: Any, p: Any, pp: Any) -> None:
        finish(self, p, pp)
        if not seen:
            seen.append(copy.copy(p))
            seen[0].extra_generation_params["other"] = "same dict"
            processing.process_images(seen[0])
            seen[0].extra_generation_params["IP-Adapter 1"] = "of the copy"

    monkeypatch.setattr(scripts.ScriptRunner, "postprocess_image", meddle)
    text = ask(host, unit()).infotext
    assert "other: same dict" in text and "of the copy" not in text
