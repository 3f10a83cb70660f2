"""CLIP's text tower, and what its words do to a picture's embedding.

As in clip_image.py, sizes come from a TextSpec, weights from a state dict in any published layout, modules from
open_clip, and the forward pass is written out. The tokenizer is open_clip's, whose vocabulary is CLIP's.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoint.clip_keys import TEXT_TOWER
from ..errors import UnitError
from .clip_blocks import arithmetic, call, fill, no_autocast, open_clip, run_block

if TYPE_CHECKING:
    from ..checkpoint.specs import TextSpec


class TextTower:
    """A CLIP text tower with its weights, ready to embed words in the space of its image tower's pooled embeddings."""

    def __init__(self, spec: TextSpec, tower: nn.Module) -> None:
        self.spec = spec
        self._tower = tower

    @classmethod
    def from_state(cls, spec: TextSpec, state: MutableMapping[str, Tensor], *, dtype: torch.dtype) -> TextTower:
        """Build the tower that ``spec`` describes from ``state``, with weights in ``dtype`` on the state's device.

        The state's layout is seen from its keys; keys outside the text tower are ignored. **The tower's tensors are
        taken out of ``state``.** Nothing is drawn from a random generator.

        Raises CheckpointError, with ``state`` unchanged, if a tensor is missing, left over, or of another shape.
        """
        tower = _empty_tower(spec)
        fill(tower, state, TEXT_TOWER, f"a text tower of {spec.layers} layers", dtype)
        return cls(spec, tower.eval())

    @property
    def device(self) -> torch.device:
        return self._tower.get_parameter("text_projection").device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self._tower.get_parameter("text_projection").dtype

    @property
    def nbytes(self) -> int:
        """Bytes that the weights take."""
        return sum(p.numel() * p.element_size() for p in self._tower.parameters())

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> TextTower:
        """Move the weights; returns self."""
        with torch.inference_mode(False):
            self._tower.to(device=None if device is None else torch.device(device), dtype=dtype)
        return self

    def embed(self, words: str) -> Tensor:
        """The embedding of ``words``, [1, projection] fp32 on the tower's device: transformers' ``text_embeds``,
        open_clip's ``encode_text``, not normalised.

        Raises UnitError for more words than the tower takes.
        """
        tower = self._tower
        ids = torch.tensor(token_ids(words, self.spec.context), device=self.device)
        dtype = arithmetic(self.device, self.dtype)
        with torch.inference_mode(False), torch.no_grad(), no_autocast(self.device):
            # What follows the end token is hidden from it, so there is no padding.
            x = tower.token_embedding.weight[ids].to(dtype) + tower.positional_embedding[: len(ids)].to(dtype)
            mask = torch.full((len(ids), len(ids)), -torch.inf, device=self.device, dtype=dtype).triu(1)
            x = x[None]
            for block in tower.transformer.resblocks:
                x = run_block(block, x, mask)
            # The end token has the highest id. The words may hold it too, spelt out: then its first place counts.
            pooled = call(tower.ln_final, x[:, ids.argmax()]) @ tower.get_parameter("text_projection").to(dtype)
        return pooled.float()


def subtract(pooled: Tensor, words: Tensor) -> Tensor:
    """``pooled`` [B, E] without what it has along the direction of ``words`` [1, E], fp32:

        e' = e − (e · ŵ) ŵ,   ŵ = w / |w|

    The result is orthogonal to the words, whatever their embedding's norm and sign; all that is orthogonal to them
    stays, and doing it twice changes nothing more. What a picture lacks is projected out as well: where e · ŵ is
    negative, the picture moves towards the words until it says nothing about them.
    """
    e, w = pooled.float(), F.normalize(words.float().to(pooled.device), dim=-1)
    return e - (e * w).sum(-1, keepdim=True) * w


def token_ids(words: str, context: int = 77) -> list[int]:
    """The tokens of ``words`` between start and end. Raises UnitError for more than ``context`` of them."""
    tokenizer = _tokenizer()
    start, end = (tokenizer.encoder[f"<{name}_of_text>"] for name in ("start", "end"))
    ids = [start, *tokenizer.encode(words), end]
    if len(ids) > context:
        raise UnitError(
            f"the words to subtract are {len(ids) - 2} tokens long, and the image encoder's text tower takes "
            f"{context - 2}: use fewer words."
        )
    return ids


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    return open_clip("tokenizer").SimpleTokenizer()


def _empty_tower(spec: TextSpec) -> nn.Module:
    """open_clip's text tower of these sizes, on the meta device: no memory, no random initialisation.

    Of its parts, because its own class takes no width of the feed-forward layers in older releases.
    """
    parts = open_clip("transformer")
    with torch.device("meta"):
        tower = nn.Module()
        tower.token_embedding = nn.Embedding(spec.vocabulary, spec.width)
        tower.positional_embedding = nn.Parameter(torch.empty(spec.context, spec.width))
        tower.transformer = parts.Transformer(
            width=spec.width,
            layers=spec.layers,
            heads=spec.heads,
            # open_clip truncates width * mlp_ratio to an integer; half a unit more keeps rounding from losing one.
            mlp_ratio=(spec.mlp_width + 0.5) / spec.width,
            act_layer=parts.QuickGELU if spec.quick_gelu else nn.GELU,
        )
        tower.ln_final = parts.LayerNorm(spec.width)
        tower.text_projection = nn.Parameter(torch.empty(spec.width, spec.projection))
    return tower
