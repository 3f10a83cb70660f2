"""FLUX as Forge has it, narrow: a transformer over text and picture in one sequence, with seeded random weights.

Written from the formulas: rectified flow (Esser et al. 2024, arXiv 2403.03206), whose double blocks have weights of
their own for either modality and one attention over both; single blocks with attention and MLP side by side (Dehghani
et al. 2023); rotary positions on three axes (Su et al. 2021), of which text has none; modulation of each block by time,
guidance and pooled text (Peebles and Xie 2023). Modules and parameters are called as in the published checkpoints.

Attention is called by this module's name ``attention_function``, which knows no mask of this model, as on Forge.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo.models import _fill, _RandomAutoencoder, _sinusoid

KIND, NAME, SEED = "flux", "demo-flux", 12
CONTEXT, POOLED, CHUNK = 4096, 768, 256  # widths of T5's and CLIP's text; how many tokens of it come at a time
SCALE, CHANNELS, PATCH = 0.3611, 4, 2  # of latents; the published ones have 16 channels


def attention_function(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, attn_precision: Any = None,
    skip_reshape: bool = False,
) -> Tensor:  # fmt: skip
    """[B, heads, L, d] with ``skip_reshape``, else [B, L, heads * d]; [B, L, heads * d]."""
    if not skip_reshape:
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def attention(q: Tensor, k: Tensor, v: Tensor, turns: Tensor) -> Tensor:
    q, k = turned(q, turns), turned(k, turns)
    return attention_function(q, k, v, q.shape[1], skip_reshape=True)


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """Each pair of channels as a complex number, turned by its place."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).to(x)


def turns_of(places: Tensor, widths: tuple[int, ...], theta: float) -> Tensor:
    """[L, sum(widths) / 2] complex, for places [L, len(widths)]."""
    angles = []
    for axis, width in enumerate(widths):
        speeds = theta ** (-torch.arange(0, width, 2, dtype=torch.float64, device=places.device) / width)
        angles.append(places[:, axis, None].double() * speeds)
    angle = torch.cat(angles, dim=1).float()
    return torch.polar(torch.ones_like(angle), angle)


class Scaled(nn.Module):
    """Root mean square normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.scale


class Norms(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query_norm, self.key_norm = Scaled(width), Scaled(width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return self.query_norm(q), self.key_norm(k)


def _by_head(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return q, k, v


class Attention(nn.Module):
    """One modality's part in the attention over both."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.norm, self.proj = nn.Linear(width, 3 * width), Norms(width // heads), nn.Linear(width, width)

    def asks(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = _by_head(self.qkv(x), self.heads)
        return *self.norm(q, k, v), v


class Modulation(nn.Module):
    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts, self.lin = parts, nn.Linear(width, parts * width)

    def forward(self, vec: Tensor) -> tuple[Tensor, ...]:
        return self.lin(F.silu(vec))[:, None].chunk(self.parts, dim=-1)


def _normed(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def _mlp(width: int, inner: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, inner), nn.GELU(approximate="tanh"), nn.Linear(inner, width))


class DoubleBlock(nn.Module):
    def __init__(self, width: int, heads: int, ratio: float) -> None:
        super().__init__()
        for side in ("img", "txt"):
            setattr(self, f"{side}_mod", Modulation(width, 6))
            setattr(self, f"{side}_attn", Attention(width, heads))
            setattr(self, f"{side}_mlp", _mlp(width, int(width * ratio)))

    def forward(self, img: Tensor, txt: Tensor, vec: Tensor, pe: Tensor) -> tuple[Tensor, Tensor]:
        of_img, of_txt = self.img_mod(vec), self.txt_mod(vec)
        picture = self.img_attn.asks(_normed(img, *of_img[:2]))
        text = self.txt_attn.asks(_normed(txt, *of_txt[:2]))
        seen = attention(*(torch.cat(both, dim=2) for both in zip(text, picture, strict=True)), turns=pe)
        of_text, of_picture = seen.tensor_split((txt.shape[1],), dim=1)
        img = img + of_img[2] * self.img_attn.proj(of_picture)
        img = img + of_img[5] * self.img_mlp(_normed(img, *of_img[3:5]))
        txt = txt + of_txt[2] * self.txt_attn.proj(of_text)
        txt = txt + of_txt[5] * self.txt_mlp(_normed(txt, *of_txt[3:5]))
        return img, txt


class SingleBlock(nn.Module):
    def __init__(self, width: int, heads: int, ratio: float) -> None:
        super().__init__()
        self.heads, self.inner = heads, int(width * ratio)
        self.linear1, self.linear2 = nn.Linear(width, 3 * width + self.inner), nn.Linear(width + self.inner, width)
        self.norm, self.modulation = Norms(width // heads), Modulation(width, 3)

    def forward(self, x: Tensor, vec: Tensor, pe: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(vec)
        qkv, inner = self.linear1(_normed(x, shift, scale)).tensor_split((-self.inner,), dim=-1)
        q, k, v = _by_head(qkv, self.heads)
        seen = attention(*self.norm(q, k, v), v, turns=pe)
        return x + gate * self.linear2(torch.cat([seen, F.gelu(inner, approximate="tanh")], dim=-1))


class Embedder(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.in_layer, self.out_layer = nn.Linear(width, out), nn.Linear(out, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_layer(F.silu(self.in_layer(x)))


class Last(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, vec: Tensor) -> Tensor:
        return self.linear(_normed(x, *self.adaLN_modulation(vec)[:, None].chunk(2, dim=-1)))


class IntegratedFluxTransformer2DModel(nn.Module):
    """``axes`` are the channels of a head that each of the three axes of places turns."""

    def __init__(
        self, hidden_size: int = 32, num_heads: int = 2, depth: int = 19, depth_single_blocks: int = 2,
        context_in_dim: int = CONTEXT, vec_in_dim: int = POOLED, in_channels: int = CHANNELS * PATCH**2,
        mlp_ratio: float = 2.0, axes_dim: tuple[int, ...] = (4, 6, 6), theta: float = 10000.0,
    ) -> None:  # fmt: skip
        super().__init__()
        width = self.hidden_size = hidden_size
        self.config = {"hidden_size": width, "context_in_dim": context_in_dim, "depth": depth}
        self.axes, self.theta = axes_dim, theta
        self.img_in, self.txt_in = nn.Linear(in_channels, width), nn.Linear(context_in_dim, width)
        self.time_in, self.guidance_in = Embedder(256, width), Embedder(256, width)
        self.vector_in = Embedder(vec_in_dim, width)
        self.double_blocks = nn.ModuleList(DoubleBlock(width, num_heads, mlp_ratio) for _ in range(depth))
        self.single_blocks = nn.ModuleList(SingleBlock(width, num_heads, mlp_ratio) for _ in range(depth_single_blocks))
        self.final_layer = Last(width, in_channels)

    def forward(
        self, x: Tensor, timestep: Tensor, context: Tensor, y: Tensor, guidance: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        height, width = x.shape[-2:]
        rows, columns = -(-height // PATCH), -(-width // PATCH)
        x = F.pad(x, (0, columns * PATCH - width, 0, rows * PATCH - height), mode="circular")
        img = F.pixel_unshuffle(x, PATCH).flatten(2).transpose(1, 2)
        places = torch.zeros(rows, columns, 3, device=x.device)
        places[..., 1] = torch.arange(rows, device=x.device)[:, None]
        places[..., 2] = torch.arange(columns, device=x.device)
        out = self.denoised(img, places.flatten(0, 1), context, timestep, y, guidance)
        out = out.transpose(1, 2).unflatten(2, (rows, columns))
        return F.pixel_shuffle(out, PATCH)[..., :height, :width]

    def denoised(
        self, img: Tensor, places: Tensor, txt: Tensor, timestep: Tensor, y: Tensor, guidance: Tensor | None
    ) -> Tensor:
        """On the patches of a latent [B, L, C] at places [L, 3]."""
        vec = self.time_in(_sinusoid(1000 * timestep).to(img)) + self.vector_in(y)
        if guidance is not None:
            vec = vec + self.guidance_in(_sinusoid(1000 * guidance).to(img))
        img, txt = self.img_in(img), self.txt_in(txt)
        pe = turns_of(torch.cat([places.new_zeros(txt.shape[1], 3), places]), self.axes, self.theta)
        for block in self.double_blocks:
            img, txt = block(img=img, txt=txt, vec=vec, pe=pe)
        both = torch.cat([txt, img], dim=1)
        for block in self.single_blocks:
            both = block(both, vec=vec, pe=pe)
        return self.final_layer(both[:, txt.shape[1] :], vec)


class FlowPredictor(nn.Module):
    """Between noise levels, and what the transformer is given and answers: the velocity from picture to noise."""

    prediction_type, sigma_data, shift = "const", 1.0, 1.15

    def __init__(self, steps: int = 1000) -> None:
        super().__init__()
        t, ahead = torch.arange(1, steps + 1) / steps, math.exp(self.shift)
        self.register_buffer("sigmas", ahead / (ahead + (1 / t - 1)))
        self.register_buffer("log_sigmas", self.sigmas.log())

    def timestep(self, sigma: Tensor) -> Tensor:
        return sigma

    def sigma(self, timestep: Tensor) -> Tensor:
        t = timestep.float().clamp(0, len(self.sigmas) - 1)
        return torch.lerp(self.sigmas[t.floor().long()], self.sigmas[t.ceil().long()], t.frac())

    def percent_to_sigma(self, percent: float) -> float:
        share = 1 - min(1.0, max(0.0, percent))
        return float(self.sigma(torch.tensor(share * (len(self.sigmas) - 1))))

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        return noise

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        return model_input - sigma[:, None, None, None] * model_output

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False) -> Tensor:
        return torch.lerp(latent_image, noise, sigma)


class Words(nn.Module):
    """Both text encoders: a row of numbers for each word, whatever stands beside it, and their mean."""

    chunk_length = CHUNK - 1  # T5's end token comes behind

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(509, 64, generator=generator))
        for name, width in (("wide", CONTEXT), ("pooled", POOLED)):
            setattr(self, name, nn.Parameter(torch.randn(64, width, generator=generator) / 8))

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        return [[1 + zlib.crc32(word.encode()) % 508 for word in text.split()] for text in texts]

    def get_target_prompt_token_count(self, token_count: int) -> int:
        return max(CHUNK - 1, token_count)

    def forward(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """[B, 256 n, 4096] and [B, 768]."""
        ids = self.tokenize(texts)
        length = CHUNK * max(1, *(-(-(len(one) + 1) // CHUNK) for one in ids))
        rows = self.table[torch.tensor([one + [0] * (length - len(one)) for one in ids])]
        pooled = torch.stack([self.table[torch.tensor([*one, 0])].mean(0) for one in ids])
        return rows @ self.wide, pooled @ self.pooled


class Flux(nn.Module):
    """The parts of a checkpoint, under the names that ``demo.models`` has for those of its own."""

    is_sd1 = is_sd2 = is_sdxl = is_sd3 = False
    kind, alphas_cumprod = KIND, None

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        with torch.device("meta"):
            transformer = IntegratedFluxTransformer2DModel()
        self.model = nn.Module()
        self.model.diffusion_model = transformer.to_empty(device="cpu")
        _fill(transformer, generator)
        self.first_stage_model = _RandomAutoencoder(SCALE, generator)
        self.cond_stage_model = Words(generator)

    def get_learned_conditioning(self, texts: list[str]) -> dict[str, Tensor]:
        words, pooled = self.cond_stage_model(texts)
        strength = getattr(texts, "distilled_cfg_scale", None) or 3.5
        return {"crossattn": words, "vector": pooled, "guidance": torch.tensor([strength] * len(texts))}

    def encode_first_stage(self, x: Tensor) -> Any:
        return self.first_stage_model.encode(x)

    def get_first_stage_encoding(self, posterior: Any) -> Tensor:
        return posterior.sample() * SCALE

    def decode_first_stage(self, z: Tensor) -> Tensor:
        return self.first_stage_model.decode(z / SCALE)


def build(seed: int) -> Flux:
    with torch.random.fork_rng(devices=[]):
        return Flux(seed).eval().requires_grad_(False)


def write_checkpoint(folder: Path) -> Path:
    """A small file that names kind and seed, and whose header tells what it is, for hosts with Forge's face alone."""
    from safetensors.torch import save_file

    metadata = {"demo_kind": KIND, "demo_seed": str(SEED)}
    with torch.device("meta"):
        names = IntegratedFluxTransformer2DModel().state_dict()
    told = [key for key in names if key.endswith((".bias", "img_attn.qkv.weight"))]
    parts = {f"model.diffusion_model.{key}": torch.zeros(len(names[key]), dtype=torch.bool) for key in told}
    path = folder / f"{NAME}.safetensors"
    save_file({"seed": torch.tensor([SEED]), **parts}, str(path), metadata=metadata)
    return path
