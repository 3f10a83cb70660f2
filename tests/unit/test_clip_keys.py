"""The one table of CLIP's names, against names written down from published files."""

from __future__ import annotations

import pytest

from lib_ipadapter.checkpoint.clip_keys import BLOCKS, IMAGE_TOWER, OPEN_CLIP, TEXT_TOWER, TRANSFORMERS, TowerKeys

BLOCK = "vision_model.encoder.layers.11."
PUBLISHED = {
    "class_embedding": ["vision_model.embeddings.class_embedding"],
    "positional_embedding": ["vision_model.embeddings.position_embedding.weight"],
    "conv1.weight": ["vision_model.embeddings.patch_embedding.weight"],
    "ln_pre.bias": ["vision_model.pre_layrnorm.bias"],
    "ln_post.weight": ["vision_model.post_layernorm.weight"],
    "proj": ["visual_projection.weight"],
    "transformer.resblocks.11.ln_1.weight": [f"{BLOCK}layer_norm1.weight"],
    "transformer.resblocks.11.ln_2.bias": [f"{BLOCK}layer_norm2.bias"],
    "transformer.resblocks.11.attn.in_proj_weight": [f"{BLOCK}self_attn.{part}_proj.weight" for part in "qkv"],
    "transformer.resblocks.11.attn.in_proj_bias": [f"{BLOCK}self_attn.{part}_proj.bias" for part in "qkv"],
    "transformer.resblocks.11.attn.out_proj.bias": [f"{BLOCK}self_attn.out_proj.bias"],
    "transformer.resblocks.11.mlp.c_fc.weight": [f"{BLOCK}mlp.fc1.weight"],
    "transformer.resblocks.11.mlp.c_proj.weight": [f"{BLOCK}mlp.fc2.weight"],
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_of_the_image_tower(name: str) -> None:
    assert IMAGE_TOWER.called(name, TRANSFORMERS) == PUBLISHED[name]
    assert IMAGE_TOWER.called(name, OPEN_CLIP) == [name]


def test_names_of_the_text_tower() -> None:
    assert TEXT_TOWER.called("token_embedding.weight", TRANSFORMERS) == ["text_model.embeddings.token_embedding.weight"]
    assert TEXT_TOWER.called("text_projection", TRANSFORMERS) == ["text_projection.weight"]
    assert TEXT_TOWER.called(f"{BLOCKS}0.ln_1.bias", TRANSFORMERS) == ["text_model.encoder.layers.0.layer_norm1.bias"]
    with pytest.raises(KeyError):
        TEXT_TOWER.called("ln_pre.bias", TRANSFORMERS)


@pytest.mark.parametrize("prefix", ["", "clip.vision."])
def test_a_tower_is_found_with_its_prefix_and_depth(prefix: str) -> None:
    keys = {name: [prefix + key for key in found] for name, found in PUBLISHED.items()}
    others = ["text_model.embeddings.token_embedding.weight", f"{prefix}vision_model.embeddings.position_ids"]
    tower = IMAGE_TOWER.find([*others, *(key for found in keys.values() for key in found)])
    assert tower is not None
    assert (tower.layout, tower.prefix, tower.depth) == (TRANSFORMERS, prefix, 1)
    assert {prefix + key for key in tower.keys} == {key for found in keys.values() for key in found}
    assert tower.key("proj") == "visual_projection.weight"


def test_the_table_fits_a_tower_of_another_kind() -> None:
    """SigLIP's: no class token, no norm before the blocks, no projection; its blocks are named as CLIP's."""
    siglip = TowerKeys(
        file="image encoder",
        tower="SigLIP image tower",
        advice="use another",
        names={
            "positional_embedding": "vision_model.embeddings.position_embedding.weight",
            "conv1.": "vision_model.embeddings.patch_embedding.",
            "ln_post.": "vision_model.post_layernorm.",
        },
        inside="vision_model.",
        recognised_by="conv1.bias",
        transposed=None,
    )
    keys = [
        "vision_model.embeddings.patch_embedding.weight",
        "vision_model.embeddings.patch_embedding.bias",
        "vision_model.embeddings.position_embedding.weight",
        *(f"vision_model.encoder.layers.{layer}.mlp.fc1.weight" for layer in range(27)),
    ]
    tower = siglip.find(keys)
    assert tower is not None and tower.depth == 27 and set(tower.keys) == set(keys)
    assert IMAGE_TOWER.find(keys) is None
