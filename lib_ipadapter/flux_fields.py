"""The declarations of the fields that only adapters for FLUX have, and what others' fields mean there.

Redux' tokens stand behind the prompt's words, for all blocks alike; of the blocks in which XLabs' and InstantX'
adapters attend, nobody knows what they carry, so no weight type spreads over them.
"""

from __future__ import annotations

from .fields import PanelPlace, declared
from .kinds import Among

REDUX = ("redux",)
WORDLESS = ("redux", "instantx")  # whose image encoder, SigLIP, comes without a text encoder
FLUX = ("redux", "xlabs", "instantx")
NOT_NEGATIVE = REDUX  # what is attended to cannot be attended to less than not at all

# By how much the grid of tokens is made coarser; beside each, what is left of SigLIP's at 384 pixels.
DOWNSAMPLING = declared(
    Among({1: "27 × 27", 3: "9 × 9", 5: "5 × 5", 9: "3 × 3"}),
    PanelPlace(
        "How closely",
        "How finely the reference is described, by how many image tokens: fewer ones leave its arrangement to the "
        "prompt.",
        place="sight",
    ),
    about="FLUX Redux: by how much the grid of its image tokens is made coarser; 27 × 27 become 9 × 9, 5 × 5 or 3 × 3, "
    "and the fewer there are, the more of the arrangement is left to the prompt",
    variants=REDUX,
)
