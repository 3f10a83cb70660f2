"""Walks through folders: each picture of a job sees a reference of its own, of very many, too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lib_ipadapter.attend.rows import layout
from lib_ipadapter.encode import stored
from lib_ipadapter.errors import PictureError, UnitError
from lib_ipadapter.jobs import prepare as preparing
from lib_ipadapter.jobs.embeddings import embeddings_of, look_of
from lib_ipadapter.jobs.generation import Generation, prepare_generation
from lib_ipadapter.jobs.resources import Resources
from tests.helpers.files import base64_of, half, picture
from tests.helpers.folders import fill, of_folder
from tests.helpers.jobs import DEVICE, denoise, far, generation
from tests.helpers.tensors import close

MANY = 70
KINDS = ["base", "plus", "full-face"]


def single(unet, resources: Resources, seed: int, **settings) -> torch.Tensor:
    return denoise(unet, generation(unet, resources, {"images": [base64_of(picture(seed))], **settings}))


def at(unet, job: Generation, picture: int) -> torch.Tensor:
    return denoise(unet, job, first_picture=picture)


@pytest.mark.parametrize("kind", KINDS)
def test_each_picture_of_a_long_walk_is_a_job_of_its_own(kind: str, tmp_path: Path, unet, resources) -> None:
    """With noise, too, which is that of the picture's own reference."""
    settings = {"model": kind, "noise": 0.4, "negative_images": [base64_of(picture(99))], "weight": 0.7}
    folder = fill(tmp_path / "refs", *range(MANY))
    job = prepare_generation([of_folder(folder, batch="per image", **settings)], unet, resources, DEVICE)
    for i in (0, 1, 64, 69, 70):
        assert close(at(unet, job, i), single(unet, resources, i % MANY, **settings), 1e-4), i
    assert far(at(unet, job, 0), at(unet, job, 69))


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_walk_is_as_a_long_one(kind: str, tmp_path: Path, unet, resources, catalog, monkeypatch) -> None:
    """And a list's long walk as a folder's."""
    settings = {"model": kind, "batch": "per image"}
    folder = fill(tmp_path / "refs", 0, 1, 2)
    short = prepare_generation([of_folder(folder, noise=0.3, **settings)], unet, resources, DEVICE)
    listed = generation(unet, resources, {"images": [base64_of(picture(i)) for i in range(3)], **settings})
    monkeypatch.setattr("lib_ipadapter.jobs.plans.MAX_REFERENCES", 2)
    fresh = Resources(catalog)  # which remembers nothing of the short ones
    long = prepare_generation([of_folder(folder, noise=0.3, **settings)], unet, fresh, DEVICE)
    long_list = generation(unet, fresh, {"images": [base64_of(picture(i)) for i in range(3)], **settings})
    assert not hasattr(long.prompts[0].prompt.kv, "keys") and hasattr(short.prompts[0].prompt.kv, "keys")
    for i in range(3):
        assert close(at(unet, short, i), at(unet, long, i), 1e-5), i
        assert close(at(unet, listed, i), at(unet, long_list, i), 1e-5), i


@pytest.mark.parametrize("folder_first", [True, False])
def test_a_list_and_a_folder_of_its_pictures_are_remembered_apart(
    folder_first: bool, tmp_path: Path, unet, resources, catalog
) -> None:
    """With noise each picture of a folder has that of its own reference, and those of a list have that of all."""
    settings = {"batch": "per image", "noise": 0.5}
    folder = fill(tmp_path / "refs", 0, 1, 2)
    listed = {"model": "base", "images": [base64_of(picture(i)) for i in range(3)], **settings}

    def made(of: Resources, is_folder: bool) -> torch.Tensor:
        if is_folder:
            return at(unet, prepare_generation([of_folder(folder, **settings)], unet, of, DEVICE), 0)
        return at(unet, generation(unet, of, listed), 0)

    first, second = (made(resources, is_folder) for is_folder in (folder_first, not folder_first))
    assert far(first, second)
    assert torch.equal(second, made(Resources(catalog), not folder_first))


def test_several_pictures_of_a_batch_see_theirs(tmp_path: Path, unet, resources) -> None:
    folder = fill(tmp_path / "refs", *range(MANY))
    job = prepare_generation([of_folder(folder, batch="per image")], unet, resources, DEVICE)
    prompt = job.prompts[0].prompt
    prompt.picture_offset = 68
    sides = [*dict.fromkeys(prompt.sides(0, layout([1] * 3, 6)))]
    assert sides == [68, 69, 0, 138, 139, 70]
    prompt.now = 1.0
    held = prompt.gather(0, 0, sides, torch.zeros(1))
    own = [prompt.gather(0, 0, [side], torch.zeros(1)) for side in sides]
    assert close(held.key, torch.cat([one.key for one in own]), 1e-5)
    assert close(held.value, torch.cat([one.value for one in own]), 1e-5)


def test_a_walk_takes_no_more_than_its_tokens(tmp_path: Path, unet, catalog, monkeypatch) -> None:
    """Each picture is decoded once; and what would take too much is told by how much."""
    from lib_ipadapter.encode.picture import Picture

    decoded: list[Picture] = []
    image = Picture.image.fget
    assert image is not None
    folder = fill(tmp_path / "refs", *range(MANY))
    made = of_folder(folder, batch="per image")
    monkeypatch.setattr(Picture, "image", property(lambda self: decoded.append(self) or image(self)))
    told: list[str] = []
    resources = Resources(catalog, cache_bytes=0)
    job = prepare_generation([made], unet, resources, DEVICE, progress=told.append)
    assert len(decoded) == MANY and f"encoding reference {MANY} of {MANY}" in told
    kv = job.prompts[0].prompt.kv
    assert kv.nbytes < 2 * kv.cond.nbytes
    monkeypatch.setattr(preparing, "MAX_WALK", kv.cond.nbytes - 1)
    with pytest.raises(UnitError, match=r"the pictures of this job see 70 references in turn, whose image tokens take"):
        prepare_generation([made], unet, resources, DEVICE)


def test_more_than_a_job_may_meet_are_refused(tmp_path: Path, unet, resources, monkeypatch) -> None:
    monkeypatch.setattr("lib_ipadapter.jobs.planned.MAX_PICTURES", 2)
    made = of_folder(fill(tmp_path / "refs", 0, 1, 2), batch="per image")
    with pytest.raises(UnitError, match="see 3 references in turn, and 2 is the most: make fewer pictures"):
        prepare_generation([made], unet, resources, DEVICE)


@pytest.mark.parametrize("settings", [{}, {"combine": "average"}, {"batch": "per image"}], ids=str)
def test_a_folder_acts_in_its_region(settings: dict, tmp_path: Path, unet, resources) -> None:
    """As the unit would with that region mask."""
    left, folder = base64_of(half("left")), fill(tmp_path / "refs", 0, 1, 2)
    placed = prepare_generation([of_folder(folder, region=left, **settings)], unet, resources, DEVICE)
    masked = prepare_generation([of_folder(folder, region_mask=left, **settings)], unet, resources, DEVICE)
    whole = prepare_generation([of_folder(folder, **settings)], unet, resources, DEVICE)
    assert close(at(unet, placed, 1), at(unet, masked, 1), 1e-6)
    assert far(at(unet, placed, 1), at(unet, whole, 1))
    bad = of_folder(folder, region=left, region_mask=base64_of(half("right")), **settings)
    with pytest.raises(PictureError, match=r"unit 1: the reference: its region lies outside of the unit's"):
        prepare_generation([bad], unet, resources, DEVICE)


@pytest.mark.parametrize("combine", ["concat", "average"])
def test_a_look_of_a_walk_has_one_unconditional_side(combine: str, tmp_path: Path, resources) -> None:
    """Of all references, as a unit with them side by side has it."""
    walk = of_folder(fill(tmp_path / "refs", 0, 1, 2), batch="per image", noise=0.5, combine=combine)
    beside = of_folder(tmp_path / "refs", noise=0.5)
    look, expected = (look_of(one, "mine", lambda seen: b"", resources, DEVICE) for one in (walk, beside))
    found = stored.read(look)
    assert found.uncond is not None and found.uncond["pooled"].shape[0] == 1 and len(found.references) == 3
    assert look == expected


def test_a_look_holds_no_more_than_can_be_read(tmp_path: Path, resources, monkeypatch) -> None:
    monkeypatch.setattr(stored, "MAX_STORED", 2)
    walk = of_folder(fill(tmp_path / "refs", 0, 1, 2), batch="per image")
    with pytest.raises(UnitError, match="a look holds at most 2 references, and these are 3: give fewer, or set batch"):
        look_of(walk, "mine", lambda seen: b"", resources, DEVICE)
    with pytest.raises(UnitError, match="a file of embeddings holds at most 2 references, and these are 3: give fewer"):
        embeddings_of(walk, resources, DEVICE)


def test_what_none_could_read_is_not_written() -> None:
    one = torch.ones(1, 4)
    for references, uncond in (([{"pooled": one}], {"pooled": torch.ones(2, 4)}), ([{"pooled": one}] * 65, None)):
        with pytest.raises(PictureError, match="The embeddings "):
            stored.write(references, [1.0] * len(references), {"pooled": "x"}, uncond)


def test_parameters_keep_a_folders_region(tmp_path: Path, unet, resources) -> None:
    from lib_ipadapter import infotext

    left = base64_of(half("left"))
    made = of_folder(fill(tmp_path / "refs", 0, 1, 2), region=left)
    job = prepare_generation([made], unet, resources, DEVICE)
    entries = infotext.parameters(job.plans)
    content_hash = made.references[0].image.mark.content_hash
    mask = half("left")
    units, notes = infotext.restored(entries, lambda name: mask, folder=lambda mark: (mark.name, content_hash))
    assert units[0]["images"] == [{"folder": "refs", "weight": 1.0, "region": mask}] and not notes
