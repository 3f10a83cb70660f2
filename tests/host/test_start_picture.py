"""The start picture as a reference: of a picture that a script makes in tiles, each tile's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from demo.start import Host
from tests.helpers.files import base64_of, picture, unit
from tests.helpers.host import FAR, SAME, ask, difference, hooks, make, pixels

pytestmark = pytest.mark.host("tiling")

ITSELF: dict[str, Any] = {"start_picture": True}
SQUARE, WIDE = picture(9, (64, 64)), picture(9, (64, 32))
UPSCALE = {"script_name": "SD upscale", "script_args": ["", 16, "Lanczos", 2]}  # a wide one: three tiles
ULTIMATE = {"script_name": "Ultimate SD upscale", "script_args": []}  # four tiles


def of(*references: Any, model: str = "base", **fields: Any) -> dict:
    return {"model": model, "images": [*references], **fields}


def start(*pictures: Image.Image, **payload: Any) -> dict:
    return {"path": "img2img", "init_images": [base64_of(one) for one in pictures], "denoising_strength": 0.7,
            "steps": 3, **payload}  # fmt: skip


def made(host: Host, *units: dict, **payload: Any) -> list[np.ndarray]:
    torch.manual_seed(3)  # start pictures are encoded with noise from the global generator
    return make(host, *units, **payload)


def refused(host: Host, *units: dict, **payload: Any) -> str:
    with pytest.raises(RuntimeError, match="422") as caught:
        made(host, *units, **payload)
    return str(caught.value)


@pytest.fixture
def jobs(host: Host, monkeypatch) -> Iterator[list[tuple]]:
    """Of every job of a script what it began with, the part of it that was sampled, its seed and its pictures."""
    from modules import processing

    found: list[tuple] = []
    process = processing.process_images

    def processed(p: Any) -> Any:
        torch.manual_seed(3)
        done = process(p)
        box = getattr(p, "paste_to", None)
        found.append((list(p.init_images), box, p.all_seeds[0], done.images))
        return done

    monkeypatch.setattr(processing, "process_images", processed)
    yield found
    assert hooks() == []


@pytest.mark.both_faces
@pytest.mark.parametrize("model", ["base", "plus"])
def test_it_is_the_start_picture_given_by_hand(model: str, host: Host) -> None:
    by_hand = made(host, of(base64_of(SQUARE), model=model), **start(SQUARE))
    assert difference(made(host, of(ITSELF, model=model), **start(SQUARE)), by_hand) == 0
    assert difference(made(host, **start(SQUARE)), by_hand) > FAR / 10
    half = {**ITSELF, "weight": 0.5}
    with_another = of(half, base64_of(picture(2)), model=model, combine="average")
    by_hand = of({"image": base64_of(SQUARE), "weight": 0.5}, base64_of(picture(2)), model=model, combine="average")
    assert difference(made(host, with_another, **start(SQUARE)), made(host, by_hand, **start(SQUARE))) == 0


@pytest.mark.both_faces
def test_one_tile_is_the_whole_picture(host: Host) -> None:
    one = {"script_name": "SD upscale", "script_args": ["", 16, "Lanczos", 1]}
    by_hand = made(host, of(base64_of(SQUARE)), **start(SQUARE, **one))
    assert difference(made(host, of(ITSELF), **start(SQUARE, **one)), by_hand) == 0


@pytest.mark.both_faces
def test_each_tile_sees_itself(host: Host, jobs) -> None:
    made(host, of(ITSELF), **start(WIDE, **UPSCALE))
    tiles = [(tiles[0], seed, images) for tiles, _, seed, images in jobs]
    assert len(tiles) == 3 and len({tile.tobytes() for tile, *_ in tiles}) == 3
    for tile, seed, images in tiles:
        own = made(host, of(base64_of(tile)), **start(tile, seed=seed))
        assert difference(own, [np.asarray(images[0]).astype(np.float32)]) == 0
        other = made(host, of(base64_of(WIDE)), **start(tile, seed=seed))
        assert difference(own, other) > 0


@pytest.mark.parametrize("others", [[], [base64_of(picture(2))]])
def test_tiles_of_a_batch_see_each_itself(others: list, host: Host, jobs) -> None:
    """Alone, and beside a reference that all of them see; as references of each picture, too."""
    made(host, of(ITSELF, *others), **start(WIDE, batch_size=2, **UPSCALE))
    batches = [*jobs]
    assert [len(tiles) for tiles, *_ in batches] == [2, 1]
    for tiles, _, seed, images in batches:
        for i, tile in enumerate(tiles):
            own = made(host, of(base64_of(tile), *others), **start(*tiles, seed=seed, batch_size=2))
            assert difference([own[i]], [np.asarray(images[i]).astype(np.float32)]) < SAME
    if others:
        jobs.clear()
        made(host, of(*others, ITSELF, batch="per image"), **start(WIDE, batch_size=2, **UPSCALE))
        (first, second), _, seed, images = jobs[0]
        by_hand = of(*others, base64_of(second), batch="per image")
        own = made(host, by_hand, **start(first, second, seed=seed, batch_size=2))
        assert difference(own, [np.asarray(one).astype(np.float32) for one in images]) == 0


def test_equal_tiles_have_equal_tokens(host: Host, monkeypatch) -> None:
    from lib_ipadapter.jobs import generation

    kept: list[torch.Tensor] = []
    prepare = generation.prepare

    def prepared(*args: Any) -> Any:
        found = prepare(*args)
        kept.extend(one.cond for one in found)
        return found

    monkeypatch.setattr(generation, "prepare", prepared)
    even = Image.new("RGB", (64, 32), (90, 120, 150))
    made(host, of(ITSELF), **start(even, **UPSCALE))
    made(host, of(ITSELF), **start(even, batch_size=3, **UPSCALE))
    assert [len(one) for one in kept] == [1] * 4
    assert all(torch.equal(tokens, kept[0][0]) for one in kept for tokens in one)


def test_noise_is_of_what_a_picture_sees(host: Host) -> None:
    """Equal start pictures are one; different ones have nothing of each other."""
    for references in ([], [base64_of(picture(2))]):
        for more in ({}, {"batch": "per image"}):
            of_all = start(SQUARE, SQUARE, SQUARE, batch_size=3)
            by_hand = made(host, of(base64_of(SQUARE), *references, noise=0.8, **more), **of_all)
            assert difference(made(host, of(ITSELF, *references, noise=0.8, **more), **of_all), by_hand) == 0
    others = [SQUARE, picture(3, (64, 64))]
    batch = made(host, of(ITSELF, noise=0.8), **start(*others, batch_size=2))
    for i, one in enumerate(others):
        alone = made(host, of(base64_of(one), noise=0.8), **start(*others, batch_size=2))
        assert difference([batch[i]], [alone[i]]) < SAME
    assert (
        "IP-Adapter unit 1: noise is made of all references, and the start picture among them is another one in each "
        "picture of the batch: set noise to 0, batch to “same”, or the batch size to 1."
    ) in refused(host, of(ITSELF, noise=0.8, batch="per image"), **start(*others, batch_size=2))


def test_a_part_that_is_inpainted_sees_itself(host: Host, jobs) -> None:
    """Ultimate SD upscale paints "only masked": the part is what the host makes of the mask."""
    made(host, of(ITSELF), **start(SQUARE, **ULTIMATE))
    assert len(jobs) == 4
    for (whole,), box, *_ in jobs:
        assert whole.size == (128, 128) and box[2:] == (64, 64)
    parts = [whole.crop((x, y, x + w, y + h)) for (whole,), (x, y, w, h), *_ in jobs]
    jobs.clear()
    with pytest.MonkeyPatch.context() as patched:
        from lib_ipadapter.webui.host import tiles

        by_hand = iter(parts)
        patched.setattr(tiles, "sampled", lambda p: [next(by_hand)])
        theirs = made(host, of(ITSELF), **start(SQUARE, **ULTIMATE))
    assert difference(made(host, of(ITSELF), **start(SQUARE, **ULTIMATE)), theirs) == 0
    assert difference(made(host, of(base64_of(SQUARE)), **start(SQUARE, **ULTIMATE)), theirs) > 0


@pytest.mark.parametrize("blur", [0, 4])
def test_of_an_inpainted_picture_it_is_the_part_that_is_sampled(blur: int, host: Host) -> None:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (8, 8, 32, 40))
    inpaint = start(SQUARE, mask=base64_of(mask), mask_blur=blur, inpainting_fill=1, inpaint_full_res_padding=4)
    boxes: list[tuple] = []
    from modules import processing

    sample = processing.StableDiffusionProcessingImg2Img.sample
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            processing.StableDiffusionProcessingImg2Img, "sample",
            lambda p, *args, **kwargs: boxes.append(p.paste_to) or sample(p, *args, **kwargs),
        )  # fmt: skip
        own = made(host, of(ITSELF), **inpaint, inpaint_full_res=True)
    (x, y, w, h) = boxes[0]
    assert (w, h) != (64, 64)
    part = base64_of(SQUARE.crop((x, y, x + w, y + h)))
    assert difference(own, made(host, of(part), **inpaint, inpaint_full_res=True)) == 0
    whole = made(host, of(base64_of(SQUARE)), **inpaint, inpaint_full_res=False)
    assert difference(made(host, of(ITSELF), **inpaint, inpaint_full_res=False), whole) == 0


def test_asking_for_the_part_calls_nobody_elses_hooks(host: Host) -> None:
    """Hosts of Forge's kind have one for scripts before they come to the start pictures."""
    from modules import processing

    asked: list[Any] = []
    part = processing.StableDiffusionProcessingImg2Img._part
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            processing.StableDiffusionProcessingImg2Img, "_part",
            lambda p, mask: asked.append(p.scripts is None) or part(p, mask),
        )  # fmt: skip
        mask = Image.new("L", (64, 64))
        mask.paste(255, (8, 8, 32, 40))
        made(host, of(ITSELF), **start(SQUARE, mask=base64_of(mask), inpaint_full_res=True))
    assert asked == [True, False]


def test_what_is_cut_off_is_not_seen(host: Host) -> None:
    """Resize mode "crop and resize"."""
    middle = base64_of(WIDE.crop((16, 0, 48, 32)))
    payload = start(WIDE, resize_mode=1, width=64, height=64)
    assert difference(made(host, of(ITSELF), **payload), made(host, of(middle), **payload)) == 0


def test_other_pictures_of_a_batch_share_one_start(host: Host) -> None:
    payload = start(SQUARE, batch_size=2, n_iter=2)
    assert difference(made(host, of(ITSELF), **payload), made(host, of(base64_of(SQUARE)), **payload)) == 0


def test_loopback_sees_what_it_has_made(host: Host, jobs) -> None:
    made(host, of(ITSELF), **start(SQUARE, script_name="Loopback", script_args=[]))
    (_, _, seed, images), (second, *_) = jobs[0], (images for _, _, _, images in jobs[1:])
    del jobs
    again = made(host, of(base64_of(images[0])), **start(images[0], seed=seed))
    assert difference(again, [np.asarray(second).astype(np.float32)]) == 0


# How many


def test_repeats_of_a_batch_are_no_references_of_the_user(host: Host, monkeypatch) -> None:
    """Five start pictures and thirteen references of a picture each are 65 turns."""
    monkeypatch.setattr("lib_ipadapter.jobs.planned.MAX_REFERENCES", 3)
    monkeypatch.setattr("lib_ipadapter.jobs.planned.MAX_TURNS", 6)
    two = start(SQUARE, picture(3, (64, 64)), batch_size=2, steps=1)
    others = [base64_of(picture(seed)) for seed in (1, 2, 4)]
    assert made(host, of(ITSELF, *others[:2], batch="per image"), **two)
    assert made(host, of(ITSELF, *others[:2]), **two)
    assert "images holds 4 references, those in files and folders counted, and side by side act at most 3" in refused(
        host, of(ITSELF, *others), **two
    )
    monkeypatch.setattr("lib_ipadapter.jobs.planned.MAX_TURNS", 5)
    assert (
        "images becomes 6 references, because the start picture among them is another one in each picture of the "
        "batch, and at most 5 are possible: give fewer, or make the batch smaller."
    ) in refused(host, of(ITSELF, *others[:2], batch="per image"), **two)


# In words


def test_parameters_and_kept_units_have_a_word_for_it(host: Host) -> None:
    from lib_ipadapter import infotext

    answer = ask(host, of({**ITSELF, "weight": 0.5}, base64_of(picture(2))), **start(SQUARE))
    assert "references: start_picture*0.5 " in answer.infotext
    kept = host.client.get("/ip-adapter/presets").json()["recent"][0]
    name = kept if isinstance(kept, str) else kept["name"]
    (stored,) = host.client.get(f"/ip-adapter/presets/{name}").json()["units"]
    assert stored["images"][0] == {"start_picture": True, "weight": 0.5}
    asked = ask(host, of(ITSELF), **start(SQUARE, SQUARE, batch_size=2))
    assert asked.infotext.count("start_picture") == 1
    (restored,), notes = infotext.restored(
        {"IP-Adapter 1": "model: base, references: start_picture*0.5"}, lambda _: None
    )
    assert restored["images"] == [{"start_picture": True, "weight": 0.5}] and notes == []
    torch.manual_seed(3)
    expected = ask(host, of({**ITSELF, "weight": 0.5}), **start(SQUARE))
    torch.manual_seed(3)
    again = ask(host, infotext=expected.infotext, **start(SQUARE))
    assert difference(pixels(again), pixels(expected)) == 0
    torch.manual_seed(3)
    assert difference(pixels(ask(host, **start(SQUARE))), pixels(expected)) > FAR / 10


def test_the_cache_stays_within_its_bytes(host: Host) -> None:
    from lib_ipadapter.webui import options, process

    made(host, of(ITSELF), **start(WIDE, **UPSCALE))
    cache = process.resources().cache
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(options, "cache_bytes", lambda: 3 * 64 * 1024)
        for seed in range(4):
            made(host, of(ITSELF), **start(picture(seed, (64, 32)), **UPSCALE))
            assert cache.nbytes <= cache.limit == 3 * 64 * 1024
    assert len(cache) > 0


# Where there is none


def test_without_a_start_picture_the_unit_is_refused(host: Host) -> None:
    assert (
        "IP-Adapter unit 2: the start picture is among its references, and txt2img begins with none: use img2img, or "
        "give a picture."
    ) in refused(host, unit(), of(ITSELF))
    hires = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.6}
    assert "txt2img begins with none" in refused(host, of(ITSELF), **hires)
    assert "set acts_in to “picture”, or give a picture" in refused(
        host, of(ITSELF, acts_in="detailer"), **start(SQUARE)
    )
    assert made(host, of(ITSELF, acts_in="both"), **start(SQUARE, steps=1))
    for settings, sentence in (
        (of({"start_picture": 1}), "images[0]: start_picture is 1: give true, or leave it out"),
        (of({**ITSELF, "image": "AAAA"}), "images[0]: start_picture is given beside a picture: leave one out"),
        (of(ITSELF, negative_images=[ITSELF]), "the start picture is among negative_images, and a picture cannot"),
    ):
        assert sentence in refused(host, settings, **start(SQUARE))
    for route in ("preview", "embeddings"):
        answer = host.client.post(f"/ip-adapter/{route}", json=of(ITSELF))
        assert "start picture is only known while a picture is made" in answer.json()["detail"]
