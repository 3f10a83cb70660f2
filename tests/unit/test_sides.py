"""Rows of one side share keys and values: the same numbers as with a copy for each row, without the copies."""

from __future__ import annotations

import contextlib
import gc
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib_ipadapter.attend import inject, kept, prompt
from lib_ipadapter.attend.attention import LONG
from lib_ipadapter.attend.influence import Influence
from lib_ipadapter.attend.inject import Injection, image_attention
from lib_ipadapter.attend.layers import cross_attention_layers
from lib_ipadapter.attend.prompt import ImagePrompt, KeysValues
from lib_ipadapter.attend.regions import Region
from lib_ipadapter.attend.rows import Row, layout
from lib_ipadapter.attend.sides import Held, Plan, grouped, sides_of
from lib_ipadapter.encode.clip_image import ImageEncoder
from lib_ipadapter.errors import DeviceMemoryError
from lib_ipadapter.projections import build
from lib_ipadapter.weighting import spread
from tests.helpers.image_towers import SPECS, reference
from tests.helpers.projections import resampler, tensors
from tests.helpers.prompts import call, inputs, make_prompt
from tests.helpers.tensors import close, draw
from tests.helpers.unets import sd_unet

# The grouping


@given(st.lists(st.one_of(st.none(), st.integers(0, 5)), min_size=1, max_size=12))
def test_each_row_attends_to_its_own_side(sides: list[int | None]) -> None:
    """Against every row alone, in double precision by the formula."""
    query, keys, values = (
        draw(n, t, 16, seed=i).double() for i, (n, t) in enumerate([(len(sides), 3), (6, 5), (6, 5)])
    )
    held = Held(tuple(range(6)), keys, values)
    ours = Plan.of(tuple(sides), held).attend(query, lambda q, k, v: image_attention(q, k, v, 4))
    for row, side, out in zip(query, sides, ours, strict=True):
        if side is None:
            assert not out.any()
            continue
        q, k, v = (x.reshape(-1, 4, 4).transpose(0, 1) for x in (row, keys[side], values[side]))
        expected = torch.softmax(q @ k.transpose(-1, -2) / 2, -1) @ v
        assert close(out, expected.transpose(0, 1).reshape(3, 16), 1e-12)


def test_the_hosts_own_rows_are_one_attention_without_a_copy() -> None:
    """One reference in a batch, references of their own, and both sides called apart."""
    for rows, pictures in ((layout([1] * 8, 16), 1), (layout([1] * 8, 16), 8), (layout([1] * 8, 16)[:8], 1)):
        order, runs = grouped(sides_of(rows, pictures, 0, False))
        assert order is None
        assert len(runs) == 1
    keys = draw(2, 4, 8, seed=1)
    seen: list[torch.Tensor] = []

    def spy(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        seen.extend((query, key))
        return query

    query = draw(16, 3, 8, seed=2)
    Plan.of(sides_of(layout([1] * 8, 16), 1, 0, False), Held((0, 1), keys, keys)).attend(query, spy)
    assert [tuple(x.shape) for x in seen] == [(2, 24, 8), (2, 4, 8)]
    assert seen[0].data_ptr() == query.data_ptr() and seen[1].data_ptr() == keys.data_ptr()


@pytest.mark.parametrize("scaling", ["V only", "K+V", "K+mean(V) w/ C penalty"])
@pytest.mark.parametrize("curve", [False, True])
def test_an_unconditional_side_that_many_references_share_is_there_once(scaling: str, curve: bool) -> None:
    """The same numbers as with a copy for each of four references, of which each has another weight."""
    tokens, key, value = draw(1, 3, 16, seed=1).double(), [draw(8, 16, seed=2)], [draw(8, 16, seed=3)]
    cond, scale = draw(1, 12, 16, seed=4).double(), torch.tensor([0.5, 1.0, -0.3, 2.0]).repeat_interleave(3)[None]
    weight = ((0.0, 0.7), (1.0, 0.7)) if curve else 0.7
    prompts = [
        ImagePrompt(
            KeysValues.project(key, value, cond, tokens.repeat(1, 4, 1), scale, copies), weight, scaling=scaling
        )
        for copies in (1, 4)
    ]
    query, sides = draw(5, 6, 8, seed=5).double(), (0, 1, 1, 0, 1)

    def out(prompt: ImagePrompt, query: torch.Tensor, sides: tuple[int, ...]) -> torch.Tensor:
        prompt.begin(0, 1)
        held = prompt.gather(0, 0, dict.fromkeys(sides), query)
        if not prompt.steady:
            held = held.changed(lambda k, v: prompt.weighted(k, v, 0))
        return Plan.of(sides, held).attend(query, lambda q, k, v: image_attention(q, k, v, 2))

    whole, once = (out(prompt, query, sides) for prompt in prompts)
    assert close(once, whole, 1e-12)
    assert prompts[0].gather(0, 0, (0, 1), query).brief is None
    held = prompts[1].gather(0, 0, (1, 0), query)
    assert held.key.shape == (1, 12, 8) and held.brief is not None and held.brief.key.shape == (1, 3, 8)
    assert held.serves((0, None, 1), query) and not held.serves((2,), query)
    lonely = out(prompts[1], query[1:3], (1, 1))  # in a call for the unconditional rows alone
    assert close(lonely, whole[1:3], 1e-12)


# In a UNet


def per_image(unet, n: int) -> ImagePrompt:
    """A reference for each of ``n`` pictures."""
    alone = [make_prompt(unet, 5, embeds=draw(1, 32, seed=60 + i)).kv for i in range(n)]

    def joined(name: str) -> tuple[torch.Tensor, ...]:
        layers = zip(*(getattr(kv, name) for kv in alone), strict=True)
        return tuple(torch.cat([*(x[:1] for x in layer), *(x[1:] for x in layer)]) for layer in layers)

    return ImagePrompt(KeysValues(joined("keys"), joined("values")))


BATCHES = {
    "one reference": (lambda unet: make_prompt(unet, 5), layout([1] * 4, 8)),
    "a reference for each picture": (lambda unet: per_image(unet, 3), layout([1] * 4, 8)),
    "AND prompts": (lambda unet: per_image(unet, 2), layout([2, 1, 3], 9)),
    "InstructPix2Pix": (lambda unet: per_image(unet, 2), layout([1, 1], 6)),
    "tiles together": (lambda unet: make_prompt(unet, 5), layout([1], 2) * 3),
    "turned around": (
        lambda unet: ImagePrompt(per_image(unet, 2).kv, spread=spread("composition precise", 16)),
        layout([1, 1], 4),
    ),
    "a curve": (lambda unet: ImagePrompt(per_image(unet, 2).kv, ((0.0, 0.8), (1.0, 0.2))), layout([1, 1], 4)),
}


@pytest.mark.parametrize("kind", BATCHES)
def test_rows_together_are_rows_alone(kind: str, unet) -> None:
    make, rows = BATCHES[kind]
    acting = make(unet)
    x, t, text = inputs(unet, rows=len(rows))
    together = call(unet, x, t, text, [acting], rows)
    for i, row in enumerate(rows):
        alone = call(unet, x[i : i + 1], t[:1], text[i : i + 1], [acting], (row,))
        assert close(together[i : i + 1], alone, 1e-5)


@pytest.mark.parametrize(("pictures", "references", "distinct"), [(8, 1, 1), (8, 3, 3), (2, 8, 2)])
def test_what_stands_on_the_device_is_cond_and_uncond_of_each_picture(
    pictures: int, references: int, distinct: int, unet
) -> None:
    acting = per_image(unet, references)
    size = acting.kv.nbytes // references  # cond and uncond of one picture
    rows = layout([1] * pictures, 2 * pictures)
    x, t, text = inputs(unet, rows=len(rows))
    with Injection(unet, cross_attention_layers(unet), [acting]) as injection:
        for step, parts in enumerate(([len(rows)], [pictures] * 2, [1] * len(rows))):
            injection.begin(rows, step, 3)
            for i, part in enumerate(parts):
                unet(x[i * part :][:part], t[:part], context=text[i * part :][:part])
            held = [one for hooks in injection.layers for one in hooks.gathered.values()]
            assert sum(x.numel() * x.element_size() for one in held for x in (one.key, one.value)) == distinct * size


def test_calls_like_earlier_ones_give_what_new_ones_do(unet) -> None:
    """What rows attend to is found once; for other rows, other pictures and after a lack of room it is found anew."""
    acting, (x, t, text), whole = per_image(unet, 3), inputs(unet, rows=8), layout([1] * 4, 8)
    cases = [(first, part) for first in (0, 2, 1) for part in (slice(8), slice(4), slice(2, 6), slice(3, 4))]
    expected = []
    for acting.picture_offset, part in cases:
        expected.append(call(unet, x[part], t[part], text[part], [acting], whole[part]))
    assert len({out.sum().item() for out in expected}) == len(cases)
    with Injection(unet, cross_attention_layers(unet), [acting]) as injection:
        for again in range(3):
            for (acting.picture_offset, part), out in zip(cases, expected, strict=True):
                injection.begin(whole[part], again, 3)
                assert torch.equal(unet(x[part], t[part], context=text[part]), out)
                assert all(len(hooks.kept._plans) <= kept.PLANS for hooks in injection.layers)
            if again == 1:
                assert all(hooks.kept._plans for hooks in injection.layers)
                injection.keep_nothing(x.device)
            assert again == 0 or not any(hooks.kept._plans for hooks in injection.layers)
    assert not injection.lost


def test_the_hosts_own_tensor_stays_as_it_is(unet) -> None:
    x, t, text = inputs(unet)
    before: list[torch.Tensor] = []
    layers = cross_attention_layers(unet)

    def keep(_module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        before.extend((args[0], args[0].clone()))

    handles = [layer.out_projection.register_forward_pre_hook(keep) for layer in layers]
    acting = [make_prompt(unet, 5), make_prompt(unet, 6, region=Region(torch.ones(8, 8).tril()))]
    call(unet, x, t, text, acting, layout([1], 2))
    for handle in handles:
        handle.remove()
    assert len(before) == 2 * len(layers)
    assert all(torch.equal(one, copy) for one, copy in zip(before[::2], before[1::2], strict=True))


@pytest.mark.parametrize("tokens", [1, 2, 4, 5, 8, 16])
@pytest.mark.parametrize("length", [LONG - 1, LONG, LONG + 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_few_tokens_are_attended_to_as_the_formula_says(tokens: int, length: int, dtype: torch.dtype) -> None:
    query, key, value = (draw(2, n, 32, seed=i).to(dtype) for i, n in enumerate((length, tokens, tokens)))
    q, k, v = (z.double().reshape(2, -1, 4, 8).transpose(1, 2) for z in (query, key, value))
    expected = (torch.softmax(q @ k.transpose(-1, -2) / 8**0.5, -1) @ v).transpose(1, 2).reshape(2, length, 32)
    ours = image_attention(query, key, value, 4)
    assert ours.dtype == dtype
    limit = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 4e-2}[dtype]
    assert torch.allclose(ours.double(), expected, atol=limit, rtol=0)


# Whatever stands in the place of torch's attention


def test_attention_is_torchs_own_whatever_stands_in_its_place(monkeypatch) -> None:
    """Extensions put kernels there that take some widths of head only."""
    q, k, v = (draw(2, n, 32, seed=n) for n in (9, 5, 5))
    alone = image_attention(q, k, v, 4)
    project, features = build("Resampler", tensors(resampler(64, 2, 4, 48, 32)), 32), draw(1, 5, 48, seed=4)
    tokens = project(features)
    spec = SPECS["heads of 80, as in ViT-H"]
    tower = ImageEncoder.from_state(spec, reference(spec).state_dict(), dtype=torch.float32)
    pixels = draw(1, 3, tower.spec.image_size, tower.spec.image_size, seed=5)
    embedding = tower.encode(pixels, "penultimate").of("penultimate")

    def other(*_args: object, **_kwargs: object) -> torch.Tensor:
        raise AssertionError("head width 8 is not supported")

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", other)
    assert torch.equal(image_attention(q, k, v, 4), alone)
    assert torch.equal(project(features), tokens)
    assert torch.equal(tower.encode(pixels, "penultimate").of("penultimate"), embedding)


# A device without room


class OutOfMemoryError(RuntimeError):
    """Called as CUDA's."""


FULL = [
    OutOfMemoryError("no memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 18.00 GB, max allowed: 18.13 GB)"),
    RuntimeError("Could not allocate tensor with 8 bytes. There is not enough GPU video memory available!"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", FULL, ids=lambda error: str(error)[:12])
def test_without_room_to_keep_them_keys_and_values_come_with_each_call(error, unet, monkeypatch, caplog) -> None:
    x, t, text = inputs(unet)
    acting, rows = make_prompt(unet, 5), layout([1], 2)
    expected = call(unet, x, t, text, [acting], rows)
    gather, kept = prompt.ImagePrompt.gather, []

    def full(self, layer, *args):
        if layer == 5 and kept and kept[-1].keeps:
            raise error
        return gather(self, layer, *args)

    monkeypatch.setattr(prompt.ImagePrompt, "gather", full)
    with Injection(unet, cross_attention_layers(unet), [acting]) as injection:
        kept.append(injection)
        for step in range(2):
            injection.begin(rows, step, 2)
            assert torch.equal(unet(x, t, context=text), expected)
        assert not any(hooks.gathered for hooks in injection.layers)
    assert [record.getMessage() for record in caplog.records] == [
        "IP-Adapter: the device has no room to keep what references add, so each step is slower."
    ]


def test_without_any_room_the_error_says_so_and_nothing_is_left(unet, monkeypatch) -> None:
    x, t, text = inputs(unet)
    plain = unet(x, t, context=text)

    def full(*_args: object) -> torch.Tensor:
        raise OutOfMemoryError("no memory")

    monkeypatch.setattr(inject, "image_attention", full)
    with (
        pytest.raises(DeviceMemoryError, match="no room for the references' keys and values: use fewer"),
        Injection(unet, cross_attention_layers(unet), [make_prompt(unet, 5)]) as injection,
    ):
        injection.begin(layout([1], 2), 0, 1)
        unet(x, t, context=text)
    assert torch.equal(unet(x, t, context=text), plain)


def test_another_error_is_nobodys_lack_of_room(unet, monkeypatch) -> None:
    def broken(*_args: object) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(inject, "image_attention", broken)
    x, t, text = inputs(unet)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        call(unet, x, t, text, [make_prompt(unet, 5)], layout([1], 2))


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_stays_on_the_device(fails: bool, monkeypatch) -> None:
    """Keys and values, masks, sums, latents and queries: neither after a pass nor after an accident in one."""
    unet = sd_unet()
    x, t, text = inputs(unet, size=16)
    acting = [
        make_prompt(unet, 5, region=Region(torch.ones(8, 8).tril())), make_prompt(unet, 6, influence=Influence()),
    ]  # fmt: skip
    sampler = torch.nn.Identity()
    injection = Injection(unet, cross_attention_layers(unet), acting).attach()
    injection.begin(layout([1], 2), 0, 1, size=(16, 16), sampler=sampler, texts=lambda: (text[:1], text[1:]))
    seen: list[weakref.ref] = []
    sampler.register_forward_hook(lambda *_: (unet(x, t, context=text), 1 / 0 if fails else None))
    with contextlib.suppress(ZeroDivisionError):
        sampler(x)
    seen += [weakref.ref(one.key) for hooks in injection.layers for one in hooks.gathered.values()]
    seen += [weakref.ref(mask) for mask in acting[0].region._layers.values()]
    sums = [weakref.ref(total) for total in acting[1].influence._sums.values()]
    assert len(seen) > 30 and sums
    moved: list[int] = []
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: moved.append(1) or self.clone())
    injection.detach()
    monkeypatch.undo()
    gc.collect()
    assert [ref() for ref in seen + sums if ref() is not None] == []
    assert len(moved) == len(sums)
    assert injection.cursor.asked_latents is None and injection.cursor.texts is None
    assert acting[1].influence.maps()[0].mean() > 0


def test_sums_that_cannot_leave_a_broken_device_are_let_go(monkeypatch) -> None:
    influence = Influence()
    influence.begin((Row(True, 0),), (4, 4), 0, 1, 1)
    influence.enter((4, 4))
    influence.add(draw(1, 16, 8, seed=1), draw(1, 16, 8, seed=2), (Row(True, 0),))

    def broken(self: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch.Tensor, "cpu", broken)
    influence.leave_device()
    assert influence.incomplete
    assert influence.maps() == {}
