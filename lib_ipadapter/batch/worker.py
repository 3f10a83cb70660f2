"""Drives one WebUI: waits for it or starts it, sends it requests, and makes files of its answers."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import os
import secrets
import stat
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .client import Answer, Away, Client, Late, Rejected, TooLarge
from .crew import DONE, ENCODE, FAILED, LACKING, LATE, LOST, REFUSED, Outcome, Part, Work
from .facts import adapter_keys, checkpoint_names, has_all
from .keep import COMING, write_whole
from .pictures import ending, with_parameters
from .problems import DiskError
from .request import FILE, REFERENCE
from .schedule import SLOTS
from .webui import OwnWebUI, Start

RUN_ID = "run.id"
QUESTION = 60.0  # seconds for an answer that needs no picture
PAUSE = 0.25  # seconds between looks for a WebUI that is not there
STARTS = 5  # of a WebUI that ends before it answers, one after the other
REGISTERS = 20.0  # seconds at most in which a WebUI that starts has routes of its own and none of its extensions yet
OWN_FAULT = (400, 422)  # what a request is answered with that no WebUI can do; all else is this WebUI's
MAX_PICTURES = 1000  # of one answer


@dataclass(frozen=True)
class Config:
    """``url``, or ``start`` for a WebUI of the worker's own. ``folder``: the run's, as the driver calls it, and
    ``run_id`` what stands in it. Times are in seconds. The password is not shown."""

    name: str
    url: str = ""
    auth: str = ""
    start: Start | None = None
    folder: str = ""
    run_id: str = ""
    timeout: float = 1800.0
    patience: float = 600.0

    def __repr__(self) -> str:
        return f"Config({self.name!r})"


class Worker:
    """May be asked from several threads."""

    def __init__(self, config: Config) -> None:
        self._config = config
        folder = Path(config.folder)
        self._folder = folder if config.run_id and _read(folder / RUN_ID) == config.run_id else None
        self._own: OwnWebUI | None = None
        if config.start is not None:
            own = self._folder or _elsewhere(config.run_id)
            self._own = OwnWebUI(config.start, own / "logs" / f"{config.name.replace(' ', '-')}.log")
        self._client = Client(config.url, config.auth, config.timeout)
        self._adapters: set[str] | None = None
        self._checkpoints: set[str] = set()
        self._starting, self._counting = threading.Lock(), threading.Lock()
        self._in_line = 0  # requests that the WebUI has
        self._is_overdue = False  # it may still be at one that nobody waits for any more

    def until_up(self) -> tuple[bool, str]:
        """Waits for the WebUI, and starts it where it is the worker's own. False with a sentence where it is given
        up."""
        patience = self._config.patience
        end, starts, why = time.monotonic() + patience, 0, "it does not answer"
        since: float | None = None  # when it has begun to answer
        while time.monotonic() < end:
            with self._starting:
                if self._own is not None and not self._own.is_running:
                    if starts == STARTS:
                        return False, f"it ends before it answers ({self._own.last_words()}): look into its log."
                    starts += 1
                    try:
                        self._own.start()
                    except DiskError as error:
                        return False, error.detail
                    except OSError as error:
                        return False, f"it cannot be started ({error}): correct --webui."
                    self._client = Client(self._own.url, "", self._config.timeout)
            try:
                has_extension = self._look_around()
                now = time.monotonic()
                since = now if since is None else since
                if not has_extension and now < min(since + min(REGISTERS, patience / 2), end - 2 * PAUSE):
                    why = "it has no routes of this extension"
                elif self._is_overdue and not self._is_idle():
                    why = "it is still at work on a request that was given up"
                else:
                    self._is_overdue = False
                    self._adapters = self._adapters if has_extension else set()
                    return True, ""
            except Rejected as error:
                return False, str(error)
            except (Away, Late) as error:
                since, why = None, str(error)
            except ValueError as error:
                since, why = None, f"it is no WebUI with --api ({error})"
            time.sleep(PAUSE)
        if self._own is not None and self._is_overdue:
            self._is_overdue = False
            self._own.stop()  # and begun anew
            return self.until_up()
        return False, f"{why}, for {self._config.patience:.0f} s: start it, or leave it out."

    def _look_around(self) -> bool:
        """Whether it has this extension, as far as it tells. With its page a WebUI listens before it has routes, and
        has its own before those of extensions."""
        checkpoints = self._client.get("/sdapi/v1/sd-models", QUESTION)
        if checkpoints.status != 200:
            raise ValueError(f"/sdapi/v1/sd-models answers {checkpoints.status}")
        adapters = self._client.get("/ip-adapter/models", QUESTION)
        self._checkpoints = checkpoint_names(checkpoints.json())
        self._adapters = adapter_keys(adapters.json()) if adapters.status == 200 else None  # else not known
        return adapters.status != 404

    def _is_idle(self) -> bool:
        """Whether it works on nothing; where it does not tell, whether it has answered all that it was sent."""
        told = self._client.get("/sdapi/v1/progress?skip_current_image=true", QUESTION)
        answer = told.json() if told.status == 200 else None
        state = answer.get("state") if isinstance(answer, dict) else None
        jobs = state.get("job_count") if isinstance(state, dict) else None
        return not self._in_line and not jobs

    def ask(self, route: str) -> tuple[str, Any]:
        """DONE and the JSON that a route answers with; REFUSED and a sentence where the WebUI does not have what is
        asked for; LOST and why where it could not be asked."""
        try:
            answer = self._client.get(route, QUESTION)
            if answer.status == 200:
                return DONE, answer.json()
            return REFUSED if answer.status in (404, 422) else LOST, answer.sentence
        except (Away, Late, Rejected, ValueError) as error:
            return LOST, f"{error}."

    def do(self, work: Work, references: Mapping[str, bytes]) -> Outcome:
        """Send a request, and keep what comes. Raises nothing that is the WebUI's doing."""
        if not has_all(work.needs, work.checkpoint, self._adapters, self._checkpoints):
            return Outcome(LACKING)
        begun = time.monotonic()
        try:
            outcome = self._outcome(work, self._sent(work.route, filled(work.body, work.files, references)))
        except (Away, Rejected) as error:
            outcome = Outcome(LOST, f"{error}.")
        except Late as error:
            self._is_overdue = True
            outcome = Outcome(LATE, f"{error}.")
        except TooLarge as error:
            outcome = Outcome(REFUSED, f"{error}: ask for fewer pictures, or for smaller ones.")
        except ValueError as error:
            outcome = Outcome(FAILED, f"what came is of no use ({error}): look into the WebUI's console.")
        return replace(outcome, seconds=round(time.monotonic() - begun, 3))

    def _sent(self, route: str, body: Any) -> Answer:
        """The answer to a request. It may have to wait for all others that the WebUI has been sent, in whichever order
        that takes them, so it has the time of as many rows."""
        with self._counting:
            self._in_line += 1
        try:
            return self._client.post(route, body, self._config.timeout * SLOTS)
        finally:
            with self._counting:
                self._in_line -= 1

    def _outcome(self, work: Work, answer: Answer) -> Outcome:
        if answer.status != 200:
            return Outcome(REFUSED if answer.status in OWN_FAULT else FAILED, answer.sentence)
        if work.kind == ENCODE:
            if answer.data[8:9] != b"{":
                return Outcome(FAILED, "the WebUI has answered with no file of embeddings: look into its console.")
            return Outcome(DONE, parts=[self._part(work, answer.data, "safetensors", "")])
        told = answer.json()
        pictures = told.get("images") if isinstance(told, dict) else None
        if not isinstance(pictures, list) or not 1 <= len(pictures) <= MAX_PICTURES:
            return Outcome(FAILED, "the WebUI has answered without a picture: look into its console.")
        texts = _infotexts(told)
        return Outcome(DONE, parts=[self._picture(work, one, texts, i) for i, one in enumerate(pictures)])

    def _picture(self, work: Work, text: Any, texts: list[str], index: int) -> Part:
        try:
            data = base64.b64decode(str(text).rpartition("base64,")[2], validate=True)
        except binascii.Error:
            raise ValueError("a picture is no base64") from None
        kind = ending(data)
        if kind is None:
            raise ValueError("a picture is not whole")
        infotext = texts[index] if index < len(texts) else ""
        return self._part(work, with_parameters(data, infotext), kind, infotext)

    def _part(self, work: Work, data: bytes, kind: str, infotext: str) -> Part:
        part = Part(kind, hashlib.sha256(data).hexdigest(), len(data), infotext)
        if self._folder is None:
            return replace(part, data=data)
        coming = f"{work.name}.{secrets.token_hex(8)}"
        try:
            write_whole(self._folder / COMING / coming, data)
        except OSError:  # its disk is full, or closed to this computer: the driver takes it itself, or says so
            return replace(part, data=data)
        return replace(part, coming=coming)


def filled(value: Any, files: Mapping[str, bytes], references: Mapping[str, bytes]) -> Any:
    """A body with base64 in the place of what stands for files and references."""
    if isinstance(value, Mapping):
        if FILE in value:
            return base64.b64encode(files[value[FILE]]).decode()
        if REFERENCE in value:
            return base64.b64encode(references[value[REFERENCE]]).decode()
        return {name: filled(one, files, references) for name, one in value.items()}
    return [filled(one, files, references) for one in value] if isinstance(value, list) else value


def _elsewhere(run_id: str) -> Path:
    """A folder for the run's logs on a computer that does not see the run's own: the same for each worker there, unless
    somebody else has it."""
    folder = Path(tempfile.gettempdir()) / f"ip-adapter-batch-{run_id}"
    with contextlib.suppress(OSError):  # told when the log is written
        folder.mkdir(mode=0o700, exist_ok=True)
        if not _is_ours(folder):
            return Path(tempfile.mkdtemp(prefix="ip-adapter-batch-"))
    return folder


def _is_ours(folder: Path) -> bool:
    """Whether a folder is one, and only this user can write there."""
    told = folder.lstat()
    if not stat.S_ISDIR(told.st_mode) or not hasattr(os, "getuid"):  # on Windows each has a temporary folder
        return stat.S_ISDIR(told.st_mode)
    return told.st_uid == os.getuid() and not told.st_mode & 0o077


def _infotexts(told: dict[str, Any]) -> list[str]:
    try:
        info = json.loads(told.get("info") or "{}")
        texts = info.get("infotexts", [])
        # half a character, which JSON can hold, stands in no ledger and no manifest
        return [str(text).encode("utf8", "replace").decode() for text in texts[:MAX_PICTURES]]
    except (ValueError, TypeError, AttributeError, RecursionError):
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf8")
    except (OSError, ValueError):
        return ""
