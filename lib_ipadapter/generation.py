"""Names of before, until the tests have moved."""

from .encode.device import Device
from .jobs.generation import prepare_generation as Generation
from .jobs.resources import Resources

__all__ = ["Device", "Generation", "Resources"]
