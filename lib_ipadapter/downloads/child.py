"""The process that fetches one file: huggingface_hub can neither be stopped nor tells how far it is.

It is started and watched by ``transfer``, and ends when that does: its input is closed then. It is given one JSON
object in a line (``transfer.Order``), and answers with JSON objects in lines: {"checking": bytes} while it computes the
file's hash, and at its end {"done": true} or {"problem": word, "told": text}. The words are ``problems``'. What the
library says of errors stays here: addresses may hold names and passwords.
"""

from __future__ import annotations

import errno
import hashlib
import inspect
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

BLOCK = 8 * 2**20  # bytes that are read at a time for the hash
PIECE = 2**20  # bytes that the library writes at a time: what shows how far it is, and what a break costs
TELL = 0.25  # seconds between reports
LIBRARIES = ("requests", "urllib3", "http", "ssl", "socket")  # whose errors are the connection's
LIBRARIES_NOW = ("httpx", "httpcore")  # the same, with a number behind the name or not


def main() -> None:
    """Fetch what the first line of the input asks for."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no answer
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def tell(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        fetch(order, tell)
    except BaseException as error:
        if not _has_come(error, order, tell):
            tell(problem(error))
            return
    tell({"done": True})


def _end_with_parent() -> None:
    with suppress(OSError, ValueError):
        while sys.stdin.read(1):
            pass
    os._exit(1)


class Wrong(Exception):
    """The file is not the one that was asked for."""


class Taken(Exception):
    """Another file has its name."""


def fetch(order: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> None:
    """Fetch a file, and give it its name when it is the right one."""
    target, partial = Path(order["target"]), Path(order["partial"])
    if _is_here(target, order, tell):
        _forget(partial)  # what has come of it before it lay there by hand
        return
    partial.mkdir(parents=True, exist_ok=True)
    file = Path(os.path.realpath(downloaded(order, partial)))
    if hash_of(file, tell) != order["sha256"]:
        _forget(partial)
        raise Wrong
    with suppress(OSError), file.open("rb+") as whole:  # before its name says that it is whole
        os.fsync(whole.fileno())
    if not _is_here(target, order, tell):  # another WebUI with this folder may have been sooner
        os.replace(file, target)
    _forget(partial)


def _is_here(target: Path, order: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> bool:
    """Whether the file has its name already. Raises Taken where another one has it."""
    if not target.exists():
        return False
    if hash_of(target, tell) != order["sha256"]:
        raise Taken
    return True


def _has_come(error: BaseException, order: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> bool:
    """Whether the file is here although fetching it ended with ``error``: whoever was sooner has taken away what had
    come."""
    with suppress(Taken, OSError):
        return not isinstance(error, Taken) and _is_here(Path(order["target"]), order, tell)
    return False


def _forget(partial: Path) -> None:
    shutil.rmtree(partial, ignore_errors=True)
    with suppress(OSError):  # others may be on their way
        partial.parent.rmdir()


def downloaded(order: dict[str, Any], partial: Path) -> str:
    """Where the library has put the file: below ``partial``, where it goes on with what it finds."""
    import huggingface_hub
    from huggingface_hub import constants, file_download

    for module in (constants, file_download):
        if hasattr(module, "DOWNLOAD_CHUNK_SIZE"):
            module.DOWNLOAD_CHUNK_SIZE = PIECE
    if hasattr(file_download, "http_get"):
        file_download.http_get = _going_on(file_download.http_get)
    known = inspect.signature(huggingface_hub.hf_hub_download).parameters
    # Later versions go on by themselves, and warn of what they do not want any more.
    older = {"resume_download": True} if "resume_download" in known and version_of(huggingface_hub) < (0, 23) else {}
    wanted = {"repo_id": order["repo"], "filename": order["path"], "revision": order["revision"]}
    try:
        return str(huggingface_hub.hf_hub_download(**wanted, cache_dir=str(partial), **older))
    except Exception as error:
        if status_of(error) != 416:  # nothing is left to ask for, or what is here is of something else
            raise
        for left in partial.rglob("*.incomplete"):
            left.unlink()
        return str(huggingface_hub.hf_hub_download(**wanted, cache_dir=str(partial), **older))


def _going_on(http_get: Callable[..., Any]) -> Callable[..., Any]:
    """The library's function that writes an answer into a file, as one that goes on with what an earlier process has
    left. The latest versions begin anew and delete what has come, because another process could write into the same
    file; here none does. Where the library goes on by itself, this changes nothing."""
    signature = inspect.signature(http_get)
    if not {"temp_file", "resume_size"} <= set(signature.parameters):
        return http_get

    def get(*given: Any, **named: Any) -> Any:  # it calls itself, by names, where a connection breaks off
        more = signature.bind(*given, **named).arguments
        stream = more["temp_file"]
        file = Path(stream.name)
        if not more.get("resume_size") and not stream.tell():
            left = [one for one in file.parent.glob(f"{_etag(file)}*.incomplete") if one.name != file.name]
            if left:
                _take_over(stream, max(left, key=lambda one: one.stat().st_size))
                more["resume_size"] = stream.tell()
        try:
            return http_get(**more)
        except BaseException:
            stream.flush()
            kept = file.with_name(f"{_etag(file)}.kept.incomplete")
            if file.name != f"{_etag(file)}.incomplete":  # that one stays
                with suppress(OSError):
                    kept.unlink(missing_ok=True)
                    _same(file, kept)
            raise

    return get


def _etag(file: Path) -> str:
    """What of the file's name says which content it is of."""
    return file.name.partition(".")[0]


def _take_over(stream: Any, left: Path) -> None:
    """Let ``stream``, an empty file that is open, be the file ``left``, at its end."""
    try:
        os.replace(left, stream.name)
        opened = os.open(stream.name, os.O_RDWR)
        os.dup2(opened, stream.fileno())
        os.close(opened)
    except OSError:  # systems that do not rename what is open
        with left.open("rb") as source:
            shutil.copyfileobj(source, stream, BLOCK)
        left.unlink(missing_ok=True)
    stream.seek(0, os.SEEK_END)


def _same(file: Path, other: Path) -> None:
    """``other`` becomes another name of ``file``, or a copy where there are no such names."""
    try:
        os.link(file, other)
    except OSError:
        shutil.copyfile(file, other)


def version_of(library: Any) -> tuple[int, ...]:
    return tuple(int(part) for part in str(library.__version__).split(".")[:2] if part.isdigit())


def hash_of(file: Path, tell: Callable[[dict[str, Any]], None]) -> str:
    """The file's SHA-256; tells how many bytes are done."""
    found, done, told = hashlib.sha256(), 0, time.monotonic()
    tell({"checking": 0})
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            found.update(block)
            done += len(block)
            if time.monotonic() - told > TELL:
                tell({"checking": done})
                told = time.monotonic()
    return found.hexdigest()


# What went wrong, in the words of ``problems``


def problem(error: BaseException) -> dict[str, Any]:
    """An error as an answer: a word for what it is, and what else a person may be told."""
    if isinstance(error, Wrong):
        return {"problem": "wrong", "told": ""}
    if isinstance(error, Taken):
        return {"problem": "taken", "told": ""}
    if isinstance(error, ImportError):
        return {"problem": "library", "told": str(error.name or "")}
    chain = list(_chain(error))
    for one in chain:
        if isinstance(one, OSError) and one.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            return {"problem": "full", "told": ""}
    status = next((found for one in chain if (found := status_of(one))), None)
    if status in (401, 403):
        return {"problem": "login", "told": str(status)}
    if status == 404:
        return {"problem": "missing", "told": str(status)}
    if status is not None:
        return {"problem": "server", "told": str(status)}
    names = {kind.__name__ for one in chain for kind in type(one).__mro__}
    if "OfflineModeIsEnabled" in names or _is_offline():
        return {"problem": "offline", "told": ""}
    if "LocalEntryNotFoundError" in names or any(map(_is_connections, chain)):
        return {"problem": "connection", "told": ""}
    for one in chain:
        if isinstance(one, OSError) and one.errno is not None:
            return {"problem": "folder", "told": os.strerror(one.errno)}
    if isinstance(error, OSError):  # "Consistency check failed": less has come than was announced
        return {"problem": "connection", "told": ""}
    return {"problem": "other", "told": type(error).__name__}


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def status_of(error: BaseException) -> int | None:
    """The status with which a server has answered."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) and status >= 400 else None


def _is_connections(error: BaseException) -> bool:
    rooms = [kind.__module__.partition(".")[0] for kind in type(error).__mro__]
    known = any(room in LIBRARIES or room.rstrip("0123456789") in LIBRARIES_NOW for room in rooms)
    return known or isinstance(error, (ConnectionError, TimeoutError))


def _is_offline() -> bool:
    try:
        from huggingface_hub import constants

        return bool(constants.HF_HUB_OFFLINE)
    except Exception:
        return False
