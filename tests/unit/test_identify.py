"""Recognition of adapters by names and shapes: every row of the variant table, and a sentence for everything else."""

from __future__ import annotations

import random
from dataclasses import replace
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_ipadapter.checkpoint.identify import identify
from lib_ipadapter.checkpoint.keys import normalise_key
from lib_ipadapter.checkpoint.refusals import RefusedAdapter
from lib_ipadapter.checkpoint.specs import AdapterSpec
from lib_ipadapter.checkpoint.ties import tie_break
from lib_ipadapter.errors import CheckpointError
from tests.helpers.checkpoint_shapes import (
    NARROW_SD,
    NARROW_XL,
    PUBLISHED,
    PUBLISHED_FLUX,
    SD_WIDTHS,
    XL,
    XL_WIDTHS,
    adapter,
    base,
    faceid,
    faceid_plus,
    linear,
    norm,
    pairs,
    perceiver_layers,
    resampler,
    without,
)


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


@settings(max_examples=40)
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


def test_a_tensor_under_two_prefixes_is_one_if_its_sizes_are():
    twice = SMALL["base"] | {
        f"image_proj_model.{key[11:]}": s for key, s in SMALL["base"].items() if "image_proj" in key
    }
    assert identify(twice) == identify(SMALL["base"])
    with pytest.raises(RefusedAdapter, match=r"image_proj\.norm\.bias twice.*different sizes.*again"):
        identify(SMALL["base"] | {"image_proj_model.norm.bias": (7,)})


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


def kolors_faceid():
    r = "perceiver_resampler."
    shapes = linear("proj.0", 1024, 512) | linear("proj.2", 6 * 4096, 1024) | norm("norm", 4096)
    return kolors(shapes | linear(f"{r}proj_in", 4096, 1024) | perceiver_layers(4096, 64, prefix=r))


CONSISTENT_ID = "a ConsistentID model, which describes faces by an encoder of its own: use a FaceID adapter or Inst"


def consistent_id(projection, attention):
    """A FaceID-Plus for SD1.5 to the last tensor, LoRA included, with an encoder of face parts beside it."""
    renamed = {
        key.replace("image_proj.", projection).replace("ip_adapter.", attention): shape
        for key, shape in adapter(faceid_plus(768), with_lora=True).items()
    }
    encoder = linear("FacialEncoder.visual_projection", 1280, 1280) | norm("FacialEncoder.fuse_module.layer_norm", 768)
    return renamed | encoder


PULID = {f"image_proj.{n}.0.weight": (1024, 1024) for n in ("body", "mapping_0", "mapping_patch_0")} | {
    "image_proj.body.0.weight": (1024, 1280)
}
FOREIGN = {
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
    "UNet of diffusers with an adapter": (
        {f"{place}.attn2.processor.to_{n}_ip.0.weight": (320, 768) for place in ("down_blocks.0.x",) for n in "kv"}
        | {"encoder_hid_proj.image_projection_layers.0.image_embeds.weight": (3072, 1024)},
        "a UNet of diffusers with an IP-Adapter already in it",
    ),
    "CSGO": (
        {f"{half}_image_proj.{key}": s for half in ("content", "style") for key, s in base(1280, 2048).items()}
        | {f"ip_adapter.{key}": s for key, s in pairs(XL_WIDTHS, 2048).items()},
        "a CSGO model, which has a projection each for content and style",
    ),
    "StyleShot": (
        {f"style_image_proj_modules.{i}.{key}": s for i in range(3) for key, s in base(1024, 768).items()}
        | {f"adapter_modules.{key}": s for key, s in pairs(SD_WIDTHS, 768).items()},
        "a StyleShot model",
    ),
    "ConsistentID": (consistent_id("image_proj.", "adapter_modules."), CONSISTENT_ID),
    "ConsistentID, minimised": (consistent_id("image_proj_model.", "adapter_modules."), CONSISTENT_ID),
    "ConsistentID, from its trainer": (
        {f"module.{key}": shape for key, shape in consistent_id("image_proj_model.", "adapter_modules.").items()}
        | {"module.unet.conv_in.weight": (320, 4, 3, 3)},
        CONSISTENT_ID,
    ),
    "InfiniteYou": (
        {f"image_proj.{key}": s for key, s in resampler(512, 1280, 20, 4096, tokens=8).items()},
        r"a projection of faces for FLUX \(InfiniteYou\)",
    ),
    "MS-Diffusion": (
        {f"image_proj.{key}": s for key, s in resampler(1280, 1280, 20, 2048).items()}
        | {f"ms_adapter.{key}": s for key, s in pairs(XL_WIDTHS, 2048).items()},
        "an MS-Diffusion model",
    ),
    "EasyRef": (
        adapter(resampler(1280, 1280, 20, 2048), **XL) | {"mllm_final_layer.weight": (2, 2)},
        "an EasyRef model",
    ),
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
    same = (
        len(["PuLID original"]) + len(["ConsistentID"] * 2) + len(["LoRA of …"] * 2) + len(["ControlNet …"] * 2) + 1 + 1
    )
    assert len(sentences) == len(FOREIGN) + len(OTHER) - same


PARTS = [
    *PUBLISHED["faceid-plus_sd15"][0],
    *(key for shapes, *_ in PUBLISHED_FLUX.values() for key in shapes if "2" not in key and "3" not in key),
    *(key for shapes, _ in (*FOREIGN.values(), *OTHER.values()) for key in shapes),
]


@settings(max_examples=200)
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
HASH_INSTANT = "02b3618e36d803784166660520098089a81388e61a93ef8002aa79a5b1c546e1"

# Every face file as it was published: name, row above, whether its halves differ in dtype, hash where it is known,
# variant, and the parameters of projection, pairs and LoRA.
SD_PAIRS, XL_PAIRS, SD_LORA, XL_LORA = 19_169_280, 340_787_200, 25_509_888, 185_794_560
FACE_FILES = [
    ("ip-adapter-faceid_sd15", "faceid_sd15", False, None, "faceid", (3_675_648, SD_PAIRS, SD_LORA)),
    ("ip-adapter-faceid-plus_sd15", "faceid-plus_sd15", False, HASH_V1, "faceid-plus", (33_581_568, SD_PAIRS, SD_LORA)),
    *[
        (name, "faceid-plus_sd15", False, HASH_V2, "faceid-plus-v2", (33_581_568, SD_PAIRS, SD_LORA))
        for name in ("ip-adapter-faceid-plusv2_sd15", "renamed")
    ],
    *[
        (name, "faceid-portrait_sd15", False, None, "faceid-portrait", (13_122_048, SD_PAIRS, 0))
        for name in ("ip-adapter-faceid-portrait_sd15", "ip-adapter-faceid-portrait-v11_sd15")
    ],
    ("ip-adapter-faceid_sdxl", "faceid_sdxl", False, None, "faceid", (8_926_208, XL_PAIRS, XL_LORA)),
    (
        *("ip-adapter-faceid-plusv2_sdxl", "faceid-plusv2_sdxl", False, None, "faceid-plus-v2"),
        (217_125_888, XL_PAIRS, XL_LORA),
    ),
    (
        "ip-adapter-faceid-portrait_sdxl",
        "faceid-portrait_sdxl",
        False,
        None,
        "faceid-portrait",
        (34_116_608, XL_PAIRS, 0),
    ),
    *[
        (name, "instantid / unnorm", True, HASH_UNNORM, "faceid-portrait-unnorm", (81_978_624, XL_PAIRS, 0))
        for name in ("ip-adapter-faceid-portrait_sdxl_unnorm", "renamed")
    ],
    *[
        (name, "instantid / unnorm", False, HASH_INSTANT, "instantid", (81_978_624, XL_PAIRS, 0))
        for name in ("ip-adapter", "ip-adapter_instant_id_sdxl", "renamed")
    ],
]


@pytest.mark.parametrize(("stem", "row", "mixed", "sha256", "variant", "parameters"), FACE_FILES)
def test_every_published_face_file_is_told(stem, row, mixed, sha256, variant, parameters):
    shapes = PUBLISHED[row][0]
    parts = (
        [key for key in shapes if key.startswith("image_proj.")],
        [key for key in shapes if "_ip." in key],
        [key for key in shapes if "_lora." in key],
    )
    assert tuple(sum(prod(shapes[key]) for key in part) for part in parts) == parameters
    spec = identify(shapes)
    assert (spec.parameters, spec.has_lora) == (sum(parameters), parameters[2] > 0)
    for known in {sha256} if stem == "renamed" else {sha256, None}:
        assert tie_break(spec, stem, known, mixed_dtypes=mixed).variant == variant


@pytest.mark.parametrize(
    ("spec", "stem", "sha256", "mixed", "variant"),
    [
        (FACEID_PLUS, "ip-adapter-faceid-plus_sd15", None, None, "faceid-plus"),
        (FACEID_PLUS, "ip-adapter-faceid-plusv2_sd15", None, None, "faceid-plus-v2"),
        (FACEID_PLUS, "IP-Adapter-FaceID-Plus-V2", None, None, "faceid-plus-v2"),
        (FACEID_PLUS, "faceid_plus_v2", None, None, "faceid-plus-v2"),
        (FACEID_PLUS, "faceid_v2_sd15", None, None, "faceid-plus-v2"),
        (FACEID_PLUS, "faceid_v2024", None, None, "faceid-plus"),
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
        (INSTANT, "unnorm", HASH_INSTANT, True, "instantid"),
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
