"""How CLIP's and SigLIP's towers call their tensors: one table to recognise files, load them, and fill the modules.

CLIP is published in two layouts: open_clip's (OpenAI's too), whose names are those of the modules here, and
transformers' (CLIPModel, CLIPVisionModelWithProjection). The table gives open_clip's names transformers' ones. SigLIP
is known here in transformers' layout alone.
Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

TRANSFORMERS, OPEN_CLIP = LAYOUTS = ("transformers", "open_clip")

BLOCKS = "transformer.resblocks."  # what open_clip's names of a tower's blocks begin with
# open_clip's names in a block: transformers' names. The attention's q, k and v are three there and one here.
_IN_BLOCKS = {
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "attn.out_proj.": "self_attn.out_proj.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}
FIRST_MLP = f"{BLOCKS}0.mlp.c_fc.weight"
_OF_LINEAR = ("weight", "bias")


@dataclass(frozen=True)
class TowerKeys:
    """The names of one kind of tower, and how errors about it are worded.

    ``names`` are open_clip's names of what is not in a block, with transformers' names; a name that ends with a dot
    stands for all that begin so. ``inside`` is what transformers' names begin with, those in ``names`` that do not
    aside. ``recognised_by`` is open_clip's name of a tensor that only such a tower has, ``transposed`` that of the
    projection, which is [W, P] in open_clip's layout and [P, W] in transformers'. ``beside_others``: open_clip's
    layout has this tower's keys beside the other tower's, with nothing before them.
    """

    file: str
    tower: str
    advice: str
    names: Mapping[str, str]
    inside: str
    recognised_by: str
    transposed: str | None
    beside_others: bool = False

    def called(self, name: str, layout: str) -> list[str]:
        """A layout's names of open_clip's ``name``: three for the joined q, k and v in transformers', else one."""
        if layout == OPEN_CLIP:
            return [name]
        if not name.startswith(BLOCKS):
            return [_renamed(name, self.names)]
        layer, dot, rest = name.removeprefix(BLOCKS).partition(".")
        block = f"{self.inside}encoder.layers.{layer}{dot}"
        if rest.startswith("attn.in_proj_"):
            return [f"{block}self_attn.{part}_proj.{rest.removeprefix('attn.in_proj_')}" for part in "qkv"]
        return [block + _renamed(rest, _IN_BLOCKS) if rest else block]

    def begin_with(self, layout: str) -> tuple[str, ...]:
        """What the names of a layout begin with."""
        if layout == OPEN_CLIP:
            return (*self.names, BLOCKS)
        return (self.inside, *(name for name in self.names.values() if not name.startswith(self.inside)))

    def find(self, keys: Iterable[str]) -> Tower | None:
        """The tower of this kind among these keys, without other towers and position ids; None if there is none."""
        keys = list(keys)
        for layout in LAYOUTS:
            (recognised_by,) = self.called(self.recognised_by, layout)
            ends = (key for key in keys if key == recognised_by or key.endswith(f".{recognised_by}"))
            prefix = next((key.removesuffix(recognised_by) for key in ends), None)
            if prefix is not None:
                inside = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
                begin = self.begin_with(layout)
                wanted = [key for key in inside if key.startswith(begin) and not key.endswith("position_ids")]
                return Tower(self, layout, prefix, tuple(wanted))
        return None


class Tower(NamedTuple):
    """Where in a file a tower is: ``keys`` are the file's own names without ``prefix``."""

    kind: TowerKeys
    layout: str
    prefix: str
    keys: tuple[str, ...]

    def key(self, name: str) -> str:
        """The file's name, without prefix, of open_clip's ``name``."""
        return self.kind.called(name, self.layout)[0]

    @property
    def together(self) -> list[list[str]]:
        """The keys; in one list those that are one tensor in open_clip's layout, in its order."""
        present = set(self.keys)
        names = [f"{BLOCKS}{block}.attn.in_proj_{kind}" for block in sorted(self._blocks) for kind in _OF_LINEAR]
        joined = [self.kind.called(name, self.layout) for name in names]
        whole = [keys for keys in joined if present.issuperset(keys)]
        inside = {key for keys in whole for key in keys}
        return [[key] for key in self.keys if key not in inside] + whole

    @property
    def depth(self) -> int:
        """The number of its blocks."""
        return len(self._blocks)

    @property
    def has_gaps(self) -> bool:
        """Whether a block before its last one is missing, as in a part of a file."""
        return self._blocks != {str(number) for number in range(self.depth)}

    @property
    def _blocks(self) -> set[str]:
        blocks = self.key(BLOCKS)
        return {key.removeprefix(blocks).split(".")[0] for key in self.keys if key.startswith(blocks)}


def _renamed(name: str, table: Mapping[str, str]) -> str:
    for ours, theirs in table.items():
        if name == ours or (ours.endswith(".") and name.startswith(ours)):
            return theirs + name.removeprefix(ours)
    raise KeyError(name)


IMAGE_TOWER = TowerKeys(
    file="image encoder",
    tower="CLIP image tower",
    advice="use a CLIP image encoder such as ViT-H-14",
    names={
        "class_embedding": "vision_model.embeddings.class_embedding",
        "positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "conv1.": "vision_model.embeddings.patch_embedding.",
        "ln_pre.": "vision_model.pre_layrnorm.",
        "ln_post.": "vision_model.post_layernorm.",
        "proj": "visual_projection.weight",
    },
    inside="vision_model.",
    recognised_by="class_embedding",
    transposed="proj",
)
TEXT_TOWER = TowerKeys(
    file="text encoder",
    tower="CLIP text tower",
    advice="use a whole CLIP model, such as open_clip_pytorch_model.bin from laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    names={
        "token_embedding.": "text_model.embeddings.token_embedding.",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "ln_final.": "text_model.final_layer_norm.",
        "text_projection": "text_projection.weight",
    },
    inside="text_model.",
    recognised_by="token_embedding.weight",
    transposed="text_projection",
    beside_others=True,
)
SIGLIP_TOWER = TowerKeys(
    file="image encoder",
    tower="SigLIP image tower",
    advice="use a SigLIP image encoder, sigclip_vision_patch14_384.safetensors from Comfy-Org/sigclip_vision_384",
    names={
        "positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "conv1.": "vision_model.embeddings.patch_embedding.",
        "ln_post.": "vision_model.post_layernorm.",
        "head.": "vision_model.head.",
    },
    inside="vision_model.",
    recognised_by="head.probe",
    transposed=None,
)


def image_tower(keys: Iterable[str]) -> Tower | None:
    """The image tower among these keys, CLIP's or SigLIP's; None if there is none."""
    keys = list(keys)
    return IMAGE_TOWER.find(keys) or SIGLIP_TOWER.find(keys)
