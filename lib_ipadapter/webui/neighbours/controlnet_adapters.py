"""Names of before, until the tests have moved."""

from .controlnet.exports import exported
from .controlnet.imports import imported
from .controlnet.models import LATE, adapter, label, label_hash
from .controlnet.overlaps import settle

__all__ = ["LATE", "adapter", "exported", "imported", "label", "label_hash", "settle"]
