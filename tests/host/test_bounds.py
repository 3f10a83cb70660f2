"""Requests that ask for too much, or come at a bad moment: a sentence, and nothing kept."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from demo.start import Host
from lib_ipadapter.encode import picture as pictures
from lib_ipadapter.encode.sizes import Budget
from tests.helpers.files import base64_of, picture, unit
from tests.helpers.host import difference, make, ours


def ask(host: Host, *units: object, **more: object):
    return host.client.post(
        "/sdapi/v1/txt2img",
        json={"prompt": "a cat", "steps": 2, "width": 64, "height": 64, "alwayson_scripts": ours(*units), **more},
    )


def test_pictures_that_are_too_large_together_are_refused(host: Host, plain, monkeypatch) -> None:
    side = picture(0).width * picture(0).height
    monkeypatch.setattr(pictures, "Budget", lambda: Budget(3 * side))
    first = unit(images=[base64_of(picture(0)), base64_of(picture(1)), base64_of(picture(0))])
    assert ask(host, first, unit(images=[base64_of(picture(1))])).status_code == 200  # two, though four times
    answer = ask(host, first, unit(images=[base64_of(picture(2)), base64_of(picture(3))]))
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("IP-Adapter unit 2: The pictures have more than ")
    assert answer.json()["detail"].endswith("or give fewer.")


def test_a_refused_job_keeps_no_pictures_alive(host: Host, plain, monkeypatch) -> None:
    """Not through its error either, whose traceback has frames, which have pictures."""
    alive, decoded = [], pictures._decoded

    def watched(*args):
        image = decoded(*args)
        alive.append(weakref.ref(image))
        return image

    monkeypatch.setattr(pictures, "_decoded", watched)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            answer = ask(host, unit(images=[base64_of(picture(0)), base64_of(picture(1)), "aGVsbG8gd29ybGQ="]))
            assert answer.status_code == 422
        del answer
        assert len(alive) >= 6
        assert [one() for one in alive[:-3]] == [None] * (len(alive) - 3)
    finally:
        gc.enable()


def test_more_places_than_there_are_units(host: Host, plain) -> None:
    for count in (11, 12, 13, 14, 40):
        answer = ask(host, *[unit()] * count)
        assert answer.status_code == 422, (count, answer.text[:300])
        assert "more than 10 units are given" in answer.json()["detail"], count
    answer = ask(host, *[None] * 11, {"model": "base"})
    assert answer.status_code == 422


@pytest.mark.both_faces
def test_unloading_everything_during_a_job(host: Host, plain, monkeypatch) -> None:
    """At every text that is shown on the progress bar."""
    from lib_ipadapter.webui import host as hosts
    from lib_ipadapter.webui import process

    process.resources().unload()  # what other tests have encoded together with more pictures differs by its rounding
    wanted = make(host, unit(), unit("plus"))
    progress_text = hosts.A1111.progress_text

    @contextmanager
    def unloading(own: hosts.A1111) -> Iterator[Callable[[str], None]]:
        with progress_text(own) as show:

            def shown(text: str) -> None:
                show(text)
                process.resources().unload()

            yield shown

    process.resources().unload()
    monkeypatch.setattr(hosts.A1111, "progress_text", unloading)
    assert difference(make(host, unit(), unit("plus")), wanted) == 0


def test_unloading_everything_between_a_look_and_its_use(host: Host, plain, monkeypatch) -> None:
    from lib_ipadapter.encode.cache import ByteCache

    wanted = make(host, unit(images=[base64_of(picture(0)), base64_of(picture(1))]))
    contains = ByteCache.__contains__

    def then_gone(cache: ByteCache, key: object) -> bool:
        found = contains(cache, key)
        cache.clear()
        return found

    monkeypatch.setattr(ByteCache, "__contains__", then_gone)
    assert difference(make(host, unit(images=[base64_of(picture(0)), base64_of(picture(1))])), wanted) == 0
