"""Names and shapes of published files, written down from the files themselves, not from the code under test."""

from __future__ import annotations

SD_WIDTHS = (320, 320, 640, 640, *[1280] * 5, 640, 640, 640, 320, 320, 320, 1280)
XL_WIDTHS = (*[640] * 4, *[1280] * 50, *[640] * 6, *[1280] * 10)
NARROW_SD = tuple(width // 10 for width in SD_WIDTHS)  # 32, 64, 128
NARROW_XL = tuple(width // 10 for width in XL_WIDTHS)


# --- adapters -------------------------------------------------------------------------------------------------------


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


def xlabs(tokens=4, blocks=19, width=3072, context=4096, embeds=768):
    """As published."""
    projection = linear("proj", tokens * context, embeds) | norm("norm", context)
    shapes = {f"ip_adapter_proj_model.{key}": shape for key, shape in projection.items()}
    for n in range(blocks):
        for side in "kv":
            shapes |= linear(f"double_blocks.{n}.processor.ip_adapter_double_stream_{side}_proj", width, context)
    return shapes


def instantx(tokens=128, blocks=57, width=3072, context=4096, embeds=1152):
    """As published: a nested dict, joined with dots."""
    projection = linear("proj.0", 2 * embeds, embeds) | linear("proj.2", tokens * context, 2 * embeds)
    shapes = {f"image_proj.{key}": shape for key, shape in (projection | norm("norm", context)).items()}
    return shapes | {f"ip_adapter.{n}.to_{side}_ip.weight": (width, context) for n in range(blocks) for side in "kv"}


def redux(width=1152, context=4096):
    """As published."""
    return linear("redux_up", 3 * context, width) | linear("redux_down", context, 3 * context)


# name: (shapes, variant, projection, source, family, embedding width, tokens, layers, parameters)
PUBLISHED_FLUX = {
    "XLabs v1": (xlabs(4), "xlabs", "ImageProj", "pooled", "CLIP", 768, 4, 19, 490_874_880),
    "XLabs v2": (xlabs(16), "xlabs", "ImageProj", "pooled", "CLIP", 768, 16, 19, 528_672_768),
    "InstantX": (instantx(), "instantx", "InstantXMLP", "pooled", "SigLIP", 1152, 128, 57, 2_645_600_512),
    "Redux": (redux(), "redux", "Redux", "last", "SigLIP", 1152, 729, 0, 64_503_808),
}


def without(shapes, *parts):
    return {key: shape for key, shape in shapes.items() if not any(part in key for part in parts)}


# --- image encoders ------------------------------------------------------------------------------------------------


def siglip_tower(width, layers, mlp, patch, tokens):
    v, shapes = "vision_model.", {}
    shapes |= {
        f"{v}embeddings.patch_embedding.weight": (width, 3, patch, patch),
        f"{v}embeddings.patch_embedding.bias": (width,),
        f"{v}embeddings.position_embedding.weight": (tokens, width),
        f"{v}head.probe": (1, 1, width),
        f"{v}head.attention.in_proj_weight": (3 * width, width),
        f"{v}head.attention.in_proj_bias": (3 * width,),
    }
    shapes |= norm(f"{v}post_layernorm", width) | norm(f"{v}head.layernorm", width)
    shapes |= linear(f"{v}head.attention.out_proj", width, width)
    shapes |= linear(f"{v}head.mlp.fc1", mlp, width) | linear(f"{v}head.mlp.fc2", width, mlp)
    for n in range(layers):
        block = f"{v}encoder.layers.{n}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear(f"{block}.self_attn.{name}", width, width)
        shapes |= norm(f"{block}.layer_norm1", width) | norm(f"{block}.layer_norm2", width)
        shapes |= linear(f"{block}.mlp.fc1", mlp, width) | linear(f"{block}.mlp.fc2", width, mlp)
    return shapes


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


# kind: (width, layers, mlp, patch, tokens, projection), heads, size, quick_gelu, parameters as transformers counts them
TOWERS = {
    "ViT-H-14": ((1280, 32, 5120, 14, 257, 1024), 16, 224, False, 632_076_800),
    "ViT-bigG-14": ((1664, 48, 8192, 14, 257, 1280), 16, 224, False, 1_844_907_264),
    "ViT-L-14": ((1024, 24, 4096, 14, 257, 768), 16, 224, True, 303_966_208),
    "ViT-L-14-336": ((1024, 24, 4096, 14, 577, 768), 16, 336, True, 304_293_888),
    "ViT (192 wide, 2 layers)": ((192, 2, 300, 8, 17, 96), 3, 32, False, None),
    "ViT (32 wide, 1 layers)": ((32, 1, 64, 4, 5, 8), 1, 8, False, None),
}


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


# --- checkpoints ----------------------------------------------------------------------------------------------------

# Module, depth, width in tenths of the published one, in the order of an adapter's pairs.
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
