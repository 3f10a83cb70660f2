"""What all projections share: the layout that tells an architecture, and layers applied straight from its tensors.

Nothing here imports torch before it computes, so that recognising files stays quick to start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..checkpoint.refusals import RefusedAdapter
from ..checkpoint.shapes import Shape, Shapes, dims
from ..checkpoint.specs import CLIP

if TYPE_CHECKING:
    from torch import Tensor

FACE_WIDTH = 512  # of the embeddings that insightface's recognition models put out


@dataclass(frozen=True)
class Layout:
    """What a projection's tensors say of it: some fields of AdapterSpec, and every tensor that it should have."""

    variant: str
    source: str
    embedding_width: int
    tokens: int
    tensors: dict[str, Shape]
    clip_width: int | None = None
    alternatives: tuple[str, ...] = ()
    family: str = CLIP


class Architecture:
    """A projection: its layout as class methods, and its tensors, applied by name in fp32 on the input's device.

    There is no ``nn.Module`` here on purpose: nothing is initialised, so nothing is drawn from the global random
    generator, and a 16-bit file is widened one layer at a time instead of as a whole.
    """

    recognised_by: ClassVar[str]  # the tensor that gives the architecture away
    as_wide_as_a_token: ClassVar[str]  # a tensor with one number for each channel of an image token

    def __init__(self, weights: Mapping[str, Tensor], context_width: int) -> None:
        self.weights = weights
        self.context_width = context_width

    @classmethod
    def recognise(cls, shapes: Shapes, context_width: int, has_lora: bool) -> Layout | None:
        """The layout of a projection with these tensors (names without prefix); None for another architecture's.

        ``context_width`` is the width of what the attention pairs take, ``has_lora`` whether a LoRA lies beside them.
        Raises RefusedAdapter for tensors of this architecture that contradict each other.
        """
        if cls.recognised_by not in shapes:
            return None
        token_width = dims(shapes, cls.as_wide_as_a_token, 1)[0]
        if token_width != context_width:
            raise RefusedAdapter(
                f"This IP-Adapter's projection makes image tokens {token_width} wide, but its attention pairs take "
                f"{context_width}: its halves come from different base models. Download the original file again."
            )
        return cls.layout(shapes, context_width, has_lora)

    @classmethod
    def layout(cls, shapes: Shapes, context_width: int, has_lora: bool) -> Layout:
        """The layout of a projection whose tensors are this architecture's. Raises RefusedAdapter."""
        raise NotImplementedError

    def __call__(self, *embeddings: Any, **options: Any) -> Tensor:
        """Embeddings -> [B, T, D] image tokens, fp32."""
        raise NotImplementedError

    def tensor(self, name: str, like: Tensor) -> Tensor:
        return self.weights[name].to(device=like.device, dtype=like.dtype)

    def linear(self, name: str, x: Tensor) -> Tensor:
        import torch.nn.functional as F

        bias = self.tensor(f"{name}.bias", x) if f"{name}.bias" in self.weights else None
        return F.linear(x, self.tensor(f"{name}.weight", x), bias)

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        import torch.nn.functional as F

        return F.layer_norm(x, x.shape[-1:], self.tensor(f"{name}.weight", x), self.tensor(f"{name}.bias", x))

    def gelu(self, x: Tensor) -> Tensor:
        import torch.nn.functional as F

        return F.gelu(x)


def whole_tokens(rows: int, context_width: int) -> int:
    """How many tokens ``rows`` numbers are. Raises RefusedAdapter unless they are whole ones."""
    if rows == 0 or rows % context_width:
        raise RefusedAdapter(
            f"This IP-Adapter's projection puts out {rows} numbers, which are no whole tokens {context_width} wide. "
            "The file is damaged or changed: download the original again."
        )
    return rows // context_width
