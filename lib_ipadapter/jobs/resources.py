"""What outlives a job: the catalogue of files, the files used last, and what references were encoded to."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..checkpoint.specs import SIGLIP
from ..encode.cache import ByteCache, remembered_bytes
from ..encode.faces.face import PACKS
from ..encode.references import check_finite
from ..errors import CheckpointError

if TYPE_CHECKING:
    from ..attend.control import ControlNetwork
    from ..checkpoint.catalog import Catalog
    from ..checkpoint.entries import AdapterEntry, EncoderEntry, Entry, KeypointsEntry
    from ..checkpoint.load import AdapterWeights
    from ..checkpoint.specs import AdapterSpec
    from ..encode.clip_image import ImageEncoder
    from ..encode.faces.face import FaceFinder

Progress = Callable[[str], None]
FileIdentity = tuple[str, int, int]  # a file's path, size and time of change

DEFAULT_ADAPTER_BYTES = 2**30  # adapters in main memory; the one used last stays whatever its size
DEFAULT_CACHE_BYTES = 512 * 2**20


@contextmanager
def _errors_name_file(entry: Entry) -> Iterator[None]:
    """Errors of a file's reading name the file."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{entry.file_name} cannot be used. {error.detail}") from error


class Resources:
    """The catalogue, the files in memory and the cache of a process.

    Everything in here stays in main memory; the device holds nothing between generations.
    """

    def __init__(
        self, catalog: Catalog, cache_bytes: int = DEFAULT_CACHE_BYTES, faces: FaceFinder | None = None
    ) -> None:
        """``faces`` finds them, where anybody does."""
        self.catalog, self.faces = catalog, faces
        self.cache = ByteCache(cache_bytes)
        self.adapter_bytes = DEFAULT_ADAPTER_BYTES
        self._adapters: dict[FileIdentity, AdapterWeights] = {}
        self._encoder: tuple[FileIdentity, torch.dtype, ImageEncoder] | None = None
        self._keypoints: tuple[FileIdentity, ControlNetwork] | None = None

    @staticmethod
    def identity(entry: Entry) -> FileIdentity:
        """What a file's derived data is remembered by: its path, size and time of change as they are now.

        Raises CheckpointError for a file that has gone since it was listed.
        """
        try:
            stat = entry.path.stat()
        except OSError as error:
            raise CheckpointError(
                f"{entry.file_name} cannot be read any more ({error.strerror}): refresh the list of models."
            ) from error
        return (str(entry.path), stat.st_size, stat.st_mtime_ns)

    def faces_identity(self, pack: str) -> Hashable:
        """What is found with a face pack is remembered by this; None where there is none, or nobody to ask, and for
        another recognition, whose embeddings come as files."""
        return None if self.faces is None or pack not in PACKS else self.faces.identity(pack)

    def adapter(self, entry: AdapterEntry, spec: AdapterSpec) -> AdapterWeights:
        """The adapter's tensors. The one used last is kept, so that none is read twice in a row, and of those before it
        as many as ``adapter_bytes`` hold."""
        from ..checkpoint import load

        key = self.identity(entry)
        weights = self._adapters.pop(key, None)
        if weights is None:
            with _errors_name_file(entry):
                weights = load.load_adapter(entry.path, spec)
        kept = {**self._adapters, key: weights}
        while len(kept) > 1 and sum(w.nbytes for w in kept.values()) > self.adapter_bytes:
            kept.pop(next(iter(kept)))
        self._adapters = kept  # in one go: somebody may unload everything at any moment
        return weights

    def encoder(self, entry: EncoderEntry, dtype: torch.dtype) -> ImageEncoder:
        """The image encoder in main memory; only the one used last is kept."""
        from ..checkpoint import load
        from ..encode.clip_image import ImageEncoder
        from ..encode.siglip_image import SiglipEncoder

        file, kept = self.identity(entry), self._encoder  # somebody may unload everything at any moment
        if kept is None or kept[:2] != (file, dtype):
            kept = self._encoder = None  # free the old one before the new one is read
            with _errors_name_file(entry):
                state = load.load_encoder_state(entry.path, dtype)
                tower = SiglipEncoder if entry.spec.family == SIGLIP else ImageEncoder
                kept = (file, dtype, tower.from_state(entry.spec, state, dtype=dtype))
            self._encoder = kept
        return kept[2]

    def keypoints_network(self, entry: KeypointsEntry) -> ControlNetwork:
        """The network of keypoints in main memory; only the one used last is kept."""
        from ..attend.control import ControlNetwork
        from ..checkpoint import load

        file, kept = self.identity(entry), self._keypoints  # somebody may unload everything at any moment
        if kept is None or kept[0] != file:
            kept = self._keypoints = None  # free the old one before the new one is read
            with _errors_name_file(entry):
                kept = (file, ControlNetwork(entry.spec, load.load_keypoints_state(entry.path, entry.spec)))
            self._keypoints = kept
        return kept[1]

    def text_embedding(self, entry: EncoderEntry, text: str, progress: Progress) -> Tensor:
        """[1, projection]: the embedding of ``text`` by the text tower in ``entry``, fp32 in main memory. The tower is
        not kept. Raises ValueError for an entry without one."""
        from ..checkpoint import load
        from ..encode.clip_text import TextTower

        if entry.spec.text is None:
            raise ValueError(f"{entry.name} has no text tower")
        key = ("text embedding", self.identity(entry), text)
        embedding: Tensor | None = self.cache.get(key)
        if embedding is None:
            progress(f"reading the words of {entry.name}")
            with _errors_name_file(entry):
                tower = TextTower.from_state(entry.spec.text, load.load_text_state(entry.path), dtype=torch.float32)
            embedding = tower.embed(text)
            check_finite(embedding, f"the text encoder {entry.file_name}")
            self.cache.put(key, embedding, remembered_bytes([embedding]))
        return embedding

    def release_encoder(self) -> None:
        """Let go of the image encoder and InstantID's network; what references were encoded to stays."""
        self._encoder = self._keypoints = None

    def unload(self) -> None:
        """Let go of every file and every encoded reference."""
        self._adapters = {}
        self.release_encoder()
        self.cache.clear()
