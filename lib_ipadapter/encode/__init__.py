"""Pictures -> embeddings: decode and crop references, run the image encoder, combine and remember the results."""

from .cache import ByteCache
from .clip_image import Embedding, ImageEncoder
from .clip_text import TextTower, subtract
from .combine import COMBINE_MODES, combine
from .picture import CROPS, MAX_TILES, decode, decode_mask, fingerprint, tile_count, to_pixels, views

__all__ = [
    "COMBINE_MODES",
    "CROPS",
    "MAX_TILES",
    "ByteCache",
    "Embedding",
    "ImageEncoder",
    "TextTower",
    "combine",
    "decode",
    "decode_mask",
    "fingerprint",
    "subtract",
    "tile_count",
    "to_pixels",
    "views",
]
