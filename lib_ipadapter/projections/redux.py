"""FLUX Redux: SigLIP's features as words of FLUX's prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..checkpoint.shapes import Shapes, dims, linear
from ..checkpoint.specs import SIGLIP
from ..errors import CheckpointError
from .architecture import Architecture, Layout

if TYPE_CHECKING:
    from torch import Tensor

TOKENS = 729  # as many as SigLIP so400m has patches of 384 pixels: a token of each


class Redux(Architecture):
    """``tokens = redux_down(silu(redux_up(features)))``, to stand behind the text's (diffusers' ReduxImageEncoder)."""

    recognised_by = "redux_up.weight"
    as_wide_as_a_token = "redux_down.bias"

    @classmethod
    def layout(cls, shapes: Shapes, context_width: int, has_lora: bool) -> Layout:
        hidden, width = dims(shapes, "redux_up.weight", 2)
        tensors = linear("redux_up", hidden, width) | linear("redux_down", context_width, hidden)
        return Layout("redux", "last", width, TOKENS, tensors, family=SIGLIP)

    def __call__(self, last: Tensor, *, downsampling: int = 1) -> Tensor:
        """[B, N, E] last hidden states, N patches of a square -> [B, T, D] image tokens, fp32.

        ``downsampling`` d makes the grid of tokens coarser: of n x n tokens there remain m x m, m = n // d but at least
        1, each the mean of the part of the grid that it stands for (area interpolation). 27 x 27 become 9 x 9, 5 x 5
        and 3 x 3 with 3, 5 and 9; 32 x 32 become 10 x 10, 6 x 6 and 3 x 3. The mean is taken of the tokens and not of
        the features before them, and by areas, as ComfyUI_AdvancedReduxControl and InvokeAI do it: people know by their
        pictures what a factor of 3 looks like. With areas every patch counts alike, also where d does not divide n,
        while bicubic or bilinear interpolation would look at a few of them and pass over the others.
        """
        import torch.nn.functional as F

        tokens = self.linear("redux_down", F.silu(self.linear("redux_up", last.float())))
        if downsampling == 1:
            return tokens
        side = grid(tokens.shape[1])
        square = tokens.transpose(1, 2).unflatten(2, (side, side))
        coarse = max(1, side // downsampling)
        # In main memory: Apple's devices take areas of one size only.
        made: Tensor = F.interpolate(square.cpu(), (coarse, coarse), mode="area").to(square.device)
        return made.flatten(2).transpose(1, 2)


def grid(patches: int) -> int:
    """How many stand along a side of the square. Raises CheckpointError where they are none."""
    side: int = round(patches**0.5)
    if side * side != patches:
        raise CheckpointError(
            f"The image encoder makes {patches} features of a picture, which are no square, so their grid cannot be "
            "made coarser: leave downsampling at 1, or use another image encoder."
        )
    return side
