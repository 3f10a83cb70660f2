"""Pictures -> embeddings: decode and crop references, run the image encoder, combine and remember the results."""

from .cache import ByteCache
from .clip_image import Embedding, ImageEncoder
from .clip_text import TextTower, subtract
from .combine import COMBINE_MODES, combine
from .picture import (
    CROPS,
    MAX_TILES,
    Mask,
    Picture,
    content_hash,
    decode,
    decode_mask,
    fingerprint,
    tile_count,
    to_pixels,
    views,
)

__all__ = [
    "COMBINE_MODES",
    "CROPS",
    "MAX_TILES",
    "ByteCache",
    "Embedding",
    "ImageEncoder",
    "Mask",
    "Picture",
    "TextTower",
    "combine",
    "content_hash",
    "decode",
    "decode_mask",
    "fingerprint",
    "subtract",
    "tile_count",
    "to_pixels",
    "views",
]
