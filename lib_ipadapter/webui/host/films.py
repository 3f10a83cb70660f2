"""Which pictures belong together over time: the frames of a film of AnimateDiff's, the files of img2img's batch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from modules import shared

FILM = "AnimateDiff"
FILE_OF_BATCH = re.compile(r"(\d{1,9}) out of (\d{1,9})")


def frames(p: Any, script: Any | None) -> int | None:
    """How many frames ``script``, AnimateDiff's, makes of each of p's batches; None where it makes none. A film that is
    shorter than what its motion module sees at a time is cut out of a batch that is not."""
    arguments = [] if script is None else [*p.script_args[script.args_from : script.args_to]]
    if not arguments or not _of(arguments[0], "enable"):
        return None
    length = _of(arguments[0], "video_length")
    size: int = p.batch_size
    return min(length, size) if isinstance(length, int) and length > 0 else size


def _of(settings: Any, name: str) -> Any:
    """A page's settings are an object, an API's may be a mapping still."""
    return settings.get(name) if isinstance(settings, Mapping) else getattr(settings, name, None)


def is_file_of_batch(p: Any) -> bool:
    """Whether the state's text speaks of one of img2img's files. Some scripts write such texts, too."""
    return bool(getattr(p, "init_images", None)) and FILE_OF_BATCH.fullmatch(str(shared.state.job)) is not None


def file_of_batch(p: Any) -> tuple[int, int]:
    """img2img makes each file a run of the same ``p``, and says which one it is in the state's text alone, until the
    second batch of the run has a text of its own."""
    found = FILE_OF_BATCH.fullmatch(str(shared.state.job)) if getattr(p, "init_images", None) else None
    return (0, 1) if found is None else (int(found[1]) - 1, int(found[2]))
