"""Which row goes where, and what becomes of it under kills, without Ray."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.batch.simulated import KINDS, compare
from lib_ipadapter.batch.schedule import DEATHS, SLOTS, STRETCH, TRIES, Schedule


def schedule(*sections: tuple[int, int], names: str = "ab") -> Schedule:
    def open_rows(after: int, last: int, count: int) -> list[int]:
        return list(range(after + 1, min(last, after + count) + 1))

    made = Schedule([(first, last, last - first + 1) for first, last in sections], open_rows)
    for name in names:
        made.add(name)
        made.up(name)
    return made


def finish(made: Schedule, speeds: dict[str, int]) -> dict[str, list[int]]:
    """All rows made, by WebUIs that take so many ticks for a row; who made which."""
    who: dict[str, list[int]] = {name: [] for name in speeds}
    tick = 0
    while not made.is_finished:
        made.next()
        tick += 1
        for name, speed in speeds.items():
            if tick % speed == 0 and made.endpoints[name].flying:
                who[name].append(made.endpoints[name].flying[0])
                made.done(name, who[name][-1])
    return who


def test_every_row_goes_out_once_and_work_goes_where_there_is_room() -> None:
    who = finish(schedule((1, 900)), {"a": 1, "b": 3})
    assert sorted(who["a"] + who["b"]) == list(range(1, 901))
    assert 2.5 < len(who["a"]) / len(who["b"]) < 3.5


def test_a_webui_stays_with_a_checkpoint_as_long_as_it_has_rows() -> None:
    who = finish(schedule((1, 300), (301, 600)), {"a": 1, "b": 1})
    for rows in who.values():
        changes = sum((one <= 300) != (other <= 300) for one, other in pairwise(rows))
        assert changes <= 2
    assert {rows[0] <= 300 for rows in who.values()} == {True, False}


def test_no_webui_holds_back_rows_that_another_has_room_for() -> None:
    made = schedule((1, STRETCH))
    made.next()
    made.endpoints["a"].slots = 0  # it hangs
    while made.endpoints["b"].flying:
        made.done("b", made.endpoints["b"].flying[0])
        made.next()
    assert not made.endpoints["a"].stretch
    assert len(made.endpoints["a"].flying) == SLOTS


def test_a_row_that_fails_is_tried_elsewhere_three_times() -> None:
    made = schedule((1, 1), names="abcd")
    places = []
    for _ in range(TRIES):
        ((name, position),) = made.next()
        places.append(name)
        is_over = made.failed(name, position)
    assert sorted(places) == list("abcd")
    assert is_over and made.is_finished


@pytest.mark.parametrize("told", [(0, 1), (1, 0)])
def test_a_row_that_waits_in_line_is_not_blamed_for_the_end_of_its_webui(told: tuple[int, int]) -> None:
    made = schedule((1, 2), names="a")
    flying = [position for _, position in made.next()]
    made.down("a")
    for place in told:
        made.lost("a", flying[place])
    assert (made.tries(flying[0]), made.tries(flying[1])) == (2, 1)
    made.up("a")
    assert sorted(position for _, position in made.next()) == [1, 2]


def test_a_row_over_which_webuis_end_waits_until_all_others_are_done() -> None:
    made, order = schedule((1, 10), names="a"), []
    while not made.is_finished:
        made.next()
        position = made.endpoints["a"].flying[0]
        if position == 1 and made.tries(1) <= DEATHS:
            made.down("a")
            for lost in tuple(made.endpoints["a"].flying):
                made.lost("a", lost)
            made.up("a")
        else:
            made.done("a", position)
            order.append(position)
    assert order[-1] == 1 and sorted(order) == list(range(1, 11))


def test_a_row_that_ends_every_webui_is_given_up_and_all_others_are_made() -> None:
    made, done, given_up = schedule((1, 40)), [], []
    while not made.is_finished:
        made.next()
        for name, endpoint in made.endpoints.items():
            if not endpoint.flying:
                continue
            if (position := endpoint.flying[0]) == 7:
                made.down(name)
                given_up += [lost for lost in tuple(endpoint.flying) if made.lost(name, lost)]
                made.up(name)
            else:
                made.done(name, position)
                done.append(position)
    assert given_up == [7]
    assert sorted(done) == [one for one in range(1, 41) if one != 7]


def test_rows_of_a_checkpoint_that_one_webui_lacks_go_to_the_other_and_end_where_nobody_has_it() -> None:
    made, done, hopeless = schedule((1, 10), (11, 700)), [], []
    while not made.is_finished:
        made.next()
        for name, endpoint in made.endpoints.items():
            if endpoint.flying:
                position = endpoint.flying[0]
                if position > 10 and name in "a":
                    made.lacking(name, position)
                else:
                    made.done(name, position)
                    done.append((name, position))
        hopeless += made.hopeless()
    assert sorted(position for _, position in done) == list(range(1, 701)) and not hopeless
    made = schedule((1, 10), (11, 700))
    while not made.is_finished:
        made.next()
        for name, endpoint in made.endpoints.items():
            if endpoint.flying:
                (made.lacking if endpoint.flying[0] > 10 else made.done)(name, endpoint.flying[0])
        hopeless += made.hopeless()
    assert sorted(hopeless) == list(range(11, 701))


def test_what_a_webui_had_is_made_by_others_when_it_does_not_come_back() -> None:
    made = schedule((1, 100))
    made.next()
    made.remove("a")
    who = finish(made, {"b": 1})
    assert sorted(who["b"]) == list(range(1, 101))


@pytest.mark.parametrize("seed", range(4))
def test_a_run_with_kills_ends_as_one_without(tmp_path: Path, seed: int) -> None:
    done = compare(tmp_path, 60, 60, seed, every=1.5)
    assert sum(done.values()) == 60 and set(done) == set(KINDS)


def test_only_the_row_that_was_worked_on_is_blamed_for_a_late_answer() -> None:
    made = schedule((1, 2), names="a")
    first, second = (position for _, position in made.next())
    made.late("a", first)
    made.late("a", second)
    assert (made.tries(first), made.tries(second)) == (2, 1)


def test_what_a_webui_lacks_is_forgotten_when_it_comes_back() -> None:
    made = schedule((1, 10), names="a")
    for name, position in made.next():
        made.lacking(name, position)
    assert made.next() == []
    made.down("a")
    made.up("a")
    assert len(made.next()) == SLOTS
