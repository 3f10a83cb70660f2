"""What a reference costs in each sampling step: a UNet call with and without hooks, in pairs, on full-size weights.

    .venv/bin/python -m benchmarks.step_cost [--rounds 7] [--latent 32] [--tokens 4 16]

Weights are random: they cost what trained ones cost. Pairs are run one after the other and compared within the pair,
because machines are shared; the order alternates. Prints the median ratio and its quartiles.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from ldm.modules.diffusionmodules.openaimodel import UNetModel

from lib_ipadapter.attend.inject import Injection
from lib_ipadapter.attend.layers import cross_attention_layers
from lib_ipadapter.attend.prompt import ImagePrompt, KeysValues
from lib_ipadapter.attend.rows import layout


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--latent", type=int, default=32, help="side of the latent: 32 is a picture of 256 x 256")
    parser.add_argument("--tokens", type=int, nargs="+", default=[4, 16, 257])
    options = parser.parse_args()
    unet = full_size_unet()
    x, t = torch.randn(2, 4, options.latent, options.latent), torch.full((2,), 500.0)
    text, rows = torch.randn(2, 77, 768), layout([1], 2)

    def timed(injection: Injection | None) -> float:
        if injection is not None:
            injection.begin(rows, 0, 1)
        started = time.perf_counter()
        unet(x, t, context=text)
        return time.perf_counter() - started

    with torch.no_grad():
        timed(None)
        for tokens in options.tokens:
            ratios, plain_times = [], []
            for i in range(options.rounds):
                with Injection(unet, cross_attention_layers(unet), [prompt(unet, tokens)]) as injection:
                    timed(injection)  # gathers keys and values, as a job's first step does
                    if i % 2:
                        with_hooks = timed(injection)
                injection.detach()
                plain = timed(None)
                if not i % 2:
                    with injection:
                        timed(injection)
                        with_hooks = timed(injection)
                ratios.append(with_hooks / plain)
                plain_times.append(plain)
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(
                f"{tokens:4d} tokens: {middle:.3f} x plain (quartiles {low:.3f} to {high:.3f}, {options.rounds} pairs, "
                f"plain {statistics.median(plain_times):.2f} s)",
                flush=True,
            )


if __name__ == "__main__":
    main()
