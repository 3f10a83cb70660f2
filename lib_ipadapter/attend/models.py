"""The kinds of models that image prompts can be put into: Stable Diffusion's UNets, and FLUX."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from . import layers
from .flux import model as flux
from .flux.inject import FluxInjection
from .inject import Injection
from .injection import ModelInjection
from .layers import Topology
from .prompt import ImagePrompt


def topology_of(model: nn.Module) -> Topology:
    """What an adapter must fit to act in ``model``. Raises MismatchError for one of another kind."""
    return flux.topology(model) if flux.is_flux(model) else Topology.of(layers.cross_attention_layers(model))


def injection_into(model: nn.Module, prompts: Sequence[ImagePrompt]) -> ModelInjection:
    """The prompts in ``model``, not attached yet. Raises MismatchError for a model of another kind."""
    if flux.is_flux(model):
        return FluxInjection(model, prompts)
    return Injection(model, layers.cross_attention_layers(model), prompts)
