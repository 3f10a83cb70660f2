"""CLIP's image tower through open_clip, from any published key layout.

Sizes come from an EncoderSpec, weights from a state dict in transformers' layout (CLIPVisionModelWithProjection:
``image_encoder/model.safetensors``, ControlNet's ``clip_h.pth`` and ``clip_g.pth``) or in open_clip's and OpenAI's
(``visual.…``). The forward pass is written out here, because open_clip's has another shape in every other release
and none of them returns the penultimate states; modules and parameter names have stayed.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoint.clip_keys import IMAGE_TOWER
from .clip_blocks import arithmetic, call, fill, no_autocast, open_clip, run_block

if TYPE_CHECKING:
    from ..checkpoint.specs import EncoderSpec

OneSource = Literal["pooled", "penultimate", "last"]
Source = Literal[OneSource, "both"]


@dataclass(frozen=True)
class Embedding:
    """What an encoder makes of B pictures.

    ``pooled`` [B, projection]: transformers' ``image_embeds``, or SigLIP's ``pooler_output``. ``penultimate``
    [B, 1 + patches, width], CLIP's alone: ``hidden_states[-2]``, the input of the last block, without layer norm.
    ``last`` [B, patches, width], SigLIP's alone: ``last_hidden_state``, after its layer norm. None where it was not
    requested.
    """

    pooled: Tensor | None
    penultimate: Tensor | None = None
    last: Tensor | None = None

    def of(self, source: OneSource) -> Tensor:
        """The embedding of that source. Raises ValueError for one that was not requested."""
        embedding: Tensor | None = getattr(self, source)
        if embedding is None:
            raise ValueError(f"the {source} embedding was not requested")
        return embedding


class ImageEncoder:
    """A CLIP image tower with its weights, ready to encode."""

    def __init__(self, spec: EncoderSpec, tower: nn.Module) -> None:
        self.spec = spec
        self._tower = tower

    @classmethod
    def from_state(cls, spec: EncoderSpec, state: MutableMapping[str, Tensor], *, dtype: torch.dtype) -> ImageEncoder:
        """Build the tower that ``spec`` describes from ``state``, with weights in ``dtype`` on the state's device.

        The state's layout is seen from its keys; keys outside the image tower are ignored. **The tower's tensors are
        taken out of ``state``**, one by one, so that the weights are never held twice; a tensor that needs no change
        becomes a parameter as it is. Nothing is drawn from a random generator.

        Raises CheckpointError, with ``state`` unchanged, if a tensor is missing, left over, or of another shape.
        """
        tower = _empty_tower(spec)
        fill(tower, state, IMAGE_TOWER, spec.kind, dtype)
        return cls(spec, tower.eval())

    @property
    def device(self) -> torch.device:
        return next(self._tower.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(self._tower.parameters()).dtype

    @property
    def nbytes(self) -> int:
        """Bytes that the weights take."""
        return sum(p.numel() * p.element_size() for p in self._tower.parameters())

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> ImageEncoder:
        """Move the weights; returns self."""
        with torch.inference_mode(False):
            self._tower.to(device=None if device is None else torch.device(device), dtype=dtype)
        return self

    def encode(self, pixels: Tensor, source: Source = "both") -> Embedding:
        """Encode ``pixels`` [B, 3, S, S], normalised (picture.to_pixels), S the spec's ``image_size``, or another
        multiple of its ``patch``, for which the positions are interpolated.

        ``source`` says what is needed; "penultimate" leaves out the last block. The results are plain tensors on the
        encoder's device in its dtype. fp16 weights on the CPU, where that dtype has no arithmetic, are computed with
        in fp32, one block at a time.
        """
        if source == "last":
            raise ValueError(f"{self.spec.kind} is a CLIP tower, of which no last hidden states are taken")
        patch, size = self.spec.patch, pixels.shape[-1]
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, size, size) or size % patch or not size:
            raise ValueError(
                f"{self.spec.kind} encodes pixels of shape [B, 3, S, S], S a multiple of {patch}, not {[*pixels.shape]}"
            )
        tower = self._tower
        *blocks, last = tower.transformer.resblocks
        dtype = arithmetic(self.device, self.dtype)
        with torch.inference_mode(False), torch.no_grad(), no_autocast(self.device):
            x = call(tower.conv1, pixels.to(self.device, dtype)).flatten(2).transpose(1, 2)
            x = torch.cat([tower.class_embedding.to(dtype).expand(len(x), 1, -1), x], dim=1)
            x = call(tower.ln_pre, x + positions(tower.get_parameter("positional_embedding"), size // patch).to(dtype))
            for block in blocks:
                x = run_block(block, x)
            penultimate = x if source != "pooled" else None
            pooled = None
            if source != "penultimate":
                x = call(tower.ln_post, run_block(last, x)[:, 0])
                pooled = x @ tower.get_parameter("proj").to(dtype)
        return Embedding(pooled, penultimate)


def positions(embedding: Tensor, side: int, class_tokens: int = 1) -> Tensor:
    """[c + side², width], fp32: position embeddings [c + own², width] for ``side`` patches in a row, c the number of
    ``class_tokens``. Theirs stay, the patches' square is interpolated bicubically, as by transformers'
    ``interpolate_pos_encoding``. The embedding itself, in its dtype, where ``side`` is its own."""
    own = round((len(embedding) - class_tokens) ** 0.5)
    if side == own:
        return embedding
    of_class, of_patches = embedding[:class_tokens].float(), embedding[class_tokens:].float()
    square = of_patches.T.reshape(1, -1, own, own)
    resized = F.interpolate(square, (side, side), mode="bicubic", align_corners=False)
    return torch.cat([of_class, resized[0].flatten(1).T])


def _empty_tower(spec: EncoderSpec) -> nn.Module:
    """open_clip's image tower of these sizes, on the meta device: no memory, no random initialisation."""
    parts = open_clip("transformer")
    with torch.device("meta"):
        tower: nn.Module = parts.VisionTransformer(
            image_size=spec.image_size,
            patch_size=spec.patch,
            width=spec.width,
            layers=spec.layers,
            heads=spec.heads,
            # open_clip truncates width * mlp_ratio to an integer; half a unit more keeps rounding from losing one.
            mlp_ratio=(spec.mlp_width + 0.5) / spec.width,
            output_dim=spec.projection,
            act_layer=parts.QuickGELU if spec.quick_gelu else nn.GELU,
        )
    return tower
