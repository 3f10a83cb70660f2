"""Files of other kinds, told by their tensors' names and shapes, with a sentence for each of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from .. import bases
from .clip_keys import image_tower
from .refusals import INSTEAD
from .shapes import Shapes


class Foreign(NamedTuple):
    """A kind of file: how its tensors tell it, what it is, and what to do instead."""

    fits: Callable[[Shapes], bool]
    what: str
    instead: str = INSTEAD


def _has(*parts: str) -> Callable[[Shapes], bool]:
    """Some key contains one of ``parts``."""
    return lambda shapes: any(part in key for part in parts for key in shapes)


def _begins(*parts: str) -> Callable[[Shapes], bool]:
    return lambda shapes: any(key.startswith(parts) for key in shapes)


def _wide(pattern: str, axis: int, size: int) -> Callable[[Shapes], bool]:
    """A tensor whose whole name fits ``pattern`` is ``size`` along its first or last axis (0 or -1)."""
    fits = re.compile(pattern).fullmatch
    return lambda shapes: any(shape and shape[axis] == size for key, shape in shapes.items() if fits(key))


def _kolors_plus(shapes: Shapes) -> bool:
    latents, proj_in = shapes.get("image_proj.latents", ()), shapes.get("image_proj.proj_in.weight", ())
    return latents[-1:] == (2048,) and proj_in[-1:] == (1024,)


_NOT_KOLORS = f"{bases.KOLORS} does not run here, so {INSTEAD}"
_REDUX = "use FLUX Redux, flux1-redux-dev.safetensors from black-forest-labs/FLUX.1-Redux-dev."

ADAPTERS = (
    Foreign(
        _has("pulid_ca.", "pulid_encoder."),
        "PuLID for FLUX, which is of another architecture",
        "use a FaceID adapter for SDXL.",
    ),
    Foreign(
        _has("mapping_0.0.", "mapping_patch_0.0.", "id_to_k.", "id_adapter_attn_layers."),
        "a PuLID adapter, which is of another architecture",
        "use InstantID or ip-adapter-faceid-plusv2_sdxl for faces.",
    ),
    Foreign(
        _has("image_proj.time_embedding.", ".norm_ip."),
        "InstantX's IP-Adapter for SD3.5",
        f"it needs SD3.5's own attention, so {INSTEAD}",
    ),
    Foreign(
        _wide(r"image_proj\.perceiver_resampler\.layers\.0\.0\.to_out\.weight", 0, 4096),
        "a FaceID-Plus adapter for Kolors",
        _NOT_KOLORS,
    ),
    Foreign(_kolors_plus, "an IP-Adapter-Plus for Kolors", _NOT_KOLORS),
    Foreign(
        _wide(r"image_proj\.proj_out\.weight", 0, 4096),
        "a projection of faces for FLUX (InfiniteYou), whose other half is a ControlNet",
        "use a FaceID adapter for SDXL, or InstantID.",
    ),
    Foreign(
        lambda shapes: _begins("id_encoder.")(shapes) and _begins("lora_weights.")(shapes),
        "a PhotoMaker model",
        "use a FaceID adapter or InstantID for faces.",
    ),
    Foreign(
        _has("encoder_hid_proj.image_projection_layers."),
        "a UNet of diffusers with an IP-Adapter already in it",
        "get the adapter's own file, such as ip-adapter_sd15.safetensors from h94/IP-Adapter.",
    ),
    # Methods built on IP-Adapter's attention, with parts of their own beside it.
    Foreign(
        _begins("content_image_proj", "style_image_proj."),
        "a CSGO model, which has a projection each for content and style",
    ),
    Foreign(_begins("style_image_proj_modules."), "a StyleShot model, which has an image encoder of its own"),
    Foreign(
        _begins("FacialEncoder."),
        "a ConsistentID model, which describes faces by an encoder of its own",
        "use a FaceID adapter or InstantID for faces.",
    ),
    Foreign(
        lambda shapes: _begins("ms_adapter.")(shapes) or "dummy_image_tokens" in shapes,
        "an MS-Diffusion model, which places several subjects by boxes",
    ),
    Foreign(
        _begins("multimodal_llm.", "mllm_final_layer."), "an EasyRef model, which reads references by a language model"
    ),
)

FILES = (
    Foreign(
        _has("lllite_", "lora_controlnet", "zero_convs.", "controlnet_", "input_hint_block.", "control_model."),
        "a ControlNet model",
        "choose it in ControlNet's own panel.",
    ),
    Foreign(
        lambda shapes: _has(".block1.weight", ".in_conv.weight")(shapes) and _begins("body.", "adapter.body.")(shapes),
        "a T2I-Adapter",
        "choose it in ControlNet's own panel.",
    ),
    Foreign(_has("transformer_layes."), "a T2I style adapter", "choose it in ControlNet's own panel."),
    Foreign(
        _has("lora_unet_", "lora_te", "lora_down.", "lora_A.", ".lora.down.", "_lora.down.", "hada_w1", "lokr_w"),
        "a LoRA",
        "put it into models/Lora and write <lora:…> in the prompt.",
    ),
    Foreign(
        lambda shapes: (
            _begins("string_to_param.")(shapes) or shapes.keys() <= {"clip_l", "clip_g", "emb_params", "t5xxl"}
        ),
        "a textual-inversion embedding",
        "put it into the embeddings folder and write its name in the prompt.",
    ),
    Foreign(_begins("double_blocks.", "single_blocks."), "a FLUX model", f"choose it as a checkpoint, and {_REDUX}"),
    Foreign(
        _begins("down_blocks.", "up_blocks.", "input_blocks."),
        "a UNet alone",
        f"choose it as a checkpoint, and {INSTEAD}",
    ),
    Foreign(
        _begins("first_stage_model.", "decoder.conv_in.", "encoder.conv_in."),
        "a VAE",
        "put it into models/VAE.",
    ),
    Foreign(
        _begins("visual.blocks."),
        "an EVA-CLIP image encoder, which no adapter for SD1.5 or SDXL is fed by",
        "get ViT-H-14, models/image_encoder/model.safetensors from h94/IP-Adapter.",
    ),
    Foreign(
        lambda shapes: _has("text_model.embeddings.", "token_embedding.")(shapes) and image_tower(shapes) is None,
        "a text encoder",
        "get an image encoder, such as models/image_encoder/model.safetensors from h94/IP-Adapter.",
    ),
)


def first_sentence(kinds: tuple[Foreign, ...], shapes: Shapes) -> str | None:
    """What the file is, and what to do instead, by the first of ``kinds`` that fits; None where none does."""
    kind = next((kind for kind in kinds if kind.fits(shapes)), None)
    return kind and f"This file is {kind.what}: {kind.instead}"
