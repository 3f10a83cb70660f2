"""Noise: one generator for each picture, so that batches give the pictures that single requests give."""

import torch

from modules import devices


def _blend(share, a, b):
    """From noise ``a`` to noise ``b`` (C, H, W) along the arc between them: a straight line would weaken the noise."""
    angle = torch.nn.functional.cosine_similarity(a, b, dim=1).clamp(-1, 1).acos()[:, None]
    straight = torch.lerp(a, b, share)
    arc = (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)
    return torch.where(angle < 0.03, straight, arc)


class ImageRNG:
    def __init__(self, shape, seeds, subseeds=None, subseed_strength=0.0, seed_resize_from_h=0, seed_resize_from_w=0):
        self.shape, self.subseed_strength = tuple(shape), subseed_strength
        self.seeds, self.subseeds = seeds, subseeds
        self.generators = self._generators(seeds)
        self.is_first = True
        if seeds:
            torch.manual_seed(seeds[-1])  # foreign code in sampling may draw from the global generator

    @staticmethod
    def _generators(seeds):
        return [torch.Generator().manual_seed(int(seed)) for seed in seeds]

    def _draw(self, generators):
        return [torch.randn(self.shape, generator=generator) for generator in generators]

    def next(self):
        """Noise for all pictures (B, C, H, W). Only the first has a share of the variation seeds' noise."""
        noise = self._draw(self.generators)
        if self.is_first and self.subseed_strength:
            variation = self._draw(self._generators(self.subseeds))
            noise = [_blend(self.subseed_strength, *pair) for pair in zip(noise, variation, strict=True)]
        self.is_first = False
        return torch.stack(noise).to(devices.device)
