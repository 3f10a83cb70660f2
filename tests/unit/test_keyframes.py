"""References of one unit as keyframes: what each picture of a run has of them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

from lib_ipadapter.attend.keyframes import Fade, Moments, Run
from lib_ipadapter.attend.models import injection_into
from lib_ipadapter.attend.prompt import ImagePrompt, KeysValues
from lib_ipadapter.attend.regions import Region
from lib_ipadapter.attend.rows import layout
from lib_ipadapter.encode import stored
from lib_ipadapter.errors import IPAdapterError, UnitError
from lib_ipadapter.jobs.embeddings import embeddings_of, look_of
from lib_ipadapter.jobs.plans import plan_unit
from lib_ipadapter.jobs.prepare import prepare
from lib_ipadapter.unit import Unit, parse_units
from tests.helpers.files import base64_of, half, picture
from tests.helpers.jobs import DEVICE, denoise, generation
from tests.helpers.tensors import close, draw

LEFT, RIGHT = (base64_of(half(side)) for side in ("left", "right"))
TOP = base64_of(half("left").transpose(Image.Transpose.ROTATE_270))


def item(seed: int, at: float | None = None, **more: Any) -> dict:
    given = {"image": base64_of(picture(seed)), **more}
    return given if at is None else {**given, "at": at}


def unit(*items: dict, model: str = "base", **settings: Any) -> dict:
    return {"model": model, "images": list(items), **settings}


def made(unet, resources, *items: dict, frames: int = 3, first: int = 0, total: int = 0, **settings) -> torch.Tensor:
    """Rows of ``frames`` pictures of a run, the conditional ones first."""
    job = generation(unet, resources, unit(*items, **settings))
    return denoise(unet, job, pictures=frames, run=Run(first, total or frames))


def of(rows: torch.Tensor, frame: int) -> torch.Tensor:
    """Both rows of a frame."""
    return rows[[frame, frame + len(rows) // 2]]


SETTINGS = [
    {},
    {"model": "plus"},
    {"weight": [[0, 1.0], [1, 0.2]], "weight_type": "style transfer precise"},
    {"noise": 0.4, "embeds_scaling": "K+mean(V) w/ C penalty"},
    {"negative_images": [base64_of(picture(9))], "noise": 0.4, "model": "plus", "embeds_scaling": "K+V"},
    {"region_mask": TOP, "region_feather": 0.2},
]
EACH = pytest.mark.parametrize("settings", SETTINGS, ids=lambda one: " ".join(one))


@EACH
def test_the_ends_are_their_references(settings: dict, unet, resources) -> None:
    rows = made(unet, resources, item(0, 0, weight=0.7), item(1, 1, weight=-0.5), **settings)
    first, last = (made(unet, resources, one, **settings) for one in (item(0, weight=0.7), item(1, weight=-0.5)))
    assert close(of(rows, 0), of(first, 0), 1e-5) and close(of(rows, 2), of(last, 2), 1e-5)
    assert not close(of(rows, 2), of(first, 2), 1e-2) and not close(of(rows, 1), of(first, 1), 1e-3)


@EACH
def test_keyframes_of_one_picture_are_no_keyframes(settings: dict, unet, resources) -> None:
    alone = made(unet, resources, item(0, weight=0.8), **settings)
    same = [item(0, at, weight=0.8) for at in (0, 0.3, 1)]
    # Three that are projected at once are rounded otherwise than one, on some processors.
    assert close(made(unet, resources, *same, **settings), alone, 1e-5)
    assert close(made(unet, resources, item(0, 0.4, weight=0.8), **settings), alone, 1e-5)


def test_a_single_keyframe_is_none(unet, resources) -> None:
    plain = generation(unet, resources, unit(item(0)))
    job = generation(unet, resources, unit(item(0, 0.5)))
    assert job.prompts[0].prompt.fade is None and [one.at for one in job.plans[0].references] == [None]
    assert torch.equal(denoise(unet, job), denoise(unet, plain))


def test_keyframes_of_almost_one_picture_are_almost_none(unet, resources) -> None:
    """By masks that leave next to nothing out: they are mixed, and the mixture is theirs."""
    dotted = Image.new("L", (48, 48), 255)
    dotted.putpixel((0, 0), 254)
    alone = made(unet, resources, item(0))
    assert close(made(unet, resources, item(0, 0), item(0, 1, mask=base64_of(dotted))), alone, 1e-2)


def by_hand(prepared: Any, weights: Any, shares: list[tuple[int, float, float]]) -> KeysValues:
    """Keys and values of the mean of references' tokens with these (number, share, weight): as published, a weight is
    a factor of the values."""
    total = sum(share * weight for _, share, weight in shares)
    tokens = [
        sum(share * weight / total * side[i] for i, share, weight in shares)[None]
        for side in (prepared.cond, prepared.uncond)
    ]
    return KeysValues.project(weights.key, weights.value, *tokens, torch.full((1, tokens[0].shape[1]), total))


MIDDLE = [  # of five frames: what is there of which reference
    ([(0, 0), (1, 1)], [1.0, 1.0], 2, [(0, 0.5), (1, 0.5)]),
    ([(0, 0), (1, 1)], [1.0, 1.0], 1, [(0, 0.75), (1, 0.25)]),
    ([(0, 0), (1, 1)], [0.5, 1.5], 3, [(0, 0.25), (1, 0.75)]),
    ([(0, 0.25), (1, 0.5), (2, 1)], [1.0, 0.8, 0.6], 0, [(0, 1.0)]),
    ([(0, 0.25), (1, 0.5), (2, 1)], [1.0, 0.8, 0.6], 3, [(1, 0.5), (2, 0.5)]),
    ([(0, 0), (1, 0.625)], [1.0, 1.0], 4, [(1, 1.0)]),
    ([(0, 0), (1, 0.5), (2, 0.5)], [1.0, 1.0, 0.2], 2, [(1, 0.5), (2, 0.5)]),
    ([(0, 0), (1, 0.5), (2, 0.5)], [1.0, 1.0, 0.2], 1, [(0, 0.5), (1, 0.25), (2, 0.25)]),
]


@pytest.mark.parametrize("model", ["base", "plus"])
@pytest.mark.parametrize(("keyframes", "weights", "frame", "shares"), MIDDLE)
def test_between_them_it_is_the_mean_of_their_tokens(keyframes, weights, frame, shares, model, unet, resources) -> None:
    items = [item(seed, at, weight=weight) for (seed, at), weight in zip(keyframes, weights, strict=True)]
    rows = made(unet, resources, *items, frames=5, model=model)
    job = generation(unet, resources, unit(*[item(seed) for seed, _ in keyframes], model=model, batch="per image"))
    (planned,) = job.plans
    plan = plan_unit(parse_units([unit(*[item(seed) for seed, _ in keyframes], model=model, batch="per image")])[0],
                     job.topology, job.topology.blocks, resources.catalog)  # fmt: skip
    (prepared,) = prepare([plan.expanded()], resources, DEVICE, lambda text: None)
    kv = by_hand(prepared, resources.adapter(planned.adapter, planned.spec), [(i, s, weights[i]) for i, s in shares])
    x, t, text = draw(10, 4, 8, 8, seed=1), torch.full((10,), 500.0), draw(10, 77, 768, seed=2)
    with injection_into(unet, [ImagePrompt(kv)]) as injection:
        injection.begin(layout([1] * 5, 10), 0, 4)
        expected = unet(x, t, context=text)
    assert close(of(rows, frame), of(expected, frame), 1e-5)


def test_the_order_in_the_list_does_not_matter(unet, resources) -> None:
    items = [item(0, 0, region=LEFT), item(1, 0.3, weight=0.5), item(2, 0.3, weight=0.9), item(3, 0.8)]
    rows = made(unet, resources, *items, frames=4)
    for order in ([3, 2, 1, 0], [2, 0, 3, 1]):
        assert close(made(unet, resources, *[items[i] for i in order], frames=4), rows, 1e-5)


def test_a_batch_is_as_many_batches_of_one(unet, resources) -> None:
    job = generation(unet, resources, unit(item(0, 0, region=LEFT), item(1, 0.6), item(2, 1, weight=0.5)))
    whole = denoise(unet, job, pictures=4, run=Run(0, 4))
    x, t, text = draw(8, 4, 8, 8, seed=1), torch.full((8,), 500.0), draw(8, 77, 768, seed=2)
    for i in range(4):
        with job:
            job.attach(unet, first_picture=i, run=Run(i, 4)).begin(layout([1], 2), 0, 4)
            alone = unet(x[[i, i + 4]], t[:2], context=text[[i, i + 4]])
        assert close(alone, of(whole, i), 1e-5)


def test_any_rows_of_a_film_may_come_in_one_call(unet, resources) -> None:
    job = generation(unet, resources, unit(item(0, 0), item(1, 1)))
    rows = layout([1] * 5, 10)
    x, t, text = draw(10, 4, 8, 8, seed=1), torch.full((10,), 500.0), draw(10, 77, 768, seed=2)
    whole = denoise(unet, job, pictures=5, run=Run(0, 5))
    with job:
        job.attach(unet, run=Run(0, 5)).begin(rows, 0, 4, rows_of_call=lambda _kwargs, _n: tuple(rows[i] for i in some))
        for some in ([0, 3, 5, 8], [4, 1, 9, 6], [2, 7]):
            assert close(unet(x[some], t[: len(some)], context=text[some]), whole[some], 1e-5)


def test_regions_fade_as_tokens_do(unet, resources) -> None:
    """The middle of the same picture on the left and on the right is half of it everywhere."""
    rows = made(unet, resources, item(0, 0, region=LEFT), item(0, 1, region=RIGHT))
    for frame, settings in ((0, {"region_mask": LEFT}), (1, {"weight": 0.5}), (2, {"region_mask": RIGHT})):
        assert close(of(rows, frame), of(made(unet, resources, item(0), **settings), frame), 1e-5)
    wide = made(unet, resources, item(0, 0, region=LEFT), item(0, 1), region_mask=TOP)
    assert close(of(wide, 2), of(made(unet, resources, item(0), region_mask=TOP), 2), 1e-5)
    both = Image.new("L", (64, 64))
    both.paste(255, (0, 0, 32, 32))
    assert close(of(wide, 0), of(made(unet, resources, item(0), region_mask=base64_of(both)), 0), 1e-5)


def test_one_region_for_all_is_the_units(unet, resources) -> None:
    items = [item(0, 0), item(1, 1)]
    placed = made(unet, resources, *[{**one, "region": LEFT} for one in items])
    assert torch.equal(placed, made(unet, resources, *items, region_mask=LEFT))
    assert torch.equal(made(unet, resources, *[{**one, "region": base64_of(Image.new("L", (8, 8), 255))} for one in items]), made(unet, resources, *items))  # fmt: skip # noqa: E501


def test_weight_0_adds_nothing_of_its_picture(unet, resources) -> None:
    """To fade in from nothing is a growing weight."""
    rows = made(unet, resources, item(1, 0, weight=0), item(0, 1))
    for frame, weight in ((0, 0.0), (1, 0.5), (2, 1.0)):
        assert close(of(rows, frame), of(made(unet, resources, item(0, weight=weight)), frame), 1e-5)
    opposed = made(unet, resources, item(0, 0, weight=1), item(0, 1, weight=-1))
    assert close(of(opposed, 1), of(made(unet, resources, item(0, weight=0)), 1), 1e-5)


def test_passes_after_the_first_have_their_own_pictures(unet, resources) -> None:
    job = generation(unet, resources, unit(item(0, 0), item(1, 1)))
    alone = [generation(unet, resources, unit(item(seed))) for seed in (0, 1)]
    for first, expected in ((0, alone[0]), (7, alone[1]), (0, alone[0])):
        assert close(denoise(unet, job, run=Run(first, 8)), denoise(unet, expected), 1e-5)
    assert close(denoise(unet, job.inside(), run=Run(7, 8)), denoise(unet, alone[1]), 1e-5)
    assert close(denoise(unet, job), denoise(unet, alone[0]), 1e-5)  # a picture by itself is the first one


def test_the_unconditional_side_of_all_is_kept_once(unet, resources) -> None:
    """Where it is the same for all; where references count against the picture, each has its own there."""
    for more, count in (({}, 1), ({"noise": 0.5}, 5), ({"weight_type": "style transfer precise"}, 5)):
        job = generation(unet, resources, unit(item(0, 0), item(1, 1), **more))
        job.attach(unet, run=Run(0, 5))
        prompt = job.prompts[0].prompt
        block = min(prompt.spread.inverted, default=0)
        of_pictures, of_others = (
            prompt.sides(block, layout([1] * 5, 10))[:5],
            prompt.sides(block, layout([1] * 5, 10))[5:],
        )
        assert len({*of_pictures}) == (1 if prompt.spread.inverted else 5) and len({*of_others}) == count
        job.detach()


def test_each_picture_is_held_against_its_own_keyframe(unet, resources) -> None:
    rows = made(unet, resources, item(0, 0), item(1, 1), weight_type="composition precise")
    for frame, seed in ((0, 0), (2, 1)):
        alone = made(unet, resources, item(seed), weight_type="composition precise")
        assert close(of(rows, frame), of(alone, frame), 1e-5)


# --- shares ---------------------------------------------------------------------------------------------------------


def straightforward(places: list[float], place: float) -> list[float]:
    """Shares of references by the definition, one reference after the other."""
    found = []
    for own in places:
        before = [one for one in places if one < own]
        after = [one for one in places if one > own]
        if own == place or (place < own and not before) or (place > own and not after):
            share = 1.0
        elif place < own:
            share = max(0.0, (place - max(before)) / (own - max(before)))
        else:
            share = max(0.0, (min(after) - place) / (min(after) - own))
        found.append(share / places.count(own))
    return found


@pytest.mark.parametrize("places", [[0, 1], [0.2, 0.9, 0.5], [1, 0, 0.5, 0.5, 0.25], [0.3, 0.3], [0, 0, 1, 1, 0.1]])
def test_shares_are_those_of_the_definition(places: list[float]) -> None:
    fade = Fade(tuple(places), (1.0,) * len(places), tuple(range(len(places))))
    for place in [i / 40 for i in range(41)]:
        shares = fade.shares(place)
        assert sum(shares.values()) == pytest.approx(1)
        assert [shares.get(i, 0.0) for i in range(len(places))] == pytest.approx(straightforward(places, place))


def test_pictures_with_the_same_have_one_entry() -> None:
    fade = Fade((0.4, 0.6), (1.0, 1.0), (0, 1))
    moments = Moments(fade, Run(0, 101))
    assert len({moments.number(i) for i in range(101)}) == len(moments.blends) == 21 and moments.number(
        0
    ) == moments.number(40) != moments.number(41)
    assert moments.number(60) == moments.number(100) == moments.number(250)
    assert [moments.nearest(i) for i in (0, 49, 50, 51, 100)] == [0, 0, 0, 1, 1]
    later = Moments(fade, Run(50, 101))
    assert [later.blend(i) for i in (0, 3, 50)] == [moments.blend(i) for i in (50, 53, 100)]
    assert len(later.blends) == 3
    assert Run(3, 1).place(0) == Run(0, 1).place(9) == 0 and Run(2, 5).place(9) == 1


def test_only_what_pictures_see_is_worked_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a film of any length; and what a picture has keeps its entries while others come."""
    asked: list[float] = []
    blend = Fade.blend
    monkeypatch.setattr(Fade, "blend", lambda self, place: asked.append(place) or blend(self, place))
    moments = Moments(Fade((0.0, 1.0), (1.0, 1.0), (0, 1)), Run(5_000, 10_001))
    before = moments.sides(layout([1] * 2, 4), False)
    assert asked == [0.5, 0.5001] and len({*before}) == 4
    key = draw(4, 1, 3, seed=1)
    found = moments.keys_values(key, key, [side for side in before if side is not None])
    assert moments.sides(layout([1] * 4, 8), False)[:2] == before[:2] and len(asked) == 4
    again = moments.keys_values(key, key, [side for side in before if side is not None])
    assert torch.equal(found[0], again[0]) and close(found[0][0], (key[0] + key[1]) / 2, 1e-6)
    assert close(found[0][2], (key[2] + key[3]) / 2, 1e-6)
    assert moments.sides(layout([1] * 2, 4), True) == (None, None, before[0], before[1])


# --- what is no keyframe --------------------------------------------------------------------------------------------


def flat(seed: int) -> str:
    return base64_of(picture(seed, (96, 40)))


def test_a_folder_beside_keyframes_says_what_to_do(tmp_path, unet, resources) -> None:
    from lib_ipadapter.jobs.generation import prepare_generation
    from tests.helpers.folders import fill, of_folder

    (timed,) = parse_units([unit(item(0, 0), item(1, 1))])
    (folder,) = of_folder(fill(tmp_path / "refs", 2, 3)).references
    both = replace(timed, references=(*timed.references, folder))
    with pytest.raises(UnitError) as caught:
        prepare_generation([both], unet, resources, DEVICE)
    assert caught.value.detail == (
        "IP-Adapter unit 1: images[2]: a folder stands beside keyframes (“at”): put it into another unit, or leave "
        "“at” out."
    )


def test_a_look_of_keyframes_has_no_time(resources) -> None:
    """It is the one of the same references side by side; so is a file of embeddings."""
    timed, plain = (
        parse_units([unit(*items, noise=0.5)])[0] for items in ([item(0, 0), item(1, 1)], [item(0), item(1)])
    )
    file = look_of(timed, "mine", lambda seen: b"", resources, DEVICE)
    assert stored.read(file).uncond is not None
    assert file == look_of(plain, "mine", lambda seen: b"", resources, DEVICE)
    assert embeddings_of(timed, resources, DEVICE) == embeddings_of(plain, resources, DEVICE)


REFUSED = [
    (
        unit(item(0, 0), item(1)),
        "images[1]: it has no “at”, and other references of the unit have one: say of each of them where it stands, "
        "from 0 (the first picture) to 1 (the last), or of none.",
    ),
    (
        unit(item(0, 0), item(1, 1), combine="average"),
        "images[0]: it is a keyframe (“at”), and combine is “average”, which makes one of all references: set combine "
        "to “concat”, or leave “at” out.",
    ),
    (
        unit(item(0, 0), item(1, 1), batch="per image"),
        "images[0]: it is a keyframe (“at”), and batch is “per image”, which gives each picture one of them: set batch "
        "to “same”, or leave “at” out.",
    ),
    (
        unit(item(0, 0), {"image": flat(1), "at": 1}, model="plus", crop="tile"),
        "its keyframes have different forms, so they become different numbers of tiles and cannot fade into one "
        "another: choose another crop, or cut the references to one form.",
    ),
    (unit(item(0, 1.5)), "images[0]: at is 1.5: "),
    (unit(item(0, True)), "images[0]: at is "),
    (unit(item(0), negative_images=[item(1, 0.5)]), "negative_images[0]: negative references are the same in every"),
]


@pytest.mark.parametrize(("settings", "sentence"), REFUSED, ids=[sentence[:40] for _, sentence in REFUSED])
def test_what_cannot_be_is_refused(settings: dict, sentence: str, unet, resources) -> None:
    with pytest.raises(IPAdapterError, match=f"^IP-Adapter unit 1: {re.escape(sentence)}"):
        generation(unet, resources, settings)


def test_tiles_of_one_form_fade(unet, resources) -> None:
    items = [{"image": flat(seed), "at": seed} for seed in (0, 1)]
    rows = made(unet, resources, *items, model="plus", crop="tile")
    for frame, seed in ((0, 0), (2, 1)):
        alone = made(unet, resources, {"image": flat(seed)}, model="plus", crop="tile")
        assert close(of(rows, frame), of(alone, frame), 1e-5)
    pooled = made(unet, resources, item(0, 0), items[1], crop="tile")
    assert close(of(pooled, 0), of(made(unet, resources, item(0), crop="tile"), 0), 1e-5)


def test_start_pictures_of_a_batch_cannot_fade(unet, resources) -> None:
    from lib_ipadapter.jobs.generation import prepare_generation

    (parsed,) = parse_units([unit({"start_picture": True, "at": 0}, item(1, 1))])
    word, other = parsed.references
    own = [replace(word, image=picture(seed), picture=seed, repeats=seed > 0) for seed in (0, 1)]
    with pytest.raises(UnitError, match="the start picture is among its keyframes, and the pictures of the batch"):
        prepare_generation([replace(parsed, references=(*own, other))], unet, resources, DEVICE)
    one = prepare_generation([replace(parsed, references=(replace(word, image=picture(0)), other))], unet, resources, DEVICE)  # fmt: skip # noqa: E501
    expected = denoise(unet, generation(unet, resources, unit(item(0, 0), item(1, 1))), pictures=3, run=Run(0, 3))
    assert torch.equal(denoise(unet, one, pictures=3, run=Run(0, 3)), expected)


@pytest.mark.parametrize(
    "given",
    [{"image": "abc"}, {"controlnet": 2}, {"look": "Oil"}, {"start_picture": True}, {"image": "abc", "mask": "d"}],
)
def test_any_reference_may_be_a_keyframe(given: dict) -> None:
    for at in (0, 0.25, 1):
        (parsed,) = parse_units([unit({**given, "at": at, "region": "def"})])
        assert parsed.references[0].at == at
        assert Unit.parse(parsed.to_object()).references == parsed.references
    assert parse_units([unit(given)])[0].references[0].at is None


def test_faded_regions_are_parts_and_overlaps_of_theirs() -> None:
    from lib_ipadapter.attend.keyframes import FadedRegion
    from lib_ipadapter.attend.regions import Part

    masks = [torch.zeros(8, 8), torch.zeros(8, 8)]
    masks[0][:, :4], masks[1][:4] = 1, 1
    faded = FadedRegion([Region(mask) for mask in masks])
    assert not faded.nowhere and not faded.everywhere
    moments = Moments(Fade((0.0, 1.0), (1.0, 1.0), (0, 1)), Run(0, 3))
    part = Part((8, 8), ((0, 0, 4, 8), (4, 0, 4, 8), (0, 4, 8, 4)))
    like = torch.empty(0)
    got = faded.within(part).during(moments).at((2, 2), like, [0, 1, 2])
    for row, share in enumerate((0.0, 0.5, 1.0)):
        cut = [Region(mask).within(part).at((2, 2), like, [0, 1, 2])[row] for mask in masks]
        assert torch.allclose(got[row], (1 - share) * cut[0] + share * cut[1])
    over = faded.overlap(Region(masks[1])).during(moments).at((4, 4), like, [0, 2])
    for row, mask in enumerate((masks[0] * masks[1], masks[1])):
        assert torch.allclose(over[row], Region(mask).at((4, 4), like)[0])
    faded.during(moments).at((4, 4), like, [0, 2])
    assert all(region._layers for region in faded.regions)
    faded.leave_device()
    assert not any(region._layers for region in faded.regions)
