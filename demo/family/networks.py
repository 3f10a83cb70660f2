"""The family's networks. Tensor names are the published ones everywhere, so every file is an ordinary file.

UNet and autoencoder are ``ldm``'s, as in the host. The CLIP towers are written out here, in transformers' names:
training then does not depend on which transformers is installed, and on a GPU machine may have none.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from demo.family import face_networks, world
from lib_ipadapter.attend.inject import image_attention
from lib_ipadapter.attend.layers import CrossAttention, cross_attention_layers
from lib_ipadapter.encode.crops import MEAN, STD
from lib_ipadapter.projections import build

CONTEXT, POOLED, SCALE = 768, 1024, 0.18215
UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 2, "channel_mult": [1, 2, 4, 4], "num_heads": 4, "use_spatial_transformer": True,
    "transformer_depth": 1, "context_dim": CONTEXT, "use_checkpoint": False, "legacy": False,
}  # fmt: skip
AUTOENCODER = {
    "double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 64,
    "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip
"""64 channels at full size: with 32, each of the 32 norm groups of ldm is one channel, and a plain colour is lost."""
VISION = {"width": 128, "layers": 4, "patch": 8, "growth": 2}
WORDS = {"width": 64, "layers": 3}
RESAMPLER = {"dim": 64, "inner": 128, "depth": 4, "tokens": 16}
"""Narrow, but as deep as the published ones: diffusers' loader takes no other depth."""
SCHEDULE = (0.00085, 0.0120, 1000)


def alphas_cumprod(device: torch.device | str = "cpu") -> Tensor:
    """SD1.5's noise schedule, [1000] fp32."""
    first, last, steps = SCHEDULE
    betas = torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float().to(device)


# --- UNet and autoencoder -------------------------------------------------------------------------------------------


def _attend(self: Any, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """ldm's CrossAttention.forward through torch's own kernel; the projections stay modules.

    A context of fewer rows than ``x`` is shared: row i of it belongs to the i-th run of rows. In training, most of a
    small UNet's work is to project 77 text states; pictures that share their caption share that work.
    """
    context = x if context is None else context
    share = len(x) // len(context)
    key, value = (project(context).repeat_interleave(share, 0) for project in (self.to_k, self.to_v))
    return self.to_out(image_attention(self.to_q(x), key, value, self.heads))


def build_unet() -> nn.Module:
    """SD1.5's UNet, a tenth as wide, freshly initialised from torch's global generator."""
    try:
        from ldm.modules.attention import CrossAttention as LdmAttention
        from ldm.modules.diffusionmodules.openaimodel import UNetModel
    except ImportError as error:
        raise ImportError("The UNet is ldm's: pip install --no-deps stable-diffusion-sdkit==2.1.5 einops") from error
    unet = UNetModel(**UNET)
    for module in unet.modules():
        if isinstance(module, LdmAttention):
            module.forward = _attend.__get__(module)
    return unet


class Autoencoder(nn.Module):
    """ldm's AutoencoderKL without its trainer: pictures in -1...1 [B, 3, 8h, 8w], latents [B, 4, h, w]."""

    def __init__(self) -> None:
        super().__init__()
        with contextlib.redirect_stdout(io.StringIO()):  # ldm announces every layer
            from ldm.modules.diffusionmodules.model import Decoder, Encoder

            self.encoder, self.decoder = Encoder(**AUTOENCODER), Decoder(**AUTOENCODER)
        self.quant_conv, self.post_quant_conv = nn.Conv2d(8, 8, 1), nn.Conv2d(4, 4, 1)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """A start that lets plain colours through, so that learning begins at once.

        A norm group of ldm's is two of the 64 channels here, and takes from each pair its mean over the picture:
        opposite biases in every pair keep a colour as the pair's difference. Down- and upsampling begin as the
        average and the copy that their names promise, and latents with little noise.
        """
        for name, conv in [*self.encoder.named_modules(), *self.decoder.named_modules()]:
            part = name.rpartition(".")[2]
            if not isinstance(conv, nn.Conv2d) or part not in ("conv_in", "conv", "conv1", "conv2"):
                continue
            nn.init.zeros_(conv.bias)
            if part != "conv2":
                conv.bias[0::2], conv.bias[1::2] = 1.0, -1.0
            conv.weight.mul_({"conv": 0.3, "conv2": 0.7}.get(part, 3**0.5))
            if part == "conv":
                channel = torch.arange(len(conv.weight))
                if conv.stride == (2, 2):
                    conv.weight[channel, channel, :2, :2] += 0.25
                else:
                    conv.weight[channel, channel, 1, 1] += 1
        nn.init.constant_(self.quant_conv.bias[4:], -6.0)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents' distribution, fp32."""
        mean, log_variance = self.quant_conv(self.encoder(x)).float().chunk(2, dim=1)
        return mean, torch.exp(0.5 * log_variance.clamp(-30, 20))

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(z))

    @torch.no_grad()
    def standardise(self, mean: Tensor, std: Tensor) -> None:
        """Fold each latent channel's mean and deviation [4] into the two 1x1 convolutions.

        Afterwards latents times the host's usual 0.18215 have mean 0 and deviation 1; pictures decode as before.
        """
        gain = 1 / (std * SCALE)
        wide = torch.cat([gain, torch.ones_like(gain)])
        self.quant_conv.weight.mul_(wide[:, None, None, None])
        self.quant_conv.bias.mul_(wide).add_(torch.cat([-mean * gain, 2 * gain.log()]))
        kernel = self.post_quant_conv.weight
        self.post_quant_conv.bias.add_(torch.einsum("oi,i->o", kernel[..., 0, 0], mean))
        kernel.div_(gain[None, :, None, None])


# --- CLIP towers ----------------------------------------------------------------------------------------------------


def _named(**modules: nn.Module) -> nn.Module:
    return nn.ModuleDict(modules)


class _Block(nn.Module):
    """A CLIP layer, in transformers' names."""

    def __init__(self, width: int, heads: int, *, causal: bool, growth: int = 4, quick: bool = False) -> None:
        super().__init__()
        self.heads, self.causal, self.quick = heads, causal, quick
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attn = _named(**{f"{part}_proj": nn.Linear(width, width) for part in ("k", "v", "q", "out")})
        self.mlp = _named(fc1=nn.Linear(width, growth * width), fc2=nn.Linear(growth * width, width))

    def forward(self, x: Tensor) -> Tensor:
        h, attention = self.layer_norm1(x), self.self_attn
        q, k, v = (attention[f"{part}_proj"](h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in "qkv")
        h = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2).flatten(2)
        x = x + attention["out_proj"](h)
        h = self.mlp["fc1"](self.layer_norm2(x))
        h = h * torch.sigmoid(1.702 * h) if self.quick else F.gelu(h)
        return x + self.mlp["fc2"](h)


class VisionTower(nn.Module):
    """A CLIP image tower in the layout of transformers' CLIPVisionModelWithProjection."""

    def __init__(self, width: int, layers: int, patch: int, growth: int) -> None:
        super().__init__()
        embeddings = nn.Module()
        embeddings.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        embeddings.patch_embedding = nn.Conv2d(3, width, patch, patch, bias=False)
        embeddings.position_embedding = nn.Embedding((world.SIDE // patch) ** 2 + 1, width)
        nn.init.normal_(embeddings.position_embedding.weight, std=width**-0.5)
        blocks = nn.ModuleList(_Block(width, max(1, width // 64), causal=False, growth=growth) for _ in range(layers))
        self.vision_model = _named(
            embeddings=embeddings, pre_layrnorm=nn.LayerNorm(width), encoder=_named(layers=blocks),
            post_layernorm=nn.LayerNorm(width),
        )  # fmt: skip
        self.visual_projection = nn.Linear(width, POOLED, bias=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pixels [B, 3, 64, 64] -> pooled [B, 1024] and penultimate states [B, 65, width]."""
        parts = self.vision_model
        embeddings = parts["embeddings"]
        x = embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([embeddings.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
        x = parts["pre_layrnorm"](x + embeddings.position_embedding.weight)
        *blocks, last = parts["encoder"]["layers"]
        for block in blocks:
            x = block(x)
        pooled = self.visual_projection(parts["post_layernorm"](last(x)[:, 0]))
        return pooled, x


def to_pixels(pictures: Tensor) -> Tensor:
    """Pictures in 0…1 normalised for the image encoder (lib_ipadapter.encode.picture, which does it for files)."""
    mean, std = (torch.tensor(t, device=pictures.device).view(3, 1, 1) for t in (MEAN, STD))
    return (pictures - mean) / std


# The ids of the world's words in CLIP's vocabulary; each is one token (tests compare with the real tokenizer).
TOKENS = {
    "a": 320, "an": 550, "and": 537, "black": 1449, "blue": 1746, "checks": 13737, "circle": 7117, "cross": 3417,
    "diamond": 6235, "dots": 19019, "gradient": 36885, "green": 1901, "heart": 1936, "large": 3638, "on": 525,
    "orange": 4287, "plain": 10709, "purple": 5496, "red": 736, "ring": 2540, "small": 2442, "square": 3999,
    "star": 1565, "stripes": 14239, "triangle": 14615, "white": 1579, "yellow": 4481,
}  # fmt: skip
FACE_TOKENS = {"face": 1710}
"""Of the drawn faces' captions. The denoiser has never seen it; an adapter's LoRA learns what to make of it."""
START, END, LENGTH = 49406, 49407, 77
IDS = (*TOKENS.values(), START, END)
ROWS = {token: row for row, token in enumerate(IDS)}


def token_ids(caption: str) -> list[int]:
    """The 77 ids that the host makes of a caption in the world's words, end tokens as padding."""
    ids = [START, *((TOKENS | FACE_TOKENS)[word] for word in caption.split()), END]
    return ids + [END] * (LENGTH - len(ids))


def text_shapes(layers: int = 12) -> dict[str, tuple[int, ...]]:
    """The tensors of CLIP-L's text tower, as a Stable Diffusion 1.x checkpoint holds them."""
    wide, shapes = (
        4 * CONTEXT,
        {
            "text_model.embeddings.token_embedding.weight": (END + 1, CONTEXT),
            "text_model.embeddings.position_embedding.weight": (LENGTH, CONTEXT),
        },
    )
    linears = {f"self_attn.{part}_proj": (CONTEXT, CONTEXT) for part in ("k", "v", "q", "out")}
    linears |= {"mlp.fc1": (wide, CONTEXT), "mlp.fc2": (CONTEXT, wide)}
    for i in range(layers):
        block = f"text_model.encoder.layers.{i}"
        shapes |= {f"{block}.{name}.weight": shape for name, shape in linears.items()}
        shapes |= {f"{block}.{name}.bias": shape[:1] for name, shape in linears.items()}
        shapes |= {f"{block}.layer_norm{n}.{part}": (CONTEXT,) for n in (1, 2) for part in ("weight", "bias")}
    return shapes | {f"text_model.final_layer_norm.{part}": (CONTEXT,) for part in ("weight", "bias")}


_GAINS = {"q_proj": 1.2, "k_proj": 1.2, "v_proj": 1.0, "out_proj": 0.5, "fc1": 1.2, "fc2": 0.25}
"""Sizes of the random layers: heads that choose, and a residual stream in which the word itself stays loudest."""


def text_weights(seed: int = 768, layers: int = 12, *, vocabulary: bool = True) -> dict[str, Tensor]:
    """The seeded text encoder in fp16, the same everywhere: numpy promises never to change RandomState's stream.

    Without ``vocabulary`` the table of 49,408 words is left zero where the world has no word; training needs no more.
    """
    weights = {}
    for name, shape in text_shapes(layers).items():
        digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
        random = np.random.RandomState(int.from_bytes(digest[:4], "little"))
        if name.endswith("bias") or "norm" in name:
            weights[name] = torch.full(shape, float(name.endswith("weight") and "norm" in name)).half()
            continue
        if name.endswith("token_embedding.weight"):
            table = np.zeros(shape, np.float16)
            for i in range(shape[0]) if vocabulary else [*TOKENS.values(), *FACE_TOKENS.values(), START, END]:
                table[i] = np.random.RandomState(seed * 65536 + i).standard_normal(shape[1])
            weights[name] = torch.from_numpy(table)
            continue
        gain = 0.5 if "embedding" in name else _GAINS[name.split(".")[-2]] * shape[-1] ** -0.5
        weights[name] = torch.from_numpy((random.standard_normal(shape) * gain).astype(np.float16))
    return weights


class TextEncoder:
    """The frozen text encoder: captions in the world's words to what the UNet is conditioned on."""

    def __init__(self, weights: Mapping[str, Tensor], device: torch.device | str = "cpu") -> None:
        layers = sum(name.endswith("mlp.fc1.weight") for name in weights)
        with torch.device("meta"):
            # OpenAI's text tower, which is the host's, has QuickGELU.
            blocks = nn.ModuleList(_Block(CONTEXT, 12, causal=True, quick=True) for _ in range(layers))
            model = _named(
                embeddings=_named(token_embedding=nn.Embedding(END + 1, CONTEXT),
                                  position_embedding=nn.Embedding(LENGTH, CONTEXT)),
                encoder=_named(layers=blocks),
                final_layer_norm=nn.LayerNorm(CONTEXT),
            )  # fmt: skip
            self.tower = _named(text_model=model)
        self.tower.to_empty(device=device)
        self.tower.load_state_dict(weights)
        self.tower.requires_grad_(False)
        self.device = torch.device(device)

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> Tensor:
        """[B, 77, 768] fp32."""
        model = self.tower["text_model"]
        ids = torch.tensor([token_ids(caption) for caption in captions], device=self.device)
        x = model["embeddings"]["token_embedding"](ids) + model["embeddings"]["position_embedding"].weight
        for block in model["encoder"]["layers"]:
            x = block(x)
        return model["final_layer_norm"](x)


class WordTower(nn.Module):
    """The text tower beside ``VisionTower``, in the layout of transformers' CLIPTextModelWithProjection, but that its
    table of words has one row for each of ``IDS`` alone."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        embeddings = _named(token_embedding=nn.Embedding(len(IDS), width),
                            position_embedding=nn.Embedding(LENGTH, width))  # fmt: skip
        for table in embeddings.values():
            nn.init.normal_(table.weight, std=width**-0.5)
        blocks = nn.ModuleList(_Block(width, max(1, width // 64), causal=True) for _ in range(layers))
        self.text_model = _named(
            embeddings=embeddings, encoder=_named(layers=blocks), final_layer_norm=nn.LayerNorm(width)
        )
        self.text_projection = nn.Linear(width, POOLED, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(10.0).log())

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Texts in the world's words -> [B, 1024], comparable with ``VisionTower``'s pooled embeddings by cosine."""
        model, device = self.text_model, self.logit_scale.device
        rows = [[ROWS[START], *(ROWS[TOKENS[word]] for word in text.split()), ROWS[END]] for text in texts]
        ends = torch.tensor([len(row) - 1 for row in rows], device=device)
        longest = max(map(len, rows))
        ids = torch.tensor([row + [ROWS[END]] * (longest - len(row)) for row in rows], device=device)
        positions = model["embeddings"]["position_embedding"].weight[:longest]
        x = model["embeddings"]["token_embedding"](ids) + positions
        for block in model["encoder"]["layers"]:
            x = block(x)
        return self.text_projection(model["final_layer_norm"](x[torch.arange(len(x), device=device), ends]))


TABLE = "text_model.embeddings.token_embedding.weight"


def whole_vocabulary(words: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ``WordTower``'s tensors with a row for each of CLIP's 49,408 tokens: zeros for what is no word of the world."""
    table = words[TABLE]
    whole = table.new_zeros(END + 1, table.shape[1])
    whole[list(IDS)] = table
    return {**words, TABLE: whole}


# --- adapters -------------------------------------------------------------------------------------------------------


def new_adapter(kind: str, unet: nn.Module, feature_width: int) -> dict[str, Tensor]:
    """Fresh tensors of a "base" or "plus" adapter under their published names, from torch's global generator.

    As in the reference training, K_ip and V_ip begin as copies of the text's K and V.
    """

    def linear(name: str, rows: int, columns: int, bias: bool = False) -> dict[str, Tensor]:
        layer = nn.Linear(columns, rows, bias=bias)
        return {f"image_proj.{name}.{part}": p.detach() for part, p in layer.named_parameters()}

    def norm(name: str, width: int) -> dict[str, Tensor]:
        return {f"image_proj.{name}.weight": torch.ones(width), f"image_proj.{name}.bias": torch.zeros(width)}

    if kind == "base":
        state = linear("proj", 4 * CONTEXT, POOLED, True) | norm("norm", CONTEXT)
    else:
        dim, inner = RESAMPLER["dim"], RESAMPLER["inner"]
        state = {"image_proj.latents": torch.randn(1, RESAMPLER["tokens"], dim) * dim**-0.5}
        state |= linear("proj_in", dim, feature_width, True)
        for i in range(RESAMPLER["depth"]):
            attention, feed_forward = f"layers.{i}.0", f"layers.{i}.1"
            state |= norm(f"{attention}.norm1", dim) | norm(f"{attention}.norm2", dim)
            state |= linear(f"{attention}.to_q", inner, dim) | linear(f"{attention}.to_kv", 2 * inner, dim)
            state |= linear(f"{attention}.to_out", dim, inner) | norm(f"{feed_forward}.0", dim)
            state |= linear(f"{feed_forward}.1", 4 * dim, dim) | linear(f"{feed_forward}.3", dim, 4 * dim)
        state |= linear("proj_out", CONTEXT, dim, True) | norm("norm_out", CONTEXT)
    for i, layer in enumerate(cross_attention_layers(unet)):
        for part in "kv":
            weight = getattr(layer.module, f"to_{part}").weight
            state[f"ip_adapter.{2 * i + 1}.to_{part}_ip.weight"] = weight.detach().float().cpu().clone()
    return state


def image_tokens(weights: Mapping[str, Tensor], embedding: Tensor) -> Tensor:
    """An adapter's image tokens [B, T, 768], by the project's own projections (they are differentiable)."""
    inside = {k.removeprefix("image_proj."): v for k, v in weights.items() if k.startswith("image_proj.")}
    kind = {"latents": "Resampler", "proj.0.weight": "FaceIDMLP"}
    return build(next((kind[key] for key in kind if key in inside), "ImageProj"), inside, CONTEXT)(embedding)


class TrainableInjection:
    """``lib_ipadapter.attend.inject`` with gradients: every row of a call has tokens of its own, set before it."""

    def __init__(self, unet: nn.Module, weights: Mapping[str, Tensor]) -> None:
        self.weights = weights
        self.tokens: Tensor | None = None
        self.queries: dict[int, Tensor] = {}
        self.handles = [
            handle for i, layer in enumerate(cross_attention_layers(unet)) for handle in self._attach(2 * i + 1, layer)
        ]

    def _attach(self, number: int, layer: CrossAttention) -> Iterator[torch.utils.hooks.RemovableHandle]:
        def keep(_module: nn.Module, _args: tuple, query: Tensor) -> None:
            self.queries[number] = query

        def add(_module: nn.Module, args: tuple) -> tuple | None:
            query = self.queries.pop(number)
            if self.tokens is None:
                return None
            key, value = (
                F.linear(self.tokens, self.weights[f"ip_adapter.{number}.to_{part}_ip.weight"]).to(query.dtype)
                for part in "kv"
            )
            return (args[0] + image_attention(query, key, value, layer.heads), *args[1:])

        yield layer.to_q.register_forward_hook(keep)
        yield layer.out_projection.register_forward_pre_hook(add)

    def detach(self) -> None:
        for handle in self.handles:
            handle.remove()


# --- what measures --------------------------------------------------------------------------------------------------

JUDGED = {
    "shape": (2, world.NO_SHAPE + 1), "colour": (2, world.NO_COLOUR + 1), "size": (2, world.NO_SIZE + 1),
    "ground": (1, len(world.COLOURS)), "texture": (1, len(world.TEXTURES)),
}  # fmt: skip


class Judge(nn.Module):
    """A small convolutional classifier of pictures, independent of the image encoder: it tells what is to be seen.

    It looks for the left and the right object by two attention maps, so that a shape is one shape wherever it lies.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for after, stride in ((2, 2), (2, 1), (4, 2), (4, 1), (6, 2), (6, 1)):
            layers += [nn.Conv2d(before, after * width, 3, stride, 1), nn.GroupNorm(4, after * width), nn.SiLU()]
            before = after * width
        self.body = nn.Sequential(*layers)
        self.look = nn.Linear(2 * before + 2, 2)
        self.heads = nn.ModuleDict({
            name: nn.Sequential(nn.Linear(2 * before, 64), nn.SiLU(), nn.Linear(64, classes))
            for name, (_, classes) in JUDGED.items()
        })  # fmt: skip

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Pictures in 0…1 -> logits [B, slots, classes] of every attribute, left object first."""
        features = self.body(pictures * 2 - 1)
        height, width = features.shape[2:]
        lines = (torch.linspace(-1, 1, n, device=features.device) for n in (height, width))
        y, x = torch.meshgrid(*lines, indexing="ij")
        places = torch.stack([x, y], -1).flatten(0, 1).to(features.dtype).expand(len(features), -1, -1)
        cells = features.flatten(2).transpose(1, 2)
        whole = cells.mean(1, keepdim=True)
        maps = self.look(torch.cat([cells, whole.expand_as(cells), places], -1)).float().softmax(1)
        objects = torch.cat([maps.transpose(1, 2).to(cells) @ cells, whole.expand(-1, 2, -1)], -1)
        return {
            name: self.heads[name](objects if slots == 2 else torch.cat([whole, whole], -1)).float()
            for name, (slots, _) in JUDGED.items()
        }


# --- files ----------------------------------------------------------------------------------------------------------

MODULES = {
    "vae": Autoencoder, "encoder": lambda: VisionTower(**VISION), "judge": Judge, "unet": build_unet,
    "words": lambda: WordTower(**WORDS), "identity": lambda: face_networks.FaceTower(16),
    "witness": lambda: face_networks.FaceTower(12),
}  # fmt: skip
ADAPTERS = {"adapter": "base", "plus": "plus"}
FACES = ("identity", "witness", "faceid")
"""The files of the drawn faces: their recognition, its judge, and the adapter."""


def save(folder: Path, name: str, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """Write ``state`` in fp16 as ``folder/name.safetensors``, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    half = {key: value.detach().to("cpu", torch.float16).contiguous().clone() for key, value in state.items()}
    save_file(half, str(path) + ".part", metadata=dict(metadata or {}))
    os.replace(str(path) + ".part", path)
    return path


def encoder_name(state: Mapping[str, Tensor], kind: str = "encoder") -> str:
    """What an encoder's metadata, and that of adapters trained with it, call it: by content, in fp16."""
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode() + state[key].detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return f"ip-adapter-demo-{kind} {digest.hexdigest()[:12]}"


PACKED = "image_proj.proj.packed"
"""In the base adapter's file: its projection of what the encoder can say, which has fewer dimensions than 1024."""


def packed(state: Mapping[str, Tensor], encoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An adapter's tensors, the wide matrix W of a base adapter as W V, V being the encoder's last projection.

    A pooled embedding is V h; W (V h) is all that the adapter ever computes, so nothing is lost.
    """
    state = dict(state)
    if (wide := state.get("image_proj.proj.weight")) is not None:
        state[PACKED] = (state.pop("image_proj.proj.weight").double() @ _last(encoder, wide)).to(wide)
    return state


def unpacked(state: Mapping[str, Tensor], encoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published form again: W V V⁺, the smallest matrix that does the same."""
    state = dict(state)
    if (narrow := state.pop(PACKED, None)) is not None:
        wide = narrow.double() @ torch.linalg.pinv(_last(encoder, narrow))
        state["image_proj.proj.weight"] = wide.to(narrow)
    return state


def _last(encoder: Mapping[str, Tensor], like: Tensor) -> Tensor:
    return encoder["visual_projection.weight"].to(like.device).double()


def load_state(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of one of the family's files; adapters in their published form."""
    state = stored(folder, name)
    return unpacked(state, stored(folder, "encoder")) if PACKED in state else state


def stored(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of one of the family's files, as stored."""
    path = folder / f"{name}.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: train it with python -m demo.family.train --stage {STAGE[name]}")
    return load_file(str(path))


def load(folder: Path, name: str, device: torch.device | str = "cpu") -> nn.Module:
    """One of MODULES with its weights, fp32, frozen."""
    with torch.random.fork_rng(devices=[]):
        module = MODULES[name]()
    module.load_state_dict({key: value.float() for key, value in load_state(folder, name).items()})
    return module.to(device).eval().requires_grad_(False)


STAGE = {"vae": "autoencoder", "encoder": "encoder", "judge": "judge", "unet": "unet", "adapter": "adapter",
         "plus": "plus", "words": "words", **{name: name for name in FACES}}  # fmt: skip
"""The stage of the training that makes each file."""
