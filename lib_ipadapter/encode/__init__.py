"""Pictures -> embeddings: decode and crop references, run the image encoder, combine and remember the results."""

from .cache import ByteCache
from .clip import Embedding, ImageEncoder
from .combine import COMBINE_MODES, combine
from .picture import CROPS, decode, fingerprint, seen_by_encoder, to_pixels

__all__ = [
    "COMBINE_MODES",
    "CROPS",
    "ByteCache",
    "Embedding",
    "ImageEncoder",
    "combine",
    "decode",
    "fingerprint",
    "seen_by_encoder",
    "to_pixels",
]
