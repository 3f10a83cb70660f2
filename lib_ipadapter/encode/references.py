"""The references of a job's units -> embeddings, each picture encoded once.

The unconditional side is the reference implementation's: zeros for pooled embeddings; for hidden states, what the
encoder makes of an all-zeros pixel tensor, which is a mean-grey picture; for XLabs' adapters for FLUX, what it makes of
a black one. Negative references come in its place, and noise goes into it: the references with their pixels shuffled.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import torch
from PIL import Image
from torch import Tensor

from ..errors import CheckpointError, UnitError
from .cache import ByteCache, remembered_bytes
from .combine import Fold, combine
from .device import CPU, Device, Fallback
from .faces.align import aligned
from .faces.photo import photo
from .pixels import to_pixels

if TYPE_CHECKING:
    from ..checkpoint.entries import EncoderEntry, Entry
    from .clip_image import ImageEncoder, OneSource
    from .faces.face import Face
    from .picture import Mask, Picture

Key = tuple[Hashable, ...]  # what a computed value is remembered by


class Encoders(Protocol):
    """Where image encoders come from, and where embeddings are remembered."""

    @property
    def cache(self) -> ByteCache: ...

    def identity(self, entry: Entry) -> Hashable:
        """What a file's derived data is remembered by."""

    def encoder(self, entry: EncoderEntry, dtype: torch.dtype) -> ImageEncoder:
        """The image encoder in main memory."""


@dataclass(frozen=True)
class EncoderInput:
    """A picture as an encoder is shown it: under its mask, perhaps shuffled, or only its ``face``; without a picture,
    zeros, or a black one. What it is encoded to may be known already: ``embedding`` then, and a look's ``uncond``
    [1, …] is what it brings for the unconditional side.

    Two are equal where their content hashes and faces are.
    """

    content_hash: str
    mask_hash: str | None = None
    noise: bool = False
    image: Picture | None = field(default=None, compare=False)
    mask: Mask | None = field(default=None, compare=False)
    face: Face | None = None
    embedding: Tensor | None = field(default=None, compare=False)
    uncond: Tensor | None = field(default=None, compare=False)

    @property
    def key(self) -> Key:
        return (self.content_hash, self.mask_hash, self.noise, None if self.face is None else self.face.landmarks)

    def shuffled(self) -> EncoderInput:
        return replace(self, noise=True)

    def pixels(self, size: int, crop: str, family: str) -> Tensor:
        """[V, 3, size, size]: the V views that an encoder of that ``family`` sees."""
        if self == BLACK:
            return to_pixels(Image.new("RGB", (size, size)), size, family=family)
        if self.image is None:
            return torch.zeros(1, 3, size, size)
        image, mask = self.image.image, None if self.mask is None else self.mask.image
        if self.face is not None:
            image, mask, crop = aligned(photo(image, mask, crop), self.face.landmarks, size), None, "center"
        pixels = to_pixels(image, size, crop, mask, family)
        return shuffled(pixels, self.content_hash) if self.noise else pixels


ZEROS, BLACK = EncoderInput("zeros"), EncoderInput("black")


@dataclass(frozen=True)
class UnitInputs:
    """Everything that one unit shows its image encoder, ``size`` pixels square: ``source`` is the encoder's output that
    is wanted, ``empty`` what it is shown for the unconditional side; None where that is zeros instead of an embedding.
    There is no encoder where all is known already. ``seen`` are the places of the references that each picture sees,
    where these differ."""

    encoder: EncoderEntry | None
    source: OneSource
    size: int
    crop: str
    references: tuple[EncoderInput, ...]
    negatives: tuple[EncoderInput, ...] = ()
    negative_weights: tuple[float, ...] = ()
    noise: float = 0.0
    empty: EncoderInput | None = None
    weights: tuple[float, ...] = ()  # of the references
    seen: tuple[tuple[int, ...], ...] = ()

    def to_encode(self) -> list[EncoderInput]:
        """What the encoder has to be shown."""
        inputs = [*self.references, *self.negatives]
        if self.noise:
            inputs += [reference.shuffled() for reference in self.references]
        inputs = [shown for shown in inputs if shown.embedding is None]
        bring_their_own = all(reference.uncond is not None for reference in self.references)
        return inputs if self.empty is None or bring_their_own else [*inputs, self.empty]


class References:
    """Encodes the references of several units, each once, telling how far it is."""

    def __init__(
        self, units: Sequence[UnitInputs], encoders: Encoders, device: Device, progress: Callable[[str], None]
    ) -> None:
        self.encoders, self.device, self.progress = encoders, device, progress
        self.work = Fallback(device)
        keys = {self._key(unit, shown) for unit in units for shown in unit.to_encode() if shown.image is not None}
        self.total = sum(key not in encoders.cache for key in keys)
        self.done = 0
        self.encoded: dict[Key, Tensor] = {}  # in this job, whatever the cache's size; by what they are on the device
        self.apart: set[Key] = set()  # those of them that were made on the CPU for want of room

    def _key(self, unit: UnitInputs, shown: EncoderInput, place: str | None = None) -> Key:
        """What an embedding is remembered by; ``place`` is where it was made, None for the device."""
        file = self.encoders.identity(_needed(unit))
        place = place or str(self.device.device)
        return ("embedding", file, self.device.dtype, place, unit.source, unit.size, unit.crop, *shown.key)

    def place(self, unit: UnitInputs) -> str:
        """Where the unit's embeddings were made: on the CPU if any of them was."""
        apart = any(self._key(unit, shown) in self.apart for shown in unit.to_encode())
        return str(CPU if apart else self.device.device)

    def is_known(self, unit: UnitInputs) -> bool:
        """Whether all that the unit's encoder has to be shown is remembered."""
        return all(self._key(unit, shown) in self.encoders.cache for shown in unit.to_encode())

    def encode(self, unit: UnitInputs) -> None:
        """Have all that the unit's encoder has to be shown remembered."""
        self._each(unit)

    def embeddings(self, unit: UnitInputs) -> tuple[list[Tensor], Tensor]:
        """[V, E] or [V, N, W] of each reference, V its number of views, and of the unconditional side [1, …], or
        [pictures, …] where pictures see different references, fp32 in main memory."""
        of = self._each(unit)
        references = [of(reference) for reference in unit.references]
        return references, self.uncond(unit, of, references[0])

    def combined(self, unit: UnitInputs, mode: str, change: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """As ``embeddings``, with what ``combine`` makes of all references, each changed by ``change``, in the place of
        their list: one picture and one embedding are in memory at a time, beside what the cache holds."""
        fold = Fold(mode, unit.weights)
        with self.one_by_one(unit) as of:
            first = of(unit.references[0])
            fold.add(change(first))
            for reference in unit.references[1:]:
                fold.add(change(of(reference)))
            return fold.result(), self.uncond(unit, of, first)

    def uncond(self, unit: UnitInputs, of: Callable[[EncoderInput], Tensor], first: Tensor) -> Tensor:
        """[1, …] of the unconditional side, or [pictures, …] where pictures see different references; ``first`` is what
        the first reference is encoded to."""
        own = [reference.uncond for reference in unit.references]
        start = None
        if unit.empty is None:
            start = torch.zeros_like(first[:1])
        elif not all(uncond is not None for uncond in own):
            start = of(unit.empty)
        negatives = [mean(of(negative)) for negative in unit.negatives]

        def side(seen: Sequence[int]) -> Tensor:
            found = unconditional(start, [own[i] for i in seen], [unit.weights[i] for i in seen])
            if negatives:
                found = towards(found, negatives, unit.negative_weights)
            if not unit.noise:
                return found
            noise = Fold("average", [1.0] * len(seen))
            for i in seen:
                noise.add(mean(of(unit.references[i].shuffled())))
            return torch.lerp(found, noise.result(), unit.noise)

        return of_pictures(side, unit.seen or [range(len(unit.references))])

    def of_negatives(self, unit: UnitInputs) -> list[Tensor]:
        """[V, E] or [V, N, W] of each negative reference, fp32 in main memory."""
        of = self._each(unit)
        return [of(negative) for negative in unit.negatives]

    def _each(self, unit: UnitInputs) -> Callable[[EncoderInput], Tensor]:
        """What gives the embedding of everything that the unit shows its encoder; all of it is encoded now."""
        keys = {shown: self._key(unit, shown) for shown in unit.to_encode()}
        for key in keys.values():
            if key not in self.encoded and (known := self.encoders.cache.get(key)) is not None:
                self.encoded[key] = known
        missing = [shown for shown, key in keys.items() if key not in self.encoded]
        if missing:
            self._encode(unit, missing)
        return lambda shown: self.encoded[keys[shown]] if shown.embedding is None else shown.embedding

    def _encode(self, unit: UnitInputs, missing: Sequence[EncoderInput]) -> None:
        """Encode what is ``missing``; the encoder stays where it works until all is done."""
        with self._at_work(unit) as encode:
            for shown in missing:
                self.encoded[self._key(unit, shown)] = encode(shown)

    @contextmanager
    def one_by_one(self, unit: UnitInputs) -> Iterator[Callable[[EncoderInput], Tensor]]:
        """What gives the embedding of everything that the unit shows its encoder, when it is asked for, and keeps none
        but in the cache."""
        with ExitStack() as stack:
            encode: Callable[[EncoderInput], Tensor] | None = None

            def of(shown: EncoderInput) -> Tensor:
                nonlocal encode
                if shown.embedding is not None:
                    return shown.embedding
                key = self._key(unit, shown)
                known: Tensor | None = self.encoded.get(key)
                if known is None and key not in self.apart:
                    known = self.encoders.cache.get(key)
                if known is None:
                    encode = encode or stack.enter_context(self._at_work(unit))
                    known = encode(shown)
                return known

            yield of

    @contextmanager
    def _at_work(self, unit: UnitInputs) -> Iterator[Callable[[EncoderInput], Tensor]]:
        """The unit's encoder, in memory; in the end it leaves the device."""
        entry = _needed(unit)
        self.progress(f"loading image encoder {entry.name}")
        encoder = self.encoders.encoder(entry, self.device.dtype)
        self.device.make_room(encoder.nbytes)

        def encode(shown: EncoderInput) -> Tensor:
            if shown.image is not None:
                self.done += 1
                self.total = max(self.done, self.total)  # more than once, where the cache holds few
                self.progress(f"encoding reference {self.done} of {self.total}")
            embedding = self._encode_one(unit, shown, encoder)
            if self.work.full:
                self.apart.add(self._key(unit, shown))
            return embedding

        try:
            yield encode
        finally:
            encoder.to("cpu")

    def _encode_one(self, unit: UnitInputs, shown: EncoderInput, encoder: ImageEncoder) -> Tensor:
        """[V, …], fp32 in main memory. Made and remembered where there is room."""
        views = shown.pixels(unit.size, unit.crop, encoder.spec.family)

        def encode(device: torch.device) -> Tensor:
            known: Tensor | None = self.encoders.cache.get(self._key(unit, shown, str(device)))
            if known is not None:
                return known
            encoder.to(device)
            found = (encoder.encode(view[None], unit.source).of(unit.source) for view in views)
            return torch.cat([one.float().cpu() for one in found])

        embedding = self.work.run("image encoder", encode)
        check_finite(embedding, f"the image encoder {_needed(unit).file_name}")
        self.encoders.cache.put(self._key(unit, shown, self.work.place), embedding, remembered_bytes([embedding]))
        return embedding


def _needed(unit: UnitInputs) -> EncoderEntry:
    """The unit's encoder, where something has to be encoded."""
    assert unit.encoder is not None
    return unit.encoder


def check_finite(embedding: Tensor, encoder: str) -> None:
    """Raises CheckpointError for an embedding with NaN or infinities, before anybody remembers it. ``encoder``: what
    made it, with its file's name."""
    if not torch.isfinite(embedding).all():
        raise CheckpointError(
            f"{encoder} puts out numbers that are not finite (NaN or infinity): download the file again, or, if that "
            "changes nothing, start the WebUI with --no-half."
        )


def shuffled(pixels: Tensor, content_hash: str) -> Tensor:
    """[V, 3, S, S] with each view's pixels in another order, the same whenever the picture is: its colours without
    what it shows. The global random generator is left alone."""
    seed = int(content_hash[:15], 16)
    order = torch.randperm(pixels[0, 0].numel(), generator=torch.Generator().manual_seed(seed))
    return pixels.flatten(2)[..., order].view_as(pixels)


def noise_like(embedding: Tensor, content_hash: str) -> Tensor:
    """An embedding of no direction in particular, as long as [1, E] ``embedding``, the same whenever the picture is."""
    generator = torch.Generator().manual_seed(int(content_hash[:15], 16))
    noise = torch.randn(embedding.shape, generator=generator)
    scaled: Tensor = noise / noise.norm() * embedding.norm()
    return scaled


def unconditional(start: Tensor | None, own: Sequence[Tensor | None], weights: Sequence[float]) -> Tensor:
    """What stands on the unconditional side [1, …]: ``start``, or, where looks bring their ``own``, the mean of theirs
    and of ``start`` for the others, the references' weights without their signs as shares: one that is turned around
    takes its side along as it is.

    Raises UnitError for looks whose own do not fit together."""
    sides = [start if one is None else one for one in own]
    first = sides[0]
    assert first is not None  # there is no ``start`` only where all bring their own
    if all(one is first or (one is not None and torch.equal(one, first)) for one in sides):
        return first
    known = [one for one in sides if one is not None]
    if len({one.shape for one in known}) > 1:
        raise UnitError(
            "its looks were kept at different resolutions, and bring unconditional sides that do not fit together: "
            "keep one of them again at the other's resolution, or leave one out."
        )
    return combine(known, "average", [abs(weight) for weight in weights] if any(weights) else [1.0] * len(known))


def of_pictures(side: Callable[[Sequence[int]], Tensor], seen: Sequence[Sequence[int]]) -> Tensor:
    """The unconditional side of each picture, ``side`` of the places of the references that it sees: [pictures, …], or
    [1, …] where all are alike."""
    sides = [side(places) for places in seen]
    return sides[0] if all(torch.equal(one, sides[0]) for one in sides) else torch.cat(sides)


def mean(views: Tensor) -> Tensor:
    """[V, …] -> [1, …]."""
    return views.mean(0, keepdim=True)


def towards(start: Tensor, embeddings: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """From ``start`` to the mean of ``embeddings`` (weights as shares), as far as the weights are from 0 on average."""
    strength = sum(map(abs, weights)) / len(weights)
    return torch.lerp(start, combine(embeddings, "average", weights), strength) if strength else start
