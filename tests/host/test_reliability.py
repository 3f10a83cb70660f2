"""A tenth of ``python -m benchmarks.reliability``: whatever comes from outside is answered, and nothing stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks import reliability
from benchmarks.reliability import Tally
from demo.start import Host

SEED = 4711


def no_trouble(host: Host, steps: Callable[[int, int, Tally], Iterator[None]], count: int) -> Tally:
    first, tally = Tally(), Tally()  # what is loaded and remembered the first time is no leak
    reliability.watched(host, steps(max(10, count // 4), SEED + 1, first), first)
    before = reliability.own_memory()
    reliability.watched(host, steps(count, SEED, tally), tally, every=50)
    assert first.wrong + tally.wrong == []
    assert reliability.own_memory() - before < reliability.MEMORY
    return tally


def test_generated_requests(host: Host, plain) -> None:
    tally = no_trouble(host, lambda *args: reliability.requests(host, *args), 300)
    assert tally.answers[200] > 20  # it is not all nonsense
    assert tally.answers[422] > 100


def test_hostile_files(host: Host, folder: Path, plain) -> None:
    tally = no_trouble(host, lambda *args: reliability.files(host, folder, *args), 30)
    assert tally.answers == {200: 3, 422: 30}


def test_hostile_archives(host: Host, store, plain) -> None:
    tally = no_trouble(host, lambda *args: reliability.archives(host, *args), 10)
    assert tally.answers[200] >= 10


@pytest.mark.parametrize("answer", [(500, {}), (422, {}), (422, {"detail": "x" * 9999}), (502, "gone")])
def test_what_would_be_wrong_is_seen(answer: tuple[int, object]) -> None:
    tally = Tally()
    tally.add(answer, "something")
    assert len(tally.wrong) == 1
