"""What a reference costs in each sampling step: a UNet call with and without hooks, in pairs, on full-size weights.

    .venv/bin/python -m benchmarks.step_cost [--rounds 7] [--latent 32] [--tokens 4 16] [--lora] [--shares] [--flux]
        [--busy]

Weights are random: they cost what trained ones cost. Pairs are run one after the other and compared within the pair,
because machines are shared; the order alternates. Prints the median ratio and its quartiles. Of FLUX, whose whole
steps take minutes on a CPU, attention alone: as Redux' strength needs it, beside the model's own (``--latent 64`` is a
picture of 512 x 512).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from ldm.modules.diffusionmodules.openaimodel import UNetModel

from benchmarks.gpu import flux
from benchmarks.gpu.bench import face_lora, left_half
from lib_ipadapter.attend.attention import ATTENTION
from lib_ipadapter.attend.flux.appended import Appended, Bias, parts
from lib_ipadapter.attend.inject import Injection
from lib_ipadapter.attend.layers import cross_attention_layers
from lib_ipadapter.attend.prompt import ImagePrompt, KeysValues
from lib_ipadapter.attend.rows import layout
from lib_ipadapter.attend.shares import Shares


def full_size_unet() -> torch.nn.Module:
    """SD1.5's UNet, 860 M parameters."""
    with torch.device("meta"):
        unet = UNetModel(
            image_size=32, in_channels=4, out_channels=4, model_channels=320, attention_resolutions=[4, 2, 1],
            num_res_blocks=2, channel_mult=[1, 2, 4, 4], num_heads=8, use_spatial_transformer=True,
            transformer_depth=1, context_dim=768, use_checkpoint=False, legacy=False,
        )  # fmt: skip
    unet = unet.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for parameter in unet.parameters():
        parameter.data.normal_(generator=generator).mul_(0.02)
    return unet.eval().requires_grad_(False)


def prompt(unet: torch.nn.Module, tokens: int) -> ImagePrompt:
    keys = tuple(torch.randn(2, tokens, layer.width) for layer in cross_attention_layers(unet))
    return ImagePrompt(KeysValues(keys, tuple(key.clone() for key in keys)), 0.7)


class Steps:
    """UNet calls of one picture, timed."""

    def __init__(self, unet: torch.nn.Module, latent: int, clock: Callable[[], float]) -> None:
        self.unet, self.clock, self.layers = unet, clock, cross_attention_layers(unet)
        self.x, self.t = torch.randn(2, 4, latent, latent), torch.full((2,), 500.0)
        self.text, self.rows = torch.randn(2, 77, 768), layout([1], 2)

    def seconds(self, prompt: ImagePrompt | None) -> float:
        """A call with ``prompt``, after one in which what it keeps goes to the device, as in a job's first step; after
        three with a LoRA, which then is in the weights."""
        if prompt is None:
            return self._call()
        with Injection(self.unet, self.layers, [prompt]) as injection:
            for _ in range(2 if prompt.lora is None else 4):
                injection.begin(self.rows, 6, 20)
                taken = self._call()
        return taken

    def _call(self) -> float:
        started = self.clock()
        self.unet(self.x, self.t, context=self.text)
        return self.clock() - started

    def compare(self, name: str, one: ImagePrompt, other: ImagePrompt | None, rounds: int) -> None:
        """Print what a call with ``one`` takes in shares of one with ``other``."""
        compare(name, lambda: self.seconds(one), lambda: self.seconds(other), rounds)


def compare(name: str, one: Callable[[], float], other: Callable[[], float], rounds: int) -> None:
    """Print what ``one`` takes in shares of ``other``, each of which gives its seconds."""
    pairs = []
    for i in range(rounds):
        if i % 2:
            first = one()
            pairs.append((first, other()))
        else:
            second = other()
            pairs.append((one(), second))
    low, middle, high = statistics.quantiles([first / second for first, second in pairs], n=4)
    seconds = statistics.median(second for _, second in pairs)
    print(f"{name}: {middle:.3f} (quartiles {low:.3f} to {high:.3f}, {rounds} pairs, {seconds:.2f} s)", flush=True)


def flux_attention(latent: int, rounds: int, clock: Callable[[], float]) -> None:
    """24 heads of 128 over 512 words, 729 image tokens and the picture."""
    side = latent // flux.PATCH
    tokens, first = torch.zeros(1, 729, 1), flux.FULL.text
    q, k, v = (torch.randn(1, flux.FULL.heads, first + 729 + side**2, 128) for _ in range(3))

    def seconds(mask: torch.Tensor | None, keys: int) -> float:
        started = clock()
        ATTENTION(q[:, :, :keys], k[:, :, :keys], v[:, :, :keys], mask)
        return clock() - started

    whole = q.shape[2]
    plain, without = (partial(seconds, None, keys) for keys in (whole, whole - 729))
    plain()
    compare(f"FLUX, {whole} places: 729 tokens more, x plain", plain, without, rounds)
    for name, region in (("a strength", None), ("a region", left_half(512))):
        prompt = ImagePrompt(KeysValues((), ()), 0.5, region=region, appended=Appended(tokens))
        prompt.now = 0.5
        mask = Bias(parts([prompt], layout([1], 1), (side, side)), first).mask(whole, q)
        compare(
            f"FLUX, {whole} places: {name}, x the same tokens without", partial(seconds, mask, whole), plain, rounds
        )


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--latent", type=int, default=32, help="side of the latent: 32 is a picture of 256 x 256")
    parser.add_argument("--tokens", type=int, nargs="*", default=[4, 16, 257])
    parser.add_argument("--lora", action="store_true", help="a LoRA inside the adapter, too")
    parser.add_argument("--shares", action="store_true", help="what telling how much a unit did costs, too")
    parser.add_argument("--flux", action="store_true", help="attention of FLUX, and nothing else")
    parser.add_argument("--busy", action="store_true", help="one thread's own time, where the machine has more to do")
    options = parser.parse_args()
    if options.busy:
        torch.set_num_threads(1)
    clock = time.process_time if options.busy else time.perf_counter
    if options.flux:
        flux_attention(options.latent, options.rounds, clock)
        return
    steps = Steps(full_size_unet(), options.latent, clock)
    steps.seconds(None)
    for tokens in options.tokens:
        steps.compare(f"{tokens:4d} tokens, x plain", prompt(steps.unet, tokens), None, options.rounds)
    if options.shares:
        for tokens in options.tokens:
            plain = prompt(steps.unet, tokens)
            told = replace(plain, shares=Shares())
            name = f"{tokens:4d} tokens, how much they did, x the same unit without"
            steps.compare(name, told, plain, options.rounds)
    if options.lora:
        plain = prompt(steps.unet, 4)
        with_lora = replace(plain, lora=face_lora(steps.unet))
        steps.compare("LoRA of rank 128, x the same unit without", with_lora, plain, options.rounds)


if __name__ == "__main__":
    main()
