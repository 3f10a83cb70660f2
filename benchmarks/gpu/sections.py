"""The sections in the order of what the first one with a card wants to know first."""

from __future__ import annotations

from . import compiled, encoder, flux_steps, keypoints, memory, modes, scarcity, steps
from .run import Section

SECTIONS = (
    Section("steps", "Cost of a step", 200, steps.parts),
    Section("modes", "Number formats and layouts", 50, modes.parts),
    Section("flux", "FLUX", 45, flux_steps.parts),
    Section("memory", "Device memory", 30, memory.parts),
    Section("keypoints", "InstantID's keypoints", 30, keypoints.parts),
    Section("encoder", "The image encoder", 35, encoder.parts),
    Section("scarcity", "Out of memory", 40, scarcity.parts),
    Section("compile", "torch.compile", 50, compiled.parts),
)
