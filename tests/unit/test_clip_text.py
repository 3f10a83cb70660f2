"""encode/clip_text.py against transformers' CLIPTextModelWithProjection and open_clip's CLIP on the same weights."""

import functools
import sys

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from lib_ipadapter.checkpoint.specs import TextSpec
from lib_ipadapter.encode import clip_text
from lib_ipadapter.encode.clip_image import ImageEncoder
from lib_ipadapter.encode.clip_text import TextTower, subtract, token_ids
from lib_ipadapter.errors import CheckpointError, UnitError
from tests.helpers import image_towers


def make_spec(width=64, layers=2, heads=1, mlp_width=None, context=77, projection=24, quick_gelu=False):
    return TextSpec(
        layout="transformers",
        width=width,
        layers=layers,
        heads=heads,
        mlp_width=mlp_width or 4 * width,
        context=context,
        vocabulary=49408,
        projection=projection,
        quick_gelu=quick_gelu,
    )


SPECS = {
    "one head": make_spec(),
    "three heads, odd feed-forward": make_spec(width=96, heads=3, mlp_width=200, layers=3),
    "quick_gelu": make_spec(quick_gelu=True, heads=2),
    "short context": make_spec(context=16, layers=1),
}
WORDS = ["red", "", "a dog, (bokeh:1.2)", "Ünïcode 猫 RED", "a red circle on blue stripes"]


@functools.cache
def reference(spec, seed=0):
    """transformers' model of these sizes, its weights large enough that all count. None may change its weights."""
    config = CLIPTextConfig(
        vocab_size=spec.vocabulary,
        hidden_size=spec.width,
        intermediate_size=spec.mlp_width,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        max_position_embeddings=spec.context,
        projection_dim=spec.projection,
        hidden_act="quick_gelu" if spec.quick_gelu else "gelu",
    )
    model = CLIPTextModelWithProjection(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            scale = p.shape[-1] ** -0.5 if p.ndim > 1 else 0.3
            scale = 0.5 if "token" in name else scale
            p.copy_(torch.randn(p.shape, generator=generator) * scale + ("norm" in name and "weight" in name))
    return model


def expected(model, words, context=77):
    with torch.no_grad():
        return model(input_ids=open_clip.tokenizer.tokenize(words, context)).text_embeds


def to_open_clip(state, prefix=""):
    """The published conversion the other way round, written out independently of the code under test."""
    out = {}
    for key, value in state.items():
        if key.endswith("position_ids") or ".k_proj." in key or ".v_proj." in key:
            continue
        if ".q_proj." in key:
            value = torch.cat([state[key.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")])
        for theirs, ours in (
            ("text_model.embeddings.token_embedding", "token_embedding"),
            ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
            ("text_model.final_layer_norm", "ln_final"),
            ("text_model.encoder.layers", "transformer.resblocks"),
            ("self_attn.q_proj.", "attn.in_proj_"),
            ("self_attn", "attn"),
            ("layer_norm", "ln_"),
            ("fc1", "c_fc"),
            ("fc2", "c_proj"),
        ):
            key = key.replace(theirs, ours)
        if key == "text_projection.weight":
            key, value = "text_projection", value.T
        out[prefix + key] = value
    return out


def beside_vision(state):
    """What whole files hold besides: the image tower, the temperature, older buffers."""
    names = ("proj", "class_embedding", "transformer.resblocks.0.ln_1.weight")
    others = {f"visual.{name}": torch.ones(3, 3) for name in names}
    return {**others, **state, "logit_scale": torch.ones(()), "attn_mask": torch.ones(77, 77)}


LAYOUTS = {
    "transformers": lambda state: {
        **state, **image_towers.reference(image_towers.SPECS["one layer"]).state_dict(),
        "text_model.embeddings.position_ids": torch.arange(77)[None], "logit_scale": torch.ones(()),
    },
    "open_clip and OpenAI": lambda state: beside_vision(to_open_clip(state)),
    "open_clip, text tower apart": lambda state: beside_vision(to_open_clip(state, "text.")),
    "alone": dict,
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", SPECS)
def test_equals_transformers_in_every_layout(name, layout):
    spec, model = SPECS[name], reference(SPECS[name])
    tower = TextTower.from_state(spec, LAYOUTS[layout](dict(model.state_dict())), dtype=torch.float32)
    for words in WORDS:
        embedded = tower.embed(words)
        assert embedded.shape == (1, spec.projection) and embedded.dtype == torch.float32
        torch.testing.assert_close(embedded, expected(model, words, spec.context), rtol=0, atol=1e-4)


def test_equals_open_clips_own_model():
    spec = make_spec(width=96, heads=3, layers=3)
    state = to_open_clip(dict(reference(spec).state_dict()))
    text = {"context_length": 77, "vocab_size": 49408, "width": 96, "heads": 3, "layers": 3}
    image = {"layers": 1, "width": 64, "head_width": 64, "patch_size": 14, "image_size": 28}
    with torch.random.fork_rng():
        theirs = open_clip.model.CLIP(24, image, text).eval()
    theirs.load_state_dict({**theirs.state_dict(), **state})
    tower = TextTower.from_state(spec, dict(theirs.state_dict()), dtype=torch.float32)
    for words in WORDS:
        with torch.no_grad():
            wanted = theirs.encode_text(open_clip.tokenize(words))
        torch.testing.assert_close(tower.embed(words), wanted, rtol=0, atol=1e-4)


def test_an_end_token_within_the_words_ends_them():
    """The special token, spelt out, is one: the pooling everywhere takes the first."""
    spec, model = SPECS["one head"], reference(SPECS["one head"])
    tower = TextTower.from_state(spec, dict(model.state_dict()), dtype=torch.float32)
    words = "red <end_of_text> blue"
    torch.testing.assert_close(tower.embed(words), expected(model, words), rtol=0, atol=1e-4)
    torch.testing.assert_close(tower.embed(words), tower.embed("red"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("stored", [torch.float16, torch.float32])
def test_half_precision_weights_compute_in_fp32_on_the_cpu(stored):
    spec, model = SPECS["quick_gelu"], reference(SPECS["quick_gelu"])
    state = {key: value.to(stored) if value.is_floating_point() else value for key, value in model.state_dict().items()}
    half = TextTower.from_state(spec, state, dtype=torch.float16)
    rounded = reference.__wrapped__(spec)
    rounded.load_state_dict(
        {k: v.half().float() if v.is_floating_point() else v for k, v in model.state_dict().items()}, strict=False
    )
    assert half.dtype == torch.float16 and half.nbytes == 2 * sum(p.numel() for p in model.parameters())
    torch.testing.assert_close(half.embed("a red dog"), expected(rounded, "a red dog"), rtol=0, atol=1e-4)


def test_bfloat16_and_moving():
    spec, model = SPECS["one head"], reference(SPECS["one head"])
    tower = TextTower.from_state(spec, dict(model.state_dict()), dtype=torch.float32)
    assert tower.to("cpu", torch.bfloat16) is tower and tower.dtype == torch.bfloat16 and tower.device.type == "cpu"
    embedded = tower.embed("red")
    assert embedded.dtype == torch.float32 and 0 < (embedded - expected(model, "red")).abs().max() < 0.2


def test_autocast_and_inference_mode_of_the_host_change_nothing():
    spec, model = SPECS["one head"], reference(SPECS["one head"])
    plain = TextTower.from_state(spec, dict(model.state_dict()), dtype=torch.float32).embed("red")
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        inside = TextTower.from_state(spec, dict(model.state_dict()), dtype=torch.float32).embed("red")
    assert torch.equal(inside, plain) and not inside.is_inference() and not inside.requires_grad


def test_building_and_embedding_draw_nothing_and_empty_the_state():
    state = LAYOUTS["open_clip and OpenAI"](dict(reference(SPECS["one head"]).state_dict()))
    table = state["token_embedding.weight"].data_ptr()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    tower = TextTower.from_state(SPECS["one head"], state, dtype=torch.float32)
    tower.embed("red")
    assert torch.equal(before, torch.get_rng_state())
    assert {key.split(".")[0] for key in state} == {"visual", "logit_scale", "attn_mask"}
    assert tower._tower.token_embedding.weight.data_ptr() == table  # the largest tensor is not held twice


# Tokens


def test_tokens_are_clips():
    assert token_ids("red") == [49406, 736, 49407]
    for words in WORDS:
        ids = token_ids(words)
        assert open_clip.tokenizer.tokenize(words)[0, : len(ids)].tolist() == ids


@pytest.mark.parametrize("context", [77, 16])
def test_words_that_are_too_many_are_refused_not_cut(context):
    spec = make_spec(context=context, layers=1)
    tower = TextTower.from_state(spec, dict(reference(spec).state_dict()), dtype=torch.float32)
    fits = " ".join(["red"] * (context - 2))
    torch.testing.assert_close(tower.embed(fits), expected(reference(spec), fits, context), rtol=0, atol=1e-4)
    with pytest.raises(UnitError, match=f"are {context - 1} tokens long, .* takes {context - 2}: use fewer words."):
        tower.embed(f"{fits} red")


# Files that do not fit


def spoilt(change, layout="transformers"):
    def make():
        state = dict(reference(SPECS["one head"]).state_dict())
        state = state if layout == "transformers" else beside_vision(to_open_clip(state))
        change(state)
        return state

    return make


Q = "text_model.encoder.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (spoilt(lambda s: s.pop("text_model.final_layer_norm.bias")), "lacks text_model.final_layer_norm.bias"),
        (spoilt(lambda s: s.pop("text_projection.weight")), "lacks text_projection.weight"),
        (spoilt(lambda s: s.pop(Q)), "lacks .*layers.1.self_attn.q_proj.weight"),
        (spoilt(lambda s: s.update({"text_model.x": torch.ones(1)})), "holds text_model.x"),
        (spoilt(lambda s: s.update({Q: torch.ones(60, 64)})), r"q_proj.weight .*\[188, 64\] instead of \[192, 64\]"),
        (spoilt(lambda s: s.update({"text_projection.weight": torch.ones(64, 24)})), r"\[24, 64\] instead"),
        (spoilt(lambda s: s.pop("ln_final.bias"), "open_clip"), "lacks ln_final.bias"),
        (spoilt(lambda s: s.pop("text_projection"), "open_clip"), "lacks text_projection,"),
        (
            spoilt(lambda s: s.update({"transformer.resblocks.7.ln_1.bias": torch.ones(64)}), "open_clip"),
            "holds transformer.resblocks.7.ln_1.bias",
        ),
        (lambda: {"a.weight": torch.ones(1)}, "no CLIP text tower .it begins with a.weight"),
        (dict, "no CLIP text tower"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_stays_whole(make, says):
    state = make()
    keys = set(state)
    with pytest.raises(CheckpointError, match=says) as caught:
        TextTower.from_state(SPECS["one head"], state, dtype=torch.float32)
    assert set(state) == keys
    assert "; " in caught.value.detail and caught.value.detail.endswith(".")


# Subtracting


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_golden_projection():
    e, w = torch.tensor([[3.0, 4.0, 5.0], [0.0, 2.0, -1.0]]), torch.tensor([[0.0, 7.0, 0.0]])
    assert torch.equal(subtract(e, w), torch.tensor([[3.0, 0.0, 5.0], [0.0, 0.0, -1.0]]))
    slanted = subtract(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 1.0]]))
    torch.testing.assert_close(slanted, torch.tensor([[1.0, -1.0]]))


@settings(max_examples=60)
@given(st.integers(1, 5), st.integers(2, 200), st.floats(1e-3, 1e3), st.sampled_from([1, -1]), st.integers(0, 99))
def test_what_is_left_is_orthogonal_and_nothing_else_is_gone(rows, width, scale, sign, seed):
    e, w = normal(rows, width, seed=seed), normal(1, width, seed=seed + 100)
    left = subtract(e, w)
    assert left.shape == e.shape and left.dtype == torch.float32
    assert (left @ w.T).abs().max() <= 1e-4 * w.norm() * e.norm(dim=1).max()
    torch.testing.assert_close(subtract(left, w), left, rtol=0, atol=1e-4)
    torch.testing.assert_close(subtract(e, sign * scale * w), left, rtol=0, atol=1e-4)
    gone = e - left  # lies along the words
    torch.testing.assert_close(subtract(gone, w), torch.zeros_like(gone), rtol=0, atol=1e-4)
    across = subtract(normal(1, width, seed=seed + 7), w)  # any direction orthogonal to the words
    torch.testing.assert_close(left @ across.T, e @ across.T, rtol=0, atol=1e-3 * float(e.norm() * across.norm() + 1))


def test_halves_are_projected_in_fp32_and_nothing_is_changed_in_place():
    e, w = normal(2, 64).half(), normal(1, 64, seed=1).half()
    kept = e.clone(), w.clone()
    left = subtract(e, w)
    assert left.dtype == torch.float32 and (left @ w.float().T).abs().max() < 1e-4
    assert torch.equal(e, kept[0]) and torch.equal(w, kept[1])


def test_words_without_an_embedding_take_nothing_away():
    e = normal(2, 8)
    assert torch.equal(subtract(e, torch.zeros(1, 8)), e)


@pytest.mark.parametrize(
    "build",
    [
        lambda: ImageEncoder.from_state(image_towers.SPECS["two heads of 32"], {}, dtype=torch.float32),
        lambda: TextTower.from_state(SPECS["one head"], {}, dtype=torch.float32),
        lambda: token_ids("red"),
    ],
    ids=["image tower", "text tower", "tokens"],
)
def test_where_open_clip_is_missing_a_sentence_says_what_to_install(monkeypatch, build):
    """Not every host comes with it."""
    for module in ("open_clip", "open_clip.transformer", "open_clip.tokenizer"):
        monkeypatch.setitem(sys.modules, module, None)
    clip_text._tokenizer.cache_clear()
    with pytest.raises(CheckpointError, match="open-clip-torch, which is missing .* install it with pip .* restart"):
        build()
