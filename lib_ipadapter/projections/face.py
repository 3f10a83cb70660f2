"""Projections of face recognition embeddings: FaceID, portrait, FaceID-Plus."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .perceiver import Perceiver


class _Identity(Perceiver):
    """An MLP from a normalised face embedding to T tokens."""

    def identity_tokens(self, face: Tensor) -> Tensor:
        hidden = F.gelu(self.linear("proj.0", face.float()))
        return self.layer_norm("norm", self.linear("proj.2", hidden).reshape(len(face), -1, self.context_width))


class FaceIDMLP(_Identity):
    """FaceID and portrait: the identity tokens as they are."""

    def __call__(self, face: Tensor) -> Tensor:
        """[B, 512] normalised face embeddings -> [B, T, D] image tokens, fp32."""
        return self.identity_tokens(face)


class FaceIDPlus(_Identity):
    """FaceID-Plus: the identity tokens look at the CLIP features of the aligned face.

    Version 2 adds the resampled tokens to the identity tokens (``shortcut``), version 1 replaces them; the published
    SD1.5 files of both have the same shapes.
    """

    prefix = "perceiver_resampler."

    def __call__(self, face: Tensor, penultimate: Tensor, *, shortcut: bool, scale: float = 1.0) -> Tensor:
        """[B, 512] face embeddings and [B, N, W] penultimate hidden states -> [B, T, D] image tokens, fp32.

        ``scale`` weighs the resampled tokens of version 2 (the reference implementation's ``s_scale``).
        """
        identity = self.identity_tokens(face)
        tokens = self.resample(penultimate, identity)
        return identity + scale * tokens if shortcut else tokens
