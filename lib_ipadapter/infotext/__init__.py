"""Units <-> the generation parameters that the WebUI writes into pictures."""

from .reading import HashedReference, Pasted, entries, read, restored
from .writing import ReferenceAtWork, UnitAtWork, entry_name, parameters, quoted

__all__ = (
    "HashedReference",
    "Pasted",
    "ReferenceAtWork",
    "UnitAtWork",
    "entries",
    "entry_name",
    "parameters",
    "quoted",
    "read",
    "restored",
)
