"""The table of what may be fetched: exactly these files, of exactly these revisions, with exactly these contents.

Every hash, size and revision stands in at least two public sources that do not depend on each other, or is left out: a
size that only one source tells is one that follows from the shapes as well, and ``size`` is None where it is not known
exactly. What has no such hash can only be linked to (``LINKS``).
"""

from __future__ import annotations

from typing import NamedTuple

from ..checkpoint.names import shown
from ..checkpoint.wanted import ENCODERS, WantedEncoder
from ..errors import CheckpointError

SITE = "https://huggingface.co"
APACHE, RESEARCH = "Apache-2.0", "for research that is not commercial"

_IP_ADAPTER = "h94/IP-Adapter", "018e402774aeeddd60609b4ecdb7e298259dc729"
_FACEID = "h94/IP-Adapter-FaceID", "43907e6f44d079bf1a9102d9a6e56aef7a219bae"
_INSTANTID = "InstantX/InstantID", "57b32dfee076092ad2930c71fd6d439c2c3b1820"


class Published(NamedTuple):
    """A file that may be fetched, and saved as ``name``. ``size`` is in bytes; ``sha256`` in hexadecimal digits.

    ``base`` is the family of checkpoints that an adapter is for, "" for an encoder. ``needs`` names the other files of
    the table that it is of no use without. ``starter``: what a person who has nothing yet is offered for ``base``.
    """

    name: str
    what: str
    base: str
    size: int | None
    sha256: str
    source: tuple[str, str]  # repository and revision
    path: str  # in the repository
    licence: str = APACHE
    needs: tuple[str, ...] = ()
    starter: bool = False

    @property
    def is_encoder(self) -> bool:
        """Whether it goes into the folder of image encoders."""
        return not self.base

    @property
    def repo(self) -> str:
        return self.source[0]

    @property
    def revision(self) -> str:
        return self.source[1]

    @property
    def link(self) -> str:
        """Where a browser gets it."""
        return f"{SITE}/{self.repo}/resolve/{self.revision}/{self.path}"


class Link(NamedTuple):
    """What is left to a person to get: its name, what it is, the family of checkpoints ("" for any), and the page."""

    name: str
    what: str
    base: str
    page: str


def _encoder(kind: str, size: int, sha256: str) -> Published:
    wanted: WantedEncoder = ENCODERS[kind]
    assert wanted.repo == _IP_ADAPTER[0]
    return Published(wanted.save_as, f"image encoder {kind}", "", size, sha256, _IP_ADAPTER, wanted.path)


H = _encoder("ViT-H-14", 2_528_373_448, "6ca9667da1ca9e0b0f75e46bb030f7e011f44f86cbfb8d5a36590fcd7507b030")
BIG_G = _encoder("ViT-bigG-14", 3_689_912_664, "657723e09f46a7c3957df651601029f66b1748afb12b419816330f16ed45d64d")


def _adapter(
    path: str, what: str, size: int, sha256: str, encoder: Published = H, *, starter: bool = False
) -> Published:
    base = "SDXL" if path.startswith("sdxl_models/") else "SD1.5"
    name = path.rpartition("/")[2]
    return Published(name, what, base, size, sha256, _IP_ADAPTER, path, needs=(encoder.name,), starter=starter)


def _faces(path: str, what: str, size: int | None, sha256: str, needs: tuple[str, ...] = ()) -> Published:
    base = "SDXL" if "_sdxl" in path else "SD1.5"
    return Published(path, what, base, size, sha256, _FACEID, path, RESEARCH, needs)


_NETWORK = Published(
    "instantid-controlnet.safetensors", "InstantID's network of keypoints", "SDXL", 2_502_139_136,
    "c8127be9f174101ebdafee9964d856b49b634435cf6daa396d3f593cf0bbbb05", _INSTANTID,
    "ControlNetModel/diffusion_pytorch_model.safetensors",
)  # fmt: skip

PUBLISHED: tuple[Published, ...] = (
    _adapter("models/ip-adapter-plus_sd15.safetensors", "plus: follows the picture closely", 98_183_288,
             "a1c250be40455cc61a43da1201ec3f1edaea71214865fb47f57927e06cbe4996", starter=True),
    _adapter("sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors", "plus: follows the picture closely", 847_517_512,
             "3f5062b8400c94b7159665b21ba5c62acdcd7682262743d7f2aefedef00e6581", starter=True),
    H,
    _adapter("models/ip-adapter_sd15.safetensors", "base: the picture's subject and mood", 44_642_768,
             "289b45f16d043d0bf542e45831f971dcdaabe18b656f11e86d9dfba7e9ee3369"),
    _adapter("models/ip-adapter_sd15_light.safetensors", "light: leaves more to the prompt", 44_642_768,
             "0747d08db670535bfa286452a77d93cebad5c677b46d038543f9f2de8690bb26"),
    _adapter("models/ip-adapter-plus-face_sd15.safetensors", "plus-face: for a cropped face", 98_183_288,
             "1c9edc21af6f737dc1d6e0e734190e976cfacf802d6b024b77aa3be922f7569b"),
    _adapter("models/ip-adapter-full-face_sd15.safetensors", "full-face: for a cropped face, stronger", 43_592_352,
             "f4a17fb643bf876235a45a0e87a49da2855be6584b28ca04c62a97ab5ff1c6f3"),
    _adapter("models/ip-adapter_sd15_vit-G.safetensors", "base, with the larger image encoder", 46_215_640,
             "a26f736af07bb341a83dfea23713531d0575760e8ed947c68cb31a4c62d9c90b", BIG_G),
    _adapter("sdxl_models/ip-adapter_sdxl_vit-h.safetensors", "base: the picture's subject and mood", 698_391_064,
             "ebf05d918348aec7abb02a5e9ecef77e0aaea6914a5c4ea13f50d45eb1681831"),
    _adapter("sdxl_models/ip-adapter-plus-face_sdxl_vit-h.safetensors", "plus-face: for a cropped face", 847_517_512,
             "677ad8860204f7d0bfba12d29e6c31ded9beefdf3e4bbd102518357d31a292c1"),
    _adapter("sdxl_models/ip-adapter_sdxl.safetensors", "base, with the larger image encoder", 702_585_376,
             "ba1002529e783604c5f326d49f0122025392d1d20ac8d573b3eeb3e6dea4ebb6", BIG_G),
    BIG_G,
    _faces("ip-adapter-faceid_sd15.bin", "FaceID: a person's face", 96_740_574,
           "201344e22e6f55849cf07ca7a6e53d8c3b001327c66cb9710d69fd5da48a8da7"),
    _faces("ip-adapter-faceid-plusv2_sd15.bin", "FaceID-PlusV2: a person's face and its look", 156_558_509,
           "26d0d86a1d60d6cc811d3b8862178b461e1eeb651e6fe2b72ba17aa95411e313", (H.name,)),
    _faces("ip-adapter-faceid-portrait-v11_sd15.bin", "FaceID portrait: a face of several photos", 64_586_623,
           "a48cb4f89ed18e02c6000f65aa9efec452e87eaed4a1bc9fcf4a460c8d0e3bc6"),
    _faces("ip-adapter-faceid_sdxl.bin", "FaceID: a person's face", None,
           "f455fed24e207c878ec1e0466b34a969d37bab857c5faa4e8d259a0b4ff63d7e"),
    _faces("ip-adapter-faceid-plusv2_sdxl.bin", "FaceID-PlusV2: a person's face and its look", 1_487_555_181,
           "c6945d82b543700cc3ccbb98d363b837e9c596281607857c74b713a876daf5fb", (H.name,)),
    _faces("ip-adapter-faceid-portrait_sdxl.bin", "FaceID portrait: a face of several photos", 749_822_515,
           "5631ce7824cdafd2db37c5e85b985730a95ff59c5b4fc80c2b79b0bee5711512"),
    _faces("ip-adapter-faceid-portrait_sdxl_unnorm.bin", "FaceID portrait: stronger", 1_009_523_411,
           "220bb86e205393a3d0411631cb473caddbf35fd371be2905ca9008818170db55"),
    Published("instantid-ip-adapter.bin", "InstantID: a person's face, with its pose", "SDXL", 1_691_134_141,
              "02b3618e36d803784166660520098089a81388e61a93ef8002aa79a5b1c546e1", _INSTANTID, "ip-adapter.bin",
              needs=(_NETWORK.name,)),
    _NETWORK,
)  # fmt: skip
BY_NAME = {file.name: file for file in PUBLISHED}

_PACKS = "https://github.com/deepinsight/insightface/releases/download/v0.7"
LINKS = (
    Link("ip_plus_composition_sd15.safetensors", "composition: where things stand", "SD1.5",
         f"{SITE}/ostris/ip-composition-adapter"),
    Link("ip_plus_composition_sdxl.safetensors", "composition: where things stand", "SDXL",
         f"{SITE}/ostris/ip-composition-adapter"),
    Link("buffalo_l.zip", "face pack for FaceID: its licence is yours to read", "", f"{_PACKS}/buffalo_l.zip"),
    Link("antelopev2.zip", "face pack for InstantID: its licence is yours to read", "SDXL", f"{_PACKS}/antelopev2.zip"),
)  # fmt: skip


def named(name: str) -> Published:
    """The file of that name. Raises CheckpointError for a name that is not in the table."""
    if (file := BY_NAME.get(name)) is None:
        raise CheckpointError(
            f"{shown(name)} is none of the files that can be downloaded: choose one of {', '.join(BY_NAME)}."
        )
    return file


def starter(base: str) -> Published | None:
    """The adapter that a person without any is offered for checkpoints of ``base``."""
    return next((file for file in PUBLISHED if file.starter and file.base == base), None)
