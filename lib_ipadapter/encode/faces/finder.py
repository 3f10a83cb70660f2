"""Finding faces with insightface: what the rest of the extension asks, and the process behind it."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...errors import CheckpointError, IPAdapterError
from . import process as processes
from . import worker
from .align import aligned
from .face import Face, Found
from .find import Candidate, look
from .packs import Pack, address, file_version, find_pack, pack_identity
from .process import Ended, Environment, Process

log = logging.getLogger("ip-adapter")

IDLE = 120.0  # seconds after which the process goes, with its networks' 300 to 900 MB
REMEMBERED = 60.0  # seconds for which it is known that no environment works
WIDTH = 512  # of an embedding
MOST_FACES = 64  # of one picture: the largest


class InsightFace:
    """A ``FaceFinder`` with a process of insightface's, which is started when it is first needed, goes when nobody has
    needed it for a while, and is started again after it has come to harm. Any thread may ask; one is served at a time.

    ``folders``: where packs are looked for. ``packages``: the folder of its own in which insightface may be.
    ``cache``: where what is needed of a pack's archive goes.
    """

    def __init__(
        self, folders: Callable[[], Sequence[Path]], packages: Path, cache: Path, *,
        environments: Callable[[Path], Sequence[Environment]] = processes.environments, idle: float = IDLE,
    ) -> None:  # fmt: skip
        self._folders, self._packages, self._cache = folders, packages, cache
        self._environments, self._idle = environments, idle
        self._lock = threading.RLock()
        self._process: Process | None = None
        self._failed: set[Environment] = set()  # whose packages have failed at work
        self._refusals: dict[tuple[Environment, ...], tuple[float, IPAdapterError]] = {}  # since when none has worked
        self._last_use = 0.0
        self._timer: threading.Timer | None = None

    def find(self, image: Image.Image, pack: str) -> Found:
        """The faces of an RGB picture, recognised by one of ``PACKS``. Raises as ``FaceFinder`` says."""
        files = find_pack(pack, self._folders(), self._cache)
        with self._lock:
            try:
                found, how = look(image, lambda shown, size, threshold: self._detect(files, shown, size, threshold))
                found = _largest(found)
                embeddings = self._recognise(
                    files, [aligned(image, face.landmarks, worker.CROP_SIDE) for face in found]
                )
            finally:
                self._wait_idly()
        faces = (
            Face(one.box, one.landmarks, one.score, embedding)
            for one, embedding in zip(found, embeddings, strict=True)
        )  # fmt: skip
        return Found(tuple(faces), how)

    def identity(self, pack: str) -> Hashable:
        """As ``FaceFinder`` says."""
        return pack_identity(pack, self._folders())

    def end(self) -> None:
        """Let go of the process, and of what is known about packages that do not work. It is started again when it is
        needed."""
        with self._lock:
            self._stop()
            self._failed.clear()
            self._refusals.clear()

    @contextlib.contextmanager
    def ended(self) -> Iterator[None]:
        """There is no process, and none is started, until the block ends: packages may change meanwhile."""
        with self._lock:
            self.end()
            yield

    def _detect(self, pack: Pack, shown: Image.Image, size: int, threshold: float) -> list[Candidate]:
        request = {
            "work": "detect", **_named(pack.detection), "width": shown.width, "height": shown.height, "size": size,
            "threshold": threshold,
        }  # fmt: skip
        answer = self._ask(pack, request, shown.tobytes())
        return [_candidate(face) for face in answer["faces"] if _is_sound(face)]

    def _recognise(self, pack: Pack, crops: Sequence[Image.Image]) -> Sequence[Tensor]:
        """[512] of each crop."""
        request = {"work": "recognise", **_named(pack.recognition)}
        answer = self._ask(pack, request, b"".join(crop.tobytes() for crop in crops))
        embeddings = [torch.tensor(one, dtype=torch.float32) for one in answer["embeddings"]]
        for embedding in embeddings:
            if embedding.shape != (WIDTH,) or not bool(torch.isfinite(embedding).all()) or not bool(embedding.any()):
                raise _unusable(pack, pack.recognition, f"its embeddings are not {WIDTH} finite numbers")
        return embeddings

    def _ask(self, pack: Pack, request: dict[str, Any], data: bytes) -> dict[str, Any]:
        """The process's answer. One that has gone is started once more, and packages that fail at work are left for
        those of the next environment. Raises CheckpointError."""
        ends = 0
        while True:
            if self._process is None:
                self._process = self._started(self._tried())
            process = self._process
            try:
                answer = process.ask(request, data, processes.WORK)
            except Ended as ended:
                self._stop()
                log.warning("IP-Adapter: the process that finds faces %s", ended)
                ends += 1
                if ends == 1 and not ended.waited:
                    continue
                failure, packages_failed = _gone(pack, request, ended), not ended.waited
            except BaseException:
                self._stop()  # what it still says would be taken for the next answer
                raise
            else:
                if "problem" not in answer:
                    return answer
                failure, packages_failed = _unusable(pack, Path(answer["file"]), answer["problem"]), answer["failed"]
            if not packages_failed or not self._go_on_after(process.environment, failure):
                raise failure from None
            ends = 0

    def _tried(self) -> list[Environment]:
        """The environments, but for those whose packages have failed at work."""
        found = list(self._environments(self._packages))
        return [one for one in found if one not in self._failed] or found

    def _started(self, tried: Sequence[Environment]) -> Process:
        """A process from one of the environments. That none of them works is remembered for a while: the page asks at
        every change of a unit. Raises CheckpointError."""
        key, now = tuple(tried), time.monotonic()
        since, refusal = self._refusals.get(key, (-math.inf, None))
        if refusal is not None and now - since < REMEMBERED:
            raise refusal.to_keep()
        try:
            return processes.started(tried, self._packages)
        except CheckpointError as error:
            self._refusals = {key: (time.monotonic(), error.to_keep())}
            raise

    def _go_on_after(self, environment: Environment, failure: CheckpointError) -> bool:
        """Whether there is a process with the packages of an environment after this one, whose packages have failed."""
        tried = self._tried()
        rest = tried[tried.index(environment) + 1 :] if environment in tried else []
        if not rest:
            return False
        try:
            process = self._started(rest)
        except CheckpointError:
            return False
        self._stop()
        self._process = process
        self._failed.add(environment)
        log.warning(
            "IP-Adapter: with insightface in %s, %s Those in %s are tried.",
            environment.name, failure.detail, process.environment.name,
        )  # fmt: skip
        return True

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()

    def _wait_idly(self) -> None:
        """From now on the process goes if nobody asks."""
        self._last_use = time.monotonic()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(self._idle, self._end_idle)
        self._timer.daemon = True
        self._timer.start()

    def _end_idle(self) -> None:
        with self._lock:
            if time.monotonic() - self._last_use >= self._idle:
                self._stop()


def _is_sound(face: dict[str, Any]) -> bool:
    """Whether it has an extent: a damaged network says anything."""
    numbers = [*face["box"], face["score"], *(x for point in face["landmarks"] for x in point)]
    return all(map(math.isfinite, numbers)) and len({tuple(point) for point in face["landmarks"]}) > 1


def _candidate(face: dict[str, Any]) -> Candidate:
    left, top, right, bottom = face["box"]
    a, b, c, d, e = [(float(x), float(y)) for x, y in face["landmarks"]]
    return Candidate((left, top, right, bottom), (a, b, c, d, e), face["score"])


def _largest(found: list[Candidate]) -> list[Candidate]:
    """The largest of very many, in their order."""

    def area(face: Candidate) -> float:
        left, top, right, bottom = face.box
        return (right - left) * (bottom - top)

    kept = sorted(range(len(found)), key=lambda i: area(found[i]), reverse=True)[:MOST_FACES]
    return [found[i] for i in sorted(kept)]


def _named(file: Path) -> dict[str, Any]:
    """A network's file as the process is told of it: one that has been replaced is read anew."""
    return {"file": str(file), "version": file_version(file)}


def _gone(pack: Pack, request: dict[str, Any], ended: Ended) -> CheckpointError:
    return CheckpointError(
        f"the process that finds faces {ended} while it worked with {Path(request['file']).name} of the face pack "
        f"{pack.name}: close other programs and try again, or download {address(pack.name)} again."
    )


def _unusable(pack: Pack, file: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{file.name} of the face pack {pack.name} in {file.parent} cannot be used ({why}): download "
        f"{address(pack.name)} and put the file from it there."
    )
