"""Latent diffusion models with the published topologies, narrow widths and seeded random weights.

The UNets are ``ldm``'s own class (SDXL's block layout is derived from it), so that whatever walks or hooks a real
model finds the same modules here. Weights that training starts at zero are random too: otherwise attention would not
show in the picture. A hand-set identity path makes the UNet predict "the noise is what you see, plus something that
depends on everything else", which turns random weights into a denoiser that converges to coloured pictures.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import io
import json
import math
import os
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

with contextlib.redirect_stdout(io.StringIO()):  # ldm announces missing xformers
    from ldm.modules.attention import BasicTransformerBlock, CrossAttention, SpatialTransformer
    from ldm.modules.diffusionmodules import openaimodel
    from ldm.modules.diffusionmodules.model import Decoder, Encoder
    from ldm.modules.diffusionmodules.openaimodel import UNetModel
    from ldm.modules.distributions.distributions import DiagonalGaussianDistribution

KINDS = {
    # kind: (seed, context width, input channels, conditioning key, key of the conditioning stage)
    "sd15": (15, 768, 4, "crossattn", "txt"),
    "sd2": (21, 1024, 4, "crossattn", "txt"),
    "inpaint": (16, 768, 9, "hybrid", "txt"),
    "ip2p": (17, 768, 8, "hybrid", "edit"),
    "sdxl": (10, 2048, 4, "crossattn", "txt"),
}
SCALE_FACTORS = (0.18215, 0.13025)  # latents' scale of SD1.x and 2.x, of SDXL
MODEL_CHANNELS = 32
FEATURES = 0.2
"""How loud the picture's own structure is beside the identity path."""
SKIP = 0.15
"""How loud the fine levels are beside the coarse ones on the way up."""


def _join(tensors: list[Tensor], dim: int = 0) -> Tensor:
    """``torch.cat`` in the UNet: what comes up from below takes the size of what it meets, as in the host, so that a
    picture's sides need be multiples of 8 only."""
    size = tensors[-1].shape[2:]
    return torch.cat([x if x.shape[2:] == size else F.interpolate(x, size) for x in tensors], dim=dim)


openaimodel.th = types.ModuleType("torch")
openaimodel.th.__dict__.update(vars(torch), cat=_join)


def _fill(module: nn.Module, generator: torch.Generator) -> None:
    """Give every parameter a random value of a size that keeps activations near one."""
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            fan_in = parameter[0].numel() if "embedding" not in name else 4
            parameter.data.normal_(generator=generator).div_(math.sqrt(fan_in))
        else:
            parameter.data.normal_(generator=generator).mul_(0.05)
            if name.endswith("weight"):
                parameter.data.add_(1.0)


class _SdpAttention(CrossAttention):
    """Attention through torch's own kernel, as the host's optimisations do it; the projections stay modules."""

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        return self.to_out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


_SdpAttention.__name__ = "CrossAttention"


def _through_sdp(unet: UNetModel) -> list[BasicTransformerBlock]:
    """Every block's two attentions through torch's kernel, and nothing through dropout that drops nothing; returns the
    blocks."""
    for module in unet.modules():
        if isinstance(module, nn.Dropout):
            module.__class__ = nn.Identity
    blocks = [module for module in unet.modules() if isinstance(module, BasicTransformerBlock)]
    for block in blocks:
        block.attn1.__class__ = block.attn2.__class__ = _SdpAttention
    return blocks


@torch.no_grad()
def _smooth_path(unet: UNetModel) -> None:
    """Let the way up blur, and hear the coarse levels more than the skip connections: shapes instead of noise."""
    for container in unet.output_blocks:
        block = container[0]
        deep = block.channels - block.out_channels if container is unet.output_blocks[-1] else block.channels // 2
        for convolution in (block.in_layers[-1], block.skip_connection):
            convolution.weight[:, deep:].mul_(SKIP)
        for convolution in (block.in_layers[-1], block.out_layers[-1]):
            convolution.weight.copy_(convolution.weight.mean(dim=(2, 3), keepdim=True).expand_as(convolution.weight))
    head = unet.out[-1]
    head.weight.copy_(head.weight.mean(dim=(2, 3), keepdim=True).expand_as(head.weight) * 2)


@torch.no_grad()
def _identity_path(unet: UNetModel, loudness: float) -> None:
    """Carry the input from the first convolution to the last, split into fine grain and the rest.

    Each half travels as a pair (+a, -a) of four channels: SiLU(a) - SiLU(-a) = a, and the head's group normalisation
    brings it to unit variance. Fine grain at unit variance is the noise itself, whatever its level, so sampling
    removes it; what remains of the picture comes from the seed's coarse shapes and from the rest of the network.
    """
    first, last, head = unet.input_blocks[0][0], unet.output_blocks[-1], unet.out
    kept, width = slice(0, 16), first.weight.shape[0]
    block = last[0]
    for layer in (first, block.out_layers[-1], block.skip_connection, *(module.proj_out for module in last[1:])):
        layer.weight[kept], layer.bias[kept] = 0.0, 0.0
    first.padding_mode = "replicate"
    coarse = torch.full((3, 3), 1 / 9)
    fine = -coarse
    fine[1, 1] += 1.0
    head[0] = nn.GroupNorm(4, width)  # as many channels in a group as a half has
    head[2].weight.mul_(loudness)
    head[2].bias.zero_()
    head[2].weight[:, kept] = 0.0
    for start, kernel, share in ((0, fine, 0.94), (8, coarse, 0.33)):
        for i in range(4):
            first.weight[start + i, i], first.weight[start + 4 + i, i] = kernel, -kernel
            head[2].weight[i, start + i, 1, 1], head[2].weight[i, start + 4 + i, 1, 1] = share, -share
    for j in range(16):
        block.skip_connection.weight[j, block.channels - width + j] = 1.0


class _DeepTransformer(SpatialTransformer):
    """Several transformer blocks that all see the same context, as in SDXL."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return super().forward(x, context=[context] * len(self.transformer_blocks))


def _deepen(layer: SpatialTransformer, depth: int, context_dim: int, head_channels: int) -> SpatialTransformer:
    heads = layer.in_channels // head_channels
    deep = _DeepTransformer(
        layer.in_channels,
        heads,
        head_channels,
        depth=depth,
        context_dim=[context_dim] * depth,
        use_linear=True,
        use_checkpoint=False,
    )
    deep.__class__.__name__ = "SpatialTransformer"
    return deep


def build_unet(kind: str, generator: torch.Generator) -> UNetModel:
    """The UNet of ``kind``, narrow, with seeded weights."""
    _, context_dim, in_channels, _, _ = KINDS[kind]
    common = {
        "image_size": 32,
        "in_channels": in_channels,
        "out_channels": 4,
        "model_channels": MODEL_CHANNELS,
        "num_res_blocks": 2,
        "use_spatial_transformer": True,
        "context_dim": context_dim,
        "legacy": False,
        "use_checkpoint": False,
    }
    with torch.device("meta"):
        if kind == "sdxl":
            head = 8
            unet = UNetModel(
                attention_resolutions=[4, 2],
                channel_mult=[1, 2, 4],
                num_head_channels=head,
                use_linear_in_transformer=True,
                **common,
            )
            for container in (*unet.input_blocks, unet.middle_block, *unet.output_blocks):
                for position, layer in enumerate(container):
                    if isinstance(layer, SpatialTransformer):
                        depth = 2 if layer.in_channels == 2 * MODEL_CHANNELS else 10
                        container[position] = _deepen(layer, depth, context_dim, head)
            embedding = 4 * MODEL_CHANNELS
            unet.num_classes = "sequential"
            unet.label_emb = nn.Sequential(
                nn.Sequential(nn.Linear(2816, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
            )
        else:
            layout = {"num_head_channels": 8, "use_linear_in_transformer": True} if kind == "sd2" else {"num_heads": 4}
            unet = UNetModel(attention_resolutions=[4, 2, 1], channel_mult=[1, 2, 4, 4], **layout, **common)
    unet.to_empty(device="cpu")
    _fill(unet, generator)
    for block in _through_sdp(unet):
        block.attn2.to_out[0].weight.data.mul_(1.5)
    _smooth_path(unet)
    _identity_path(unet, FEATURES / 2 if kind == "sdxl" else FEATURES)
    return unet


class AutoencoderKL(nn.Module):
    """ldm's encoder and decoder: pictures in -1...1 (B, 3, H, W), latents (B, 4, H/8, W/8)."""

    def __init__(self, sizes: Mapping[str, Any]) -> None:
        super().__init__()
        with contextlib.redirect_stdout(io.StringIO()):
            self.encoder, self.decoder = Encoder(**sizes), Decoder(**sizes)
        self.quant_conv, self.post_quant_conv = nn.Conv2d(8, 8, 1), nn.Conv2d(4, 4, 1)

    @property
    def dtype(self) -> torch.dtype:
        return self.quant_conv.weight.dtype

    def encode(self, x: Tensor) -> DiagonalGaussianDistribution:
        """The posterior over a picture's latents."""
        return DiagonalGaussianDistribution(self.quant_conv(self.encoder(x)))

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(z))


class _RandomAutoencoder(AutoencoderKL):
    """Random and narrow: texture over a simple map between 8x8 blocks' colours and latents."""

    def __init__(self, scale: float, generator: torch.Generator) -> None:
        super().__init__({
            "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32,
            "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
        })  # fmt: skip
        _fill(self, generator)
        self.scale = scale
        orthogonal = torch.linalg.qr(torch.randn(4, 4, generator=generator)).Q
        self.register_buffer("colours", orthogonal[:3] * 0.35)
        self.register_buffer("latents", orthogonal[:3].T / 0.35)

    def encode(self, x: Tensor) -> DiagonalGaussianDistribution:
        texture, spread = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        blocks = torch.atanh(nn.functional.avg_pool2d(x, 8).clamp(-0.97, 0.97))
        mean = torch.einsum("lc,bchw->blhw", self.latents, blocks) + 0.05 * texture
        return DiagonalGaussianDistribution(torch.cat([mean / self.scale, 0.1 * spread - 5.0], dim=1))

    def decode(self, z: Tensor) -> Tensor:
        blocks = torch.einsum("cl,blhw->bchw", self.colours, z * self.scale)
        smooth = nn.functional.interpolate(blocks, scale_factor=8, mode="bicubic")
        return torch.tanh(smooth) + 0.06 * super().decode(z * self.scale)


class Tokenizer:
    """CLIP's byte-pair tokenizer, from the vocabulary file that open_clip ships."""

    start, end = 49406, 49407

    def __init__(self, folder: Path) -> None:
        from transformers import CLIPTokenizer

        vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
        if not merges.exists():
            folder.mkdir(parents=True, exist_ok=True)
            source = Path(importlib.util.find_spec("open_clip").origin).parent / "bpe_simple_vocab_16e6.txt.gz"
            rules = gzip.decompress(source.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
            printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
            symbols = [chr(b) for b in printable] + [chr(256 + n) for n in range(256 - len(printable))]
            words = symbols + [s + "</w>" for s in symbols] + ["".join(rule.split()) for rule in rules]
            words += ["<|startoftext|>", "<|endoftext|>"]
            for file, text in (
                (vocabulary, json.dumps({word: i for i, word in enumerate(words)})),
                (merges, "\n".join(["#version: 0.2", *rules])),
            ):  # at one stroke each: another process may be looking
                part = file.with_name(f"{file.name}.{os.getpid()}")
                part.write_text(text, encoding="utf8")
                part.replace(file)
        self.clip = CLIPTokenizer(str(vocabulary), str(merges))

    def __call__(self, texts: list[str]) -> list[list[int]]:
        return [self.clip(text, add_special_tokens=False)["input_ids"] for text in texts]


class _FoldedEmbedding(nn.Embedding):
    """Token ids folded onto a small table: quick to fill, and light."""

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids % self.num_embeddings)


class TextEncoder(nn.Module):
    """A CLIP text transformer behind the host's chunks of 77 tokens, BREAK and (weighted:1.2) words.

    With ``whole``, CLIP's own size in all but width, for weights from a file; else narrow, light and random.
    """

    chunk_length = 75

    def __init__(
        self, width: int, layers: int, tokenizer: Tokenizer, generator: torch.Generator, *, whole: bool = False
    ) -> None:
        super().__init__()
        from transformers import CLIPTextConfig, CLIPTextModel

        config = CLIPTextConfig(
            vocab_size=49408 if whole else 4093,
            hidden_size=width,
            intermediate_size=4 * width if whole else width,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            max_position_embeddings=77,
        )
        with torch.device("meta"):
            transformer = CLIPTextModel(config)
        transformer.to_empty(device="cpu")
        embeddings = transformer.text_model.embeddings
        embeddings.position_ids = torch.arange(77)[None]
        if not whole:
            embeddings.token_embedding.__class__ = _FoldedEmbedding
            _fill(transformer, generator)
        self.wrapped = nn.Module()
        self.wrapped.transformer = transformer
        self.wrapped.tokenizer = tokenizer.clip
        self.tokenizer = tokenizer
        self.id_start, self.id_end, self.id_pad = tokenizer.start, tokenizer.end, tokenizer.end

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts)

    def get_target_prompt_token_count(self, token_count: int) -> int:
        return math.ceil(max(token_count, 1) / self.chunk_length) * self.chunk_length

    def chunks(self, text: str) -> list[tuple[list[int], list[float]]]:
        """Token ids and their weights in pieces of 77, start and end tokens included."""
        from modules import prompt_parser

        pieces: list[tuple[list[int], list[float]]] = [([], [])]
        parts = prompt_parser.parse_prompt_attention(text)
        for (words, weight), tokens in zip(parts, self.tokenize([words for words, _ in parts]), strict=True):
            if words == "BREAK" and weight == -1:
                pieces.append(([], []))
                continue
            for token in tokens:
                if len(pieces[-1][0]) == self.chunk_length:
                    pieces.append(([], []))
                pieces[-1][0].append(token)
                pieces[-1][1].append(weight)
        if len(pieces) > 1 and not pieces[-1][0]:
            pieces.pop()
        return [self._pad(*piece) for piece in pieces]

    def _pad(self, tokens: list[int], weights: list[float]) -> tuple[list[int], list[float]]:
        missing = self.chunk_length - len(tokens)
        return [self.id_start, *tokens, *[self.id_end] * (missing + 1)], [1.0, *weights, *[1.0] * (missing + 1)]

    def forward(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Hidden states (B, 77 n, width) and the first chunk's end-token state (B, width)."""
        batch = [self.chunks(text) for text in texts]
        empty = self._pad([], [])
        states, pooled = [], None
        for i in range(max(map(len, batch))):
            tokens, weights = zip(*[chunks[i] if i < len(chunks) else empty for chunks in batch], strict=True)
            device = next(self.parameters()).device
            ids = torch.tensor(tokens, device=device)
            z = self.wrapped.transformer(input_ids=ids).last_hidden_state
            if pooled is None:
                pooled = z[torch.arange(len(z)), (ids == self.id_end).int().argmax(dim=1)]
            scaled = z * torch.tensor(weights, device=device, dtype=z.dtype)[..., None]
            if any(w != 1.0 for row in weights for w in row):
                scaled = scaled * (z.mean() / scaled.mean())
            states.append(scaled)
        return torch.cat(states, dim=1), pooled


class DiffusionWrapper(nn.Module):
    """Puts conditioning where the kind of model wants it."""

    def __init__(self, unet: UNetModel, conditioning_key: str) -> None:
        super().__init__()
        self.diffusion_model = unet
        self.conditioning_key = conditioning_key

    def forward(self, x: Tensor, t: Tensor, c_concat: list | None = None, c_crossattn: list | None = None) -> Tensor:
        if self.conditioning_key == "hybrid":
            x = torch.cat([x, *c_concat], dim=1)
        return self.diffusion_model(x, t, context=torch.cat(c_crossattn, dim=1))


class SdxlWrapper(nn.Module):
    """SDXL's way: conditioning is a dict, the UNet also takes a vector."""

    conditioning_key = "crossattn"

    def __init__(self, unet: UNetModel) -> None:
        super().__init__()
        self.diffusion_model = unet

    def forward(self, x: Tensor, t: Tensor, c: dict) -> Tensor:
        return self.diffusion_model(x, timesteps=t, context=c["crossattn"], y=c["vector"])


def _sinusoid(values: Tensor, width: int = 256) -> Tensor:
    steps = torch.exp(-math.log(10000) * torch.arange(width // 2, device=values.device) / (width // 2))
    angles = values.float()[..., None] * steps
    return torch.cat([angles.cos(), angles.sin()], dim=-1).flatten(1)


class LatentDiffusion(nn.Module):
    """What the host calls ``sd_model``: UNet, autoencoder, text encoders and the noise schedule."""

    parameterization = "eps"
    lowvram = False

    def __init__(
        self, kind: str, config: str, unet: UNetModel, first_stage: AutoencoderKL, encoders: list[TextEncoder]
    ) -> None:
        super().__init__()
        _, _, _, key, self.cond_stage_key = KINDS[kind]
        self.kind, self.used_config = kind, config
        self.is_sdxl, self.is_sd2 = kind == "sdxl", kind == "sd2"
        self.is_sd1 = not (self.is_sdxl or self.is_sd2)
        self.is_ssd = self.is_sd3 = self.is_sdxl_inpaint = False
        self.scale_factor = SCALE_FACTORS[self.is_sdxl]
        self.model = SdxlWrapper(unet) if self.is_sdxl else DiffusionWrapper(unet, key)
        self.first_stage_model = first_stage
        if self.is_sdxl:
            self.conditioner = nn.Module()
            self.conditioner.embedders = nn.ModuleList(encoders)
        self.cond_stage_model = encoders[0]
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        self.register_buffer("betas", betas.float())
        self.register_buffer("alphas_cumprod", torch.cumprod(1.0 - betas, 0).float())
        self.alphas_cumprod_original = self.alphas_cumprod

    @property
    def device(self) -> torch.device:
        return self.betas.device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def ema_scope(self, context: str | None = None) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext()

    def apply_model(self, x: Tensor, t: Tensor, cond: dict) -> Tensor:
        x = x.to(self.dtype)
        return (self.model(x, t, cond) if self.is_sdxl else self.model(x, t, **cond)).float()

    @torch.no_grad()
    def get_learned_conditioning(self, texts: list[str]) -> Tensor | dict[str, Tensor]:
        """Prompts to (B, 77 n, D), or for SDXL to that and a vector (B, 2816)."""
        if not self.is_sdxl:
            return self.cond_stage_model(texts)[0].float()
        (states_l, _), (states_g, pooled) = (encoder(texts) for encoder in self.conditioner.embedders)
        width, height = getattr(texts, "width", None) or 1024, getattr(texts, "height", None) or 1024
        sizes = torch.tensor([[height, width, 0, 0, height, width]], device=self.device).repeat(len(texts), 1)
        crossattn = torch.cat([states_l, states_g], dim=2).float()
        if getattr(texts, "is_negative_prompt", False) and all(text == "" for text in texts):
            crossattn, pooled = torch.zeros_like(crossattn), torch.zeros_like(pooled)
        return {"crossattn": crossattn, "vector": torch.cat([pooled.float(), _sinusoid(sizes)], dim=1)}

    def encode_first_stage(self, x: Tensor) -> DiagonalGaussianDistribution | Tensor:
        posterior = self.first_stage_model.encode(x.to(self.first_stage_model.dtype))
        return posterior.sample() * self.scale_factor if self.is_sdxl else posterior

    def get_first_stage_encoding(self, posterior: DiagonalGaussianDistribution | Tensor) -> Tensor:
        return posterior if self.is_sdxl else posterior.sample() * self.scale_factor

    def decode_first_stage(self, z: Tensor) -> Tensor:
        return self.first_stage_model.decode(z.to(self.first_stage_model.dtype) / self.scale_factor)


def _tokenizer(folder: Path | str | None) -> Tokenizer:
    return Tokenizer(Path(folder or Path(__file__).parent / "data" / "tokenizer"))


def build(kind: str, seed: int | None = None, tokenizer_folder: Path | str | None = None) -> LatentDiffusion:
    """A random model of ``kind`` (a key of ``KINDS``). Leaves torch's global random generator as it was."""
    default_seed, context_dim = KINDS[kind][:2]
    with torch.random.fork_rng(devices=[]):
        generator = torch.Generator().manual_seed(default_seed if seed is None else seed)
        unet = build_unet(kind, generator)
        first_stage = _RandomAutoencoder(SCALE_FACTORS[kind == "sdxl"], generator)
        tokenizer = _tokenizer(tokenizer_folder)
        widths = (768, 1280) if kind == "sdxl" else (context_dim,)
        encoders = [TextEncoder(width, 2 if width < 1024 else 1, tokenizer, generator) for width in widths]
        return LatentDiffusion(kind, kind, unet, first_stage, encoders).eval().requires_grad_(False)


def open_checkpoint(
    checkpoint: Path | str, settings: Path | str, tokenizer_folder: Path | str | None = None
) -> LatentDiffusion:
    """An SD1.x checkpoint from its ``.safetensors`` and the ``.yaml`` that says how wide its parts are, in fp32."""
    import yaml
    from safetensors.torch import load_file

    params = yaml.safe_load(Path(settings).read_text(encoding="utf8"))["model"]["params"]
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        unet = UNetModel(**params["unet_config"]["params"])
        first_stage = AutoencoderKL(params["first_stage_config"]["params"]["ddconfig"])
    for part in (unet, first_stage):
        part.to_empty(device="cpu")
    _through_sdp(unet)
    text = TextEncoder(768, 12, _tokenizer(tokenizer_folder), torch.Generator(), whole=True)
    parts: dict[str, nn.Module] = {
        "model.diffusion_model.": unet, "first_stage_model.": first_stage,
        "cond_stage_model.transformer.": text.wrapped.transformer,
    }  # fmt: skip
    state = load_file(str(checkpoint))
    for prefix, part in parts.items():
        tensors = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        positions = "text_model.embeddings.position_ids"  # in checkpoints always, in transformers' modules no longer
        if positions not in part.state_dict():
            tensors.pop(positions, None)
        part.load_state_dict(tensors)
    return LatentDiffusion("sd15", str(settings), unet, first_stage, [text]).eval().requires_grad_(False)


CHECKPOINTS = {
    "demo-sd15": ("sd15", None),
    "demo-sd15-b": ("sd15", 151),
    "demo-sd2": ("sd2", None),
    "demo-inpainting": ("inpaint", None),
    "demo-ip2p": ("ip2p", None),
    "demo-sdxl": ("sdxl", None),
}


def write_checkpoints(folder: Path) -> None:
    """Checkpoint files of a few bytes: the header names kind and seed, the host builds the rest."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    for name, (kind, seed) in CHECKPOINTS.items():
        path = folder / f"{name}.safetensors"
        if not path.exists():
            number = KINDS[kind][0] if seed is None else seed
            metadata = {"demo_kind": kind, "demo_seed": str(number)}
            save_file({"seed": torch.tensor([number])}, str(path), metadata=metadata)
