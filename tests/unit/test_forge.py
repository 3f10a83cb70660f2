"""Forge and its kin: which host it is, where its model is, and who tells the rows of a call."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lib_ipadapter.attend.layers import Topology, cross_attention_layers
from lib_ipadapter.attend.rows import Row
from lib_ipadapter.errors import MismatchError
from tests.helpers.unets import sd_unet


@pytest.fixture
def forge(modules: None) -> Any:
    from lib_ipadapter.webui.host import forge

    return forge


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that manages the device's memory on Forge."""
    module = ModuleType("backend.memory_management")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def forges(unet: Any) -> Any:
    """A loaded checkpoint as Forge has it."""
    patcher = SimpleNamespace(model=SimpleNamespace(diffusion_model=unet))
    return SimpleNamespace(forge_objects=SimpleNamespace(unet=patcher))


def call(kinds: Any) -> dict[str, Any]:
    """The keyword arguments of a call of the UNet."""
    return {"context": None, "transformer_options": {"cond_or_uncond": kinds, "sigmas": torch.ones(1)}}


@pytest.mark.parametrize("channels", [4, 16])
def test_a_blank_picture_has_the_channels_of_the_hosts_autoencoder(
    channels: int, forge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FLUX' latents have 16, and the host decodes them whatever made them."""
    from lib_ipadapter.webui.host import a1111

    loaded = forges(object())
    loaded.forge_objects.vae = SimpleNamespace(latent_channels=channels)
    for module in (forge, a1111):
        monkeypatch.setattr(module, "shared", SimpleNamespace(sd_model=loaded))
    p = SimpleNamespace(prompts=["a", "b"], width=64, height=32)
    forge.Forge().sample_nothing(p)
    assert p.sample().shape == (2, channels, 4, 8)


# --- which host it is -----------------------------------------------------------------------------------------------


def test_it_is_known_by_its_model(forge: Any) -> None:
    from lib_ipadapter.webui.host.a1111 import A1111
    from lib_ipadapter.webui.host.choice import HOSTS

    reforges = SimpleNamespace(model=SimpleNamespace(diffusion_model=object()), **vars(forges(object())))
    a1111s = SimpleNamespace(model=SimpleNamespace(diffusion_model=object()))
    found = [next(host for host in HOSTS if host.recognises(one)) for one in (forges(object()), reforges, a1111s)]
    assert [type(host) for host in found] == [forge.Forge, forge.Forge, A1111]


def test_before_its_first_model_it_is_known_by_its_modules(forge: Any, memory: Any) -> None:
    host = forge.Forge()
    assert host.recognises(None)
    assert host.recognises(SimpleNamespace(cond_stage_model=None))  # what stands there until a model is loaded
    assert not host.recognises(SimpleNamespace(model=object()))


def test_flux_runs_where_the_engine_is_that_can_load_it(forge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forge and Neo have it; reForge and classic manage memory elsewhere, and the WebUI knows nothing of it."""
    from lib_ipadapter.webui.host.a1111 import A1111

    host = forge.Forge()
    monkeypatch.delitem(sys.modules, forge.ENGINE, raising=False)
    monkeypatch.setitem(sys.modules, "ldm_patched.modules.model_management", ModuleType("reForge's"))
    assert not host.runs_flux() and not A1111().runs_flux()
    monkeypatch.setitem(sys.modules, forge.ENGINE, ModuleType(forge.ENGINE))
    assert host.runs_flux() and not A1111().runs_flux()


def test_its_unet_is_behind_its_objects(forge: Any) -> None:
    unet, other = nn.Linear(1, 1), nn.Linear(1, 1)
    host = forge.Forge()
    assert host.unet_of(forges(unet)) is unet
    assert host.unet_of(SimpleNamespace(model=SimpleNamespace(diffusion_model=other), **vars(forges(unet)))) is unet
    for nothing in (None, SimpleNamespace(), SimpleNamespace(forge_objects=None), forges(None)):
        assert host.unet_of(nothing) is None


def test_a_host_that_keeps_one_checkpoint_has_one_unet(forge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules import sd_models

    unet = nn.Linear(1, 1)
    monkeypatch.setattr(sd_models, "model_data", SimpleNamespace(sd_model=forges(unet)))
    assert list(forge.Forge().loaded_unets()) == [unet]


def test_the_host_makes_room_for_an_encoder(forge: Any, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    memory.free_memory = lambda nbytes, device: asked.append((nbytes, device))
    forge.Forge().device().make_room(1000)
    assert asked == []  # nothing has to go from main memory
    card = torch.device("cuda", 0)
    monkeypatch.setattr(forge, "devices", SimpleNamespace(device=card, dtype=torch.float16, torch_gc=lambda: None))
    forge.Forge().device().make_room(1000)
    [(nbytes, device)] = asked
    assert device == card and nbytes > 1000


# --- who tells the rows ---------------------------------------------------------------------------------------------

C0, C1, U0, U1 = Row(True, 0), Row(True, 1), Row(False, 0), Row(False, 1)


@pytest.mark.parametrize(
    ("kinds", "pictures", "n", "rows"),
    [
        ([1, 0], 1, 2, (U0, C0)),
        ([0, 1], 1, 2, (C0, U0)),
        ([1, 0], 2, 4, (U0, U1, C0, C1)),
        ([0], 2, 2, (C0, C1)),
        ([1], 2, 2, (U0, U1)),
        ((1, 0, 0), 1, 3, (U0, C0, C0)),  # AND prompts
        ([1, 0, 0], 2, 6, (U0, U1, C0, C1, C0, C1)),
        ([1, 0], 2, 8, (U0, U1, C0, C1, U0, U1, C0, C1)),  # two tiles
    ],
)
def test_a_call_tells_its_rows(kinds: Any, pictures: int, n: int, rows: Any, forge: Any) -> None:
    assert forge.announced(pictures)(call(kinds), n) == rows


@pytest.mark.parametrize(
    ("kwargs", "n"),
    [
        ({}, 2), ({"transformer_options": None}, 2), ({"transformer_options": {}}, 2), (call(None), 2), (call([]), 2),
        (call([1, 0]), 3), (call([1, 0]), 1), (call([2, 0]), 2), (call("10"), 2),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_not_guessed(kwargs: dict[str, Any], n: int, forge: Any) -> None:
    assert not forge.announced(1)(kwargs, n)


# --- layers that do not tell their widths ---------------------------------------------------------------------------


class Packed(nn.Module):
    """A linear layer whose weights are packed: no widths."""


def packed_unet(*, heads: bool = True, config: Any = None) -> Any:
    """A UNet with all of its attention's layers packed; ``heads``: it tells how wide these are."""
    unet = sd_unet()
    for layer in cross_attention_layers(unet):
        attention, width = layer.module, layer.width
        attention.to_q, attention.to_k = Packed(), Packed()
        attention.__dict__.pop("dim_head", None)
        if heads:
            attention.dim_head = width // attention.heads
    if config is not None:
        unet.config = config
    return unet


@pytest.mark.parametrize("config", [{"context_dim": 768}, {"context_dim": [768, 768]}, {"context_dim": (768,)}])
def test_packed_layers_have_the_widths_of_plain_ones(config: dict[str, Any]) -> None:
    plain = Topology.of(cross_attention_layers(sd_unet()))
    assert plain.context_width == 768
    assert Topology.of(cross_attention_layers(packed_unet(config=config))) == plain


@pytest.mark.parametrize("config", [None, {"context_dim": None}, {"context_dim": [1, 2]}])
def test_a_model_that_tells_no_width_is_refused(config: dict[str, Any] | None) -> None:
    with pytest.raises(MismatchError, match="does not tell the width"):
        cross_attention_layers(packed_unet(config=config))


def test_a_model_whose_attention_tells_no_width_is_refused() -> None:
    with pytest.raises(MismatchError, match="do not tell their width"):
        cross_attention_layers(packed_unet(heads=False, config={"context_dim": 768}))
