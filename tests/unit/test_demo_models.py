"""The models and files of the miniature host."""

from __future__ import annotations

import pytest
import torch

from demo import models


def test_building_a_model_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    models.build("sd15")
    assert torch.equal(torch.randn(3), expected)


@pytest.mark.parametrize(("kind", "layers"), [("sd15", 16), ("sd2", 16), ("inpaint", 16), ("sdxl", 70)])
def test_layers(kind, layers) -> None:
    unet = models.build_unet(kind, torch.Generator().manual_seed(0))
    attn2 = [module for name, module in unet.named_modules() if name.endswith("attn2")]
    assert len(attn2) == layers and {m.to_k.in_features for m in attn2} == {models.KINDS[kind][1]}
    assert {type(m).__name__ for m in attn2} == {"CrossAttention"}


def test_files_for_the_extension() -> None:
    from demo.files import adapter_state, encoder_state

    state = adapter_state()
    assert sorted(int(k.split(".")[1]) for k in state if k.endswith("to_k_ip.weight")) == list(range(1, 33, 2))
    assert state["ip_adapter.31.to_v_ip.weight"].shape == (128, 768)
    assert encoder_state()["visual_projection.weight"].shape == (1024, 128)


def test_prompt_weights(modules) -> None:
    from modules.prompt_parser import get_multicond_prompt_list, parse_prompt_attention

    assert parse_prompt_attention("a (b) [c] \\(d\\) (e:1.5) BREAK f") == [
        ["a ", 1.0],
        ["b", 1.1],
        [" ", 1.0],
        ["c", 1 / 1.1],
        [" (d) ", 1.0],
        ["e", 1.5],
        ["", 1.0],
        ["BREAK", -1],
        ["f", 1.0],
    ]
    assert get_multicond_prompt_list(["a AND b :0.5"])[0] == [[(0, 1.0), (1, 0.5)]]
