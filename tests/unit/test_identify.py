"""Recognition by names and shapes: every row of the variant table, and a sentence of its own for everything else."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_ipadapter.checkpoint.identify import (
    AdapterSpec,
    EncoderSpec,
    RefusedAdapter,
    TextSpec,
    UNetSpec,
    identify,
    normalise_key,
    text_tower,
    tie_break,
    vision_tower,
)
from lib_ipadapter.errors import CheckpointError

SD_WIDTHS = (320, 320, 640, 640, *[1280] * 5, 640, 640, 640, 320, 320, 320, 1280)
XL_WIDTHS = (*[640] * 4, *[1280] * 50, *[640] * 6, *[1280] * 10)
NARROW_SD = tuple(width // 10 for width in SD_WIDTHS)  # 32, 64, 128
NARROW_XL = tuple(width // 10 for width in XL_WIDTHS)


# --- published files, written down from ip-adapter-facts.md 1.2 and 1.6, not from the code under test --------------


def linear(name, rows, columns, bias=True):
    return {f"{name}.weight": (rows, columns)} | ({f"{name}.bias": (rows,)} if bias else {})


def norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def pairs(widths, context):
    names = [f"{2 * i + 1}.{name}.weight" for i in range(len(widths)) for name in ("to_k_ip", "to_v_ip")]
    return {name: (width, context) for name, width in zip(names, (w for w in widths for _ in "kv"), strict=True)}


def lora(widths, context, rank=128):
    shapes = {}
    for i, width in enumerate(widths):
        for number in (2 * i, 2 * i + 1):
            for name in ("q", "k", "v", "out"):
                source = context if number % 2 and name in "kv" else width
                shapes[f"{number}.to_{name}_lora.down.weight"] = (rank, source)
                shapes[f"{number}.to_{name}_lora.up.weight"] = (width, rank)
    return shapes


def perceiver_layers(dim, heads, depth=4, prefix=""):
    shapes = {}
    for i in range(depth):
        a, f = f"{prefix}layers.{i}.0", f"{prefix}layers.{i}.1"
        shapes |= norm(f"{a}.norm1", dim) | norm(f"{a}.norm2", dim)
        shapes |= {f"{a}.to_q.weight": (64 * heads, dim), f"{a}.to_kv.weight": (128 * heads, dim)}
        shapes |= {f"{a}.to_out.weight": (dim, 64 * heads)}
        shapes |= norm(f"{f}.0", dim) | {f"{f}.1.weight": (4 * dim, dim), f"{f}.3.weight": (dim, 4 * dim)}
    return shapes


def base(width, context, tokens=4):
    return linear("proj", tokens * context, width) | norm("norm", context)


def resampler(width, dim, heads, context, tokens=16, depth=4):
    shapes = {"latents": (1, tokens, dim)} | linear("proj_in", dim, width) | perceiver_layers(dim, heads, depth)
    return shapes | linear("proj_out", context, dim) | norm("norm_out", context)


def full_face(width, context):
    return linear("proj.0", width, width) | linear("proj.2", context, width) | norm("proj.3", context)


def faceid(context, tokens):
    return linear("proj.0", 1024, 512) | linear("proj.2", tokens * context, 1024) | norm("norm", context)


def faceid_plus(context, clip_width=1280):
    r = "perceiver_resampler."
    shapes = faceid(context, 4) | linear(f"{r}proj_in", context, clip_width)
    shapes |= perceiver_layers(context, context // 64, prefix=r)
    return shapes | linear(f"{r}proj_out", context, context) | norm(f"{r}norm_out", context)


def adapter(projection, widths=SD_WIDTHS, context=768, with_lora=False):
    attention = pairs(widths, context) | (lora(widths, context) if with_lora else {})
    return {f"image_proj.{k}": s for k, s in projection.items()} | {f"ip_adapter.{k}": s for k, s in attention.items()}


XL = {"widths": XL_WIDTHS, "context": 2048}
UNNORM, V2 = ("faceid-portrait-unnorm",), ("faceid-plus-v2",)
# name: (shapes, variant, base, projection, source, embedding width, CLIP width, tokens, parameters, LoRA, ties)
PUBLISHED = {
    "sd15": (adapter(base(1024, 768)), "base", "SD1.5", "ImageProj", "pooled", 1024, None, 4, 22_319_616, False, ()),
    "sd15_vit-G": (adapter(base(1280, 768)), "base", "SD1.5", "ImageProj", "pooled", 1280, None, 4, 23_106_048, 0, ()),
    "plus_sd15": (
        adapter(resampler(1280, 768, 12, 768)),
        *("plus", "SD1.5", "Resampler", "penultimate", 1280, None, 16, 49_087_488, False, ()),
    ),
    "full-face_sd15": (
        adapter(full_face(1280, 768)),
        *("full-face", "SD1.5", "MLPProj", "penultimate", 1280, None, 257, 21_794_304, False, ()),
    ),
    "sdxl": (adapter(base(1280, 2048), **XL), "base", "SDXL", "ImageProj", "pooled", 1280, None, 4, 351_285_248, 0, ()),
    "sdxl_vit-h": (
        adapter(base(1024, 2048), **XL),
        *("base", "SDXL", "ImageProj", "pooled", 1024, None, 4, 349_188_096, False, ()),
    ),
    "plus_sdxl_vit-h": (
        adapter(resampler(1280, 1280, 20, 2048), **XL),
        *("plus", "SDXL", "Resampler", "penultimate", 1280, None, 16, 423_748_864, False, ()),
    ),
    "faceid_sd15": (
        adapter(faceid(768, 4), with_lora=True),
        *("faceid", "SD1.5", "FaceIDMLP", "face", 512, None, 4, 48_354_816, True, ()),
    ),
    "faceid-plus_sd15": (
        adapter(faceid_plus(768), with_lora=True),
        *("faceid-plus", "SD1.5", "FaceIDPlus", "face+penultimate", 512, 1280, 4, 78_260_736, True, V2),
    ),
    "faceid-portrait_sd15": (
        adapter(faceid(768, 16)),
        *("faceid-portrait", "SD1.5", "FaceIDMLP", "face", 512, None, 16, 32_291_328, False, ()),
    ),
    "faceid_sdxl": (
        adapter(faceid(2048, 4), with_lora=True, **XL),
        *("faceid", "SDXL", "FaceIDMLP", "face", 512, None, 4, 535_507_968, True, ()),
    ),
    "faceid-plusv2_sdxl": (
        adapter(faceid_plus(2048), with_lora=True, **XL),
        *("faceid-plus-v2", "SDXL", "FaceIDPlus", "face+penultimate", 512, 1280, 4, 743_707_648, True, ()),
    ),
    "faceid-portrait_sdxl": (
        adapter(faceid(2048, 16), **XL),
        *("faceid-portrait", "SDXL", "FaceIDMLP", "face", 512, None, 16, 374_903_808, False, ()),
    ),
    "instantid / unnorm": (
        adapter(resampler(512, 1280, 20, 2048), **XL),
        *("instantid", "SDXL", "Resampler", "face", 512, None, 16, 422_765_824, False, UNNORM),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_variant_is_recognised_with_its_published_size(name):
    shapes, variant, base_model, projection, source, width, clip, tokens, parameters, has_lora, ties = PUBLISHED[name]
    context, widths = (2048, XL_WIDTHS) if base_model == "SDXL" else (768, SD_WIDTHS)
    assert identify(shapes) == AdapterSpec(
        variant=variant,
        base=base_model,
        projection=projection,
        source=source,
        embedding_width=width,
        clip_width=clip,
        tokens=tokens,
        context_width=context,
        layer_widths=widths,
        parameters=parameters,
        has_lora=bool(has_lora),
        alternatives=ties,
    )


@pytest.mark.parametrize(
    ("context", "widths", "base_model"),
    [(768, NARROW_SD, "SD1.5"), (1024, NARROW_SD, "SD2.x"), (2048, NARROW_XL, "SDXL"), (768, (7,) * 16, "SD1.5")],
)
def test_narrow_and_odd_models_are_recognised_as_well(context, widths, base_model):
    odd = adapter(resampler(24, 20, 1, context, tokens=5, depth=2), widths, context)
    spec = identify(odd)
    assert (spec.base, spec.layer_widths, spec.tokens, spec.embedding_width) == (base_model, widths, 5, 24)
    assert identify(adapter(base(32, context, tokens=3), widths, context)).tokens == 3
    # The order of the pairs is by number, not by name ("101" < "11").
    graded = tuple(range(8, 8 + len(widths)))
    assert identify(dict(sorted(adapter(base(32, context), graded, context).items()))).layer_widths == graded


def test_a_plus_adapter_on_bigg_is_derived_though_none_was_published():
    spec = identify(adapter(resampler(1664, 1280, 20, 2048), **XL))
    assert (spec.variant, spec.source, spec.embedding_width) == ("plus", "penultimate", 1664)


def test_a_faceid_that_lost_its_lora_is_still_a_faceid():
    spec = identify(adapter(faceid(768, 4)))
    assert (spec.variant, spec.has_lora, spec.tokens) == ("faceid", False, 4)


# --- prefixes and order -------------------------------------------------------------------------------------------

RENAMES = {"image_proj.": ("image_proj.", "image_proj_model."), "ip_adapter.": ("ip_adapter.", "adapter_modules.")}
SMALL = {
    name: adapter(projection, NARROW_SD, with_lora=with_lora)
    for name, projection, with_lora in [
        ("base", base(32, 768), False),
        ("plus", resampler(24, 16, 1, 768, depth=1), False),
        ("faceid", faceid(768, 4), True),
    ]
}


@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from(sorted(SMALL)),
    wrapper=st.sampled_from(["", "module.", "state_dict.", "state_dict.module."]),
    form=st.integers(0, 1),
    seed=st.integers(0, 2**32),
    unet=st.booleans(),
)
def test_prefixes_and_order_of_keys_do_not_matter(name, wrapper, form, seed, unet):
    renamed = {}
    for key, shape in SMALL[name].items():
        prefix = next(p for p in RENAMES if key.startswith(p))
        renamed[wrapper + RENAMES[prefix][form] + key.removeprefix(prefix)] = shape
    if unet:  # a training checkpoint
        renamed[f"{wrapper}unet.conv_in.weight"] = (320, 4, 3, 3)
        renamed[f"{wrapper}unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q.weight"] = (320, 320)
    items = list(renamed.items())
    random.Random(seed).shuffle(items)
    assert identify(dict(items)) == identify(SMALL[name])


@given(st.text(alphabet="abcdeilmnoprstu._", max_size=30), st.sampled_from(["", *RENAMES["image_proj."], "module."]))
def test_normalising_twice_is_normalising_once(text, prefix):
    once = normalise_key(prefix + text)
    assert normalise_key(once) == once


def test_a_file_with_one_tensor_under_two_prefixes_is_refused():
    shapes = SMALL["base"] | {"image_proj_model.norm.bias": (768,)}
    with pytest.raises(RefusedAdapter, match=r"image_proj\.norm\.bias twice.*again"):
        identify(shapes)


# --- damaged and mismatched adapters ------------------------------------------------------------------------------


def without(shapes, *parts):
    return {key: shape for key, shape in shapes.items() if not any(part in key for part in parts)}


SD15, PLUS, FACEID = PUBLISHED["sd15"][0], PUBLISHED["plus_sd15"][0], PUBLISHED["faceid_sd15"][0]
BROKEN = {
    "half: no pairs": (without(SD15, "ip_adapter."), "half an IP-Adapter: it holds the projection but no attention"),
    "half: no projection": (without(SD15, "image_proj."), "it holds the attention pairs but no projection"),
    "a LoRA without pairs": (without(FACEID, "_ip."), "names its attention pairs in an unknown way"),
    "unknown projection": (adapter({"resblocks.0.weight": (2, 2)}), "projection that this version does not know"),
    "15 pairs": (without(SD15, "ip_adapter.31."), r"15 attention pairs, where SD1\.5 has 16"),
    "SSD-1B": (adapter(base(1280, 2048), XL_WIDTHS[:40], 2048), "40 attention pairs, where SDXL has 70.*SSD-1B"),
    "70 pairs at 768": (adapter(base(1024, 768), XL_WIDTHS), r"70 attention pairs, where SD1\.5 has 16"),
    "refiner": (adapter(base(1024, 1280), SD_WIDTHS, 1280), "tokens 1280 wide, where SD1.5 has 768"),
    "numbering": (
        {key.replace("ip_adapter.31.", "ip_adapter.32."): shape for key, shape in SD15.items()},
        "not numbered 1, 3, 5",
    ),
    "no value": (without(SD15, "ip_adapter.7.to_v_ip"), r"lacks ip_adapter\.7\.to_v_ip\.weight"),
    "no key": (without(SD15, "ip_adapter.7.to_k_ip"), r"lacks 7\.to_k_ip\.weight"),
    "value of another width": (SD15 | {"ip_adapter.7.to_v_ip.weight": (320, 768)}, r"shape \(320, 768\), where \(640,"),
    "one pair of another base": (
        SD15 | {"ip_adapter.7.to_k_ip.weight": (640, 2048)},
        r"\(640, 2048\), where \(640, 768\)",
    ),
    "halves of two bases": (adapter(base(1280, 2048)), "image tokens 2048 wide, but its attention pairs take 768"),
    "no bias": (without(SD15, "image_proj.proj.bias"), r"lacks image_proj\.proj\.bias"),
    "no layer norm": (without(SD15, "image_proj.norm"), r"lacks norm\.weight"),
    "broken tokens": (adapter(linear("proj", 1000, 1024) | norm("norm", 768)), "no whole tokens 768 wide"),
    "a resampler with positions": (
        PLUS | {"image_proj.pos_emb.weight": (257, 1280)},
        r"holds image_proj\.pos_emb\.weight, which no architecture",
    ),
    "a layer cut out": (without(PLUS, "layers.2.1.3."), r"lacks image_proj\.layers\.2\.1\.3\.weight"),
    "heads of 40": (adapter(resampler(1280, 768, 12, 768) | {"layers.0.0.to_q.weight": (40, 768)}), "heads of 64"),
    "half a LoRA": (without(FACEID, "ip_adapter.9.to_out_lora"), r"lacks ip_adapter\.9\.to_out_lora"),
    "LoRA of another model": (FACEID | {"ip_adapter.9.to_k_lora.down.weight": (128, 1024)}, r"\(128, 1024\), where"),
    "no face embedding": (
        adapter(linear("proj.0", 64, 300) | linear("proj.2", 768, 64) | norm("norm", 768)),
        "300 wide",
    ),
    "a scalar": (SD15 | {"image_proj.proj.weight": ()}, r"has shape \(\), where 2 sizes"),
    "nothing in a tensor": (SD15 | {"image_proj.proj.weight": (0, 1024)}, "sizes above zero"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_mismatched_adapters_are_told_apart_and_with_a_remedy(name):
    shapes, sentence = BROKEN[name]
    with pytest.raises(RefusedAdapter, match=sentence) as error:
        identify(shapes)
    assert_has_remedy(error.value.detail)


def assert_has_remedy(sentence):
    last = sentence[-160:]
    assert sentence.startswith("This "), sentence
    assert sentence.endswith("."), sentence
    remedies = ("get ", "Get ", "download ", "Download ", "use ", "choose ", "put it ")
    assert any(remedy in last for remedy in remedies), sentence


# --- other people's adapters, and other files -----------------------------------------------------------------------


def kolors(projection):
    return adapter(projection, XL_WIDTHS, 2048)


def flux_blocks(tokens):
    stream = "processor.ip_adapter_double_stream"
    blocks = {f"double_blocks.{i}.{stream}_{n}_proj.weight": (3072, 4096) for i in range(19) for n in "kv"}
    return blocks | {
        "ip_adapter_proj_model.proj.weight": (4096 * tokens, 768),
        "ip_adapter_proj_model.norm.weight": (4096,),
    }


def kolors_faceid():
    r = "perceiver_resampler."
    shapes = linear("proj.0", 1024, 512) | linear("proj.2", 6 * 4096, 1024) | norm("norm", 4096)
    return kolors(shapes | linear(f"{r}proj_in", 4096, 1024) | perceiver_layers(4096, 64, prefix=r))


PULID = {f"image_proj.{n}.0.weight": (1024, 1024) for n in ("body", "mapping_0", "mapping_patch_0")} | {
    "image_proj.body.0.weight": (1024, 1280)
}
FOREIGN = {
    "XLabs v1": (flux_blocks(4), "XLabs' IP-Adapter for FLUX"),
    "XLabs v2": (flux_blocks(16), "XLabs' IP-Adapter for FLUX"),
    "InstantX FLUX": (
        {f"image_proj.{k}": s for k, s in (linear("proj.0", 2304, 1152) | norm("norm", 4096)).items()}
        | {f"ip_adapter.{i}.to_{n}_ip.weight": (3072, 4096) for i in range(57) for n in "kv"},
        "InstantX's IP-Adapter for FLUX",
    ),
    "Redux": (linear("redux_up", 12288, 1152) | linear("redux_down", 4096, 12288), "FLUX Redux"),
    "Kolors plus": (kolors(resampler(1024, 2048, 12, 2048)), "IP-Adapter-Plus for Kolors"),
    "Kolors FaceID": (kolors_faceid(), "FaceID-Plus adapter for Kolors"),
    "PuLID converted": (PULID | {"ip_adapter.1.to_k_ip.weight": (640, 2048)}, "PuLID adapter"),
    "PuLID original": (
        {"id_adapter.mapping_0.0.weight": (1024, 1024), "id_adapter_attn_layers.0.id_to_k.weight": (640, 2048)},
        "PuLID adapter",
    ),
    "PuLID FLUX": ({"pulid_ca.0.to_q.weight": (2, 2), "pulid_encoder.mapping_0.0.weight": (2, 2)}, "PuLID for FLUX"),
    "SD3.5": (
        {"image_proj.latents": (1, 64, 1280), "image_proj.time_embedding.linear_1.weight": (1280, 320)}
        | {"ip_adapter.0.norm_ip.linear.weight": (4864, 1280), "ip_adapter.0.to_k_ip.weight": (2432, 2432)},
        r"SD3\.5",
    ),
    "PhotoMaker": ({"id_encoder.x": (2,), "lora_weights.y": (2,)}, "PhotoMaker"),
}
OTHER = {
    "LoRA": (
        {"lora_unet_down_blocks_0.lora_down.weight": (8, 320), "lora_unet_x.alpha": ()},
        "is a LoRA: .*models/Lora",
    ),
    "LoRA of diffusers": ({"unet.down_blocks.0.attn.processor.to_q_lora.down.weight": (8, 320)}, "is a LoRA"),
    "LoRA of peft": ({"base_model.model.q.lora_A.weight": (8, 320)}, "is a LoRA"),
    "ControlNet": ({"control_model.zero_convs.0.0.weight": (320, 320, 1, 1)}, "ControlNet model: .*own panel"),
    "ControlNet of diffusers": (
        {"controlnet_down_blocks.0.weight": (2, 2), "down_blocks.0.x": (2,)},
        "ControlNet model",
    ),
    "ControlLLLite": ({"lllite_unet_x.down.0.weight": (2, 2)}, "ControlNet model"),
    "T2I-Adapter": ({"body.0.block1.weight": (2, 2), "conv_in.weight": (2, 2, 1, 1)}, "T2I-Adapter"),
    "T2I-Adapter of diffusers": ({"adapter.body.0.resnets.0.block1.weight": (2, 2)}, "T2I-Adapter"),
    "embedding": ({"string_to_param.*": (2, 768)}, "textual-inversion embedding: .*embeddings folder"),
    "embedding of SDXL": ({"clip_l": (2, 768), "clip_g": (2, 1280)}, "textual-inversion embedding"),
    "VAE": ({"decoder.conv_in.weight": (2, 2, 3, 3), "encoder.conv_in.weight": (2, 2, 3, 3)}, "a VAE: .*models/VAE"),
    "FLUX": ({"double_blocks.0.img_attn.qkv.weight": (2, 2)}, "a FLUX model"),
    "UNet of diffusers": ({"down_blocks.0.x": (2,), "up_blocks.0.x": (2,)}, "a UNet alone"),
    "SD3 checkpoint": ({"model.diffusion_model.joint_blocks.0.x": (2,)}, "without a Stable Diffusion UNet"),
    "SigLIP": ({"vision_model.head.probe": (1, 1, 1152)}, "SigLIP"),
    "EVA": ({"visual.blocks.0.attn.q_proj.weight": (1024, 1024)}, "EVA-CLIP"),
    "text encoder": ({"text_model.embeddings.token_embedding.weight": (49408, 768)}, "a text encoder"),
    "upscaler": ({"model.0.weight": (64, 3, 3, 3)}, r"neither an IP-Adapter nor an image encoder .*model\.0\.weight"),
    "nothing": ({}, "holds no tensors"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_programs_adapters_are_named_and_refused(name):
    shapes, sentence = FOREIGN[name]
    with pytest.raises(RefusedAdapter, match=sentence) as error:
        identify(shapes)
    assert_has_remedy(error.value.detail)


@pytest.mark.parametrize("name", OTHER)
def test_other_files_are_named_and_not_taken_for_adapters(name):
    shapes, sentence = OTHER[name]
    with pytest.raises(CheckpointError, match=sentence) as error:
        identify(shapes)
    assert not isinstance(error.value, RefusedAdapter)
    assert_has_remedy(error.value.detail)


def test_each_kind_has_a_sentence_of_its_own():
    sentences = set()
    for shapes, _ in (*FOREIGN.values(), *OTHER.values()):
        with pytest.raises(CheckpointError) as error:
            identify(shapes)
        sentences.add(error.value.detail)
    same = len(["XLabs v1"]) + len(["PuLID original"]) + len(["LoRA of …"] * 2) + len(["ControlNet …"] * 2) + 1 + 1
    assert len(sentences) == len(FOREIGN) + len(OTHER) - same


PARTS = [
    *PUBLISHED["faceid-plus_sd15"][0],
    *(key for shapes, _ in (*FOREIGN.values(), *OTHER.values()) for key in shapes),
]


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(st.sampled_from(PARTS), st.lists(st.integers(0, 4096), max_size=4).map(tuple), max_size=12))
def test_no_shapes_raise_anything_but_a_sentence(shapes):
    try:
        identify(shapes)
    except CheckpointError as error:
        assert error.detail.endswith(".")


# --- ties -----------------------------------------------------------------------------------------------------------

FACEID_PLUS, INSTANT = (identify(PUBLISHED[n][0]) for n in ("faceid-plus_sd15", "instantid / unnorm"))
HASH_V1 = "252fb53e0d018489d9e7f9b9e2001a52ff700e491894011ada7cfb471e0fadf2"
HASH_V2 = "26d0d86a1d60d6cc811d3b8862178b461e1eeb651e6fe2b72ba17aa95411e313"
HASH_UNNORM = "220bb86e205393a3d0411631cb473caddbf35fd371be2905ca9008818170db55"


@pytest.mark.parametrize(
    ("spec", "stem", "sha256", "mixed", "variant"),
    [
        (FACEID_PLUS, "ip-adapter-faceid-plus_sd15", None, None, "faceid-plus"),
        (FACEID_PLUS, "ip-adapter-faceid-plusv2_sd15", None, None, "faceid-plus-v2"),
        (FACEID_PLUS, "IP-Adapter-FaceID-Plus-V2", None, None, "faceid-plus-v2"),
        (FACEID_PLUS, "faceid_plus_v2", None, None, "faceid-plus-v2"),
        (FACEID_PLUS, "mine", None, None, "faceid-plus"),
        (FACEID_PLUS, "mine", HASH_V2, None, "faceid-plus-v2"),
        (FACEID_PLUS, "faceid-plus_sd15", HASH_V2.upper(), None, "faceid-plus-v2"),
        (FACEID_PLUS, "faceid-plusv2", HASH_V1, None, "faceid-plus"),
        (FACEID_PLUS, "mine", "0" * 64, True, "faceid-plus"),
        (INSTANT, "ip-adapter", None, None, "instantid"),
        (INSTANT, "ip-adapter", None, True, "faceid-portrait-unnorm"),
        (INSTANT, "ip-adapter_instant_id_sdxl", None, True, "instantid"),
        (INSTANT, "ip-adapter-faceid-portrait_sdxl_unnorm", None, False, "faceid-portrait-unnorm"),
        (INSTANT, "x", HASH_UNNORM, False, "faceid-portrait-unnorm"),
        (INSTANT, "plusv2", HASH_V2, False, "instantid"),  # a hint to what its shapes rule out is none
    ],
)
def test_hash_name_and_dtypes_break_ties_in_this_order(spec, stem, sha256, mixed, variant):
    chosen = tie_break(spec, stem, sha256, mixed_dtypes=mixed)
    assert chosen.variant == variant
    assert {chosen.variant, *chosen.alternatives} == {spec.variant, *spec.alternatives}
    assert replace(chosen, variant=spec.variant, alternatives=spec.alternatives) == spec


@pytest.mark.parametrize("name", [name for name in PUBLISHED if not PUBLISHED[name][-1]])
def test_names_change_nothing_where_shapes_decide(name):
    spec = identify(PUBLISHED[name][0])
    assert tie_break(spec, "ip-adapter-faceid-plusv2-unnorm-instantid", HASH_V2, mixed_dtypes=True) is spec


# --- image encoders ------------------------------------------------------------------------------------------------


def transformers_tower(width, layers, mlp, patch, tokens, projection, prefix=""):
    v = "vision_model."
    shapes = {
        f"{v}embeddings.class_embedding": (width,),
        f"{v}embeddings.patch_embedding.weight": (width, 3, patch, patch),
    }
    shapes |= {
        f"{v}embeddings.position_embedding.weight": (tokens, width),
        "visual_projection.weight": (projection, width),
    }
    shapes |= norm(f"{v}pre_layrnorm", width) | norm(f"{v}post_layernorm", width)
    for i in range(layers):
        layer = f"{v}encoder.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear(f"{layer}self_attn.{name}", width, width)
        shapes |= linear(f"{layer}mlp.fc1", mlp, width) | linear(f"{layer}mlp.fc2", width, mlp)
        shapes |= norm(f"{layer}layer_norm1", width) | norm(f"{layer}layer_norm2", width)
    return {prefix + key: shape for key, shape in shapes.items()}


def open_clip_tower(width, layers, mlp, patch, tokens, projection, prefix="visual."):
    shapes = {"class_embedding": (width,), "positional_embedding": (tokens, width), "proj": (width, projection)}
    shapes |= {"conv1.weight": (width, 3, patch, patch)} | norm("ln_pre", width) | norm("ln_post", width)
    for i in range(layers):
        block = f"transformer.resblocks.{i}."
        shapes |= {f"{block}attn.in_proj_weight": (3 * width, width), f"{block}attn.in_proj_bias": (3 * width,)}
        shapes |= (
            linear(f"{block}attn.out_proj", width, width) | norm(f"{block}ln_1", width) | norm(f"{block}ln_2", width)
        )
        shapes |= linear(f"{block}mlp.c_fc", mlp, width) | linear(f"{block}mlp.c_proj", width, mlp)
    return {prefix + key: shape for key, shape in shapes.items()}


TEXT = {"text_model.embeddings.token_embedding.weight": (49408, 768), "token_embedding.weight": (49408, 1024)}
EXTRA = TEXT | {"logit_scale": (), "positional_embedding": (77, 1024), "text_projection": (1024, 1024)}
# kind: (width, layers, mlp, patch, tokens, projection), heads, size, quick_gelu, parameters as transformers counts them
TOWERS = {
    "ViT-H-14": ((1280, 32, 5120, 14, 257, 1024), 16, 224, False, 632_076_800),
    "ViT-bigG-14": ((1664, 48, 8192, 14, 257, 1280), 16, 224, False, 1_844_907_264),
    "ViT-L-14": ((1024, 24, 4096, 14, 257, 768), 16, 224, True, 303_966_208),
    "ViT-L-14-336": ((1024, 24, 4096, 14, 577, 768), 16, 336, True, 304_293_888),
    "ViT (192 wide, 2 layers)": ((192, 2, 300, 8, 17, 96), 3, 32, False, None),
    "ViT (32 wide, 1 layers)": ((32, 1, 64, 4, 5, 8), 1, 8, False, None),
}


@pytest.mark.parametrize("kind", TOWERS)
def test_encoders_are_recognised_in_every_layout(kind):
    (width, layers, mlp, patch, tokens, projection), heads, size, quick, parameters = TOWERS[kind]
    sizes = TOWERS[kind][0]
    transformers = transformers_tower(*sizes)
    spec = identify(transformers)
    assert spec == EncoderSpec(
        kind, "transformers", width, layers, heads, mlp, patch, size, projection, quick, spec.parameters
    )
    assert parameters in (None, spec.parameters)
    ids = {"vision_model.embeddings.position_ids": (1, tokens)}
    assert identify(transformers | ids | EXTRA) == spec
    open_clip = replace(spec, layout="open_clip")
    assert identify(open_clip_tower(*sizes)) == open_clip
    assert identify(open_clip_tower(*sizes) | EXTRA) == open_clip
    assert identify(open_clip_tower(*sizes, prefix="")) == open_clip
    assert identify(open_clip_tower(*sizes, prefix="state_dict.module.visual.")) == open_clip
    assert identify(transformers_tower(*sizes, prefix="image_encoder.")) == spec


def test_the_text_tower_stays_out():
    tower = vision_tower(open_clip_tower(32, 1, 64, 4, 5, 8) | EXTRA | {"transformer.resblocks.0.ln_1.weight": (2,)})
    assert {"visual." + key for key in tower.keys} == open_clip_tower(32, 1, 64, 4, 5, 8).keys()
    tower = vision_tower(transformers_tower(32, 1, 64, 4, 5, 8) | EXTRA)
    assert set(tower.keys) == transformers_tower(32, 1, 64, 4, 5, 8).keys()


@pytest.mark.parametrize("part", ["visual_projection", "patch_embedding", "position_embedding", "layers.0.mlp.fc1"])
def test_encoders_without_a_part_are_refused(part):
    with pytest.raises(CheckpointError, match="without a usable .*get the complete encoder"):
        identify(without(transformers_tower(32, 1, 64, 4, 5, 8), part))


def test_positions_that_are_no_square_are_refused():
    with pytest.raises(CheckpointError, match="7 positions"):
        identify(transformers_tower(32, 1, 64, 4, 7, 8))


def transformers_words(width, layers, mlp, projection, vocabulary=49408, prefix=""):
    t = "text_model."
    shapes = {f"{t}embeddings.token_embedding.weight": (vocabulary, width)}
    shapes |= {f"{t}embeddings.position_embedding.weight": (77, width), "text_projection.weight": (projection, width)}
    shapes |= norm(f"{t}final_layer_norm", width)
    for i in range(layers):
        layer = f"{t}encoder.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear(f"{layer}self_attn.{name}", width, width)
        shapes |= linear(f"{layer}mlp.fc1", mlp, width) | linear(f"{layer}mlp.fc2", width, mlp)
        shapes |= norm(f"{layer}layer_norm1", width) | norm(f"{layer}layer_norm2", width)
    return {prefix + key: shape for key, shape in shapes.items()}


def open_clip_words(width, layers, mlp, projection, vocabulary=49408, prefix=""):
    shapes = {"token_embedding.weight": (vocabulary, width), "positional_embedding": (77, width)}
    shapes |= {"text_projection": (width, projection)} | norm("ln_final", width)
    for i in range(layers):
        block = f"transformer.resblocks.{i}."
        shapes |= {f"{block}attn.in_proj_weight": (3 * width, width), f"{block}attn.in_proj_bias": (3 * width,)}
        shapes |= linear(f"{block}attn.out_proj", width, width)
        shapes |= norm(f"{block}ln_1", width) | norm(f"{block}ln_2", width)
        shapes |= linear(f"{block}mlp.c_fc", mlp, width) | linear(f"{block}mlp.c_proj", width, mlp)
    return {prefix + key: shape for key, shape in shapes.items()}


# kind: width, layers, mlp, heads of the published text towers
WORDS = {
    "ViT-H-14": (1024, 24, 4096, 16),
    "ViT-bigG-14": (1280, 32, 5120, 20),
    "ViT-L-14": (768, 12, 3072, 12),
    "ViT-L-14-336": (768, 12, 3072, 12),
    "ViT (32 wide, 1 layers)": (64, 2, 200, 1),
}


@pytest.mark.parametrize("kind", WORDS)
def test_a_text_tower_beside_the_image_tower_is_noted_in_every_layout(kind):
    width, layers, mlp, heads = WORDS[kind]
    sizes, projection = TOWERS[kind][0], TOWERS[kind][0][-1]
    quick = kind.startswith("ViT-L")
    text = TextSpec("transformers", width, layers, heads, mlp, 77, 49408, projection, quick)
    there = (width, layers, mlp, projection)
    alone = identify(transformers_tower(*sizes))
    assert alone.text is None
    ids = {"text_model.embeddings.position_ids": (1, 77), "logit_scale": ()}
    assert identify(transformers_tower(*sizes) | transformers_words(*there) | ids) == replace(alone, text=text)
    ours, apart = replace(text, layout="open_clip"), {"attn_mask": (77, 77), "logit_scale": ()}
    alone = identify(open_clip_tower(*sizes))
    assert identify(open_clip_tower(*sizes) | open_clip_words(*there) | apart) == replace(alone, text=ours)
    assert identify(open_clip_tower(*sizes) | open_clip_words(*there, prefix="text.")) == replace(alone, text=ours)
    wrapped = open_clip_tower(*sizes, prefix="module.visual.") | open_clip_words(*there, prefix="module.")
    assert identify(wrapped) == replace(alone, text=ours)


def test_the_two_towers_stay_apart():
    image, text = open_clip_tower(32, 1, 64, 4, 5, 8), open_clip_words(64, 2, 200, 8)
    both = image | text | {"logit_scale": (), "attn_mask": (77, 77)}
    assert set(text_tower(both).keys) == text.keys() and text_tower(both).prefix == ""
    assert {"visual." + key for key in vision_tower(both).keys} == image.keys()
    image, text = transformers_tower(32, 1, 64, 4, 5, 8), transformers_words(64, 2, 200, 8)
    both = image | text | {"text_model.embeddings.position_ids": (1, 77)}
    assert set(text_tower(both).keys) == text.keys() and set(vision_tower(both).keys) == image.keys()
    assert text_tower(image) is None and vision_tower(text) is None


@pytest.mark.parametrize("words", [
    without(transformers_words(64, 2, 200, 8), "text_projection"),  # a text encoder for prompts alone
    without(transformers_words(64, 2, 200, 8), "token_embedding"),
    without(transformers_words(64, 2, 200, 8), "layers."),
    transformers_words(64, 2, 200, 16),  # of another model
    transformers_words(64, 2, 200, 8, vocabulary=250002),  # of another tokenizer
    transformers_words(0, 2, 200, 8),
])  # fmt: skip
def test_a_text_tower_of_no_use_leaves_the_image_encoder_what_it_is(words):
    tower = transformers_tower(32, 1, 64, 4, 5, 8)
    assert identify(tower | words) == identify(tower)


# --- checkpoints ----------------------------------------------------------------------------------------------------

# ip-adapter-facts.md 1.4: module, depth, width in tenths of the published one, in the order of an adapter's pairs.
SD_UNET = [
    *[(f"input_blocks.{i}.1", 1, w) for i, w in zip((1, 2, 4, 5, 7, 8), (32, 32, 64, 64, 128, 128), strict=True)],
    *[(f"output_blocks.{i}.1", 1, w) for i, w in zip(range(3, 12), [128] * 3 + [64] * 3 + [32] * 3, strict=True)],
    ("middle_block.1", 1, 128),
]
XL_UNET = [
    *[(f"input_blocks.{i}.1", d, w) for i, d, w in [(4, 2, 64), (5, 2, 64), (7, 10, 128), (8, 10, 128)]],
    *[
        (f"output_blocks.{i}.1", d, w)
        for i, d, w in [*((i, 10, 128) for i in range(3)), *((i, 2, 64) for i in (3, 4, 5))]
    ],
    ("middle_block.1", 10, 128),
]


def unet(blocks, context, prefix="model.diffusion_model."):
    shapes = {
        f"{prefix}input_blocks.0.0.weight": (32, 4, 3, 3),
        "cond_stage_model.x": (2, 2),
        "first_stage_model.y": (2,),
    }
    for module, depth, width in blocks:
        for i in range(depth):
            block = f"{prefix}{module}.transformer_blocks.{i}."
            shapes |= {f"{block}attn1.to_q.weight": (width, width), f"{block}attn1.to_k.weight": (width, width)}
            shapes |= {f"{block}attn2.to_q.weight": (width, width), f"{block}attn2.to_k.weight": (width, context)}
    return shapes


@pytest.mark.parametrize(
    ("blocks", "context", "base_model", "widths"),
    [
        (SD_UNET, 768, "SD1.5", NARROW_SD),
        (SD_UNET, 1024, "SD2.x", NARROW_SD),
        (XL_UNET, 2048, "SDXL", NARROW_XL),
        (SD_UNET, 1280, "SDXL refiner", NARROW_SD),
        (XL_UNET[:4], 2048, "24 layers, context 2048", NARROW_XL[:24]),
    ],
)
def test_a_checkpoints_layers_come_in_the_order_of_an_adapters_pairs(blocks, context, base_model, widths):
    shapes = unet(blocks, context)
    expected = UNetSpec(base_model, context, widths)
    assert identify(shapes) == expected
    assert identify(dict(sorted(shapes.items(), reverse=True))) == expected
    assert identify({f"state_dict.{key}": shape for key, shape in shapes.items()}) == expected


def test_a_checkpoint_with_half_a_layer_is_no_checkpoint():
    with pytest.raises(CheckpointError, match="without a Stable Diffusion UNet"):
        identify(without(unet(SD_UNET, 768), "middle_block.1.transformer_blocks.0.attn2.to_q"))
