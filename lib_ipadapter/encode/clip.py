"""CLIP's image tower through open_clip, from any published key layout.

Sizes come from an EncoderSpec, weights from a state dict in transformers' layout (CLIPVisionModelWithProjection:
``image_encoder/model.safetensors``, ControlNet's ``clip_h.pth`` and ``clip_g.pth``) or in open_clip's and OpenAI's
(``visual.…``). The forward pass is written out here, because open_clip's has another shape in every other release
and none of them returns the penultimate states; modules and parameter names have stayed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from ..errors import CheckpointError

if TYPE_CHECKING:
    from ..checkpoint.identify import EncoderSpec

Source = Literal["pooled", "penultimate", "both"]

# open_clip's names: transformers' names. The attention's q, k and v are three there and one here.
_OUTSIDE_BLOCKS = {
    "class_embedding": "vision_model.embeddings.class_embedding",
    "positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "ln_pre.": "vision_model.pre_layrnorm.",
    "ln_post.": "vision_model.post_layernorm.",
    "proj": "visual_projection.weight",
}
_IN_BLOCKS = {
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "attn.out_proj.": "self_attn.out_proj.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}
_NOT_WEIGHTS = re.compile(r"vision_model\.embeddings\.position_ids$")


@dataclass(frozen=True)
class Embedding:
    """What an encoder makes of B pictures.

    ``pooled`` [B, projection]: transformers' ``image_embeds``. ``penultimate`` [B, 1 + patches, width]:
    ``hidden_states[-2]``, the input of the last block, without layer norm. None where it was not asked for.
    """

    pooled: Tensor | None
    penultimate: Tensor | None


class ImageEncoder:
    """A CLIP image tower with its weights, ready to encode."""

    def __init__(self, spec: EncoderSpec, tower: nn.Module) -> None:
        self.spec = spec
        self._tower = tower

    @classmethod
    def from_state(cls, spec: EncoderSpec, state: MutableMapping[str, Tensor], *, dtype: torch.dtype) -> ImageEncoder:
        """Build the tower that ``spec`` describes from ``state``, with weights in ``dtype`` on the state's device.

        The state's layout is seen from its keys; keys outside the image tower are ignored. **The tower's tensors are
        taken out of ``state``**, one by one, so that the weights are never held twice; a tensor that needs no change
        becomes a parameter as it is. Nothing is drawn from a random generator.

        Raises CheckpointError, with ``state`` unchanged, if a tensor is missing, left over, or of another shape.
        """
        tower = _empty_tower(spec)
        takers = _plan(spec, state, {name: tuple(p.shape) for name, p in tower.named_parameters()})
        with torch.inference_mode(False), torch.no_grad():
            for name, take in takers.items():
                owner, _, leaf = name.rpartition(".")
                weight = take(state).to(dtype).contiguous()
                tower.get_submodule(owner).register_parameter(leaf, nn.Parameter(weight, requires_grad=False))
        return cls(spec, tower.eval())

    @property
    def device(self) -> torch.device:
        return self._tower.proj.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self._tower.proj.dtype

    @property
    def nbytes(self) -> int:
        """Bytes that the weights take."""
        return sum(p.numel() * p.element_size() for p in self._tower.parameters())

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> ImageEncoder:
        """Move the weights; returns self."""
        with torch.inference_mode(False):
            self._tower.to(device=device, dtype=dtype)
        return self

    def encode(self, pixels: Tensor, source: Source = "both") -> Embedding:
        """Encode ``pixels`` [B, 3, S, S], normalised (picture.to_pixels), S the spec's ``image_size``.

        ``source`` says what is needed; "penultimate" leaves out the last block. The results are plain tensors on the
        encoder's device in its dtype. fp16 weights on the CPU, where that dtype has no arithmetic, are computed with
        in fp32, one block at a time.
        """
        size = self.spec.image_size
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, size, size):
            raise ValueError(f"{self.spec.kind} encodes pixels of shape [B, 3, {size}, {size}], not {[*pixels.shape]}")
        tower = self._tower
        *blocks, last = tower.transformer.resblocks
        dtype = torch.float32 if self.device.type == "cpu" and self.dtype == torch.float16 else self.dtype
        with torch.inference_mode(False), torch.no_grad(), _no_autocast(self.device):
            x = _call(tower.conv1, pixels.to(self.device, dtype)).flatten(2).transpose(1, 2)
            x = torch.cat([tower.class_embedding.to(dtype).expand(len(x), 1, -1), x], dim=1)
            x = _call(tower.ln_pre, x + tower.positional_embedding.to(dtype))
            for block in blocks:
                x = _run_block(block, x)
            penultimate = x if source != "pooled" else None
            pooled = None
            if source != "penultimate":
                x = _call(tower.ln_post, _run_block(last, x)[:, 0])
                pooled = x @ tower.proj.to(dtype)
        return Embedding(pooled, penultimate)

    def encode_zeros(self, source: Source = "both") -> Embedding:
        """The unconditional side of the reference implementation: pixels that are zero *after* normalisation, B = 1.

        Adapters on pooled embeddings take a zero vector instead of this embedding's ``pooled``.
        """
        size = self.spec.image_size
        return self.encode(torch.zeros(1, 3, size, size), source)


def _empty_tower(spec: EncoderSpec) -> nn.Module:
    """open_clip's image tower of these sizes, on the meta device: no memory, no random initialisation."""
    from open_clip.transformer import QuickGELU, VisionTransformer

    with torch.device("meta"):
        return VisionTransformer(
            image_size=spec.image_size,
            patch_size=spec.patch,
            width=spec.width,
            layers=spec.layers,
            heads=spec.heads,
            # open_clip truncates width * mlp_ratio to an integer; half a unit more keeps rounding from losing one.
            mlp_ratio=(spec.mlp_width + 0.5) / spec.width,
            output_dim=spec.projection,
            act_layer=QuickGELU if spec.quick_gelu else nn.GELU,
        )


def _plan(
    spec: EncoderSpec, state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Callable[[MutableMapping[str, Tensor]], Tensor]]:
    """For each parameter of the tower, how to take it out of ``state``. Checks names and shapes; takes nothing yet."""
    prefix, is_transformers = _layout(state)
    if is_transformers:
        sources = {name: [prefix + key for key in _transformers_keys(name)] for name in shapes}
        tower_keys = (prefix + "vision_model.", prefix + "visual_projection.")
    else:
        sources = {name: [prefix + name] for name in shapes}
        tower_keys = (prefix,)

    wanted = {key for keys in sources.values() for key in keys}
    present = {key for key in state if key.startswith(tower_keys) and not _NOT_WEIGHTS.search(key)}
    if missing := sorted(wanted - present):
        raise CheckpointError(
            f"The image encoder file lacks {_some(missing)}, which {spec.kind} needs; download the file again."
        )
    if surplus := sorted(present - wanted):
        raise CheckpointError(
            f"The image encoder file holds {_some(surplus)}, which {spec.kind} does not have, so it is another kind "
            "of encoder; use a CLIP image encoder such as ViT-H-14."
        )
    takers = {}
    for name, keys in sources.items():
        transposed = is_transformers and name == "proj"
        have = _joined_shape([tuple(state[key].shape) for key in keys])
        have = have[::-1] if transposed else have
        if have != shapes[name]:
            raise CheckpointError(
                f"The image encoder file's {keys[0]} does not have the shape that {spec.kind} needs ({list(have)} "
                f"instead of {list(shapes[name])}); the file is damaged or of another kind, so download it again."
            )
        takers[name] = _taker(keys, transposed)
    return takers


def _layout(state: Mapping[str, Tensor]) -> tuple[str, bool]:
    """What stands before the image tower's keys, and whether they are transformers' (else open_clip's)."""
    transformers_key = _OUTSIDE_BLOCKS["class_embedding"]
    for key in state:
        if key.endswith(transformers_key):
            return key.removesuffix(transformers_key), True
    for key in state:
        if key.endswith("class_embedding"):
            return key.removesuffix("class_embedding"), False
    raise CheckpointError(
        f"The image encoder file holds no CLIP image tower (it begins with {_some(list(state)) or 'nothing'}); "
        "use a CLIP image encoder such as ViT-H-14."
    )


def _transformers_keys(name: str) -> list[str]:
    """transformers' keys for open_clip's parameter ``name``: three for the joined q, k and v, else one."""
    block = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", name)
    if block is None:
        return [_renamed(name, _OUTSIDE_BLOCKS)]
    layer, rest = f"vision_model.encoder.layers.{block[1]}.", block[2]
    if rest.startswith("attn.in_proj_"):
        return [f"{layer}self_attn.{part}_proj.{rest.removeprefix('attn.in_proj_')}" for part in "qkv"]
    return [layer + _renamed(rest, _IN_BLOCKS)]


def _renamed(name: str, table: Mapping[str, str]) -> str:
    for ours, theirs in table.items():
        if name == ours or (ours.endswith(".") and name.startswith(ours)):
            return theirs + name.removeprefix(ours)
    raise KeyError(name)


def _joined_shape(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of these tensors joined along dim 0; () if they do not fit each other."""
    if len(shapes) == 1:
        return shapes[0]
    if len({shape[1:] for shape in shapes}) > 1 or () in shapes:
        return ()
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


def _taker(keys: list[str], transposed: bool) -> Callable[[MutableMapping[str, Tensor]], Tensor]:
    def take(state: MutableMapping[str, Tensor]) -> Tensor:
        parts = [state.pop(key) for key in keys]
        weight = parts[0] if len(parts) == 1 else torch.cat(parts)
        return weight.t() if transposed else weight

    return take


def _run_block(block: nn.Module, x: Tensor) -> Tensor:
    """One residual attention block on ``x`` [B, N, W]; older open_clip's blocks want [N, B, W]."""
    if block.attn.batch_first:
        return _call(block, x)
    return _call(block, x.transpose(0, 1)).transpose(0, 1)


def _call(module: nn.Module, x: Tensor) -> Tensor:
    """``module(x)``, its weights cast to the dtype of ``x`` for this call if they have another."""
    if next(module.parameters()).dtype == x.dtype:
        return module(x)
    weights = {name: p.to(x.dtype) for name, p in module.named_parameters()}
    return torch.func.functional_call(module, weights, (x,))


@contextlib.contextmanager
def _no_autocast(device: torch.device) -> Iterator[None]:
    """The same arithmetic whether or not the host has autocast on."""
    if device.type not in ("cuda", "cpu", "xpu"):
        yield
        return
    with torch.autocast(device.type, enabled=False):
        yield


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
