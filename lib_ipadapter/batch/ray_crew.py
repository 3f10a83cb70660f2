"""The crew on Ray: an actor for each WebUI, which Ray starts again where it ends, and an object store in which each
reference lies once."""

from __future__ import annotations

import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .crew import DONE, FAILED, LATE, LOST, REFUSED, Down, Event, Gone, Landed, Outcome, Up, Work
from .problems import BatchError, NoAnswer, RowError
from .say import plain
from .schedule import SLOTS
from .webui import Start
from .worker import Config, Worker

ROOT = Path(__file__).parents[2]
LOOK = 0.25  # seconds that a wait takes at most
AGAIN = 0.5  # seconds before a worker that is being started again is asked again
PLACED = 60.0  # seconds at least for a worker that asks for no GPU: it waits for nobody, but its process has to start
NEW_NODES = 15.0  # seconds between looks for nodes that have joined
AT_ONCE = 128  # answers that are taken together
PLACE, UP = "place", "up"  # what a worker is asked: whether it is anywhere, and to wait for its WebUI
STORE = 300_000_000  # bytes of a local object store
STARTS = 3  # of a local Ray
NO_IDLE = {"num_cpus": 0}  # Ray starts a process for each processor beforehand; actors here want none
SHARED = 100_000_000  # bytes of references that the driver keeps there

# For a local Ray, read when it is imported: it takes loopback for this computer's address, as it does by itself on
# macOS and Windows, and listens nowhere else; and it lets in whoever has its token.
ONLY_HERE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}

Find = Callable[[str], bytes]  # a reference's key -> its file


class RayWorker(Worker):
    """The same, with references out of the object store."""

    def __repr__(self) -> str:
        return self._config.name  # what the dashboard calls it

    def is_there(self) -> bool:
        """Answered as soon as Ray has found a place for it."""
        return True

    def do_with(self, work: Work, keys: Sequence[str], held: Sequence[Any]) -> Outcome:
        import ray

        return self.do(work, dict(zip(keys, ray.get(list(held)), strict=True)))


def begin(address: str | None, dashboard: bool) -> str:
    """Connect to a cluster, or start a local Ray; the dashboard's address, "" for none. Raises BatchError."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when it is imported
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is None:
        os.environ.update(ONLY_HERE)
    try:
        import PIL  # noqa: F401  # for the sheet: better told now than while rows are made
        import pyarrow  # noqa: F401
        import ray
    except ImportError as error:
        raise BatchError(
            f"{error.name} is not installed: pip install -r requirements-batch.txt, in an environment of its own."
        ) from None
    places = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "ip-adapter-batch"}
    for attempt in range(STARTS if address is None else 1):
        try:
            if address is None:
                context = ray.init(
                    address="local", include_dashboard=dashboard, dashboard_host="127.0.0.1",
                    object_store_memory=STORE, runtime_env={"env_vars": {"PYTHONPATH": places}}, **NO_IDLE, **common,
                )  # fmt: skip
            else:
                context = ray.init(address=address, runtime_env={"py_modules": [str(ROOT / "lib_ipadapter")]}, **common)
            break
        except Exception as error:
            ray.shutdown()
            if address is None and attempt < STARTS - 1:
                continue  # on a machine that is busy with other things Ray gives up its start
            where = "a local Ray" if address is None else f"the cluster at {address}"
            why = plain(" ".join(str(error).split()))[:500]
            raise BatchError(f"{where} does not answer ({type(error).__name__}: {why}): look at ray status.") from None
    return str(context.dashboard_url or "")


class RayCrew:
    """``configs``: a WebUI each, with what its actor asks of Ray; ``find`` reads a reference's file. With ``own`` each
    GPU of the cluster gets a WebUI started so, those of nodes that join later, too."""

    def __init__(
        self, configs: Sequence[tuple[Config, dict[str, Any]]], find: Find, own: tuple[Config, Start] | None = None
    ) -> None:
        self._find, self._own = find, own
        self._actors: dict[str, Any] = {}
        self._calls: dict[Any, tuple[str, Work | str]] = {}  # an answer to come -> whose, and to what
        self._placing: dict[str, tuple[float, Any]] = {}  # since when a worker has no place, and the call that tells
        self._gpus: dict[str, float] = {}  # what each WebUI has been promised
        self._later: list[tuple[float, str]] = []
        self._lost: list[tuple[str, Work, str]] = []
        self._absent: dict[str, float] = {}  # since when
        self._patience: dict[str, float] = {}  # seconds, as long as a WebUI that is away is waited for
        self._given_up: set[str] = set()
        self._in_vain: dict[Any, tuple[str, Any]] = {}  # workers that still have no place -> name and actor
        self._held: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self._looked = 0.0
        for config, options in configs:
            self._hire(config, options)
        self._look_for_nodes()

    def names(self) -> list[str]:
        return list(self._actors)

    def ask(self, name: str, route: str) -> Any:
        """A route's JSON. Raises RowError with the WebUI's sentence where it refuses, NoAnswer where there is none."""
        import ray

        try:
            kind, told = ray.get(self._actors[name].ask.remote(route), timeout=120)
        except (ray.exceptions.RayError, KeyError) as error:
            if _is_full(error):
                raise _full(error) from None
            raise NoAnswer(f"its worker does not answer ({type(error).__name__}): try again.") from None
        if kind != DONE:
            raise (RowError if kind == REFUSED else NoAnswer)(str(told))
        return told

    def send(self, endpoint: str, work: Work) -> None:
        held = [self._reference(key) for key in work.references]
        try:
            self._calls[self._actors[endpoint].do_with.remote(work, list(work.references), held)] = (endpoint, work)
        except Exception as error:  # what an actor that has ended for good says at once, or an object store
            if _is_full(error):
                raise _full(error) from None
            self._lost.append((endpoint, work, type(error).__name__))

    def wait(self) -> list[Event]:
        import ray

        now = time.monotonic()
        if self._own is not None and now - self._looked > NEW_NODES:
            self._look_for_nodes()
            self._look_for_places()
        if unplaced := self._unplaced(now):
            return unplaced
        for due, name in self._later:
            if due <= now and name in self._actors:
                self._watch(name)
        self._later = [one for one in self._later if one[0] > now]
        if not self._calls and not self._lost:
            time.sleep(LOOK / 5)
            return []
        calls = list(self._calls)
        ready, _ = ray.wait(calls, num_returns=1, timeout=LOOK, fetch_local=False) if calls else ([], [])
        if ready and len(calls) > 1:
            ready, _ = ray.wait(calls, num_returns=min(len(calls), AT_ONCE), timeout=0, fetch_local=False)
        lost, self._lost = self._lost, []
        events = [one for name, work, why in lost for one in self._told(name, work, Outcome(LOST, f"{why}."))]
        for call in ready:
            name, asked = self._calls.pop(call)
            if isinstance(asked, Work):
                events += self._landed(call, name, asked)
            else:
                events += (self._placed if asked == PLACE else self._up)(call, name)
        return events

    def close(self) -> None:
        """End the workers, and what they have started."""
        import ray

        for actor in (*self._actors.values(), *(actor for _, actor in self._in_vain.values())):
            ray.kill(actor)
        ray.shutdown()

    # actors

    def _hire(self, config: Config, options: dict[str, Any]) -> None:
        import ray

        wanted = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": 0, "max_concurrency": SLOTS + 3, **options}
        self._patience[config.name], self._gpus[config.name] = config.patience, options.get("num_gpus", 0)
        self._actors[config.name] = ray.remote(**wanted)(RayWorker).remote(config)
        self._watch(config.name)

    def _watch(self, name: str) -> None:
        """Wait for its worker, and then for itself."""
        call = self._actors[name].is_there.remote()
        self._placing[name] = time.monotonic(), call
        self._calls[call] = (name, PLACE)

    def _is_watched(self, name: str) -> bool:
        waited = (one for one, asked in self._calls.values() if isinstance(asked, str))
        return name in waited or any(name == later for _, later in self._later)

    def _placed(self, call: Any, name: str) -> list[Event]:
        import ray

        del self._placing[name]
        try:
            ray.get(call)
        except ray.exceptions.RayError as error:
            return self._not_back(name, error)
        self._calls[self._actors[name].until_up.remote()] = (name, UP)
        return []

    def _up(self, call: Any, name: str) -> list[Event]:
        import ray

        try:
            is_up, sentence = ray.get(call)
        except ray.exceptions.RayError as error:
            return self._not_back(name, error)
        self._absent.pop(name, None)
        return [Up(name)] if is_up else self._give_up([name], sentence)

    def _not_back(self, name: str, error: Exception) -> list[Event]:
        """Its worker has ended. It is being started again, as a rule."""
        since = self._absent.setdefault(name, time.monotonic())
        if time.monotonic() - since < self._patience[name]:
            self._later.append((time.monotonic() + AGAIN, name))
            return []
        return self._give_up([name], f"its worker does not come back ({type(error).__name__}): look at its node.")

    def _give_up(self, names: Sequence[str], sentence: str) -> list[Event]:
        """They are waited for no more; the sentence is told once."""
        self._dismiss(names)
        return _gone(names, sentence)

    def _dismiss(self, names: Sequence[str]) -> None:
        import ray

        for name in names:
            ray.kill(self._actors.pop(name))
        self._given_up.update(names)

    def _unplaced(self, now: float) -> list[Event]:
        """Give up those whose workers Ray has found no place for all the while. Nobody waits any more for one on a
        GPU of a cluster, but Ray goes on looking for its place."""
        import ray

        late = {call: name for name, (since, call) in self._placing.items() if now - since >= self._placed_within(name)}
        if late:  # nobody may have looked for long: a plan takes its time
            for call in ray.wait(list(late), num_returns=len(late), timeout=0, fetch_local=False)[0]:
                del late[call]
        names = list(late.values())
        if not names:
            return []
        sentence = self._what_is_missing(names)
        calls = {name: self._placing.pop(name)[1] for name in names}
        for call in calls.values():
            del self._calls[call]
        kept = [name for name in names if self._own is not None and self._gpus[name]]
        self._dismiss([name for name in names if name not in kept])
        self._in_vain.update({calls[name]: (name, self._actors.pop(name)) for name in kept})
        if kept and self._actors:
            sentence = f"{sentence.removesuffix('.')}; they take part when one becomes free."
        return _gone(names, sentence)

    def _placed_within(self, name: str) -> float:
        return self._patience[name] if self._gpus[name] else max(self._patience[name], PLACED)

    def _what_is_missing(self, names: Sequence[str]) -> str:
        import ray

        many = f"{len(names)} of {len(self._gpus)} WebUIs"
        waited = f"within {max(map(self._placed_within, names)):.0f} s"
        if not any(self._gpus[name] for name in names):
            return f"{many} have found no computer that starts their workers {waited}: look at ray status."
        there, free = (resources.get("GPU", 0) for resources in (ray.cluster_resources(), ray.available_resources()))
        return (
            f"{many} have found no GPU {waited} (the cluster has {there:g}, and {free:g} of them free): end what holds "
            "the others, or name fewer WebUIs."
        )

    def _landed(self, call: Any, name: str, work: Work) -> list[Event]:
        import ray

        try:
            outcome = ray.get(call)
        except ray.exceptions.RayTaskError as error:
            if _is_full(error):
                raise _full(error) from None
            lines = str(error).strip().splitlines()
            outcome = Outcome(
                FAILED, f"its worker failed ({plain(lines[-1])[:300] if lines else error}): look at Ray's logs."
            )
        except ray.exceptions.RayError as error:
            if _is_full(error):
                raise _full(error) from None
            outcome = Outcome(LOST, f"its worker ended ({type(error).__name__}).")
        return self._told(name, work, outcome)

    def _told(self, name: str, work: Work, outcome: Outcome) -> list[Event]:
        """An outcome; a WebUI that has gone, or is at work on what nobody waits for, is waited for from now on."""
        events: list[Event] = []
        if outcome.kind in (LATE, LOST) and name in self._actors and not self._is_watched(name):
            events.append(Down(name, outcome.sentence))
            self._later.append((time.monotonic() + AGAIN / 5, name))
        return [Landed(name, work, outcome), *events]

    # nodes and references

    def _look_for_nodes(self) -> None:
        self._looked = time.monotonic()
        if self._own is None:
            return
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        config, start = self._own
        known = {*self._actors, *self._given_up, *(name for name, _ in self._in_vain.values())}
        for node in ray.nodes():
            for gpu in range(int(node["Resources"].get("GPU", 0)) if node["Alive"] else 0):
                name = f"{node['NodeManagerAddress']} {node['NodeID'][:8]} gpu {gpu}"
                if name not in known:
                    place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                    options = {"num_gpus": 1, "scheduling_strategy": place}
                    self._hire(replace(config, name=name, start=start), options)

    def _look_for_places(self) -> None:
        """Those for whose workers Ray has found a place after all are waited for again."""
        import ray

        calls = list(self._in_vain)
        for call in ray.wait(calls, num_returns=len(calls), timeout=0, fetch_local=False)[0] if calls else ():
            name, actor = self._in_vain.pop(call)
            try:
                ray.get(call)
            except ray.exceptions.RayError:  # its node has gone
                ray.kill(actor)
                self._given_up.add(name)
                continue
            self._absent.pop(name, None)
            self._actors[name] = actor
            self._calls[actor.until_up.remote()] = name, UP

    def _reference(self, key: str) -> Any:
        """Where a reference lies in the object store; the ones that were used last stay there."""
        import ray

        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key][0]
        data = self._find(key)
        try:
            self._held[key] = ray.put(data), len(data)
        except ray.exceptions.RayError as error:
            raise _full(error) from None
        while len(self._held) > 1 and sum(size for _, size in self._held.values()) > SHARED:
            self._held.popitem(last=False)
        return self._held[key][0]


def _gone(names: Sequence[str], sentence: str) -> list[Event]:
    return [*(Gone(name) for name in names[:-1]), Gone(names[-1], sentence)]


def _is_full(error: Any) -> bool:
    """Whether Ray has no room for what it carries to a worker or back: the row is not to blame, nor the WebUI."""
    import ray

    kinds = ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError
    return isinstance(error, kinds) or isinstance(getattr(error, "cause", None), kinds)


def _full(error: Exception) -> BatchError:
    return BatchError(
        f"Ray has no room for what it carries ({type(error).__name__}): make room in its temporary folder (/tmp/ray), "
        "and give the same command again."
    )
