"""The LoRA inside a FaceID checkpoint: equal to diffusers, to merged weights, and to nothing once it is removed."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lib_ipadapter.attend import lora as module
from lib_ipadapter.attend.inject import Injection
from lib_ipadapter.attend.layers import cross_attention_layers
from lib_ipadapter.attend.lora import Lora, names_face_lora, strongest
from lib_ipadapter.attend.prompt import ImagePrompt, KeysValues
from lib_ipadapter.attend.rows import layout
from lib_ipadapter.errors import DeviceMemoryError, MismatchError
from lib_ipadapter.projections import build
from tests.helpers.diffusers_reference import add_adapters, diffusers_unet, published, run
from tests.helpers.loras import deltas, face_lora, lora_tensors, merged, patched
from tests.helpers.projections import face_mlp, perceiver, tensors
from tests.helpers.prompts import call, inputs, make_prompt
from tests.helpers.tensors import close, draw, kv_weights
from tests.helpers.unets import sd_unet, sdxl_unet

ROWS = layout([1], 2)


def with_lora(unet, lora: Lora, seed: int = 5, weight: float = 0.8, **options) -> ImagePrompt:
    return make_prompt(unet, seed, weight, lora=lora, **options)


def add_lora(twin: nn.Module, file: dict[str, dict[str, torch.Tensor]]) -> None:
    """The LoRA in a published file, in the weights of the layers which diffusers says that it is for."""
    (named,) = twin._load_ip_adapter_loras([file]).values()
    assert len(named) == sum("_lora." in key for key in file["ip_adapter"])
    for key, down in named.items():
        if key.endswith(".down.weight"):
            place = key.removeprefix("unet.").removesuffix("_lora.down.weight").replace(".processor.", ".")
            weight = twin.get_submodule(f"{place}.0" if place.endswith("to_out") else place).weight
            weight.data = weight.data + named[key.replace(".down.", ".up.")] @ down


# --- diffusers ------------------------------------------------------------------------------------------------------

FACE, CLIP = draw(1, 512, seed=41), draw(2, 7, 1280, seed=42)  # a face; CLIP's features of it, and of nothing


def prompt_lora(kind: str, unet: nn.Module):
    if kind == "none":
        return nullcontext()
    return {"patched": patched, "merged": merged}[kind](unet, lora_tensors(unet, seed=900))


def projected(kind: str, width: int) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """A FaceID projection's weights, and the tokens of a face and of none."""
    faces = (FACE, torch.zeros_like(FACE))
    if kind == "faceid":
        weights = tensors(face_mlp(4, width), seed=60)
        return weights, [build("FaceIDMLP", weights, width)(face) for face in faces]
    weights = tensors({**face_mlp(4, width), **perceiver("perceiver_resampler.", width, 4, 1280, width)}, seed=60)
    project = build("FaceIDPlus", weights, width)
    tokens = [
        project(face, clip[None], shortcut=kind == "v2", scale=0.7) for face, clip in zip(faces, CLIP, strict=True)
    ]
    return weights, tokens


@pytest.mark.parametrize("other", ["none", "patched", "merged"])
@pytest.mark.parametrize("kind", ["faceid", "v1", "v2"])
def test_a_faceid_step_equals_diffusers(kind: str, other: str) -> None:
    """Projection, image attention and LoRA of a whole step, without and with a LoRA from the prompt."""
    unet = sd_unet()
    width = 768
    weights, (cond, uncond) = projected(kind, width)
    key, value = kv_weights(unet, 5)
    loras = lora_tensors(unet)
    file = published(weights, key, value)
    file["ip_adapter"] |= loras
    with prompt_lora("none" if other == "none" else "merged", unet):
        twin = diffusers_unet(unet, width)
    add_adapters(twin, [file], [0.8])
    plain_twin_layer = twin.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight.clone()
    add_lora(twin, file)
    assert not torch.equal(plain_twin_layer, twin.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight)
    if kind != "faceid":
        (projection,) = twin.encoder_hid_proj.image_projection_layers
        projection.clip_embeds, projection.shortcut, projection.shortcut_scale = CLIP[:, None], kind == "v2", 0.7

    prompt = ImagePrompt(KeysValues.project(key, value, cond, uncond), 0.8, lora=Lora("file", loras))
    x, t, text = inputs(unet, size=16)
    with prompt_lora(other, unet):
        ours, without = (
            call(unet, x, t, text, [prompt], ROWS),
            call(unet, x, t, text, [replace(prompt, lora=None)], ROWS),
        )
    theirs = run(twin, x, t, text, [torch.stack([FACE, torch.zeros_like(FACE)])])
    assert (ours - without).abs().mean() > 1e-2
    assert close(ours, theirs), (ours - theirs).abs().max()


def test_sdxls_layers_are_numbered_as_diffusers_numbers_them() -> None:
    unet = sdxl_unet()
    key, value = kv_weights(unet, 5)
    loras = lora_tensors(unet)
    weights, (cond, uncond) = projected("faceid", 2048)
    file = published(weights, key, value)
    file["ip_adapter"] |= loras
    twin = diffusers_unet(unet, 2048, xl=True, linear=True)
    add_adapters(twin, [file], [0.8])
    add_lora(twin, file)
    x, t, text = inputs(unet)
    prompt = ImagePrompt(KeysValues.project(key, value, cond, uncond), 0.8, lora=Lora("file", loras))
    theirs = run(twin, x, t, text, [torch.stack([FACE, torch.zeros_like(FACE)])])
    assert close(call(unet, x, t, text, [prompt], ROWS), theirs)


# --- strengths ------------------------------------------------------------------------------------------------------


def test_hooks_are_merged_weights_whatever_the_strength(unet) -> None:
    x, t, text = inputs(unet)
    for strength in (1.0, 0.6, -0.5):
        lora = face_lora(unet, strength)
        with merged(unet, dict(lora.tensors), strength):
            expected = call(unet, x, t, text, [make_prompt(unet, 5, 0.8)], ROWS)
        assert close(call(unet, x, t, text, [with_lora(unet, lora)], ROWS), expected)


def test_strength_0_is_no_lora_bit_for_bit(unet) -> None:
    x, t, text = inputs(unet)
    without = call(unet, x, t, text, [make_prompt(unet, 5, 0.8)], ROWS)
    assert torch.equal(call(unet, x, t, text, [with_lora(unet, face_lora(unet, 0.0))], ROWS), without)


def test_twice_the_strength_of_half_the_matrix_is_the_same(unet) -> None:
    x, t, text = inputs(unet)
    lora = face_lora(unet)
    half = {key: tensor / 2 if ".up." in key else tensor for key, tensor in lora.tensors.items()}
    whole = call(unet, x, t, text, [with_lora(unet, lora)], ROWS)
    assert torch.equal(call(unet, x, t, text, [with_lora(unet, Lora("half", half, 2.0))], ROWS), whole)


def test_the_effect_rises_with_the_strength(unet) -> None:
    x, t, text = inputs(unet)
    plain = call(unet, x, t, text, [make_prompt(unet, 5, 0.8)], ROWS)
    effects = [
        float((call(unet, x, t, text, [with_lora(unet, face_lora(unet, s))], ROWS) - plain).norm())
        for s in (0.05, 0.1, 0.2, 0.4)
    ]
    assert effects == sorted(effects)
    assert effects[0] > 0


def test_two_units_with_one_file_have_its_lora_once_at_the_greater_strength(unet) -> None:
    x, t, text = inputs(unet)
    weak, strong = face_lora(unet, 0.4), face_lora(unet, 0.9)
    other = make_prompt(unet, 6, 0.5)
    expected = call(unet, x, t, text, [with_lora(unet, strong), other], ROWS)
    for loras in ((weak, strong), (strong, weak), (strong, strong)):
        prompts = [replace(p, lora=lora) for p, lora in zip((with_lora(unet, strong), other), loras, strict=True)]
        assert torch.equal(call(unet, x, t, text, prompts, ROWS), expected)


def test_loras_of_different_files_add(unet) -> None:
    x, t, text = inputs(unet)
    one, two = face_lora(unet, 0.7), face_lora(unet, 0.4, seed=500, rank=3)
    prompts = [make_prompt(unet, 5, 0.8), make_prompt(unet, 6, 0.5)]
    with merged(unet, dict(one.tensors), 0.7), merged(unet, dict(two.tensors), 0.4):
        expected = call(unet, x, t, text, prompts, ROWS)
    prompts = [replace(prompts[0], lora=one), replace(prompts[1], lora=two)]
    assert close(call(unet, x, t, text, prompts, ROWS), expected)


def test_the_strongest_of_each_file_counts_and_0_is_none() -> None:
    a, b, c, off = Lora("a", {}, 0.2), Lora("b", {}, 0.5), Lora("a", {}, 0.3), Lora("c", {}, 0.0)
    assert strongest([a, b, c, off]) == (c, b)
    assert strongest([off, Lora("c", {}, -0.5)]) == ()
    assert strongest([]) == ()


# --- when it acts ---------------------------------------------------------------------------------------------------


def test_it_acts_in_its_units_steps_alone(unet) -> None:
    x, t, text = inputs(unet)
    one, two = face_lora(unet), face_lora(unet, seed=500)
    prompts = [with_lora(unet, one, end=0.5), with_lora(unet, two, seed=6, start=0.5)]
    plain = unet(x, t, context=text)
    first, second = (
        call(unet, x, t, text, [one], ROWS, step=step, steps=4) for one, step in zip(prompts, (0, 3), strict=True)
    )
    with Injection(unet, cross_attention_layers(unet), prompts) as injection:
        for step, alone in ((0, first), (3, second), (1, first)):
            injection.begin(ROWS, step, 4)
            assert torch.equal(unet(x, t, context=text), alone)
        injection.pause()
        assert torch.equal(unet(x, t, context=text), plain)
    late = with_lora(unet, one, start=0.5)
    assert torch.equal(call(unet, x, t, text, [late], ROWS, step=0, steps=4), plain)


@pytest.mark.parametrize("weight", [0.0, ((0.0, 0.0), (0.5, 0.0), (1.0, 1.0))])
def test_a_unit_without_weight_has_no_lora(unet, weight) -> None:
    x, t, text = inputs(unet)
    prompt = replace(with_lora(unet, face_lora(unet)), weight=weight)
    assert torch.equal(call(unet, x, t, text, [prompt], ROWS, step=0, steps=9), unet(x, t, context=text))


def test_a_call_whose_rows_nothing_tells_stays_plain(unet) -> None:
    x, t, text = inputs(unet, rows=3)
    prompt = with_lora(unet, face_lora(unet))
    assert torch.equal(call(unet, x, t, text, [prompt], ROWS), unet(x, t, context=text))


def test_pictures_of_a_batch_are_what_each_is_alone(unet) -> None:
    x, t, text = inputs(unet, rows=4)
    prompt = with_lora(unet, face_lora(unet))
    together = call(unet, x, t, text, [prompt], layout([1, 1], 4))
    for i in (0, 1):
        pick = [i, 2 + i]
        assert close(together[pick], call(unet, x[pick], t[pick], text[pick], [prompt], ROWS))


def test_calls_of_single_rows_are_one_call(unet) -> None:
    x, t, text = inputs(unet)
    prompt = with_lora(unet, face_lora(unet))
    together = call(unet, x, t, text, [prompt], ROWS)
    with Injection(unet, cross_attention_layers(unet), [prompt]) as injection:
        injection.begin(ROWS, 0, 1)
        parts = [unet(x[i : i + 1], t[i : i + 1], context=text[i : i + 1]) for i in (0, 1)]
    assert close(torch.cat(parts), together)


# --- and what is left -----------------------------------------------------------------------------------------------


def hooks_of(unet: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in unet.modules())


def test_detaching_leaves_the_unet_bit_for_bit(unet) -> None:
    x, t, text = inputs(unet)
    plain, hooked = unet(x, t, context=text), hooks_of(unet)
    weights = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    injection = Injection(unet, cross_attention_layers(unet), [with_lora(unet, face_lora(unet))]).attach()
    assert torch.equal(unet(x, t, context=text), plain)  # attached, but no step was announced
    injection.begin(ROWS, 0, 1)
    assert not torch.equal(unet(x, t, context=text), plain)
    assert all(hook.matrices is not None for _, hook in injection.lora.hooked)
    injection.detach()
    assert torch.equal(unet(x, t, context=text), plain)
    assert hooks_of(unet) == hooked
    assert all(torch.equal(tensor, weights[name]) for name, tensor in unet.state_dict().items())
    assert all(hook.matrices is None for _, hook in injection.lora.hooked)


def test_an_exception_in_the_unet_leaves_nothing(unet) -> None:
    x, t, text = inputs(unet)
    plain = unet(x, t, context=text)
    injection = Injection(unet, cross_attention_layers(unet), [with_lora(unet, face_lora(unet))])
    with pytest.raises(RuntimeError), injection:
        injection.begin(ROWS, 0, 1)
        unet(x, t, context=text[..., :5])
    assert torch.equal(unet(x, t, context=text), plain)
    assert all(hook.matrices is None for _, hook in injection.lora.hooked)


def test_beside_the_hosts_lora_both_are_there_and_ours_alone_goes(unet) -> None:
    x, t, text = inputs(unet)
    lora, theirs = face_lora(unet), lora_tensors(unet, seed=900)
    with merged(unet, theirs), merged(unet, dict(lora.tensors)):
        expected = call(unet, x, t, text, [make_prompt(unet, 5, 0.8)], ROWS)
    for kind in (patched, merged):
        with kind(unet, theirs):
            before = unet(x, t, context=text)
            assert close(call(unet, x, t, text, [with_lora(unet, lora)], ROWS), expected)
            assert torch.equal(unet(x, t, context=text), before)


# --- devices, formats and other people's layers ---------------------------------------------------------------------


def test_it_computes_in_the_layers_dtype(unet) -> None:
    lora = face_lora(unet)
    x, t, text = inputs(unet)
    expected = call(unet, x, t, text, [with_lora(unet, lora)], ROWS)
    halves = Lora("file", {key: tensor.half() for key, tensor in lora.tensors.items()})
    out = call(unet, x, t, text, [with_lora(unet, halves)], ROWS)
    assert out.dtype == torch.float32
    assert close(out, expected, 2e-2)
    with torch.autocast("cpu", torch.bfloat16):
        own = unet(x, t, context=text)
        lower = call(unet, x, t, text, [with_lora(unet, lora)], ROWS)
    assert lower.dtype == own.dtype
    assert (lower - expected).abs().mean() < 0.1 * (lower - own).abs().mean()


class Other(nn.Module):
    """A layer that is no nn.Linear and tells no width."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = (layer,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer[0](x)


def test_layers_need_not_be_linear_ones() -> None:
    unet = sd_unet()
    x, t, text = inputs(unet)
    prompt = with_lora(unet, face_lora(unet))
    expected = call(unet, x, t, text, [prompt], ROWS)
    layers = cross_attention_layers(unet)
    for layer in layers:
        for attention in (layer.self_attention, layer.module):
            for name in ("to_q", "to_k", "to_v"):
                setattr(attention, name, Other(getattr(attention, name)))
            attention.to_out[0] = Other(attention.to_out[0])
    with Injection(unet, layers, [prompt]) as injection:
        injection.begin(ROWS, 0, 1)
        assert torch.equal(unet(x, t, context=text), expected)


def by_hand(self, x, context=None, mask=None):
    """An attention that asks for values first, and again."""
    context = x if context is None else context
    v, again, k, q = self.to_v(context), self.to_v(context), self.to_k(context), self.to_q(x)
    assert torch.equal(v, again)
    q, k, v = (z.unflatten(-1, (self.heads, -1)).transpose(1, 2) for z in (q, k, v))
    return self.to_out(torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, -1).matmul(v).transpose(1, 2).flatten(2))


def by_rows(self, x, context=None, mask=None):
    context = x if context is None else context
    return torch.cat([by_hand(self, x[i : i + 1], context[i : i + 1]) for i in range(len(x))])


def through_hypernetworks(self, x, context=None, mask=None):
    """Keys and values are made of tensors of their own."""
    context = x if context is None else context
    q, k, v = self.to_q(x), self.to_k(context * 0.5), self.to_v(context * 1.5)
    q, k, v = (z.unflatten(-1, (self.heads, -1)).transpose(1, 2) for z in (q, k, v))
    return self.to_out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def from_one_buffer(self, x, context=None, mask=None):
    """Queries are asked for row by row, each in the place of the one before."""
    buffer = torch.empty_like(x[:1])
    parts = [self.to_q(buffer.copy_(row)) for row in x.split(1)]
    context = x if context is None else context
    q, k, v = torch.cat(parts), self.to_k(context), self.to_v(context)
    q, k, v = (z.unflatten(-1, (self.heads, -1)).transpose(1, 2) for z in (q, k, v))
    return self.to_out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("forward", [by_hand, by_rows, through_hypernetworks, from_one_buffer])
def test_it_acts_in_every_attention_that_calls_the_layers(forward, unet) -> None:
    x, t, text = inputs(unet)
    lora = face_lora(unet)
    layers = cross_attention_layers(unet)
    attentions = [one for layer in layers for one in (layer.self_attention, layer.module)]
    for attention in attentions:
        attention.forward = forward.__get__(attention)
    try:
        with merged(unet, dict(lora.tensors)):
            expected = call(unet, x, t, text, [make_prompt(unet, 5, 0.8)], ROWS)
        with Injection(unet, layers, [with_lora(unet, lora)]) as injection:
            injection.begin(ROWS, 0, 1)
            assert close(unet(x, t, context=text), expected)
    finally:
        for attention in attentions:
            del attention.forward


def test_torchs_compiler_leaves_the_hooks_out(unet, monkeypatch) -> None:
    """Compiled, some layers would do without their LoRA: that is seen on whole UNets alone, where it takes minutes."""
    x, t, text = inputs(unet)
    prompt = with_lora(unet, face_lora(unet))
    expected, left_out, called = call(unet, x, t, text, [prompt], ROWS), [], []

    def disable(function):
        left_out.append(function)
        return lambda *args: (called.append(function), function(*args))[1]

    monkeypatch.setitem(sys.modules, "torch._dynamo", SimpleNamespace(disable=disable))
    assert torch.equal(call(unet, x, t, text, [prompt], ROWS), expected)
    with_plans = 8 + 1  # what finds the rows' keys and values is left out, too
    assert len(left_out) == with_plans * len(cross_attention_layers(unet))
    assert called == [*dict.fromkeys(called)]
    assert set(called) == set(left_out)


# --- no room --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "failures"), [(20, 1), (20, 2), *((n, 1) for n in range(1, 25))])
def test_without_room_it_is_moved_anew_each_time_or_says_so(
    first: int, failures: int, unet, monkeypatch, caplog
) -> None:
    """Whichever layer finds the device full, be it between a query and the attention that it is for."""
    x, t, text = inputs(unet)
    prompt = with_lora(unet, face_lora(unet))
    expected = call(unet, x, t, text, [prompt], ROWS)
    gather, calls = module._Matrices.gather, []

    def scarce(loras, attention, layer, like):
        calls.append(attention)
        if first <= len(calls) < first + failures:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return gather(loras, attention, layer, like)

    monkeypatch.setattr(module._Matrices, "gather", scarce)
    injection = Injection(unet, cross_attention_layers(unet), [prompt])
    with injection:
        injection.begin(ROWS, 0, 1)
        if failures == 2:
            with pytest.raises(DeviceMemoryError, match=r"no room for the LoRA.*set its LoRA strength to 0"):
                unet(x, t, context=text)
        else:
            assert torch.equal(unet(x, t, context=text), expected)
            injection.begin(ROWS, 0, 1)
            assert torch.equal(unet(x, t, context=text), expected)
        assert not injection.keeps
        assert all(hook.matrices is None for _, hook in injection.lora.hooked)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_full_device_at_the_image_attention_lets_go_of_the_lora_too(unet, monkeypatch) -> None:
    x, t, text = inputs(unet)
    prompt = with_lora(unet, face_lora(unet))
    expected = call(unet, x, t, text, [prompt], ROWS)
    gather, left = ImagePrompt.gather, []
    injection = Injection(unet, cross_attention_layers(unet), [prompt])

    def scarce(*args):
        if not left:
            left.append(sum(hook.matrices is not None for _, hook in injection.lora.hooked))
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        left.append(sum(hook.matrices is not None for _, hook in injection.lora.hooked))
        return gather(*args)

    monkeypatch.setattr(ImagePrompt, "gather", scarce)
    with injection:
        injection.begin(ROWS, 0, 1)
        assert torch.equal(unet(x, t, context=text), expected)
    assert left[0] > 0
    assert left[1] == 0


# --- models that it does not fit ------------------------------------------------------------------------------------


def test_a_model_without_such_self_attention_is_refused_and_left_alone() -> None:
    unet = sd_unet()
    layers = cross_attention_layers(unet)
    prompt = with_lora(unet, face_lora(unet))
    with pytest.raises(MismatchError, match=r"no self-attention beside .*attn2: set its LoRA strength to 0"):
        Injection(unet, [replace(layers[0], self_attention=None)], [prompt])
    layers[0].self_attention.to_k = nn.Linear(77, 32)
    with pytest.raises(MismatchError, match=r"32 wide, the model's are 77: set its LoRA strength to 0"):
        Injection(unet, layers, [prompt])
    assert hooks_of(unet) == 0


def test_every_self_attention_stands_beside_its_cross_attention() -> None:
    for unet in (sd_unet(), sdxl_unet()):
        for layer in cross_attention_layers(unet):
            assert layer.self_attention is unet.get_submodule(layer.name.replace("attn2", "attn1"))
        assert len(deltas(unet, lora_tensors(unet))) == 8 * len(cross_attention_layers(unet))


# --- LoRAs in prompts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("ip-adapter-faceid_sd15_lora", True),
        ("ip-adapter-faceid-plus_sd15_lora", True),
        ("ip-adapter-faceid-plusv2_sd15_lora", True),
        ("ip-adapter-faceid_sdxl_lora", True),
        ("ip-adapter-faceid-plusv2_sdxl_lora", True),
        ("faces/IPAdapterFaceIDPlusV2", True),
        ("FaceID", True),
        ("my face-id", True),
        ("face_id_lora", True),
        ("faceidsdxl", True),
        ("surface_ideas", False),
        ("face_ideal", False),
        ("my face idol", False),
        ("typefaceid", False),
        ("ip-adapter-plus-face_sd15", False),
        ("add_detail", False),
        ("", False),
    ],
)
def test_a_face_lora_is_known_by_its_name(name: str, is_one: bool) -> None:
    assert names_face_lora(["more_details", name]) == (name if is_one else None)
