"""What a run turned out to be."""

from __future__ import annotations

from enum import Enum


class Outcome(Enum):
    """Whether image prompts have done in a run what was asked for; the first that holds."""

    MISSED = "they were wanted and never put into a UNet"
    LOST = "they should have acted and never did: something keeps the UNet from calling its modules"
    MISPLACED = "one with a region or keypoints was left out where nothing told the place"
    IDLE = "one has had no step of its own"
    ACTED = "everything that was asked for has happened, be it nothing"
