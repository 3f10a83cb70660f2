"""The MLP from a face recognition embedding to tokens that the FaceID architectures share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..checkpoint.refusals import INSTEAD, RefusedAdapter
from ..checkpoint.shapes import Shape, Shapes, dims, layer_norm, linear
from .architecture import FACE_WIDTH, Architecture, whole_tokens

if TYPE_CHECKING:
    from torch import Tensor


class Identity(Architecture):
    """An MLP from a normalised face embedding to T tokens."""

    as_wide_as_a_token = "norm.weight"

    @classmethod
    def identity_layout(cls, shapes: Shapes, context_width: int) -> tuple[int, dict[str, Shape]]:
        """The number of its tokens, and its tensors."""
        hidden, width = dims(shapes, "proj.0.weight", 2)
        rows, _ = dims(shapes, "proj.2.weight", 2)
        if width != FACE_WIDTH:
            raise RefusedAdapter(
                f"This IP-Adapter is fed with an embedding {width} wide through two linear layers, where face "
                f"recognition puts out {FACE_WIDTH}: it belongs to another program, so {INSTEAD}"
            )
        tensors = linear("proj.0", hidden, width) | linear("proj.2", rows, hidden) | layer_norm("norm", context_width)
        return whole_tokens(rows, context_width), tensors

    def identity_tokens(self, face: Tensor) -> Tensor:
        hidden = self.gelu(self.linear("proj.0", face.float()))
        return self.layer_norm("norm", self.linear("proj.2", hidden).reshape(len(face), -1, self.context_width))
