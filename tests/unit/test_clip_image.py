"""encode/clip_image.py against transformers' CLIPVisionModelWithProjection on the same random weights."""

import dataclasses

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from lib_ipadapter.checkpoint.identify import identify
from lib_ipadapter.encode.clip_image import Embedding, ImageEncoder
from lib_ipadapter.errors import CheckpointError
from tests.helpers.image_towers import SPECS, reference


def to_open_clip(state, prefix="visual."):
    """The published conversion the other way round, written out independently of the code under test."""
    out = {}
    for key, value in state.items():
        if key.endswith("position_ids") or ".k_proj." in key or ".v_proj." in key:
            continue
        if ".q_proj." in key:
            value = torch.cat([state[key.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")])
        for theirs, ours in (
            ("vision_model.embeddings.class_embedding", "class_embedding"),
            ("vision_model.embeddings.position_embedding.weight", "positional_embedding"),
            ("vision_model.embeddings.patch_embedding", "conv1"),
            ("vision_model.pre_layrnorm", "ln_pre"),
            ("vision_model.post_layernorm", "ln_post"),
            ("vision_model.encoder.layers", "transformer.resblocks"),
            ("self_attn.q_proj.", "attn.in_proj_"),
            ("self_attn", "attn"),
            ("layer_norm", "ln_"),
            ("fc1", "c_fc"),
            ("fc2", "c_proj"),
        ):
            key = key.replace(theirs, ours)
        if key == "visual_projection.weight":
            key, value = "proj", value.T
        out[prefix + key] = value
    return out


def pixels_for(spec, batch=2):
    return torch.randn(batch, 3, spec.image_size, spec.image_size, generator=torch.Generator().manual_seed(7))


def expected(model, pixels):
    with torch.no_grad():
        out = model(pixels, output_hidden_states=True)
    return Embedding(out.image_embeds, out.hidden_states[-2])


def close(embedding, other, tolerance=1e-4):
    for ours, theirs in ((embedding.pooled, other.pooled), (embedding.penultimate, other.penultimate)):
        torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=tolerance)


CASES = [(name, "transformers") for name in SPECS] + [
    (name, layout)
    for name in ("heads of 104, odd mlp, as in bigG", "quick_gelu")
    for layout in ("ControlNet", "open_clip", "open_clip without prefix")
]


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_equals_transformers(name, layout):
    spec = SPECS[name]
    model, pixels = reference(spec), pixels_for(spec)
    state = dict(model.state_dict())
    if layout == "ControlNet":  # older transformers saved this buffer
        state["vision_model.embeddings.position_ids"] = torch.arange((spec.image_size // spec.patch) ** 2 + 1)[None]
    elif layout == "open_clip":
        state = to_open_clip(state)
        state |= {"logit_scale": torch.ones(()), "positional_embedding": torch.ones(77, 8), "ln_final.bias": pixels}
    elif layout == "open_clip without prefix":
        state = to_open_clip(state, prefix="")
    embedding = ImageEncoder.from_state(spec, state, dtype=torch.float32).encode(pixels)
    close(embedding, expected(model, pixels))
    assert embedding.pooled.shape == (2, spec.projection)
    assert embedding.penultimate.shape == (2, (spec.image_size // spec.patch) ** 2 + 1, spec.width)


PUBLISHED = {  # hidden, mlp, layers, heads, projection, size, parameters
    "ViT-H-14": (1280, 5120, 32, 16, 1024, 224, 632_076_800),
    "ViT-bigG-14": (1664, 8192, 48, 16, 1280, 224, 1_844_907_264),
    "ViT-L-14": (1024, 4096, 24, 16, 768, 224, 303_966_208),
    "ViT-L-14-336": (1024, 4096, 24, 16, 768, 336, 304_293_888),
}


@pytest.mark.parametrize("layout", ["transformers", "open_clip"])
@pytest.mark.parametrize("kind", PUBLISHED)
def test_published_sizes_from_file_to_tower(kind, layout):
    """Without memory: what identify makes of the published shapes builds a tower that takes every tensor."""
    width, mlp_width, layers, heads, projection, size, parameters = PUBLISHED[kind]
    one = CLIPVisionConfig(
        hidden_size=width, intermediate_size=mlp_width, num_hidden_layers=1, num_attention_heads=heads, patch_size=14,
        image_size=size, projection_dim=projection,
    )  # fmt: skip
    with torch.device("meta"):
        state = dict(CLIPVisionModelWithProjection(one).state_dict())
    for key in [key for key in state if ".layers.0." in key]:
        state |= {key.replace(".0.", f".{i}."): state[key] for i in range(1, layers)}
    state = state if layout == "transformers" else to_open_clip(state)
    spec = identify({key: tuple(value.shape) for key, value in state.items()})
    encoder = ImageEncoder.from_state(spec, state, dtype=torch.float16)
    assert (spec.kind, spec.heads, spec.quick_gelu) == (kind, heads, kind.startswith("ViT-L"))
    assert encoder.nbytes == 2 * parameters
    assert encoder._tower.transformer.resblocks[0].attn.num_heads == heads


@pytest.mark.parametrize("prefix", ["image_encoder.", "clip.vision."])
def test_prefixes_and_text_towers_do_not_matter(prefix):
    spec = SPECS["two heads of 32"]
    model, pixels = reference(spec), pixels_for(spec)
    state = {prefix + key: value for key, value in model.state_dict().items()}
    state |= {"text_model.final_layer_norm.weight": torch.ones(3), "text_projection.weight": torch.ones(3, 3)}
    close(ImageEncoder.from_state(spec, state, dtype=torch.float32).encode(pixels), expected(model, pixels))


@pytest.mark.parametrize("name", ["pooled", "penultimate"])
def test_asked_for_one_source_it_gives_the_same_and_leaves_the_other_out(name):
    spec = SPECS["two heads of 32"]
    encoder = ImageEncoder.from_state(spec, reference(spec).state_dict(), dtype=torch.float32)
    both, one = encoder.encode(pixels_for(spec)), encoder.encode(pixels_for(spec), name)
    assert torch.equal(getattr(one, name), getattr(both, name))
    assert getattr(one, {"pooled": "penultimate", "penultimate": "pooled"}[name]) is None


def test_penultimate_alone_does_not_run_the_last_block():
    spec = SPECS["two heads of 32"]
    encoder = ImageEncoder.from_state(spec, reference(spec).state_dict(), dtype=torch.float32)
    ran = []
    for i, block in enumerate(encoder._tower.transformer.resblocks):
        block.mlp.register_forward_hook(lambda *_, i=i: ran.append(i))
    encoder.encode(pixels_for(spec), "penultimate")
    assert ran == [0, 1]


def test_zeros_are_encoded_as_pixels_that_are_zero_after_normalisation():
    spec = SPECS["quick_gelu"]
    model = reference(spec)
    encoder = ImageEncoder.from_state(spec, model.state_dict(), dtype=torch.float32)
    zeros = torch.zeros(1, 3, 42, 42)
    close(encoder.encode(zeros), expected(model, zeros))
    assert encoder.encode(zeros, "penultimate").pooled is None


@pytest.mark.parametrize("stored", [torch.float16, torch.float32])
def test_half_precision_weights_compute_in_fp32_on_the_cpu(stored):
    spec = SPECS["heads of 80, as in ViT-H"]
    model, pixels = reference(spec), pixels_for(spec)
    state = {key: value.to(stored) for key, value in model.state_dict().items()}
    half = ImageEncoder.from_state(spec, state, dtype=torch.float16)
    rounded = reference.__wrapped__(spec)
    rounded.load_state_dict({key: value.half().float() for key, value in model.state_dict().items()}, strict=False)
    assert half.dtype == torch.float16
    close(half.encode(pixels), expected(rounded, pixels))
    assert half.encode(pixels).pooled.dtype == torch.float32


def test_bfloat16_and_moving():
    spec = SPECS["two heads of 32"]
    model, pixels = reference(spec), pixels_for(spec)
    encoder = ImageEncoder.from_state(spec, model.state_dict(), dtype=torch.float32)
    full = encoder.nbytes
    assert full == 4 * sum(p.numel() for p in model.parameters())
    assert encoder.to("cpu", torch.bfloat16) is encoder
    assert encoder.dtype == torch.bfloat16 and encoder.nbytes == full // 2 and encoder.device.type == "cpu"
    embedding = encoder.encode(pixels)
    assert embedding.pooled.dtype == torch.bfloat16
    error = (embedding.pooled.float() - expected(model, pixels).pooled).abs().max()
    assert 0 < error < 0.2


def test_autocast_and_inference_mode_of_the_host_change_nothing():
    spec = SPECS["two heads of 32"]
    model, pixels = reference(spec), pixels_for(spec)
    plain = ImageEncoder.from_state(spec, model.state_dict(), dtype=torch.float32).encode(pixels)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        encoder = ImageEncoder.from_state(spec, model.state_dict(), dtype=torch.float32)
        inside = encoder.encode(pixels.clone())
    assert torch.equal(inside.pooled, plain.pooled) and torch.equal(inside.penultimate, plain.penultimate)
    for tensor in (inside.pooled, inside.penultimate):
        assert not tensor.is_inference() and not tensor.requires_grad
        tensor.mul_(1)


def test_building_draws_nothing_copies_no_more_than_it_must_and_empties_the_state():
    spec = SPECS["two heads of 32"]
    state = dict(reference(spec).state_dict())
    addresses = {key: value.data_ptr() for key, value in state.items()}
    torch.manual_seed(5)
    before = torch.get_rng_state()
    encoder = ImageEncoder.from_state(spec, state, dtype=torch.float32)
    encoder.encode(pixels_for(spec))
    assert torch.equal(before, torch.get_rng_state())
    assert not [key for key in state if not key.endswith("position_ids")]
    assert not any(p.requires_grad or p.is_meta for p in encoder._tower.parameters())
    shared = {p.data_ptr() for p in encoder._tower.parameters()} & set(addresses.values())
    # all but in_proj weight and bias of each layer, and the turned projection
    assert len(shared) == len(list(encoder._tower.parameters())) - 2 * spec.layers - 1


def spoilt(change, layout="transformers"):
    def make():
        state = dict(reference(SPECS["two heads of 32"]).state_dict())
        state = state if layout == "transformers" else to_open_clip(state)
        change(state)
        return state

    return make


Q = "vision_model.encoder.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (spoilt(lambda s: s.pop("vision_model.post_layernorm.bias")), "lacks vision_model.post_layernorm.bias"),
        (spoilt(lambda s: s.pop(Q)), "lacks .*layers.1.self_attn.q_proj.weight"),
        (spoilt(lambda s: s.update({"vision_model.head.weight": torch.ones(1)})), "holds vision_model.head.weight"),
        (spoilt(lambda s: s.update({Q: torch.ones(60, 64)})), r"q_proj.weight .*\[188, 64\] instead of \[192, 64\]"),
        (spoilt(lambda s: s.update({Q: torch.ones(64, 60)})), "q_proj.weight does not have the shape"),
        (spoilt(lambda s: s.update({"visual_projection.weight": torch.ones(64, 24)})), r"\[24, 64\] instead"),
        (spoilt(lambda s: s.pop("visual.ln_post.bias"), "open_clip"), "lacks visual.ln_post.bias"),
        (spoilt(lambda s: s.update({"visual.x": torch.ones(1)}), "open_clip"), "holds visual.x"),
        (spoilt(lambda s: s.update({"visual.proj": torch.ones(2, 2)}), "open_clip"), "visual.proj does not have"),
        (lambda: {"a.weight": torch.ones(1)}, "no CLIP image tower .it begins with a.weight"),
        (dict, "no CLIP image tower"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_stays_whole(make, says):
    state = make()
    keys = set(state)
    with pytest.raises(CheckpointError, match=says) as caught:
        ImageEncoder.from_state(SPECS["two heads of 32"], state, dtype=torch.float32)
    assert set(state) == keys
    assert "; " in caught.value.detail and caught.value.detail.endswith(".")


def test_layers_too_many_or_too_few():
    spec = SPECS["two heads of 32"]
    with pytest.raises(CheckpointError, match=r"holds .*layers\.2.* and \d+ more"):
        ImageEncoder.from_state(dataclasses.replace(spec, layers=2), reference(spec).state_dict(), dtype=torch.float32)
    with pytest.raises(CheckpointError, match=r"lacks .*layers\.3"):
        ImageEncoder.from_state(dataclasses.replace(spec, layers=4), reference(spec).state_dict(), dtype=torch.float32)


def test_pixels_of_another_size_are_a_programming_error():
    spec = SPECS["two heads of 32"]
    encoder = ImageEncoder.from_state(spec, reference(spec).state_dict(), dtype=torch.float32)
    for shape in ((1, 3, 41, 41), (1, 3, 56, 42), (1, 3, 0, 0), (3, 42, 42), (1, 4, 42, 42)):
        with pytest.raises(ValueError, match=r"\[B, 3, S, S\], S a multiple of 14"):
            encoder.encode(torch.zeros(shape))
