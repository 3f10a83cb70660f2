"""What transformers and diffusers make of small random SigLIP, Redux and FLUX models: tests/unit/data/flux.safetensors.

The tests' own packages are too old for these classes (transformers 4.30, diffusers 0.31), so this runs in an
environment of its own and its answers are kept in the repository:

    python3.11 -m venv flux-reference
    flux-reference/bin/pip install torch==2.13.0 transformers==4.46.3 diffusers==0.32.2 safetensors numpy pillow
    flux-reference/bin/python tests/helpers/flux_reference.py

Everything is drawn from numpy's legacy generator, whose numbers no version changes, and rounded to fp16; what is
computed is fp32. Names in the file:

``siglip.odd.…``, ``siglip.even.…``
    ``weights.`` + Hugging Face's names; ``pixels`` [2, 3, S, S]; ``last_hidden_state`` [2, N, W], ``pooler_output``
    [2, W]. Two heads, patch 4: "odd" has 5 x 5 positions and 22 pixels, which its patches do not fill, as 27 of 14 do
    not fill 384; "even" has 4 x 4 and 16 pixels.
``siglip.picture`` [24, 31, 3] uint8, ``siglip.processed`` [3, 22, 22]: by SiglipImageProcessor, size 22.
``redux.…``
    ``weights.redux_up.…``, ``weights.redux_down.…``; ``features`` [1, 25, 16]; ``tokens`` [1, 25, 24].
``flux.…``
    ``weights.`` + Black Forest Labs' names: 2 double blocks, 2 single blocks, 2 heads of 8 channels (hidden 16), RoPE
    axes (4, 2, 2), context 24, vector 12, 16 channels for each image token, with guidance. ``img`` [2, 24, 16], tokens
    of 4 rows by 6, ``img_ids`` [24, 3], ``txt`` [2, 5, 24], ``vec`` [2, 12], ``timestep`` [2] (0 to 1), ``guidance``
    [2]; ``plain`` [2, 24, 16] is the model's output.
``flux.redux…``
    ``redux_tokens`` [2, 9, 24] behind the text's: ``redux`` is the output with them. ``redux_columns`` and
    ``redux_crossed`` are those with the attention bias log(0.25): wherever a token of theirs is attended to
    (columns), or only between them and all others, in both directions (crossed).
``xlabs.…``
    ``weights.`` + XLabs' names; ``embeds`` [2, 20] pooled embeddings; ``tokens`` [2, 4, 24]; ``output`` [2, 24, 16]:
    of the FLUX above with the adapter at scale 0.6.
"""

from __future__ import annotations

import math
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FILE = Path(__file__).resolve().parents[1] / "unit" / "data" / "flux.safetensors"
Weights = dict[str, Tensor]

WIDTH, HEADS, PATCH = 16, 2, 4  # SigLIP's
HIDDEN, HEAD, CONTEXT, VECTOR, CHANNELS, EMBEDS = 16, 8, 24, 12, 16, 20  # FLUX's, and CLIP's embeddings
BLOCKS, GRID, SCALE, WEIGHT = 2, (4, 6), 0.6, 0.25


def draw(name: str, *shape: int, scale: float = 1.0) -> Tensor:
    """Normal numbers that belong to a name."""
    numbers = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape) * scale
    return torch.from_numpy(numbers.astype(np.float16)).float()


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """One at the scale of trained ones: matrices keep their input's variance, norms are near identity."""
    if len(shape) > 1:
        return draw(name, *shape, scale=math.prod(shape[1:]) ** -0.5)
    is_norm = "norm" in name and name.endswith(("weight", "scale"))
    return (draw(name, *shape, scale=0.1) + is_norm).half().float()


def fill(name: str, module: torch.nn.Module) -> Weights:
    """Give a module weights; what they are."""
    weights = {key: weight(f"{name}.{key}", tuple(value.shape)) for key, value in module.state_dict().items()}
    module.load_state_dict(weights)
    module.eval().requires_grad_(False)
    return weights


def under(prefix: str, tensors: Weights) -> Weights:
    return {f"{prefix}.{key}": value for key, value in tensors.items()}


def siglip(name: str, size: int) -> Weights:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(
        hidden_size=WIDTH, intermediate_size=24, num_hidden_layers=2, num_attention_heads=HEADS, patch_size=PATCH,
        image_size=size,
    )  # fmt: skip
    model = SiglipVisionModel(config)
    weights = fill(name, model)
    pixels = draw(f"{name}.pixels", 2, 3, size, size)
    made = model(pixels)
    out = {"pixels": pixels, "last_hidden_state": made.last_hidden_state, "pooler_output": made.pooler_output}
    return under(name, {**under("weights", weights), **out})


def picture() -> Weights:
    from PIL import Image
    from transformers import SiglipImageProcessor

    colours = np.random.RandomState(7).randint(0, 256, (24, 31, 3)).astype(np.uint8)
    processor = SiglipImageProcessor(size={"height": 22, "width": 22})
    processed = processor(Image.fromarray(colours), return_tensors="pt").pixel_values[0]
    return {"siglip.picture": torch.from_numpy(colours), "siglip.processed": processed}


def redux() -> Weights:
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder

    model = ReduxImageEncoder(redux_dim=WIDTH, txt_in_features=CONTEXT)
    weights = fill("redux", model)
    features = draw("redux.features", 1, 25, WIDTH)
    tokens = model(features).image_embeds
    return under("redux", {**under("weights", weights), "features": features, "tokens": tokens})


def flux_shapes() -> dict[str, tuple[int, ...]]:
    """The tensors of a FLUX by Black Forest Labs' names."""
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (rows, columns), (rows,)

    def norms(name: str) -> None:
        shapes[f"{name}.query_norm.scale"] = shapes[f"{name}.key_norm.scale"] = (HEAD,)

    linear("img_in", HIDDEN, CHANNELS)
    linear("txt_in", HIDDEN, CONTEXT)
    for name, width in (("time_in", 256), ("guidance_in", 256), ("vector_in", VECTOR)):
        linear(f"{name}.in_layer", HIDDEN, width)
        linear(f"{name}.out_layer", HIDDEN, HIDDEN)
    for n in range(BLOCKS):
        for side in ("img", "txt"):
            block = f"double_blocks.{n}.{side}"
            linear(f"{block}_mod.lin", 6 * HIDDEN, HIDDEN)
            linear(f"{block}_attn.qkv", 3 * HIDDEN, HIDDEN)
            norms(f"{block}_attn.norm")
            linear(f"{block}_attn.proj", HIDDEN, HIDDEN)
            linear(f"{block}_mlp.0", 4 * HIDDEN, HIDDEN)
            linear(f"{block}_mlp.2", HIDDEN, 4 * HIDDEN)
        block = f"single_blocks.{n}"
        linear(f"{block}.modulation.lin", 3 * HIDDEN, HIDDEN)
        linear(f"{block}.linear1", 7 * HIDDEN, HIDDEN)
        norms(f"{block}.norm")
        linear(f"{block}.linear2", HIDDEN, 5 * HIDDEN)
    linear("final_layer.adaLN_modulation.1", 2 * HIDDEN, HIDDEN)
    linear("final_layer.linear", CHANNELS, HIDDEN)
    return shapes


PLAIN_NAMES = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
}
BLOCK_NAMES = {
    "img_mod.lin": "norm1.linear",
    "txt_mod.lin": "norm1_context.linear",
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
    "modulation.lin": "norm.linear",
    "norm.query_norm": "attn.norm_q",
    "norm.key_norm": "attn.norm_k",
    "linear2": "proj_out",
}
JOINED = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
}


def to_diffusers(weights: Weights) -> Weights:
    """The same FLUX by diffusers' names."""
    out = {}
    for key, value in weights.items():
        name, _, leaf = key.rpartition(".")
        leaf = "weight" if leaf == "scale" else leaf
        if name in PLAIN_NAMES:
            out[f"{PLAIN_NAMES[name]}.{leaf}"] = value
        elif name == "final_layer.adaLN_modulation.1":  # shift and scale stand the other way around there
            out[f"norm_out.linear.{leaf}"] = torch.cat(value.chunk(2)[::-1])
        else:
            kind, number, rest = name.split(".", 2)
            block = f"{'single_' if kind == 'single_blocks' else ''}transformer_blocks.{number}"
            if rest in JOINED:
                parts = value.split([HIDDEN] * 3 + [4 * HIDDEN] * (rest == "linear1"))
                out |= {f"{block}.{part}.{leaf}": piece for part, piece in zip(JOINED[rest], parts, strict=True)}
            else:
                out[f"{block}.{BLOCK_NAMES[rest]}.{leaf}"] = value
    return out


def adapter() -> tuple[Weights, Weights]:
    """An XLabs adapter by its published names, and what diffusers' converter would hand on."""
    shapes = {
        "ip_adapter_proj_model.proj.weight": (4 * CONTEXT, EMBEDS),
        "ip_adapter_proj_model.proj.bias": (4 * CONTEXT,),
    }
    shapes |= {"ip_adapter_proj_model.norm.weight": (CONTEXT,), "ip_adapter_proj_model.norm.bias": (CONTEXT,)}
    for n in range(BLOCKS):
        for side in "kv":
            name = f"double_blocks.{n}.processor.ip_adapter_double_stream_{side}_proj"
            shapes |= {f"{name}.weight": (HIDDEN, CONTEXT), f"{name}.bias": (HIDDEN,)}
    published = {name: weight(f"xlabs.{name}", shape) for name, shape in shapes.items()}
    image_proj = {
        name.removeprefix("ip_adapter_proj_model."): value for name, value in published.items() if "proj_model" in name
    }
    pairs = {}
    for name, value in published.items():
        if name.startswith("double_blocks."):
            _, number, _, projection, leaf = name.split(".")
            pairs[f"{number}.to_{'k' if '_k_' in projection else 'v'}_ip.{leaf}"] = value
    return published, {"image_proj": image_proj, "ip_adapter": pairs}


def bias(text: int, tokens: int, image: int, *, crossed: bool) -> Tensor:
    """[N, N] over text, Redux' tokens and the image: log(WEIGHT) where the tokens are attended to."""
    mask = torch.zeros(text + tokens + image, text + tokens + image)
    theirs = slice(text, text + tokens)
    mask[:, theirs] = math.log(WEIGHT)
    if crossed:
        mask[theirs, :] = math.log(WEIGHT)
        mask[theirs, theirs] = 0
    return mask


def flux() -> Weights:
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel(
        in_channels=CHANNELS, num_layers=BLOCKS, num_single_layers=BLOCKS, attention_head_dim=HEAD,
        num_attention_heads=HIDDEN // HEAD, joint_attention_dim=CONTEXT, pooled_projection_dim=VECTOR,
        guidance_embeds=True, axes_dims_rope=(4, 2, 2),
    )  # fmt: skip
    weights = {name: weight(f"flux.{name}", shape) for name, shape in flux_shapes().items()}
    model.load_state_dict(to_diffusers(weights), strict=True)
    model.eval().requires_grad_(False)
    count = GRID[0] * GRID[1]
    ids = torch.zeros(*GRID, 3)
    ids[..., 1], ids[..., 2] = torch.arange(GRID[0])[:, None], torch.arange(GRID[1])
    given = {
        "img": draw("flux.img", 2, count, CHANNELS),
        "img_ids": ids.reshape(count, 3),
        "txt": draw("flux.txt", 2, 5, CONTEXT),
        "vec": draw("flux.vec", 2, VECTOR),
        "timestep": torch.tensor([0.75, 0.25]),
        "guidance": torch.tensor([3.5, 3.5]),
        "redux_tokens": draw("flux.redux_tokens", 2, 9, CONTEXT),
    }

    def run(text: Tensor, **attention: object) -> Tensor:
        made: Tensor = model(
            hidden_states=given["img"], encoder_hidden_states=text, pooled_projections=given["vec"],
            timestep=given["timestep"], guidance=given["guidance"], img_ids=given["img_ids"],
            txt_ids=torch.zeros(text.shape[1], 3), joint_attention_kwargs=attention or None, return_dict=False,
        )[0]  # fmt: skip
        return made

    longer = torch.cat([given["txt"], given["redux_tokens"]], dim=1)
    out = {"plain": run(given["txt"]), "redux": run(longer)}
    for name, crossed in (("redux_columns", False), ("redux_crossed", True)):
        out[name] = run(longer, attention_mask=bias(5, 9, count, crossed=crossed))
    published, converted = adapter()
    model._load_ip_adapter_weights([converted])
    for processor in model.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [SCALE]
    embeds = draw("xlabs.embeds", 2, EMBEDS)
    (tokens,) = model.encoder_hid_proj([embeds[:, None]])
    with_adapter = run(given["txt"], ip_hidden_states=[tokens])
    assert (with_adapter - out["plain"]).abs().max() > 0.1
    xlabs = {**under("weights", published), "embeds": embeds, "tokens": tokens[:, 0], "output": with_adapter}
    return under("flux", {**under("weights", weights), **given, **out}) | under("xlabs", xlabs)


@torch.no_grad()
def main(file: Path = FILE) -> None:
    from safetensors.torch import save_file

    tensors = {**siglip("siglip.odd", 22), **siglip("siglip.even", 16), **picture(), **redux(), **flux()}
    halves = {key: value for key, value in tensors.items() if torch.equal(value.half().to(value.dtype), value)}
    tensors |= {key: value.half() for key, value in halves.items() if value.is_floating_point()}
    save_file({key: value.contiguous() for key, value in tensors.items()}, file)
    print(f"{file}: {len(tensors)} tensors, {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
