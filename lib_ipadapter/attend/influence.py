"""How much a prompt's added term weighs where: a heat map for each picture, measured while it is sampled.

In every cross-attention layer and every call, a place's influence is the length of what the prompt adds there, over the
length of what the text's attention gave there (L2 over channels, both before the output projection). A map is the mean
over the conditional rows, layers and steps of a sampling pass, those in which the prompt rests counting as 0. How many
rows a step has is known only of calls in which something is added (a host may announce one for each picture, and tell
several, those of AND prompts, with the calls): so it is the mean over what was added, times the share of steps and
layers in which it was.
"""

from __future__ import annotations

import functools
import math
from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor

from .regions import Size, halved
from .rows import Rows


@functools.lru_cache(maxsize=64)
def layer_size(tokens: int, latent: Size) -> Size | None:
    """Height and width of a layer that has made ``tokens`` places of a latent; None where they are no shrunk picture.

    A UNet's layers halve the latent, rounding up. Extensions that let the UNet work smaller choose other sizes: then
    it is the pair of numbers nearest to the latent's form, if it differs from it by rounding only.
    """
    height, width = halved(latent, tokens)
    if height * width == tokens:
        return height, width
    shrunk = math.sqrt(tokens / (latent[0] * latent[1]))
    pairs = [(h, tokens // h) for h in range(1, tokens + 1) if tokens % h == 0]
    off, best = min((max(abs(h - shrunk * latent[0]), abs(w - shrunk * latent[1])), (h, w)) for h, w in pairs)
    return best if off < 1 else None


class Influence:
    """One prompt's influence in one sampling pass. Small sums on the device, one per picture and size of layer."""

    def __init__(self) -> None:
        self.size: Size | None = None  # of the pass's latent
        self.incomplete = False  # whether some of it could not be told apart by place
        self._offset = 0
        self._placed = False
        self._sums: dict[tuple[int, Size], Tensor] = {}
        # By picture: what was summed up, and in how many layers the prompt has acted, of how many, step by step.
        self._counts: Counter[int] = Counter()
        self._acting: Counter[int] = Counter()
        self._layers: Counter[int] = Counter()

    def begin(self, rows: Rows, size: Size | None, offset: int, acting: int, layers: int) -> None:
        """A denoising step of ``rows`` on a latent of ``size`` (None: as large as the UNet's first input).

        ``offset`` is the index in the job of the rows' first picture; the prompt adds something to ``acting`` of
        ``layers`` in this step.
        """
        if size is not None and self.size not in (None, size):
            for held in (self._sums, self._counts, self._acting, self._layers):
                held.clear()
        self.size, self._offset = size or self.size, offset
        for picture in {offset + row.picture for row in rows if row.cond}:
            self._acting[picture] += acting
            self._layers[picture] += layers

    def enter(self, size: Size) -> None:
        """A call of the UNet on an input of ``size``. One that is not the whole latent is a tile of unknown place."""
        self.size = self.size or size
        self._placed = self.size == size
        self.incomplete |= not self._placed

    def add(self, added: Tensor, text: Tensor, rows: Rows) -> None:
        """What one layer adds to ``text`` (both [B, tokens, width]); ``rows`` are fewer than B where the layer has
        taken its picture apart."""
        size = layer_size(added.shape[1], self.size) if self._placed and len(rows) == len(added) else None
        if size is None:
            self.incomplete = True
            return
        ours, texts = (torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32) for x in (added, text))
        ratio = torch.where(texts > 0, ours / texts, 0.0)
        for i, row in enumerate(rows):
            if row.cond:
                picture = self._offset + row.picture
                total = self._sums.get((picture, size))
                self._sums[picture, size] = ratio[i] if total is None else total.to(ratio) + ratio[i]
                self._counts[picture] += 1

    def leave_device(self) -> None:
        """The sums go to main memory; what cannot, after an accident on the device, is lost."""
        try:
            self._sums = {key: total.cpu() for key, total in self._sums.items()}
        except RuntimeError:
            self._sums, self.incomplete = {}, True

    def maps(self) -> dict[int, Tensor]:
        """[height, width] of the latent for each picture, fp32 in main memory; pictures by their index in the job."""
        found: dict[int, Tensor] = {}
        for (picture, size), total in self._sums.items():
            share = self._acting[picture] / self._layers[picture]
            layer = total.reshape(1, 1, *size) / self._counts[picture] * share
            whole = F.interpolate(layer, self.size, mode="bilinear", align_corners=False)[0, 0].cpu()
            found[picture] = found[picture] + whole if picture in found else whole
        return found
