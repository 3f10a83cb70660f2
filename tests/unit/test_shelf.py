"""The shelf: small pictures of presets, kept generations and references, made once and kept with what they are of."""

from __future__ import annotations

import io
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_ipadapter.encode.carriers import carrier
from lib_ipadapter.encode.picture import content_hash
from lib_ipadapter.presets import shelf as shelves
from lib_ipadapter.presets import thumbnails
from lib_ipadapter.presets.shelf import PAGE, SHOWN, Shelf
from lib_ipadapter.presets.store import Store
from tests.helpers.files import picture
from tests.helpers.presets import mask, put_document, put_png, rows, tables, with_pictures


def colour_of(jpeg: bytes | None) -> tuple[int, ...]:
    assert jpeg
    image = Image.open(io.BytesIO(jpeg))
    assert image.format == "JPEG" and max(image.size) <= thumbnails.SIDE
    return tuple(round(value / 10) for value in image.resize((1, 1)).getpixel((0, 0)))


def plain(colour: str) -> Image.Image:
    return Image.new("RGB", (300, 200), colour)


RED, BLUE = (25, 0, 0), (0, 0, 25)


def is_older(store: Store) -> None:
    """The database as an older version has left it."""
    with tables(store) as connection:
        connection.execute("DROP TABLE preset_thumbnails")
        connection.execute("DROP TABLE picture_thumbnails")


@pytest.mark.parametrize("size", [(4000, 5000), (2048, 2048), (3, 2000), (1, 1)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "I;16"])
def test_a_thumbnail_is_small_whatever_it_is_of(size: tuple[int, int], mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0]), dtype=np.uint8)
    image = Image.fromarray(noise)
    image = Image.fromarray(noise.astype(np.uint16) * 256) if mode == "I;16" else image.convert(mode)
    started = time.process_time()
    jpeg = thumbnails.thumbnail(image)
    assert time.process_time() - started < 1
    assert 0 < len(jpeg) <= thumbnails.MAX_BYTES
    small = Image.open(io.BytesIO(jpeg))
    assert small.mode == "RGB" and max(small.size) == min(thumbnails.SIDE, max(size))


def test_embeddings_are_nothing_to_look_at() -> None:
    assert thumbnails.thumbnail(Image.new("F", (8, 8))) == b""
    assert thumbnails.thumbnail(carrier(b"\x10" + bytes(7) + b"{" + bytes(100))) == b""


def test_kept_generations_show_their_first_picture(store: Store) -> None:
    store.keep("one", [with_pictures(0)], plain("red"))
    store.keep("two", [with_pictures(1, 2)], plain("blue"))
    store.keep("three", [with_pictures(3)])
    group = Shelf(store).group(kept=True)
    assert (group.total, [one.name for one in group.page]) == (3, ["three", "two", "one"])
    assert group.page[0].picture is None
    assert [colour_of(one.picture) for one in group.page[1:]] == [BLUE, RED]
    assert group.page[1].references == [content_hash(picture(seed)) for seed in (1, 2)]


def test_a_thumbnail_goes_where_its_preset_goes(store: Store) -> None:
    store.keep("one", [with_pictures(0)], plain("red"))
    store.rename("one", "mine")
    store.rename("mine", "Mine")
    [mine] = Shelf(store).group(kept=False).page
    assert mine.name == "Mine" and colour_of(mine.picture) == RED
    store.save("mine", [with_pictures(1)], overwrite=True)  # nothing was made with these units yet
    assert Shelf(store).group(kept=False).page[0].picture is None
    assert Shelf(store).small([content_hash(picture(0))]) == {content_hash(picture(0)): b""}  # it went with the picture
    store.keep("two", [with_pictures(2)], plain("blue"))
    store.delete("two")
    store.delete("mine")
    assert rows(store) == []
    store.history = 1
    for seed in range(3):
        store.keep("many", [with_pictures(seed)], plain("red"))
    assert sum(name == "preset_thumbnails" for name, *_ in rows(store)) == 1
    assert sum(name == "picture_thumbnails" for name, *_ in rows(store)) == 1


def test_a_preset_shows_what_was_made_with_the_same_units(store: Store) -> None:
    """Whatever of its settings is written out, and whatever units do not act; and of others nothing."""
    written_out = {**with_pictures(0, weight=0.5), "enabled": True, "start": 0.0, "noise": 0}
    store.save("before", [written_out, {"model": "base"}])
    store.save("other", [with_pictures(0, weight=0.6)])
    store.keep("one", [with_pictures(0, weight=0.5), {"enabled": False}], plain("red"))
    store.save("after", [written_out])
    store.keep("again", [with_pictures(0, weight=0.5)], plain("blue"))  # the first one stays
    found = {one.name: one.picture for one in Shelf(store).group(kept=False).page}
    assert found["other"] is None
    assert colour_of(found["before"]) == colour_of(found["after"]) == RED


def test_references_used_last_come_once_without_masks(store: Store) -> None:
    store.save("old", [with_pictures(0, 1)])
    store.keep("newer", [with_pictures(2, 0, region_mask=mask(9))])
    store.keep("newest", [{**with_pictures(3), "images": [{"image": picture(3), "mask": mask(8)}]}])
    assert Shelf(store).lately() == [content_hash(picture(seed)) for seed in (3, 2, 0, 1)]
    for seed in range(10, 10 + PAGE):
        store.keep("more", [with_pictures(seed)])
    assert len(Shelf(store).lately()) == PAGE


def test_an_older_database_is_taken_over(store: Store) -> None:
    """It is read as it is; thumbnails are made when they are asked for, and kept."""
    for seed in range(3):
        store.save(f"preset {seed}", [with_pictures(seed)])
    store.keep("kept", [with_pictures(5)])
    is_older(store)
    before = rows(store)
    shelf = Shelf(store)
    assert [one.picture for one in shelf.group(kept=False).page] == [None] * 3
    assert rows(store) == before
    names = [content_hash(picture(seed)) for seed in range(3)]
    assert all(shelf.small(names).values())
    assert [row for row in rows(store) if "thumbnails" not in row[0]] == before
    put_png(store, names[0], b"damaged since")
    assert shelf.small(names)[names[0]]  # not made again
    assert store.names() == ["preset 0", "preset 1", "preset 2"] and store.recent() == ["kept"]


def test_an_older_version_goes_on_with_a_database_of_this_one(store: Store) -> None:
    """It knows nothing of thumbnails, and removes presets as it always has."""
    store.keep("one", [with_pictures(0)], plain("red"))
    with closing(sqlite3.connect(store.database.path, isolation_level=None)) as older:
        older.execute("PRAGMA foreign_keys = ON")
        assert older.execute("PRAGMA user_version").fetchone() == (1,)
        older.execute("DELETE FROM presets")
        older.execute("DELETE FROM pictures")
    assert [name for name, *_ in rows(store) if name != "unused"] == []


def test_making_thumbnails_takes_a_bounded_time(store: Store, monkeypatch) -> None:
    for seed in range(3):
        store.save(f"preset {seed}", [with_pictures(seed)])
    is_older(store)
    monkeypatch.setattr(shelves, "MAKING", 0)
    names, shelf = [content_hash(picture(seed)) for seed in range(3)], Shelf(store)
    assert list(shelf.small(names)) == names[:1]
    assert sorted(shelf.small(names)) == sorted(names[:2])  # each answer is a little further
    assert sorted(shelf.small(names)) == sorted(names)


def test_what_is_damaged_does_not_empty_the_shelf(store: Store) -> None:
    for seed in range(2):
        store.save(f"preset {seed}", [with_pictures(seed)])
    put_document(store, "preset 0", b'{"version": 1, "units": [{"images": "x"}]')
    put_png(store, content_hash(picture(1)), b"no picture")
    shelf = Shelf(store)
    assert [(one.name, one.count) for one in shelf.group(kept=False).page] == [("preset 0", 0), ("preset 1", 1)]
    is_older(store)
    assert shelf.small([content_hash(picture(1)), "0" * 64]) == {content_hash(picture(1)): b"", "0" * 64: b""}


def test_nothing_is_created_by_looking(tmp_path: Path) -> None:
    shelf = Shelf(Store(tmp_path / "none"))
    assert (shelf.group(kept=True).total, shelf.lately(), shelf.small(["0" * 64])) == (0, [], {"0" * 64: b""})
    assert not (tmp_path / "none").exists()


def test_a_shelf_of_a_thousand_presets_opens_at_once(store: Store) -> None:
    """Each with a picture and more references than are shown; by the processor's time."""
    units = [with_pictures(*range(SHOWN + 2))]
    store.save("a", units)
    with tables(store) as connection:
        for number in range(1000):
            connection.execute("INSERT INTO presets SELECT ?, ?, kept, document FROM presets WHERE key = 'a'",
                               (f"preset {number}", f"preset {number}"))  # fmt: skip
            connection.execute("INSERT INTO preset_thumbnails VALUES (?, ?)", (f"preset {number}", bytes(9000)))
    started = time.process_time()
    shelf = Shelf(store)
    group, lately = shelf.group(kept=False, start=500), shelf.lately()
    names = {name for one in group.page for name in one.references}
    assert len(shelf.small(names)) == SHOWN and len(lately) == SHOWN + 2
    assert time.process_time() - started < 0.3
    assert (group.total, len(group.page), group.page[0].count) == (1001, PAGE, SHOWN + 2)
