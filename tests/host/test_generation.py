"""The extension inside the miniature WebUI, through its API: what a client asks and what it gets."""

from __future__ import annotations

import functools
import json
import threading

import pytest

from demo.start import FORGE, Host
from tests.helpers.files import base64_of, picture, unit
from tests.helpers.host import FAR, SAME, difference, make, ours

LONG = "a photo of a cat on a red sofa beside a window, " * 9  # more than 75 tokens


@pytest.mark.both_faces
@pytest.mark.parametrize("kind", ["base", "plus", "full-face"])
def test_a_reference_steers_the_picture(kind: str, host: Host, plain) -> None:
    one, other = make(host, unit(kind)), make(host, unit(kind, (3,)))
    assert difference(one, plain) > FAR
    assert difference(one, other) > FAR / 2
    assert difference(one, make(host, unit(kind))) == 0
    assert difference(make(host, unit(kind, weight=0)), plain) == 0


@pytest.mark.both_faces
@pytest.mark.parametrize(
    ("checkpoint", "adapter"),
    [("demo-sd2", "two"), ("demo-sdxl", "wide"), ("demo-inpainting", "base")],
)
def test_other_base_models(checkpoint: str, adapter: str, host: Host, plain) -> None:
    override = {"override_settings": {"sd_model_checkpoint": checkpoint}}
    bare = make(host, **override)
    full = make(host, unit(adapter), **override)
    halves = make(host, unit(adapter, weight=0.5), unit(adapter, weight=0.5), **override)
    assert difference(full, bare) > FAR
    assert difference(full, halves) < SAME
    assert difference(make(host, **override), bare) == 0


ROW_PATTERNS = {
    "batched": {},
    "prompts of different length": {"prompt": LONG},
    "long negative prompt": {"negative_prompt": LONG},
    "AND": {"prompt": "a cat AND a dog :0.7"},
    "AND, different length": {"prompt": f"a cat AND {LONG}"},
    "batch of 3": {"batch_size": 3},
    "different length, batch of 2": {"prompt": LONG, "batch_size": 2},
    "second order": {"sampler_name": "Heun"},
    "PLMS": {"sampler_name": "PLMS"},
    "ancestral": {"sampler_name": "Euler a"},
}


@pytest.mark.both_faces
@pytest.mark.parametrize("pattern", ROW_PATTERNS)
def test_rows_together_and_apart(pattern: str, host: Host, make_apart, plain) -> None:
    """One UNet call or one for each row: the same picture. Blind to a fault that both have; the next test is not."""
    together = make(host, unit(), **ROW_PATTERNS[pattern])
    apart = make_apart(unit(), **ROW_PATTERNS[pattern])
    assert difference(together, make(host, **ROW_PATTERNS[pattern])) > FAR
    assert difference(together, apart) < SAME


@pytest.mark.both_faces
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("sampler", ["Euler", "Heun", "DDIM"])
def test_uneven_prompts_keep_the_effect(sampler: str, apart: bool, host: Host, make_apart, plain) -> None:
    """Attention to a doubled text is attention to the text: "X BREAK X" against "Y" is uneven, against "Y BREAK Y" not.
    So both must give the picture of "X" against "Y", in which all rows are in one call."""
    made = functools.partial(make_apart if apart else functools.partial(make, host), unit(), sampler_name=sampler)
    even = made(prompt="a cat", negative_prompt="blurry")
    longer = made(prompt="a cat BREAK a cat", negative_prompt="blurry")
    shorter = made(prompt="a cat", negative_prompt="blurry BREAK blurry")
    assert difference(even, longer) < SAME
    assert difference(even, shorter) < SAME


@pytest.mark.parametrize("fault", ["all cond", "all uncond", "swapped"])
@pytest.mark.both_faces
def test_ignored_rows_would_be_noticed(fault: str, face: str, host: Host, plain, monkeypatch) -> None:
    """The proof that the two tests above can fail."""
    from lib_ipadapter.attend import rows
    from lib_ipadapter.webui.host import forge

    right = make(host, unit(), prompt="a cat BREAK a cat")
    announced, take = forge.announced, rows.RowCursor.take

    def wrong(told):
        change = {"all cond": lambda c: True, "all uncond": lambda c: False, "swapped": lambda c: not c}[fault]
        return tuple(rows.Row(change(row.cond), row.picture) for row in told)

    if face == FORGE:
        monkeypatch.setattr(forge, "announced", lambda n: lambda *args: wrong(announced(n)(*args)))
    else:
        monkeypatch.setattr(rows.RowCursor, "take", lambda self, *args, **more: wrong(take(self, *args, **more)))
    assert difference(make(host, unit(), prompt="a cat BREAK a cat"), right) > FAR / 2


@pytest.mark.both_faces
@pytest.mark.parametrize("setting", [{"s_min_uncond": 100.0, "s_min_uncond_all": True}, {"skip_early_cond": 0.5}])
def test_skipped_uncond_rows(setting: dict, host: Host, make_apart, plain) -> None:
    override = {"override_settings": setting}
    full = make(host, unit(weight=0.8), **override)
    halves = make(host, unit(weight=0.4), unit(weight=0.4), **override)
    alone = make_apart(unit(weight=0.8), **override)
    assert difference(full, make(host, **override)) > FAR / 4
    assert difference(full, halves) < SAME
    assert difference(full, alone) < SAME


@pytest.mark.both_faces
def test_every_picture_of_a_batch_is_its_own(host: Host, plain) -> None:
    batch = make(host, unit(), batch_size=2, n_iter=2, seed=5)
    for i in range(4):
        assert difference(batch[-4:][i : i + 1], make(host, unit(), seed=5 + i)) < SAME


@pytest.mark.both_faces
def test_per_image_batches(host: Host, plain) -> None:
    batch = make(host, unit(seeds=(0, 3), batch="per image"), batch_size=2, n_iter=2, seed=5)[-4:]
    for i in range(4):
        alone = make(host, unit(seeds=((0, 3)[i % 2],)), seed=5 + i)
        assert difference(batch[i : i + 1], alone) < SAME
        assert difference(batch[i : i + 1], make(host, unit(seeds=((3, 0)[i % 2],)), seed=5 + i)) > FAR / 4


@pytest.mark.both_faces
def test_hires_passes(host: Host, make_apart, plain) -> None:
    hires = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7}
    bare = make(host, **hires)
    pictures = {which: make(host, unit(hires=which), **hires) for which in ("both", "base", "hires")}
    for which, result in pictures.items():
        assert difference(result, bare) > FAR / 4, which
    assert difference(pictures["both"], pictures["base"]) > FAR / 8
    assert difference(pictures["both"], pictures["hires"]) > FAR / 8
    apart = make_apart(unit(), **hires)
    assert difference(pictures["both"], apart) < SAME


START = {"init_images": [base64_of(picture(9, (64, 64)))], "denoising_strength": 0.8, "path": "img2img"}


@pytest.mark.both_faces
def test_img2img_starts_from_its_picture(host: Host, plain) -> None:
    make(host, **START)  # the first img2img of a process finds the global generator unseeded
    bare = make(host, **START)
    assert difference(make(host, unit(), **START), bare) > FAR / 4
    assert difference(make(host, **START), bare) == 0


def test_instruct_pix2pix(host: Host, plain) -> None:
    make(host, **START)
    edit = {**START, "image_cfg_scale": 1.5, "override_settings": {"sd_model_checkpoint": "demo-ip2p"}}
    full, halves = make(host, unit(), **edit), make(host, unit(weight=0.5), unit(weight=0.5), **edit)
    assert difference(full, make(host, **edit)) > FAR / 4
    assert difference(full, halves) < SAME
    edit["override_settings"] = {**edit["override_settings"], "batch_cond_uncond": False}
    assert difference(full, make(host, unit(), **edit)) < SAME


@pytest.mark.both_faces
def test_steps_are_shares(host: Host, plain) -> None:
    for sampler in ("Euler", "Heun", "DDIM", "UniPC"):
        settings = {"steps": 4, "sampler_name": sampler}
        whole = make(host, unit(), **settings)
        parts = make(host, unit(end=0.5), unit(start=0.5), **settings)
        assert difference(whole, parts) < SAME, sampler
        assert difference(whole, make(host, unit(end=0.5), **settings)) > FAR / 8, sampler


@pytest.mark.both_faces
def test_units_without_effect_leave_the_picture_bit_identical(host: Host, plain) -> None:
    assert difference(make(host, {"enabled": False}), plain) == 0
    assert difference(make(host, {"enabled": False, "model": "no such thing"}, unit(enabled=False)), plain) == 0
    answer = host.post(
        "txt2img", {"steps": 1, "width": 64, "height": 64, "alwayson_scripts": {"ip-adapter": {"args": []}}}
    )
    assert answer.status_code == 200


def test_arguments_are_not_changed(host: Host, plain) -> None:
    thing = unit("BASE.safetensors", weight=0.5)
    before = json.dumps(thing)
    make(host, thing)
    assert json.dumps(thing) == before


STEPS = {  # the steps' numbers, call by call, and how many there are
    ("Euler", 4, False): ([0, 1, 2, 3], 4),
    ("Heun", 4, False): ([0, 0, 1, 1, 2, 2, 3], 4),
    # The distance of timesteps is 1000 // steps, and DDIM and PLMS go from one to the next.
    ("DDIM", 4, False): ([0, 1, 2], 3),
    ("DDIM", 3, False): ([0, 1, 2], 3),
    ("PLMS", 4, False): ([0, 0, 1, 2], 3),  # it calls twice in its first
    ("UniPC", 4, False): ([0, 1, 2, 3], 4),
    ("Euler", 8, True): ([0, 1, 2, 3, 4], 5),
    ("Heun", 8, True): ([0, 0, 1, 1, 2, 2, 3, 3, 4], 5),
    ("DDIM", 8, True): ([0, 1, 2], 3),
    ("PLMS", 8, True): ([0, 0, 1, 2], 3),
    ("UniPC", 8, True): ([0, 1, 2, 3], 4),
}


@pytest.mark.both_faces
@pytest.mark.parametrize(("sampler", "steps", "from_picture"), STEPS)
def test_steps_are_counted(sampler: str, steps: int, from_picture: bool, host: Host, plain, monkeypatch) -> None:
    from lib_ipadapter.attend.inject import Injection

    seen, begin = [], Injection.begin

    def watched(self, rows, step, steps, *args, **kwargs):
        seen.append((step, steps))
        return begin(self, rows, step, steps, *args, **kwargs)

    monkeypatch.setattr(Injection, "begin", watched)
    start = {"path": "img2img", "init_images": [base64_of(picture(5))], "denoising_strength": 0.5}
    make(host, unit(), sampler_name=sampler, steps=steps, **(start if from_picture else {}))
    numbers, made = STEPS[sampler, steps, from_picture]
    assert seen == [(step, made) for step in numbers]


@pytest.mark.parametrize("sampler", ["DDIM", "PLMS", "UniPC"])
def test_the_last_steps_from_a_picture_are_a_share(sampler: str, host: Host, plain) -> None:
    start = {"path": "img2img", "init_images": [base64_of(picture(5))], "denoising_strength": 0.5, "steps": 8}
    whole = make(host, unit(), sampler_name=sampler, **start)
    parts = make(host, unit(end=0.6), unit(start=0.6), sampler_name=sampler, **start)
    assert difference(whole, parts) < SAME
    last = make(host, unit(start=0.6), sampler_name=sampler, **start)
    assert difference(last, whole) > FAR / 8 and difference(last, make(host, sampler_name=sampler, **start)) > 0


@pytest.mark.both_faces
def test_the_hosts_prompt_cache_stays_useful(host: Host, plain) -> None:
    from modules import prompt_parser

    counted = []
    original = prompt_parser.get_learned_conditioning

    def count(*args, **kwargs):
        counted.append(1)
        return original(*args, **kwargs)

    prompt_parser.get_learned_conditioning = count
    try:
        make(host)
        first = len(counted)
        make(host, unit())
        make(host)
        assert len(counted) == first
    finally:
        prompt_parser.get_learned_conditioning = original


@pytest.mark.both_faces
def test_infotext_tells_what_was_used(host: Host, plain) -> None:
    answer = host.txt2img(
        prompt="a cat", steps=1,
        alwayson_scripts=ours({"enabled": False}, unit("Plus", (0, 1), weight=0.5, end=0.75, combine="average")),
    )  # fmt: skip
    entry = next(part for part in answer.infotext.split("IP-Adapter ")[1:])
    assert entry.startswith('2: "model: plus, weight: 0.5, end: 0.75, combine: average, references: ')
    assert "IP-Adapter 1" not in answer.infotext
    assert "IP-Adapter" not in host.txt2img(prompt="a cat", steps=1).infotext


@pytest.mark.both_faces
def test_requests_side_by_side(host: Host, plain) -> None:
    """The host queues them; each gets the picture it asked for."""
    expected = {None: plain, 0: make(host, unit()), 3: make(host, unit(seeds=(3,)))}
    results: dict = {}

    def ask(key):
        results[key] = make(host, *([] if key is None else [unit(seeds=(key,))]))

    threads = [threading.Thread(target=ask, args=(key,)) for key in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(difference(results[key], expected[key]) == 0 for key in expected)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "palette", "RGBA", "grey", "CMYK", "GIF"])
def test_any_kind_of_picture_is_a_reference(form: str, host: Host, plain) -> None:
    image, kind = picture(0), form
    if form in ("palette", "RGBA", "grey", "CMYK"):
        image = image.convert({"palette": "P", "RGBA": "RGBA", "grey": "L", "CMYK": "CMYK"}[form])
        kind = "JPEG" if form == "CMYK" else "PNG"
    result = make(host, {"model": "base", "image": "data:image/x;base64," + base64_of(image, kind)})
    assert difference(result, plain) > FAR
    if form in ("PNG", "RGBA"):  # these keep the colours exactly
        assert difference(result, make(host, unit())) == 0
