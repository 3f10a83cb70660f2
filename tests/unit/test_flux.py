"""Image prompts in FLUX: equal to diffusers, exact at both ends, additive between them, and nothing is left."""

from __future__ import annotations

import types

import pytest
import torch
import torch.nn.functional as F

import demo.forge.flux as host
from lib_ipadapter.attend.flux import inject, kernel
from lib_ipadapter.attend.flux.appended import Bias
from lib_ipadapter.attend.flux.appended import Part as Behind
from lib_ipadapter.attend.flux.inject import FluxInjection
from lib_ipadapter.attend.injection import detach_all, injections
from lib_ipadapter.attend.layers import Topology
from lib_ipadapter.attend.models import injection_into, topology_of
from lib_ipadapter.attend.outcome import Outcome
from lib_ipadapter.attend.prompt import ImagePrompt, KeysValues
from lib_ipadapter.attend.regions import Part, Region
from lib_ipadapter.attend.rows import Row, layout
from lib_ipadapter.attend.step import Step
from lib_ipadapter.checkpoint.catalog import Catalog
from lib_ipadapter.errors import DeviceMemoryError, MismatchError
from lib_ipadapter.jobs.resources import Resources
from lib_ipadapter.weighting import Spread
from tests.helpers.files import unit
from tests.helpers.flux import (
    CONTEXT,
    beside,
    call,
    latent,
    packed,
    plain,
    redux,
    reference,
    tiny_flux,
    write_instantx,
)
from tests.helpers.jobs import generation
from tests.helpers.tensors import close, draw

HOSTS = host.attention_function

C0, C1, U0, U1 = Row(True, 0), Row(True, 1), Row(False, 0), Row(False, 1)
LEFT = torch.cat([torch.ones(8, 6), torch.zeros(8, 6)], dim=1)
SOFT = torch.linspace(0, 1, 12).expand(8, 12).contiguous()
PROMPTS = {"redux": redux, "xlabs": beside, "instantx": lambda **kwargs: beside(layers=4, **kwargs)}
EACH = pytest.mark.parametrize("kind", PROMPTS)
ROUNDING = 2e-4
"""Between outputs of up to 4.3 of this processor and those of another kind: 3e-5 and 9e-5 were seen (AVX-512, AVX2)."""


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    assert host.attention_function is HOSTS


@pytest.fixture
def flux():
    made = tiny_flux()
    before = plain(made)
    yield made
    assert injections(made) == []
    assert torch.equal(plain(made), before)


@pytest.fixture
def counted(monkeypatch):
    """How often attention with a bias was asked for."""
    calls, attention = [], kernel.ATTENTION

    def counting(*args):
        calls.append(args[3].shape)
        return attention(*args)

    monkeypatch.setattr(kernel, "ATTENTION", counting)
    return calls


# --- equal to diffusers ---------------------------------------------------------------------------------------------


def test_the_model_is_that_of_diffusers(flux) -> None:
    assert close(packed(plain(flux)), reference()["flux.plain"], ROUNDING)


def test_redux_is_that_of_diffusers(flux, counted) -> None:
    made = call(flux, [redux(reference()["flux.redux_tokens"])])
    assert close(packed(made), reference()["flux.redux"], ROUNDING)
    assert counted == []  # whole tokens want no bias
    longer = torch.cat([reference()["flux.txt"], reference()["flux.redux_tokens"]], dim=1)
    assert torch.equal(made, plain(flux, context=longer))


def test_a_strength_is_a_bias_of_the_tokens_keys(flux, counted) -> None:
    made = call(flux, [redux(reference()["flux.redux_tokens"], 0.25)])
    assert close(packed(made), reference()["flux.redux_columns"], ROUNDING)
    assert not close(packed(made), reference()["flux.redux_crossed"], 1e-3)
    assert set(counted) == {(1, 1, 1, 5 + 9 + 24)} and len(counted) == 4  # one line for all rows, in each block


def test_xlabs_is_that_of_diffusers(flux) -> None:
    r = reference()
    keys, values = (
        tuple(
            F.linear(tokens, r[f"{layer}.weight"], r[f"{layer}.bias"])
            for i in range(2)
            for layer in [f"xlabs.weights.double_blocks.{i}.processor.ip_adapter_double_stream_{kind}_proj"]
            for tokens in [torch.cat([r["xlabs.tokens"], torch.zeros_like(r["xlabs.tokens"])])]
        )
        for kind in "kv"
    )
    made = call(flux, [ImagePrompt(KeysValues(keys, values), 0.6)])
    assert close(packed(made), r["xlabs.output"], ROUNDING)
    assert not close(packed(made), r["flux.plain"], 1e-2)


def test_instantx_is_added_before_the_projections(flux) -> None:
    """Against the same sums in a model whose blocks are written with them."""
    prompt = beside(layers=4)
    expected = plain(_with_instantx(tiny_flux(), prompt))
    assert close(call(flux, [prompt]), expected, 1e-5)
    assert not close(expected, plain(flux), 1e-2)


def _with_instantx(model, prompt):
    """``model`` with its attention replaced: each call of it adds to what it gives, query taken before positions."""
    queries = []

    def beside_it(q, i):
        q = q.transpose(1, 2).flatten(2).unflatten(-1, (2, -1)).transpose(1, 2)
        k, v = (side[i][:1].expand(2, -1, -1).unflatten(-1, (2, -1)).transpose(1, 2)
                for side in (prompt.kv.keys, prompt.kv.values))  # fmt: skip
        weights = torch.softmax(q @ k.transpose(-1, -2) / 8**0.5, dim=-1)
        return (weights @ v).transpose(1, 2).flatten(2)

    for i, block in enumerate([*model.double_blocks, *model.single_blocks]):
        norm = block.img_attn.norm if i < 2 else block.norm
        linear = block.img_attn.proj if i < 2 else block.linear2
        norm.register_forward_hook(lambda _m, _a, out: queries.append(out[0]))

        def add(_module, args, i=i):
            (x,) = args
            return torch.cat([x[..., :16] + beside_it(queries.pop(), i), x[..., 16:]], dim=-1)

        linear.register_forward_pre_hook(add)
    return model


# --- exact at both ends, additive between ---------------------------------------------------------------------------


@EACH
def test_it_acts_and_nothing_of_it_stays(kind: str, flux) -> None:
    assert not close(call(flux, [PROMPTS[kind]()]), plain(flux), 1e-2)


@EACH
def test_weight_0_is_plain(kind: str, flux, counted) -> None:
    assert torch.equal(call(flux, [PROMPTS[kind](weight=0.0)]), plain(flux))
    assert counted == []


@EACH
def test_a_weight_near_0_is_nearly_plain(kind: str, flux) -> None:
    without, small = plain(flux), call(flux, [PROMPTS[kind](weight=1e-5)])
    assert close(small, without, 2e-4)
    steps = [(call(flux, [PROMPTS[kind](weight=w)]) - without).abs().mean() for w in (0.02, 0.1, 0.5, 1.0)]
    assert steps == sorted(steps) and steps[0] > 1e-4


@EACH
@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.25, 0.75), (1.5, 0.5)])
def test_units_add_up(kind: str, shares, flux) -> None:
    several = call(flux, [PROMPTS[kind](weight=share) for share in shares])
    assert close(several, call(flux, [PROMPTS[kind](weight=sum(shares))]), 1e-5)


def test_weight_2_is_the_tokens_twice(flux) -> None:
    tokens = draw(1, 5, CONTEXT, seed=3)
    assert close(call(flux, [redux(tokens, 2.0)]), call(flux, [redux(torch.cat([tokens, tokens], 1))]), 1e-5)


def test_tokens_have_factors_of_their_own(flux) -> None:
    tokens = draw(1, 5, CONTEXT, seed=3)
    factor = torch.tensor([[2.0, 1, 0, 1, 1]])
    copies = tokens[:, [0, 0, 1, 3, 4]]
    expected = call(flux, [redux(copies)])
    assert close(call(flux, [redux(tokens, factor=factor)]), expected, 1e-5)
    assert close(
        call(flux, [redux(tokens, 0.5, factor=factor)]), call(flux, [redux(tokens[:, [0, 0, 1, 3, 4]], 0.5)]), 1e-5
    )


def test_different_units_stand_together(flux) -> None:
    several = [redux(), redux(draw(1, 3, CONTEXT, seed=8), 0.4), beside(), beside(9, 0.5, layers=4)]
    whole = call(flux, several)
    for i in range(4):
        assert not close(call(flux, several[:i] + several[i + 1 :]), whole, 1e-3)
    assert close(call(flux, several[::-1]), whole, 1e-5)


# --- rows -----------------------------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("weight", [1.0, 0.6])
def test_unconditional_rows_of_the_same_call(kind: str, weight: float, flux) -> None:
    """They are first, as on Forge. Redux has nothing for them, the others their own keys and values."""
    prompt = PROMPTS[kind](weight=weight)
    both = call(flux, [prompt], (U0, C0))
    assert close(both[1:], call(flux, [prompt], (C0,), of=(1,)), 1e-5)
    apart = call(flux, [prompt], (U0,), of=(0,))
    assert close(both[:1], apart, 1e-5)
    assert torch.equal(apart, plain(flux, of=(0,))) == (kind == "redux")


def test_rows_without_tokens_have_the_plain_models_attention(flux, monkeypatch) -> None:
    seen = []

    def watched(q, *args, **kwargs):
        seen.append(tuple(q.shape))
        return HOSTS(q, *args, **kwargs)

    monkeypatch.setattr(host, "attention_function", watched)
    call(flux, [redux()], (U0, C0))
    assert seen == [(1, 2, 5 + 24, 8), (1, 2, 5 + 5 + 24, 8)] * 4
    monkeypatch.setattr(host, "attention_function", HOSTS)


def test_negative_references_are_for_unconditional_rows(flux) -> None:
    negative = draw(1, 3, CONTEXT, seed=11)
    prompt = redux(uncond=negative, uncond_factor=torch.full((1, 3), 0.5))
    both = call(flux, [prompt], (U0, C0))
    assert close(both[:1], call(flux, [redux(negative, 0.5)], (C0,), of=(0,)), 1e-5)
    assert close(both[1:], call(flux, [redux()], (C0,), of=(1,)), 1e-5)
    none = redux(uncond=negative[:, :0], uncond_factor=torch.ones(1, 0))
    assert torch.equal(call(flux, [none], (U0,), of=(0,)), plain(flux, of=(0,)))


@EACH
def test_pictures_have_their_own_references(kind: str, flux) -> None:
    if kind == "redux":
        tokens = draw(2, 5, CONTEXT, seed=3)
        each, singly = redux(tokens), [redux(tokens[i : i + 1]) for i in range(2)]
    else:
        each = beside(layers=2 if kind == "xlabs" else 4, pictures=2)
        pairs = [*zip(each.kv.keys, each.kv.values, strict=True)]
        singly = [
            ImagePrompt(KeysValues(*zip(*[(k[[i, i + 2]], v[[i, i + 2]]) for k, v in pairs], strict=True)))
            for i in range(2)
        ]
    both = call(flux, [each])
    for i in range(2):
        assert close(both[i : i + 1], call(flux, [singly[i]], (C0,), of=(i,)), 1e-5)
    each.picture_offset = 1
    assert close(call(flux, [each], (C0,), of=(0,)), call(flux, [singly[1]], (C0,), of=(0,)), 1e-5)


def test_calls_whose_rows_are_not_told_are_left_alone(flux) -> None:
    with FluxInjection(flux, [redux(), beside()]) as injection:
        injection.begin(*Step(layout([1, 1], 2), 0, 1, rows_of_call=lambda _kwargs, _n: None))
        assert torch.equal(plain(flux), plain(flux))
        assert injection.lost == 2 and injection.outcome is Outcome.LOST and not injection.own_call
        injection.pause()
        plain(flux)
        assert injection.lost == 2
    assert torch.equal(call(flux, [redux()], (C0, C1, U0)), plain(flux))


# --- when and where in the model ------------------------------------------------------------------------------------


@EACH
def test_windows_and_curves(kind: str, flux) -> None:
    prompt = PROMPTS[kind](start=0.5)
    assert torch.equal(call(flux, [prompt], step=1, steps=4), plain(flux))
    assert torch.equal(call(flux, [prompt], step=2, steps=4), call(flux, [PROMPTS[kind]()]))
    curve = PROMPTS[kind](weight=((0.0, 1.0), (1.0, 0.0)))
    assert close(call(flux, [curve], step=1, steps=4), call(flux, [PROMPTS[kind](weight=0.625)]), 1e-6)
    with FluxInjection(flux, [curve]) as injection:  # what is kept of one step is not the next one's
        made = []
        for step in range(2):
            injection.begin(layout([1, 1], 2), step, 2)
            made.append(plain(flux))
    assert close(made[0], call(flux, [PROMPTS[kind](weight=0.75)]), 1e-6)
    assert close(made[1], call(flux, [PROMPTS[kind](weight=0.25)]), 1e-6)


@pytest.mark.parametrize("layers", [2, 4])
def test_layers_have_weights(layers: int, flux) -> None:
    whole = call(flux, [beside(layers=layers)])
    none = beside(layers=layers, spread=Spread(dict.fromkeys(range(layers), 0.0)))
    assert torch.equal(call(flux, [none]), plain(flux))
    each = [beside(layers=layers, spread=Spread({i: 1.0})) for i in range(layers)]
    assert close(call(flux, each), whole, 1e-5)
    assert not any(close(call(flux, [one]), plain(flux), 1e-3) for one in each)


def test_an_adapter_for_another_model_is_refused(flux) -> None:
    with pytest.raises(MismatchError, match="the adapter has 3 layers, the loaded FLUX 2 double and 2 single"):
        FluxInjection(flux, [beside(layers=3)])


# --- where in the picture -------------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("weight", [1.0, 0.7])
def test_white_is_no_mask_and_black_is_plain(kind: str, weight: float, flux, counted) -> None:
    bare = call(flux, [PROMPTS[kind](weight=weight)])
    before = len(counted)
    assert torch.equal(call(flux, [PROMPTS[kind](weight=weight, region=Region(torch.ones(8, 12)))]), bare)
    assert len(counted) == 2 * before
    black = PROMPTS[kind](weight=weight, region=Region(torch.zeros(8, 12)))
    with FluxInjection(flux, [black]) as injection:
        injection.begin(layout([1, 1], 2), 0, 1)
        assert torch.equal(plain(flux), plain(flux))
        assert injection.outcome is Outcome.ACTED and black.fired
    assert torch.equal(call(flux, [PROMPTS[kind](weight=weight, region=Region(torch.zeros(8, 12)))]), plain(flux))


@EACH
@pytest.mark.parametrize("mask", [LEFT, SOFT], ids=["left", "soft"])
def test_masks_that_add_up_to_one_are_one(kind: str, mask, flux) -> None:
    parts = [PROMPTS[kind](region=Region(one)) for one in (mask, 1 - mask)]
    whole = call(flux, [PROMPTS[kind]()])
    assert close(call(flux, parts), whole, 1e-5)
    assert not close(call(flux, parts[:1]), whole, 1e-2)
    even = PROMPTS[kind](region=Region(torch.full((8, 12), 0.5)))
    assert close(call(flux, [even]), call(flux, [PROMPTS[kind](weight=0.5)]), 1e-5)


@EACH
def test_the_picture_changes_where_the_mask_is(kind: str, flux) -> None:
    made = [
        (call(flux, [PROMPTS[kind](weight=0.5, region=Region(mask))]) - plain(flux)).abs().mean((0, 1, 2))
        for mask in (LEFT, 1 - LEFT)
    ]
    left, right = (one[:6].mean() / one[6:].mean() for one in made)
    assert left > 1.2 * right


def test_text_sees_masked_tokens_by_the_masks_mean(flux, monkeypatch) -> None:
    masks = []
    monkeypatch.setattr(kernel, "ATTENTION", lambda q, k, v, mask: masks.append(mask) or q)
    call(flux, [redux(weight=0.5, region=Region(LEFT))])
    mask = masks[0].exp()
    assert mask.shape == (1, 1, 34, 34)
    assert close(mask[0, 0, :10, 5:10], torch.full((10, 5), 0.25))  # half of the picture, weight 1/2
    assert close(mask[0, 0, 10:, 5:10], 0.5 * torch.tensor([1.0, 1, 1, 0, 0, 0]).repeat(4)[:, None].expand(24, 5))
    others = [*range(5), *range(10, 34)]
    assert close(mask[0, 0][:, others], torch.ones(34, 29))


def test_single_blocks_have_the_text_before_the_picture(flux) -> None:
    """InstantX' attention there, beside Redux' tokens: the text's places have the mask's mean."""
    prompt = beside(layers=4, region=Region(LEFT), spread=Spread({3: 1.0}))
    given = []
    last = flux.single_blocks[1].linear2
    before = last.register_forward_pre_hook(lambda _module, args: given.append(args[0][..., :16]))
    with FluxInjection(flux, [redux(), prompt]) as injection:
        injection.begin(layout([1, 1], 2), 0, 1)
        after = last.register_forward_pre_hook(lambda _module, args: given.append(args[0][..., :16]))
        plain(flux)
    before.remove(), after.remove()
    added = (given[1] - given[0]).norm(dim=-1)[0]
    picture = added[10:].reshape(4, 6)
    assert (added[:10] > 0).all() and (picture[:, :3] > 0).all() and not picture[:, 3:].any()


def test_a_negative_weight_leaves_nothing_of_the_tokens(flux) -> None:
    """It is refused before; a number that is none would make the picture black."""
    assert torch.equal(call(flux, [redux(weight=-0.5)]), plain(flux))


@EACH
def test_regions_of_pictures_differ(kind: str, flux) -> None:
    region = Region(SOFT).within(Part((8, 12), ((0, 0, 6, 8), (6, 0, 6, 8))))
    both = call(flux, [PROMPTS[kind](weight=0.7, region=region)])
    for i, mask in enumerate(region.masks):
        one = call(flux, [PROMPTS[kind](weight=0.7, region=Region(mask))], (C0,), of=(i,))
        assert close(both[i : i + 1], one, 1e-5)


@EACH
def test_a_part_of_the_picture_has_no_place(kind: str, flux) -> None:
    prompt = PROMPTS[kind](region=Region(LEFT))
    tile = latent(reference()["flux.img"])[..., :6]
    with FluxInjection(flux, [prompt]) as injection:
        injection.begin(*Step(layout([1, 1], 2), 0, 1, size=(8, 12)))
        assert torch.equal(plain(flux, x=tile), plain(flux, x=tile))
        assert injection.outcome is Outcome.MISPLACED
    assert not close(call(flux, [PROMPTS[kind]()], x=tile), plain(flux, x=tile), 1e-3)


@EACH
def test_odd_pictures(kind: str, flux) -> None:
    """Whose last row and column of the latent the model completes by itself."""
    x = draw(2, 4, 7, 9, seed=4)
    halves = [PROMPTS[kind](region=Region(mask)) for mask in (SOFT, 1 - SOFT)]
    assert close(call(flux, halves, x=x), call(flux, [PROMPTS[kind]()], x=x), 1e-5)


# --- the host's attention -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("end", ["detach", "detach_all"])
def test_errors_in_the_model_leave_nothing(error, end: str, flux) -> None:
    def broken(*_args):
        assert host.attention_function is not HOSTS
        raise error

    handle = flux.single_blocks[0].register_forward_pre_hook(broken)
    injection = FluxInjection(flux, [redux(weight=0.5), beside()]).attach()
    injection.begin(layout([1, 1], 2), 0, 1)
    with pytest.raises(error):
        plain(flux)
    handle.remove()
    assert (host.attention_function is HOSTS) == (error is ValueError)  # the other one is no error to torch
    injection.detach() if end == "detach" else detach_all(flux)
    assert host.attention_function is HOSTS
    assert all(hooks.query is None and not hooks.kept.gathered for hooks in injection.layers)
    assert not injection._kept and injection._bias is None


def test_between_calls_the_name_is_the_hosts_own(flux) -> None:
    with FluxInjection(flux, [redux(weight=0.5)]) as injection:
        for step in range(2):
            injection.begin(layout([1, 1], 2), step, 2)
            plain(flux)
            assert host.attention_function is HOSTS
        assert injection.outcome is Outcome.ACTED


def test_whole_tokens_leave_the_name_alone(flux) -> None:
    handle = flux.double_blocks[0].register_forward_pre_hook(lambda *_: named.append(host.attention_function))
    named: list = []
    call(flux, [redux(), beside()])
    handle.remove()
    assert named == [HOSTS]


def test_another_replacement_stays(flux, monkeypatch) -> None:
    """Put there by an extension during our call, around what it found."""
    monkeypatch.setattr(host, "attention_function", HOSTS)
    calls = []

    def wrap(*_args):
        found = host.attention_function

        def theirs(*args, **kwargs):
            calls.append(1)
            return found(*args, **kwargs)

        host.attention_function = theirs

    handle = flux.double_blocks[0].register_forward_pre_hook(wrap)
    made = call(flux, [redux(weight=0.5)])
    handle.remove()
    assert host.attention_function is not HOSTS
    assert torch.equal(plain(flux), (setattr(host, "attention_function", HOSTS), plain(flux))[1])
    assert torch.equal(made, call(flux, [redux(weight=0.5)])) and len(calls) == 8


def test_a_model_that_does_not_ask_the_name_is_noticed(flux, monkeypatch) -> None:
    monkeypatch.setattr(host, "attention", lambda q, k, v, turns: q.transpose(1, 2).flatten(2))
    with FluxInjection(flux, [redux(weight=0.5)]) as injection:
        injection.begin(layout([1, 1], 2), 0, 1)
        plain(flux)
        assert injection.outcome is Outcome.LOST and injection.lost == 1
    monkeypatch.undo()


def test_without_a_name_it_is_refused(flux, monkeypatch) -> None:
    monkeypatch.delattr(host, "attention_function")
    with pytest.raises(MismatchError, match="leaves no way to its attention: use Forge"):
        FluxInjection(flux, [redux()])
    FluxInjection(flux, [beside()])
    monkeypatch.undo()


ATTENTION = """
def attention(q, k, v, turns):
    return optimized_attention(turned(q, turns), turned(k, turns), v, q.shape[1], skip_reshape=True)
"""


def test_the_name_may_stand_in_another_module(flux, monkeypatch) -> None:
    """As where ``attention`` is imported from a file of its own."""
    elsewhere = types.ModuleType("elsewhere")
    elsewhere.optimized_attention, elsewhere.turned = HOSTS, host.turned
    space = vars(elsewhere)
    exec(ATTENTION, space)
    expected = call(flux, [redux(weight=0.5)])
    monkeypatch.delattr(host, "attention_function")
    monkeypatch.setattr(host, "attention", space["attention"])
    assert torch.equal(call(flux, [redux(weight=0.5)]), expected)
    assert space["optimized_attention"] is HOSTS
    monkeypatch.undo()


FORMS = [
    {"skip_reshape": True},
    {"skip_reshape": False},
    {"skip_reshape": True, "skip_output_reshape": True},
]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("mask", [None, "bool", "float", "of rows"])
def test_hosts_hand_over_in_several_ways(form: dict, mask: str | None, monkeypatch) -> None:
    """With a mask of their own, by heads or not: as torch's attention with both."""
    bias_mask = torch.zeros(3, 1, 12, 12)
    bias_mask[1, ..., 4:7], bias_mask[2, ..., 4:7] = torch.tensor(0.5).log(), -torch.inf
    q, k, v = (draw(3, 2, 12, 8, seed=i) for i in range(3))
    given = None if mask is None else draw(3 if mask == "of rows" else 1, 1, 12, 12, seed=9)
    given = given > -1 if mask == "bool" else given
    dense = torch.zeros(1) if given is None else given
    dense = torch.where(dense, 0.0, -torch.inf) if dense.dtype == torch.bool else dense
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=bias_mask + dense)
    if not form["skip_reshape"]:
        q, k, v = (x.transpose(1, 2).flatten(2) for x in (q, k, v))

    def hosts(q, k, v, heads, mask=None, precision=None, skip_reshape=False, skip_output_reshape=False):
        out = HOSTS(q, k, v, heads, mask, skip_reshape=skip_reshape)
        return out.unflatten(-1, (heads, -1)).transpose(1, 2) if skip_output_reshape else out

    monkeypatch.setattr(host, "attention_function", hosts)
    weights = torch.tensor([1.0, 0.5, 0.0])[:, None].expand(3, 3)
    ours = kernel.BiasedAttention(kernel.Place(vars(host), "attention_function"), FluxInjection(tiny_flux(), []))
    ours.put(Bias([Behind(0, redux(), (C0, C1, C0), weights)], 4))
    made = host.attention_function(q, k, v, 2, *([given] if mask else []), **form)
    ours.back()
    if not form.get("skip_output_reshape"):
        made = made.unflatten(-1, (2, -1)).transpose(1, 2)
    seen = torch.tensor([i for i in range(12) if not 4 <= i < 7])
    assert close(made[:2], expected[:2], 1e-5)
    assert close(made[2][:, seen], expected[2][:, seen], 1e-5)
    assert not made[2][:, 4:7].any()  # nobody sees these
    monkeypatch.undo()


# --- room -----------------------------------------------------------------------------------------------------------


class OutOfMemoryError(RuntimeError):
    """Called as CUDA's."""


def test_without_room_for_a_strength_the_error_says_so(flux, monkeypatch) -> None:
    monkeypatch.setattr(kernel, "ATTENTION", lambda *_: (_ for _ in ()).throw(OutOfMemoryError("no memory")))
    with pytest.raises(DeviceMemoryError, match="no room for a strength .*: set the weight to 1"):
        call(flux, [redux(weight=0.5)])


@pytest.mark.parametrize("others", [0, 1])
def test_nothing_is_kept_where_there_is_no_room(others: int, flux, monkeypatch) -> None:
    def prompts():
        return [redux(weight=0.5), *(beside() for _ in range(others))]

    expected, attention, failed = call(flux, prompts()), kernel.ATTENTION, []

    def full_once(*args):
        if not failed:
            failed.append(1)
            raise OutOfMemoryError("no memory")
        return attention(*args)

    monkeypatch.setattr(kernel, "ATTENTION", full_once)
    with FluxInjection(flux, prompts()) as injection:
        for step in range(2):
            injection.begin(layout([1, 1], 2), step, 2)
            assert torch.equal(plain(flux), expected)
            assert not injection._kept and not injection.keeps


# --- neighbours -----------------------------------------------------------------------------------------------------


def test_blocks_with_an_attention_of_their_own_are_told(flux, monkeypatch) -> None:
    """A strength that only some of the blocks heed is none."""
    monkeypatch.setattr(type(flux.single_blocks[0]), "forward", ignoring(type(flux.single_blocks[0]).forward))
    with FluxInjection(flux, [redux(weight=0.5)]) as injection:
        injection.begin(layout([1, 1], 2), 0, 1)
        plain(flux)
        assert injection.lost == 1 and not injection.fired
    assert injection.outcome is Outcome.LOST


def ignoring(forward):
    """A block's ``forward`` with the host's attention, whatever stands in its place."""

    def own(self, *args, **kwargs):
        space = forward.__globals__
        ours, space["attention_function"] = space["attention_function"], HOSTS
        try:
            return forward(self, *args, **kwargs)
        finally:
            space["attention_function"] = ours

    return own


def test_blocks_that_a_cache_leaves_out_are_no_loss(flux, monkeypatch) -> None:
    with FluxInjection(flux, [redux(weight=0.5)]) as injection:
        injection.begin(layout([1, 1], 2), 0, 2)
        plain(flux)
        injection.begin(layout([1, 1], 2), 1, 2)
        monkeypatch.setattr(type(flux), "forward", lambda self, x, *args, **kwargs: x)
        plain(flux)
        monkeypatch.undo()
        assert injection.lost == 0 and injection.outcome is Outcome.ACTED


def test_who_wraps_our_attention_and_stays_is_called_and_calls_ours(flux, monkeypatch) -> None:
    space = vars(host)
    monkeypatch.setitem(space, "attention_function", HOSTS)
    expected, seen = call(flux, [redux(weight=0.5)], (C0, U0)), []

    def wrap(*_):
        if not seen:
            inner = space["attention_function"]

            def theirs(*args, **kwargs):
                seen.append(1)
                return inner(*args, **kwargs)

            space["attention_function"] = theirs

    handle = flux.double_blocks[0].register_forward_pre_hook(wrap)
    try:
        with FluxInjection(flux, [redux(weight=0.5)]) as injection:
            for step in range(3):
                injection.begin((C0, U0), step, 3)
                assert torch.equal(plain(flux), expected)
            assert injection.lost == 0
    finally:
        handle.remove()
    assert len(seen) > 8


def test_an_error_in_the_model_is_no_acting(flux, monkeypatch) -> None:
    monkeypatch.setattr(kernel, "ATTENTION", lambda *_: (_ for _ in ()).throw(ValueError("broken")))
    prompt = redux(weight=0.5)
    with FluxInjection(flux, [prompt]) as injection:
        injection.begin(layout([1, 1], 2), 0, 1)
        with pytest.raises(ValueError, match="broken"):
            plain(flux)
        assert not prompt.fired and injection.lost == 0


# --- what is made anew ----------------------------------------------------------------------------------------------


def test_tokens_are_brought_to_the_device_once(flux, monkeypatch) -> None:
    """Whether a strength changes from step to step, or only one of two units has negative references."""
    made, stacked = [], inject.stacked
    monkeypatch.setattr(inject, "stacked", lambda part: made.append(part.rows) or stacked(part))
    curve = ((0.0, 1.0), (1.0, 0.2))
    negative = {"uncond": draw(1, 5, CONTEXT, seed=4)}
    for prompts, most in (([redux(weight=curve)], 1), ([redux(weight=0.5), redux(weight=0.7, **negative)], 3)):
        made.clear()
        with FluxInjection(flux, prompts) as injection:
            for step in range(6):
                for rows, of in (((C0,), (0,)), ((U0,), (0,))):
                    injection.begin((C0, U0), step, 6, rows_of_call=lambda kwargs, n, rows=rows: rows)
                    plain(flux, of=of)
        assert len(made) <= most


# --- whole -----------------------------------------------------------------------------------------------------------


def test_instantx_from_its_file_to_the_picture(tmp_path) -> None:
    """On a model with all of the published one's blocks."""
    whole = write_instantx(tmp_path)
    catalog = Catalog([tmp_path], [tmp_path])
    catalog.refresh()

    def made(*units: dict):
        with generation(whole, Resources(catalog), *units) as job:
            job.attach(whole).begin((C0,), 0, 1)
            return plain(whole, of=(0,))

    bare = plain(whole, of=(0,))
    acting = made(unit("instantx"))
    assert (acting - bare).abs().mean() > 1e-2
    assert close(made(unit("instantx", weight=0.5), unit("instantx", weight=0.5)), acting)
    double, single = ({str(t): 1.0 for t in blocks} for blocks in (range(19), range(19, 57)))
    parts = [unit("instantx", layer_weights=blocks) for blocks in (double, single)]
    assert close(made(*parts), acting)
    assert not any(close(made(one), acting, 1e-2) or close(made(one), bare, 1e-2) for one in parts)
    assert torch.equal(plain(whole, of=(0,)), bare)


# --- what the model is ----------------------------------------------------------------------------------------------


class Packed(torch.nn.Module):
    """A linear layer that tells no widths."""


@pytest.mark.parametrize("packed", [False, True])
def test_its_topology(packed: bool) -> None:
    flux = tiny_flux()
    flux.config = {"context_in_dim": CONTEXT, "hidden_size": 16} if packed else None
    if packed:
        flux.img_in, flux.txt_in = Packed(), Packed()
    found = topology_of(flux)
    assert found == Topology(CONTEXT, (16, 16), 2) and found.blocks == 2
    assert found.base == "FLUX"
    assert isinstance(injection_into(flux, [beside()]), FluxInjection)


def test_chroma_is_another_model() -> None:
    flux = tiny_flux()
    del flux.vector_in
    with pytest.raises(MismatchError, match="has no cross-attention UNet"):
        topology_of(flux)


def test_widths_that_nothing_tells_are_refused() -> None:
    flux = tiny_flux()
    flux.config, flux.txt_in = {}, Packed()
    with pytest.raises(MismatchError, match="does not tell its widths"):
        topology_of(flux)
