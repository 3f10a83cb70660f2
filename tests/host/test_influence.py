"""Influence maps in the WebUI: for which picture, and how they are shown."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from demo.start import Host
from tests.helpers.files import base64_of, picture, unit
from tests.helpers.host import ask, pixels
from tests.helpers.tensors import close


def mapped(seeds: tuple[int, ...] = (0,), **settings) -> dict:
    return unit(seeds=seeds, **{"influence_map": True, **settings})


LONG = "a photo of a cat on a red sofa beside a window, " * 9  # more than 75 tokens


@pytest.fixture
def drawn(host, monkeypatch) -> list[tuple[int, int, torch.Tensor]]:
    """(picture, unit, map) of everything that is painted."""
    from lib_ipadapter.webui import influence_pictures as influence

    seen, paint = [], influence.paint

    def spy(finished, found, number):
        seen.append((finished.index, number, found))
        return paint(finished, found, number)

    monkeypatch.setattr(influence, "paint", spy)
    return seen


def make(host: Host, *units, **payload):
    return ask(host, *units, **{"width": 128, **payload})


def texts(answer) -> list[str]:
    info = answer.info
    return (json.loads(info) if isinstance(info, str) else info)["infotexts"]


@pytest.mark.parametrize("grid", [False, True])
def test_maps_follow_the_pictures(grid: bool, host, drawn, monkeypatch) -> None:
    from modules import images, shared

    monkeypatch.setattr(images, "save_image", lambda *args, **kwargs: None)
    monkeypatch.setitem(shared.opts.data, "return_grid", True)
    batch = {"batch_size": 2, "n_iter": 2, "save_images": grid}  # which the API makes the grid depend on, too
    plain = make(host, mapped(influence_map=False), **batch)
    answer = make(host, mapped(), mapped(seeds=(2,), weight=0.3), **batch)
    alone = make(host, mapped(influence_map=False), mapped(seeds=(2,), weight=0.3, influence_map=False), **batch)
    first = 1 if grid else 0
    assert len(plain.images) == len(alone.images) == first + 4
    assert len(answer.images) == len(texts(answer)) == first + 4 + 8
    for shown, expected in zip(answer.images[: first + 4], alone.images, strict=True):
        assert np.array_equal(pixels([shown])[0], pixels([expected])[0])
    assert [(index, number) for index, number, _ in drawn] == [(i, n) for i in range(4) for n in (1, 2)]
    assert all(tuple(found.shape) == (8, 16) for *_, found in drawn)
    for i, (index, number, found) in enumerate(drawn):
        image, text = answer.images[first + 4 + i], texts(answer)[first + 4 + i]
        assert image.width == 128
        assert image.height > 64
        least, mean, most = (f"{float(value):.4g}" for value in (found.min(), found.mean(), found.max()))
        assert f"Influence of IP-Adapter {number}: {mean} ({least} to {most})" in text
        assert text.startswith(texts(answer)[first + index].split("Steps:")[0])
        assert "influence_map: True" in text
    assert not close(drawn[0][2], drawn[2][2], 1e-3)
    make(host, mapped(), seed=5)
    picture_alone = drawn[-1][2]
    make(host, mapped(), seed=3, batch_size=3)
    assert close(drawn[-1][2], picture_alone, 1e-3)


PATTERNS = {
    "batched": {},
    "uneven": {"prompt": LONG},
    "uneven batch": {"prompt": LONG, "batch_size": 2},
    "AND": {"prompt": f"a cat AND {LONG} :0.5"},
    "CFG 1": {"cfg_scale": 1},
    "second order": {"sampler_name": "Heun"},
}


@pytest.mark.both_faces
@pytest.mark.parametrize("pattern", PATTERNS)
def test_rows_together_and_apart(pattern: str, host, calls_apart, drawn) -> None:
    payload = {"seed": 1, **PATTERNS[pattern]}
    make(host, mapped(seeds=(0, 1), batch="per image"), **payload)
    together = [found for *_, found in drawn]
    drawn.clear()
    with calls_apart():
        make(host, mapped(seeds=(0, 1), batch="per image"), **payload)
    assert len(together) == len(drawn) == payload.get("batch_size", 1)
    for found, (*_, apart) in zip(together, drawn, strict=True):
        assert found.mean() > 0
        assert close(found, apart, 1e-3)


@pytest.mark.both_faces
def test_hires_pass(host, drawn) -> None:
    settings = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.6, "batch_size": 2}
    answer = make(host, mapped(), mapped(hires="base"), **settings)
    assert [tuple(found.shape) for *_, found in drawn] == [(16, 32), (8, 16)] * 2
    assert [image.size[0] for image in answer.images] == [256] * 6
    assert {image.height > 128 for image in answer.images[2:]} == {True}


def test_inpainting_a_part_colours_that_part(host, drawn) -> None:
    mask = Image.new("L", (128, 128))
    mask.paste(255, (0, 0, 32, 32))
    options = {"init_images": [base64_of(picture(1).resize((128, 128)))], "mask": base64_of(mask), "mask_blur": 0,
               "inpaint_full_res": True, "inpaint_full_res_padding": 0, "denoising_strength": 0.7,
               "width": 64, "height": 64, "inpainting_fill": 1}  # fmt: skip
    image, painted = make(host, mapped(), path="img2img", **options).images
    changed = np.abs(pixels([image])[0] - pixels([painted])[0][:128]).sum(-1) > 0
    assert changed[:32, :32].mean() > 0.9
    assert not changed[64:, 64:].any()
    assert tuple(drawn[0][2].shape) == (8, 8)


def test_saved_only_if_the_setting_says_so(host, monkeypatch) -> None:
    from modules import images, paths, shared

    saved = []
    monkeypatch.setattr(paths, "default_output_dir", "anywhere", raising=False)
    monkeypatch.setitem(shared.opts.data, "samples_save", True)
    monkeypatch.setattr(images, "save_image", lambda *args, suffix="", **kwargs: saved.append(suffix))
    make(host, mapped(), save_images=True)
    assert saved == [""]
    monkeypatch.setitem(shared.opts.data, "ip_adapter_save_influence_maps", True)
    make(host, mapped(), save_images=True)
    assert saved == ["", "", "-influence-1"]
    make(host, mapped())
    assert len(saved) == 3


def test_pictures_of_others_get_a_text(host) -> None:
    """Places of pictures and texts stay the same where an extension has added a picture without text."""
    from types import SimpleNamespace

    from lib_ipadapter.webui import influence_pictures as influence
    from lib_ipadapter.webui.host.record import Job

    p = SimpleNamespace(iteration=0, batch_size=1, batch_index=0)
    maps = SimpleNamespace(units=[1])
    generation = SimpleNamespace(maps=maps, influence=lambda i: {1: torch.ones(2, 2), 2: None})
    job = Job(p, generation=generation)
    own = picture(1).convert("RGB")
    influence.remember(job, own)
    processed = SimpleNamespace(images=[own, picture(2)], infotexts=["one"], index_of_first_image=0, comments="before")
    influence.append(job, processed)
    assert len(processed.images) == 3
    assert processed.infotexts == ["one", "one", "one, Influence of IP-Adapter 1: 1 (1 to 1)"]
    assert processed.comments.startswith("before\nIP-Adapter unit 2: there is no influence map")


def painted_over_grey(found: torch.Tensor, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The map's colours over a grey picture without that picture's share, and what stands below it."""
    from lib_ipadapter.webui.drawing import SHARE, paint
    from lib_ipadapter.webui.host.record import FinishedPicture

    painted = paint(FinishedPicture(0, Image.new("RGB", size, (90, 90, 90)), (0, 0, *size)), found, 2)
    assert painted.width == size[0]
    (shown,) = pixels([painted])
    return (shown[: size[1]] - (1 - SHARE) * 90) / SHARE, shown[size[1] :]


def near(colour: np.ndarray, place: float) -> bool:
    from lib_ipadapter.webui.colour_map import coloured

    return bool(np.abs(colour - coloured(np.array(place))).max() < 2)


@pytest.mark.parametrize("size", [(64, 64), (128, 256), (1024, 700), (250, 90)])
@pytest.mark.parametrize(("low", "high"), [(0, 0.5), (0.4, 0.5), (0.0120, 0.0121), (3, 90)])
def test_the_colours_of_a_map_span_what_it_holds(
    size: tuple[int, int], low: float, high: float, host, monkeypatch
) -> None:
    """Also where only one place has the least and one the greatest value; the scale says which values these are."""
    from lib_ipadapter.webui import drawing

    written = []
    monkeypatch.setattr(drawing, "number_text", lambda value: written.append(value) or "1")
    found = torch.full((8, 8), (low + high) / 2)
    found[2, 5], found[6, 1] = high, low
    shown, below = painted_over_grey(found, size)
    assert near(shown[0, 0], 0.5)
    light = shown.sum(-1)
    assert near(shown.reshape(-1, 3)[light.argmin()], 0)
    assert near(shown.reshape(-1, 3)[light.argmax()], 1)
    assert written == pytest.approx([low, high])
    edge = max(2, round(0.02 * size[0]))
    inner = below[:, edge : size[0] - edge].astype(int)
    light = max(inner, key=lambda row: np.ptp(row, axis=-1).sum()).sum(-1)  # of the scale, which alone has colours
    assert np.all(np.diff(light) >= -2)  # but for rounding
    assert light[-1] - light[0] > 300
    assert (below.max(-1) > 200).any()


def test_a_map_without_differences_has_one_colour(host) -> None:
    for value, place in ((0.0, 0), (0.3, 0.5)):
        shown, _ = painted_over_grey(torch.full((1, 1), value), (64, 64))
        assert near(shown.min((0, 1)), place)
        assert near(shown.max((0, 1)), place)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.5, "0.5"), (0.012345, "0.0123"), (12.3456, "12.3"), (1234.5, "1230")]
)
def test_numbers_at_the_ends(value: float, text: str, host) -> None:
    from lib_ipadapter.webui.drawing import caption, number_text

    assert number_text(value) == text
    assert caption(2) == "IP-Adapter 2: influence"


# Gustavo Machado and others, "A physiologically-based model for simulation of color vision deficiency", 2009.
EYES = {
    "most": np.eye(3),
    "without red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "without green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "without blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("eye", EYES)
def test_the_colours_are_even_to_any_eye(eye: str, host) -> None:
    from lib_ipadapter.webui import colour_map

    shares = colour_map.table() / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(EYES[eye]).T, 0, 1)
    lab = np.cbrt(seen @ np.linalg.inv(colour_map.LINEAR).T) @ np.linalg.inv(colour_map.ROOTS).T
    steps = np.linalg.norm(np.diff(lab, axis=0), axis=1)
    assert np.all(np.diff(lab[:, 0]) > 0)
    assert steps.max() / steps.min() < (1.01 if eye == "most" else 3)
