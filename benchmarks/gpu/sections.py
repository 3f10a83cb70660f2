"""The sections in the order of what the first one with a card wants to know first."""

from __future__ import annotations

from . import compiled, encoder, flux_steps, keypoints, memory, modes, scarcity, steps
from .run import Section

SECTIONS = (
    Section("steps", "Cost of a step", 100, steps.parts),
    Section("modes", "Number formats and layouts", 90, modes.parts),
    Section("flux", "FLUX", 90, flux_steps.parts),
    Section("memory", "Device memory", 50, memory.parts),
    Section("keypoints", "InstantID's keypoints", 60, keypoints.parts),
    Section("encoder", "The image encoder", 70, encoder.parts),
    Section("scarcity", "Out of memory", 80, scarcity.parts),
    Section("compile", "torch.compile", 90, compiled.parts),
)
