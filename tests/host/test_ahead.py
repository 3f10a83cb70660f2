"""What is done before a job asks for it: never beside one, and no picture is another one for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from demo.forge import flux
from demo.start import FORGE
from tests.helpers.files import base64_of, corner, half, picture, unit
from tests.helpers.host import make
from tests.helpers.panel import held_of

SETTINGS = ("ip_adapter_load_at_start", "ip_adapter_encode_ahead", "ip_adapter_keep_encoder")


@pytest.fixture
def ahead(host, monkeypatch) -> Iterator[Any]:
    """The module; its worker has nothing to do, and files are read and pictures encoded anew."""
    from lib_ipadapter.webui import ahead

    make(host)  # a checkpoint is loaded
    assert ahead.worker().wait(60)
    ahead.process.resources().unload()
    monkeypatch.setattr(ahead, "QUIET", 0.0)
    yield ahead
    assert ahead.worker().wait(60)


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """How many pictures each call of an image encoder was shown."""
    from lib_ipadapter.encode.references import References

    seen: list[int] = []
    encode = References._encode

    def spy(references: References, unit: Any, missing: Any) -> None:
        seen.append(len(missing))
        encode(references, unit, missing)

    monkeypatch.setattr(References, "_encode", spy)
    return seen


def set_option(monkeypatch, name: str, value: bool) -> None:
    from modules import shared

    monkeypatch.setitem(shared.opts.data, name, value)


UNITS = {
    "pooled": unit("base", seeds=(0, 1)),
    "hidden states": unit("plus", seeds=(0, 1)),
    "masks, negatives and noise": unit(
        "plus", noise=0.3, negative_images=[base64_of(picture(7))],
        images=[{"image": base64_of(picture(0)), "mask": base64_of(corner())}], crop="top",
    ),
    "regions and weights": unit(
        images=[
            {"image": base64_of(picture(seed)), "weight": weight, "region": base64_of(half(side))}
            for seed, weight, side in ((0, 0.5, "left"), (1, 1.0, "right"))
        ],
    ),
}  # fmt: skip


def test_a_folder_is_left_to_the_job(host, ahead, encoded, tmp_path, monkeypatch) -> None:
    """It may hold thousands of pictures, of which nobody has dropped any."""
    from lib_ipadapter.encode import folders
    from tests.helpers.folders import fill

    set_option(monkeypatch, "ip_adapter_reference_folders", str(tmp_path))
    fill(tmp_path / "refs", 0, 1, 2)
    read: list[Any] = []
    of_file = folders.FolderFile.read
    monkeypatch.setattr(folders.FolderFile, "read", lambda self, *a: read.append(self) or of_file(self, *a))
    for more in ({}, {"combine": "average"}, {"batch": "per image"}):
        images = [{"folder": str(tmp_path / "refs")}, base64_of(picture(8))]
        ahead.encode({"model": "base", "images": images[: 1 if more else 2], **more})
        assert ahead.worker().wait(60)
    assert sum(encoded) == 1 and not read


@pytest.mark.parametrize("name", UNITS)
def test_the_picture_is_the_same_and_nothing_is_encoded_twice(name: str, host, ahead, encoded) -> None:
    cold = make(host, UNITS[name])
    shown = sum(encoded)
    ahead.process.resources().unload()
    encoded.clear()
    ahead.encode(UNITS[name])
    assert ahead.worker().wait(60)
    assert encoded == [1] * shown  # one at a time
    encoded.clear()
    assert np.array_equal(make(host, UNITS[name]), cold)
    assert encoded == []
    ahead.encode(UNITS[name])
    assert ahead.worker().wait(60)
    assert encoded == []


def test_img2img_is_the_same(host, ahead) -> None:
    """Its start picture is encoded with the global generator's numbers, which nothing here may draw."""
    start = {"path": "img2img", "init_images": [base64_of(picture(5))], "denoising_strength": 0.6}
    make(host, unit("plus"), **start)
    cold = make(host, unit("plus"), **start)
    ahead.process.resources().unload()
    ahead.encode(unit("plus"))
    assert ahead.worker().wait(60)
    assert np.array_equal(make(host, unit("plus"), **start), cold)


def test_start_pictures_are_left_to_the_job_and_looks_are_known(host, ahead, encoded) -> None:
    """What a unit with them has beside them is encoded."""
    kept = ahead.process.looks()
    response = host.client.put("/ip-adapter/looks/ahead", json={"unit": unit("plus", seeds=(3,))})
    assert response.status_code < 300, response.text
    try:
        encoded.clear()
        ahead.process.resources().unload()
        both = {"model": "plus", "images": [{"look": "ahead"}, {"start_picture": True}, base64_of(picture(4))]}
        ahead.encode(both)
        ahead.encode({"model": "plus", "images": [{"start_picture": True}]}, "img2img")
        assert ahead.worker().wait(60)
        assert encoded == [1, 1]  # the picture, and what stands for none
        encoded.clear()
        start = {"path": "img2img", "init_images": [base64_of(picture(5))], "denoising_strength": 0.6}
        make(host, both, **start)
        assert sum(encoded) == 1  # the start picture
    finally:
        kept.delete("ahead")


@pytest.mark.host("flux")
@pytest.mark.parametrize("face", [FORGE])
def test_on_flux_it_is_the_same(host, ahead, encoded) -> None:
    on_flux = {"override_settings": {"sd_model_checkpoint": flux.NAME}, "cfg_scale": 1, "steps": 2}
    cold = make(host, unit("redux", seeds=(1, 2)), **on_flux)
    shown = sum(encoded)
    ahead.process.resources().unload()
    encoded.clear()
    ahead.encode(unit("redux", seeds=(1, 2)))
    assert ahead.worker().wait(60)
    assert encoded == [1] * shown
    encoded.clear()
    assert np.array_equal(make(host, unit("redux", seeds=(1, 2)), **on_flux), cold)
    assert encoded == []


def test_it_waits_for_jobs_and_lets_them_in_between(host, ahead, encoded) -> None:
    from lib_ipadapter.webui import host as hosts

    entered, wait = threading.Event(), threading.Event()
    alone, order = hosts.current().alone, []

    @contextmanager
    def watched() -> Iterator[None]:
        with alone():
            order.append(len(encoded))
            yield

    host_class = type(hosts.current())
    original = host_class.alone
    host_class.alone = lambda self: watched()  # type: ignore[method-assign]
    try:

        def job() -> None:
            with alone():
                entered.set()
                wait.wait(60)

        running = threading.Thread(target=job)
        running.start()
        assert entered.wait(60)
        ahead.encode(unit("plus", seeds=(0, 1, 2)))
        time.sleep(0.5)
        assert encoded == []  # a job is running
        wait.set()
        running.join()
        assert ahead.worker().wait(60)
    finally:
        host_class.alone = original  # type: ignore[method-assign]
    assert encoded == [1] * 4  # what stands for no picture, and three
    assert order == [0, 1, 2, 3, 4]  # each in a turn of its own, and one to see that there is no more


@pytest.mark.parametrize("name", ["ip_adapter_encode_ahead", "ip_adapter_keep_encoder"])
def test_settings_keep_it_from_encoding(name: str, host, ahead, encoded, monkeypatch) -> None:
    set_option(monkeypatch, name, False)
    ahead.encode(unit())
    assert ahead.worker().wait(60)
    assert encoded == []


def test_what_cannot_be_used_is_left_to_the_job(host, ahead, encoded) -> None:
    for i, settings in enumerate((unit("no such model"), {"model": 3}, unit(images=["bm8gcGljdHVyZQ=="]))):
        ahead.encode(settings, f"tab {i}")
    ahead.encode(unit())
    assert ahead.worker().wait(60)
    assert encoded == [1]


def test_the_disk_is_not_looked_at_for_what_is_not_there(host, ahead, monkeypatch) -> None:
    looks: list[int] = []
    monkeypatch.setattr(type(ahead.process.resources().catalog), "refresh", lambda _self: looks.append(1))
    ahead.encode(unit("no such model"))
    assert ahead.worker().wait(60)
    assert looks == []


def test_disabled_units_and_folders_are_left_out(host, ahead, encoded, tmp_path, monkeypatch) -> None:
    from lib_ipadapter.webui import job

    picture(3).save(tmp_path / "one.png")
    monkeypatch.setitem(_options(), "ip_adapter_reference_folders", str(tmp_path))
    walked: list[Any] = []
    with_folders = job.with_folders

    def spy(units: Any, *rest: Any) -> Any:
        walked.extend(one for unit in units for one in unit.references if one.folder is not None)
        return with_folders(units, *rest)

    monkeypatch.setattr(job, "with_folders", spy)
    ahead.encode(unit(enabled=False))
    assert ahead.worker().wait(60)
    assert encoded == []
    ahead.encode({"model": "base", "images": [{"folder": str(tmp_path)}]})
    assert ahead.worker().wait(60)
    assert encoded == []
    ahead.encode({"model": "base", "images": [base64_of(picture(4)), {"folder": str(tmp_path)}]})
    assert ahead.worker().wait(60)
    assert encoded == [1] and walked == []


def _options() -> dict[str, Any]:
    from modules import shared

    return shared.opts.data


def busy(host: Any) -> tuple[threading.Thread, threading.Event]:
    """A job that runs until the event is set."""
    from lib_ipadapter.webui import host as hosts

    entered, go_on = threading.Event(), threading.Event()

    def job() -> None:
        with hosts.current().alone():
            entered.set()
            go_on.wait(60)

    running = threading.Thread(target=job)
    running.start()
    assert entered.wait(60)
    return running, go_on


def test_nothing_is_read_beside_a_job(host, ahead, monkeypatch) -> None:
    """Not even pictures: they are decoded, and faces are looked for, in a turn."""
    from lib_ipadapter.webui import job

    decodings, decoded = [], job.decoded
    monkeypatch.setattr(job, "decoded", lambda *given, **more: (decodings.append(1), decoded(*given, **more))[1])
    running, go_on = busy(host)
    ahead.encode(unit())
    time.sleep(0.5)
    assert decodings == []
    go_on.set()
    running.join()
    assert ahead.worker().wait(60)
    assert decodings == [1]


def test_of_one_tab_the_newest_waits_and_no_two_tasks_are_the_same(host, ahead, encoded, monkeypatch) -> None:
    from lib_ipadapter.webui import job

    numbers, decoded = [], job.decoded
    monkeypatch.setattr(
        job, "decoded", lambda units, **more: (numbers.append(len(units[0].references)), decoded(units, **more))[1]
    )
    running, go_on = busy(host)
    ahead.encode(unit(seeds=(0,)), "txt2img")  # has begun, and waits for its turn
    time.sleep(0.3)
    for seeds in ((0, 1), (0, 1, 2)):
        ahead.encode(unit(seeds=seeds), "txt2img")
    ahead.encode(unit(seeds=(5,)), "img2img")
    go_on.set()
    running.join()
    assert ahead.worker().wait(60)
    assert numbers == [1, 3, 1]
    assert sum(encoded) == 4
    ahead.encode(unit(seeds=(0, 1, 2)), "txt2img")
    assert ahead.worker().wait(60)
    assert numbers == [1, 3, 1]  # it is what the last one has done
    ahead.process.resources().unload()
    ahead.encode(unit(seeds=(0, 1, 2)), "txt2img")
    assert ahead.worker().wait(60)
    assert numbers == [1, 3, 1, 3] and sum(encoded) == 7


def after(monkeypatch: Any, pieces: int, act: Any) -> None:
    """Call ``act`` when so many pictures have been encoded."""
    from lib_ipadapter.encode.references import References

    encode, seen = References._encode, []

    def watched(references: References, unit: Any, missing: Any) -> None:
        encode(references, unit, missing)
        seen.append(1)
        if len(seen) == pieces:
            act()

    monkeypatch.setattr(References, "_encode", watched)


@pytest.mark.parametrize("name", ["ip_adapter_encode_ahead", "ip_adapter_keep_encoder"])
def test_settings_are_asked_before_each_piece(name: str, host, ahead, encoded, monkeypatch) -> None:
    after(monkeypatch, 2, lambda: set_option(monkeypatch, name, False))
    ahead.encode(unit(seeds=(0, 1, 2, 3)))
    assert ahead.worker().wait(60)
    assert encoded == [1, 1]


def test_the_host_is_asked_in_each_turn(host, ahead, encoded, monkeypatch) -> None:
    """Where it has let go of its checkpoint, nothing more is encoded; while it loads one, it is waited for."""
    from lib_ipadapter.webui import host as hosts

    current, gone = hosts.current(), []
    monkeypatch.setattr(type(current), "loaded_model", lambda _self: None if gone else object())
    after(monkeypatch, 2, lambda: gone.append(1))
    ahead.encode(unit(seeds=(0, 1, 2, 3)))
    assert ahead.worker().wait(60)
    assert encoded == [1, 1]
    gone.clear()
    loading = [1]
    monkeypatch.setattr(type(current), "is_loading", lambda _self: bool(loading))
    ahead.encode(unit(seeds=(0, 1, 2, 3)))
    assert not ahead.worker().wait(0.7)
    assert encoded == [1, 1]
    loading.clear()
    assert ahead.worker().wait(60)
    assert encoded == [1] * 4


def test_no_more_is_encoded_than_half_of_the_cache_holds(host, ahead, encoded, monkeypatch) -> None:
    """More would push itself out, and all else."""
    resources = ahead.process.resources()
    ahead.encode(unit("plus", seeds=(0,)))
    assert ahead.worker().wait(60)
    each = resources.cache.nbytes // 2  # and what stands for none
    encoded.clear()
    monkeypatch.setattr(ahead.process.options, "cache_bytes", lambda: 12 * each)
    for seeds, expected in ((range(1, 7), 6), (range(10, 18), 1)):
        encoded.clear()
        ahead.encode(unit("plus", seeds=tuple(seeds)))
        assert ahead.worker().wait(60)
        assert sum(encoded) == expected
        assert resources.cache.limit == 12 * each  # as the settings say, not as the last job found them


def test_unloading_ends_what_is_under_way(host, ahead, encoded, monkeypatch) -> None:
    pressed = threading.Event()

    def press() -> None:
        ahead.worker().drop()
        ahead.process.resources().unload()
        pressed.set()

    def act() -> None:
        threading.Thread(target=press).start()
        time.sleep(0.3)
        assert not pressed.is_set()  # it comes after the piece, so that nothing of that stays

    after(monkeypatch, 2, act)
    ahead.encode(unit(seeds=(0, 1, 2, 3)), "txt2img")
    ahead.encode(unit(seeds=(4,)), "img2img")
    assert ahead.worker().wait(60)
    assert pressed.wait(60)
    assert encoded == [1, 1]
    assert kept(ahead.process.resources()) == (0, False)
    assert len(ahead.process.resources().cache) == 0


def test_the_button_unloads_what_is_done_ahead(host, ahead, encoded) -> None:
    from tests.host.test_face_install import press

    running, go_on = busy(host)
    ahead.encode(unit(seeds=(0,)))
    press(host, "unload")  # while a job runs, which it does not wait for
    go_on.set()
    running.join()
    assert ahead.worker().wait(60)
    assert encoded == []


def test_the_worker_has_the_priority_of_all_threads(host, ahead) -> None:
    """Processes that it starts, and who waits for the turn that it has, would have its own."""
    import os

    nice: list[int] = []
    worker = ahead.Ahead()
    worker.soon(lambda own: own.do([lambda: nice.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))]))
    assert worker.wait(60)
    assert nice == [os.getpriority(os.PRIO_PROCESS, 0)]


def test_a_system_without_threads_to_give_leaves_it_to_the_job(host, ahead, monkeypatch) -> None:
    worker, done = ahead.Ahead(), []

    def refuse(_self: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        worker.soon(lambda _own: done.append(1))
    assert worker.wait(1)
    worker.soon(lambda _own: done.append(2))
    assert worker.wait(60)
    assert done == [2]


def test_the_end_of_the_process_waits_for_no_job(host, ahead) -> None:
    worker, done = ahead.Ahead(), []
    running, go_on = busy(host)
    worker.soon(lambda own: own.do([lambda: done.append(1)]))
    time.sleep(0.3)
    began = time.monotonic()
    worker.end()
    assert time.monotonic() - began < 5
    go_on.set()
    running.join()
    assert worker.wait(60)
    assert done == []


def test_cards_are_drawn_and_what_they_show_is_encoded(host, ahead, encoded) -> None:
    import json

    import gradio as gr

    from lib_ipadapter.webui import process
    from lib_ipadapter.webui.panel import editor as editors

    with gr.Blocks():
        notes = gr.HTML()
        editor = editors.Editor("txt2img", 2, process.resources, notes)
        for box in editor.boxes:
            box.render()
    images = [{"key": "a"}, {"key": "b"}]
    state = {"shown": 1, "units": [{"images": images}, {"images": [{"key": "a"}]}]}
    held = held_of(a=picture(3))
    editor._drawn("stamp", json.dumps(state), held, "base")
    assert ahead.worker().wait(60)
    assert encoded == []  # one is still on its way
    held |= held_of(b=picture(4))
    off = {**state, "units": [{"images": images, "enabled": False}, state["units"][1]]}
    editor._drawn("stamp", json.dumps(off), held, "base")
    assert ahead.worker().wait(60)
    assert encoded == []  # the unit is disabled
    editor._drawn("stamp", json.dumps(state), held, "base")
    assert ahead.worker().wait(60)
    assert encoded == [1, 1]


# --- the start ------------------------------------------------------------------------------------------------------


def kept(resources: Any) -> tuple[int, bool]:
    return len(resources._adapters), resources._encoder is not None


def test_the_files_are_there_after_the_start(host, ahead, monkeypatch) -> None:
    resources = ahead.process.resources()
    cold = make(host, unit("plus"))
    resources.unload()
    ahead.at_start()
    assert ahead.worker().wait(60)
    assert kept(resources) == (0, False)  # nobody has asked for it
    set_option(monkeypatch, "ip_adapter_load_at_start", True)
    ahead.process.used_models().note("SD1.5", ["plus"])
    ahead.at_start()
    assert ahead.worker().wait(60)
    assert kept(resources) == (1, True)
    before = {*resources._adapters}, resources._encoder
    assert np.array_equal(make(host, unit("plus")), cold)
    assert ({*resources._adapters}, resources._encoder) == before  # used as they are
    resources.unload()
    set_option(monkeypatch, "ip_adapter_keep_encoder", False)
    ahead.at_start()
    assert ahead.worker().wait(60)
    assert kept(resources) == (1, False)


def test_the_start_returns_before_anything_is_loaded(host, ahead, monkeypatch) -> None:
    """Whatever takes long is done on another thread: here nothing of it comes to an end before the calls return."""
    from fastapi import FastAPI

    from lib_ipadapter.jobs.resources import Resources
    from lib_ipadapter.webui import start

    set_option(monkeypatch, "ip_adapter_load_at_start", True)
    returned, begun, threads = threading.Event(), threading.Event(), set()
    adapter = Resources.adapter

    def slow(*args: Any) -> Any:
        threads.add(threading.current_thread().name)
        begun.set()
        assert returned.wait(60)
        return adapter(*args)

    monkeypatch.setattr(Resources, "adapter", slow)
    start.on_app_started(None, FastAPI())
    assert kept(ahead.process.resources()) == (0, False)
    assert begun.wait(60)
    returned.set()
    assert ahead.worker().wait(60)
    assert kept(ahead.process.resources()) == (1, True)
    assert threads == {"ip-adapter-ahead"}


def test_a_picture_that_is_made_is_waited_for(host, ahead, monkeypatch) -> None:
    from lib_ipadapter.webui import host as hosts

    set_option(monkeypatch, "ip_adapter_load_at_start", True)
    with hosts.current().alone():
        ahead.at_start()
        time.sleep(1)
        assert kept(ahead.process.resources()) == (0, False)
    assert ahead.worker().wait(60)
    assert kept(ahead.process.resources()) == (1, True)


def test_the_hosts_own_loading_is_waited_for(host, ahead, monkeypatch) -> None:
    """While it lasts, modules are made in a way of its own."""
    from modules import sd_models

    set_option(monkeypatch, "ip_adapter_load_at_start", True)
    resources = ahead.process.resources()
    with sd_models.model_data.lock:
        ahead.at_start()
        time.sleep(1)
        assert kept(resources) == (0, False)
    assert ahead.worker().wait(60)
    assert kept(resources) == (1, True)


def test_without_models_nothing_happens(host, ahead, monkeypatch) -> None:
    from lib_ipadapter.webui.panel.model_choice import ModelChoice

    set_option(monkeypatch, "ip_adapter_load_at_start", True)
    monkeypatch.setattr(ModelChoice, "chosen", lambda self, **_: None)
    ahead.at_start()
    assert ahead.worker().wait(60)
    assert kept(ahead.process.resources()) == (0, False)


def test_the_end_of_the_process_is_not_waited_for(host, ahead) -> None:
    worker = ahead.Ahead()
    done: list[int] = []
    begun = threading.Event()

    def long(own: Any) -> None:
        begun.set()
        own.ended.wait(60)
        own.do([lambda: done.append(1)])

    worker.soon(long)
    worker.soon(lambda _own: done.append(2))
    assert begun.wait(60)
    worker.end()
    assert worker.wait(60)
    worker.soon(lambda _own: done.append(3))
    assert done == []
