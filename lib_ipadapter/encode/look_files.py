"""The head of a file of embeddings, which is read without its tensors; and looks: such files with a name and a picture.

A look is a unit's references as one style: what they become under their masks, weights, taken-out words, negative
references and noise. Its file is one of embeddings, whose metadata have ``name``, ``adapter`` (the kind of adapter that
it was made with) and ``thumbnail``, a small JPEG file in base64. Readers that know nothing of looks see embeddings.
"""

from __future__ import annotations

import io
import json
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import IPAdapterError, PictureError
from ..names import tamed_name

if TYPE_CHECKING:
    from .picture import Picture

FORMAT = "ip-adapter"
VERSION, VERSION_2 = "embeddings 1", "embeddings 2"  # the second has an unconditional side
UNCOND = "uncond"  # in the place of a reference's number
AGAIN = "get it from POST /ip-adapter/embeddings again"
MAX_HEADER = 64 * 2**10
MAX_KIND = 100  # characters of who made something
MAX_WEIGHT = 1000  # of a stored reference: products of what weights may be
MAX_THUMBNAIL, MAX_SIDE = 10_000, 512  # bytes; pixels


@dataclass(frozen=True)
class Head:
    """What a file of embeddings says of itself. ``weights`` is None where all are 1; ``face`` and ``encoder`` are who
    made what; ``name``, ``adapter`` and ``thumbnail`` are empty where it is no look, or has none."""

    version: str
    tensors: tuple[str, ...]
    weights: tuple[float, ...] | None = None
    face: str = ""
    encoder: str = ""
    name: str = ""
    adapter: str = ""
    thumbnail: bytes = b""

    @property
    def count(self) -> int:
        """How many references it holds."""
        return len({name.partition(".")[0] for name in self.tensors} - {UNCOND})

    @property
    def holds(self) -> dict[str, str]:
        """By whom its parts were made, by their names."""
        parts = sorted({name.partition(".")[2] for name in self.tensors})
        return {part: self.face if part == "face" else self.encoder for part in parts}


def damaged() -> PictureError:
    return PictureError(f"The embeddings are no file of this extension, or a damaged one: {AGAIN}.")


def header_length(file: bytes) -> int:
    """Bytes of the header behind the first eight. Raises PictureError for one that is none of ours."""
    length = int.from_bytes(file[:8], "little")
    if not 2 <= length <= MAX_HEADER:
        raise damaged()
    return length


def head_of(file: bytes) -> Head:
    """What stands in the head of a file, of which only that has to be there. Raises PictureError for all others."""
    length = header_length(file)
    try:
        if len(file) < 8 + length:
            raise ValueError("cut off")
        header = json.loads(file[8 : 8 + length])
        metadata = dict(header.get("__metadata__") or {})
        names = tuple(name for name in header if name != "__metadata__")
        version, weights = metadata.get(FORMAT), json.loads(metadata.get("weights", "null"))
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise damaged() from None
    if version not in (VERSION, VERSION_2):
        if isinstance(version, str) and version.startswith("embeddings "):
            raise PictureError(
                f"The embeddings are of a newer version ({version[:40]}): update the extension, or {AGAIN}."
            )
        raise damaged()
    if not names or not (weights is None or _are_weights(weights)):
        raise damaged()
    face, encoder, adapter = (_text(metadata.get(name))[:MAX_KIND] for name in ("face", "encoder", "adapter"))
    shown = tamed_name(name) if (name := _text(metadata.get("name")).strip()) else ""
    small = _thumbnail(metadata.get("thumbnail"))
    return Head(
        version, names, None if weights is None else tuple(map(float, weights)), face, encoder, shown, adapter, small
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _are_weights(weights: Any) -> bool:
    """Neither NaN nor infinity is within the bounds, and no whole number is too large to be compared with them."""
    return isinstance(weights, list) and all(
        isinstance(one, (int, float)) and not isinstance(one, bool) and abs(one) <= MAX_WEIGHT for one in weights
    )


def _thumbnail(text: Any) -> bytes:
    """The small picture, b"" where it is none, or not small."""
    from PIL import Image

    if not isinstance(text, str) or len(text) > 2 * MAX_THUMBNAIL:
        return b""
    try:
        file = b64decode(text, validate=True)
        with Image.open(io.BytesIO(file), formats=("JPEG",)) as image:
            return file if len(file) <= MAX_THUMBNAIL and max(image.size) <= MAX_SIDE else b""
    except Exception:  # readers raise nearly anything on damaged files
        return b""


def as_look(file: bytes, name: str, adapter: str = "", thumbnail: bytes | None = None) -> bytes:
    """A file of embeddings as the look of that ``name``; what is not given stays as it is."""
    metadata: dict[str, str] = {"name": name}
    if adapter:
        metadata["adapter"] = adapter
    if thumbnail is not None:
        metadata["thumbnail"] = b64encode(thumbnail).decode()
    return in_order(file, metadata)


def in_order(file: bytes, more: dict[str, str] | None = None) -> bytes:
    """The file with ``more`` metadata, all in alphabetical order: the library's is another one each time, and equal
    embeddings shall be equal files."""
    length = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + length])
    header["__metadata__"] = dict(sorted({**header["__metadata__"], **(more or {})}.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + file[8 + length :]


def small_picture_of(picture: Picture) -> bytes:
    """The thumbnail of a look that is a reference, b"" where it has none, or is none."""
    from .carriers import carried

    try:
        return head_of(carried(picture.image)).thumbnail
    except IPAdapterError:
        return b""
