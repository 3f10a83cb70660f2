"""The pictures of all pages, in one pool of bounded size, and what a page's session keeps of its own.

gradio keeps the session of every page that was ever opened. So a session has for each of its keys a content hash and
no more, and the pool lets go of the pictures that no page has used for longest. A page names keys, never hashes: it
reaches what its own session holds, and puts nothing in the place of another page's pictures.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from PIL import Image

from ...encode.cache import ByteCache
from ...encode.picture import Picture, decode_mask
from ...encode.sizes import BUDGET_PIXELS, Budget
from ...errors import BudgetError

POOL_BYTES = 512 * 2**20  # of pictures: a hundred photographs as files, or forty of 4 megapixels, decoded
PAGE_PIXELS = BUDGET_PIXELS
PREVIEW_BYTES = 32 * 2**20  # of what was drawn of them: the cards of some thousand


HeldPictures = dict[str, str]  # what a session keeps: the page's keys -> content hashes; one object, see `changed`
_changing = threading.Lock()


def now(held: HeldPictures | None) -> HeldPictures:
    """What a session keeps at this moment: other events of its page may be changing it."""
    with _changing:
        return dict(held or {})


def changed(held: HeldPictures | None, before: HeldPictures, after: HeldPictures) -> HeldPictures:
    """``held``, of which an event that saw it as ``before`` has made ``after``. What others have added since stays.

    gradio gives an event what the session had when it began, and keeps what it returns; others of the same page run
    beside it. So all of them get the same object, and change it in place.
    """
    held = {} if held is None else held
    with _changing:
        added = {key: one for key, one in held.items() if key not in before}
        held.clear()
        held.update({**after, **added})
    return held


def _nbytes(picture: Picture) -> int:
    """What a picture takes in memory."""
    given = picture.given
    if isinstance(given, bytes):
        return len(given)
    return 0 if callable(given) else given.width * given.height * len(given.getbands())


class PicturePool:
    """Pictures by their content, so that one that many pages have is there once; and what was drawn of them."""

    def __init__(self, limit: int = POOL_BYTES, preview_limit: int = PREVIEW_BYTES) -> None:
        self._pictures, self._previews = ByteCache(limit), ByteCache(preview_limit)

    def put(self, picture: Picture) -> str:
        """Keep a picture. Returns its content hash."""
        if self.get(picture.content_hash) is None:
            self._pictures.put(picture.content_hash, picture, _nbytes(picture))
        return picture.content_hash

    def get(self, content_hash: str | None) -> Picture | None:
        """The picture, which becomes the one used last; None where it has gone."""
        found: Picture | None = self._pictures.get(content_hash)
        return found

    def preview(self, key: tuple[Any, ...], draw: Callable[[], str]) -> str:
        """What ``draw`` gives, remembered by ``key``: hashes of pictures, and everything else that it depends on."""
        known: str | None = self._previews.get(key)
        if known is None:
            known = draw()
            self._previews.put(key, known, len(known))
        return known


@functools.cache
def pool() -> PicturePool:
    """This process's."""
    return PicturePool()


def is_empty(mask: Picture | None) -> bool:
    """Whether it is a mask in which nothing counts, which a job refuses."""
    if mask is None:
        return False
    return pool().preview((mask.content_hash, "empty"), lambda: "full" if _has_white(mask) else "empty") == "empty"


def _has_white(mask: Picture) -> bool:
    return bool(decode_mask(mask).getextrema() != (0, 0))


class PagePictures(Mapping[str, Picture]):
    """The pictures of one page by its keys, those that are still in the pool."""

    def __init__(self, held: HeldPictures | None) -> None:
        self._held, self._pool = now(held), pool()

    def __getitem__(self, key: str) -> Picture:
        picture = self._pool.get(self._held.get(key))
        if picture is None:
            raise KeyError(key)
        return picture

    def __iter__(self) -> Iterator[str]:
        return (key for key in self._held if key in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Intake:
    """Takes pictures into the pool for a page, as many as one page may have. ``used``: hashes of those that it has."""

    def __init__(self, used: Iterable[str] = ()) -> None:
        self._budget = Budget(PAGE_PIXELS)
        there = [picture for one in set(used) if (picture := pool().get(one)) is not None]
        self._budget.left -= sum(picture.size[0] * picture.size[1] for picture in there)

    def picture(self, data: Any, look: Callable[[Picture, Image.Image], None] | None = None) -> str:
        """The picture in ``data``, whatever ``decode`` takes. ``look`` is shown it while its pixels are at hand.

        Raises PictureError, and BudgetError where it is one too many.
        """
        return self._kept(lambda: Picture.of(data, self._budget, look))

    def mask(self, data: Any) -> str:
        """The mask in ``data``, whatever ``decode_mask`` takes, as an RGB picture. Raises as ``picture`` does."""
        return self._kept(lambda: Picture.of(decode_mask(data, self._budget).convert("RGB")))

    def _kept(self, picture: Callable[[], Picture]) -> str:
        try:
            return pool().put(picture())
        except BudgetError:
            raise BudgetError(
                f"The pictures of this page have more than {self._budget.pixels // 1_000_000:,} megapixels together: "
                "remove references from its units, or scale the picture down, to 2048 pixels on its longer side for "
                "example."
            ) from None
