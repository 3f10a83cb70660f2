"""Recognition of image encoders, of the text towers beside them, and of checkpoints."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lib_ipadapter.checkpoint.clip_keys import IMAGE_TOWER, TEXT_TOWER
from lib_ipadapter.checkpoint.identify import identify
from lib_ipadapter.checkpoint.specs import EncoderSpec, TextSpec, UNetSpec
from lib_ipadapter.errors import CheckpointError
from tests.helpers.checkpoint_shapes import (
    NARROW_SD,
    NARROW_XL,
    SD_UNET,
    TOWERS,
    WORDS,
    XL_UNET,
    open_clip_tower,
    open_clip_words,
    transformers_tower,
    transformers_words,
    unet,
    without,
)

TEXT = {"text_model.embeddings.token_embedding.weight": (49408, 768), "token_embedding.weight": (49408, 1024)}
EXTRA = TEXT | {"logit_scale": (), "positional_embedding": (77, 1024), "text_projection": (1024, 1024)}


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
    tower = IMAGE_TOWER.find(
        open_clip_tower(32, 1, 64, 4, 5, 8) | EXTRA | {"transformer.resblocks.0.ln_1.weight": (2,)}
    )
    assert {"visual." + key for key in tower.keys} == open_clip_tower(32, 1, 64, 4, 5, 8).keys()
    tower = IMAGE_TOWER.find(transformers_tower(32, 1, 64, 4, 5, 8) | EXTRA)
    assert set(tower.keys) == transformers_tower(32, 1, 64, 4, 5, 8).keys()


@pytest.mark.parametrize("part", ["visual_projection", "patch_embedding", "position_embedding", "layers.0.mlp.fc1"])
def test_encoders_without_a_part_are_refused(part):
    with pytest.raises(CheckpointError, match="without a usable .*get the complete encoder"):
        identify(without(transformers_tower(32, 1, 64, 4, 5, 8), part))


def test_positions_that_are_no_square_are_refused():
    with pytest.raises(CheckpointError, match="7 positions"):
        identify(transformers_tower(32, 1, 64, 4, 7, 8))


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
    assert set(TEXT_TOWER.find(both).keys) == text.keys() and TEXT_TOWER.find(both).prefix == ""
    assert {"visual." + key for key in IMAGE_TOWER.find(both).keys} == image.keys()
    image, text = transformers_tower(32, 1, 64, 4, 5, 8), transformers_words(64, 2, 200, 8)
    both = image | text | {"text_model.embeddings.position_ids": (1, 77)}
    assert set(TEXT_TOWER.find(both).keys) == text.keys() and set(IMAGE_TOWER.find(both).keys) == image.keys()
    assert TEXT_TOWER.find(image) is None and IMAGE_TOWER.find(text) is None


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
    expected = UNetSpec(base_model, context, widths, len(blocks))
    assert identify(shapes) == expected
    assert identify(dict(sorted(shapes.items(), reverse=True))) == expected
    assert identify({f"state_dict.{key}": shape for key, shape in shapes.items()}) == expected


def test_a_checkpoint_with_half_a_layer_is_no_checkpoint():
    with pytest.raises(CheckpointError, match="without a Stable Diffusion UNet"):
        identify(without(unet(SD_UNET, 768), "middle_block.1.transformer_blocks.0.attn2.to_q"))
