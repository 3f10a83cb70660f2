"""One job, start to end: units -> image prompts -> the UNet's hooks -> undo.

Everything that can be wrong with any unit is found before anything is loaded, everything that is loaded is turned
into keys and values before the first step, and what is attached for a sampling pass is removed after it.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from .attend.influence import Influence
from .attend.inject import Injection
from .attend.layers import Topology, count_blocks, cross_attention_layers
from .attend.prompt import ImagePrompt, KeysValues
from .attend.regions import Box, Region, Size, feathered
from .checkpoint.identify import AdapterSpec
from .encode.cache import ByteCache
from .encode.combine import combine
from .encode.picture import decode, decode_mask, fingerprint, tile_count, to_pixels
from .errors import CheckpointError, IPAdapterError, MismatchError, UnitError
from .projections import FaceIDPlus, build
from .unit import Reference, Unit
from .weighting import Spread, peak, spread

if TYPE_CHECKING:
    from PIL.Image import Image

    from .checkpoint.catalog import AdapterEntry, Catalog, EncoderEntry, Entry
    from .checkpoint.load import AdapterWeights
    from .encode.clip_image import ImageEncoder, OneSource

log = logging.getLogger("ip-adapter")

Progress = Callable[[str], None]
SOURCES = ("pooled", "penultimate")  # what projections can be fed with here; faces are not among it yet
KEPT_ADAPTER_BYTES = 2**30  # adapters in main memory; the one used last stays whatever its size
DEFAULT_CACHE_BYTES = 512 * 2**20

FileIdentity = tuple[str, int, int]  # a file's path, size and time of change
Key = tuple[Hashable, ...]  # what something made is remembered by
T = TypeVar("T")


@contextmanager
def _named(entry: Entry) -> Iterator[None]:
    """Errors of a file's reading name the file."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{entry.path.name} cannot be used. {error.detail}") from error


class Resources:
    """What outlives a job: the catalogue of files, the files last used, and what references were encoded to.

    Everything in here stays in main memory; the device holds nothing between generations.
    """

    def __init__(self, catalog: Catalog, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self.catalog = catalog
        self.cache = ByteCache(cache_bytes)
        self.kept_adapter_bytes = KEPT_ADAPTER_BYTES
        self._adapters: dict[FileIdentity, AdapterWeights] = {}
        self._encoder: tuple[FileIdentity, torch.dtype, ImageEncoder] | None = None

    @staticmethod
    def identity(entry: Entry) -> FileIdentity:
        """What a file's derived data is remembered by: its path, size and time of change as they are now.

        Raises CheckpointError for a file that has gone since it was listed.
        """
        try:
            stat = entry.path.stat()
        except OSError as error:
            raise CheckpointError(
                f"{entry.path.name} cannot be read any more ({error.strerror}): refresh the list of models."
            ) from error
        return (str(entry.path), stat.st_size, stat.st_mtime_ns)

    def adapter(self, entry: AdapterEntry, spec: AdapterSpec) -> AdapterWeights:
        """The adapter's tensors. The one used last is kept, so that none is read twice in a row, and of those before it
        as many as ``kept_adapter_bytes`` hold."""
        from .checkpoint.load import load_adapter

        key = self.identity(entry)
        weights = self._adapters.pop(key, None)
        if weights is None:
            with _named(entry):
                weights = load_adapter(entry.path, spec)
        self._adapters[key] = weights
        while len(self._adapters) > 1 and sum(w.nbytes for w in self._adapters.values()) > self.kept_adapter_bytes:
            self._adapters.pop(next(iter(self._adapters)))
        return weights

    def encoder(self, entry: EncoderEntry, dtype: torch.dtype) -> ImageEncoder:
        """The image encoder in main memory; only the one used last is kept."""
        from .checkpoint.load import load_encoder_state
        from .encode.clip_image import ImageEncoder

        file = self.identity(entry)
        if self._encoder is None or self._encoder[:2] != (file, dtype):
            self._encoder = None  # free the old one before the new one is read
            with _named(entry):
                state = load_encoder_state(entry.path)
                self._encoder = (file, dtype, ImageEncoder.from_state(entry.spec, state, dtype=dtype))
        return self._encoder[2]

    def words(self, entry: EncoderEntry, words: str, progress: Progress) -> Tensor:
        """[1, projection]: the embedding of ``words`` by the text tower in ``entry``, fp32 in main memory. The tower is
        not kept. Raises ValueError for an entry without one."""
        from .checkpoint.load import load_text_state
        from .encode.clip_text import TextTower

        if entry.spec.text is None:
            raise ValueError(f"{entry.name} has no text tower")
        key = ("words", self.identity(entry), words)
        found: Tensor | None = self.cache.get(key)
        if found is None:
            progress(f"reading the words of {entry.name}")
            with _named(entry):
                tower = TextTower.from_state(entry.spec.text, load_text_state(entry.path), dtype=torch.float32)
            found = tower.embed(words)
            self.cache.put(key, found, found.numel() * found.element_size())
        return found

    def release_encoder(self) -> None:
        """Let go of the image encoder; what it has made of references stays."""
        self._encoder = None

    def unload(self) -> None:
        """Let go of every file and every encoded reference."""
        self._adapters.clear()
        self.release_encoder()
        self.cache.clear()


@dataclass(frozen=True)
class Device:
    """Where and how a job computes: ``dtype`` is the image encoder's; projections are always fp32."""

    device: torch.device
    dtype: torch.dtype
    make_room: Callable[[], None] = lambda: None  # called before an encoder moves to the device


@dataclass(frozen=True)
class Picture:
    """A decoded reference: its content hash, its weight, and the hash of its mask, None without one.

    ``image`` and ``mask`` are None once they have been used.
    """

    mark: str
    weight: float = 1.0
    mask_mark: str | None = None
    image: Image | None = None
    mask: Image | None = None


@dataclass(frozen=True)
class Plan:
    """A unit that was found to be possible: the files and decoded pictures that it will use.

    ``notes`` are sentences on what the user may want to know, though nothing is wrong with it.
    """

    number: int
    unit: Unit
    adapter: AdapterEntry
    encoder: EncoderEntry
    references: tuple[Picture, ...]
    negatives: tuple[Picture, ...] = ()
    spread: Spread | None = None
    region: Region | None = None
    region_mark: str | None = None
    words: EncoderEntry | None = None  # the file with the text tower, where words are subtracted
    notes: tuple[str, ...] = ()

    @property
    def spec(self) -> AdapterSpec:
        return self.adapter.spec

    @property
    def source(self) -> OneSource:
        """Which output of the encoder feeds the adapter; there is no plan for an adapter that is fed with faces."""
        return "pooled" if self.spec.source == "pooled" else "penultimate"

    @property
    def acts(self) -> bool:
        """Whether it adds anything anywhere."""
        nowhere = self.region is not None and self.region.nowhere
        return peak(self.unit.weight) != 0 and not nowhere and not (self.spread is not None and self.spread.silent)

    def used_up(self) -> Plan:
        """The plan without its pictures, which are large."""

        def light(pictures: tuple[Picture, ...]) -> tuple[Picture, ...]:
            return tuple(replace(picture, image=None, mask=None) for picture in pictures)

        return replace(self, references=light(self.references), negatives=light(self.negatives))


@contextmanager
def told_as(number: int) -> Iterator[None]:
    """Errors of the floors below become the unit's."""
    try:
        yield
    except IPAdapterError as error:
        raise error.in_unit(number) from None  # the sentence says it all; the host prints every link of a chain


def check_fit(
    adapter: AdapterEntry, topology: Topology, catalog: Catalog, model: str = "the model", remedy: str | None = None
) -> None:
    """Raises MismatchError where ``adapter`` was not made for ``topology``; without another ``remedy`` it names the
    adapters that would fit."""
    spec = adapter.spec
    if (spec.context_width, spec.layer_widths) == (topology.context_width, topology.layer_widths):
        return
    fitting = [
        entry.name
        for entry in catalog.adapters
        if (entry.spec.context_width, entry.spec.layer_widths) == (topology.context_width, topology.layer_widths)
        and entry.spec.source in SOURCES
    ]
    made_for, is_for = spec.base, topology.base
    if made_for == is_for:
        made_for = str(Topology(spec.context_width, spec.layer_widths))
        is_for = str(topology)
    remedy = remedy or (
        f"choose one of {', '.join(fitting[:8])}"
        if fitting
        else f"load a checkpoint for {made_for}, or get an adapter for {is_for}"
    )
    raise MismatchError(f"adapter {adapter.name} is for {made_for}, {model} is {is_for}: {remedy}.")


def encoder_for(adapter: AdapterEntry, catalog: Catalog) -> EncoderEntry:
    """The image encoder that feeds ``adapter``. Raises CheckpointError where it needs a face, or has none here."""
    spec = adapter.spec
    if spec.source not in SOURCES:
        raise CheckpointError(
            f"adapter {adapter.name} ({spec.variant}) is fed with a face recognition embedding, which this version "
            "cannot make: choose an adapter that is fed by an image encoder."
        )
    return catalog.find_encoder(spec.embedding_width, spec.source, trained_with=spec.image_encoder)


def _found(catalog: Catalog, look: Callable[[], T]) -> T:
    """What ``look`` finds in the catalogue; what it misses may have been put there since the disk was looked at."""
    try:
        return look()
    except CheckpointError:
        catalog.refresh()
        return look()


def plan(number: int, unit: Unit, topology: Topology, blocks: int, catalog: Catalog) -> Plan:
    """Check everything about a unit that can be checked without loading weights, for a UNet of ``topology`` with
    ``blocks`` transformer blocks.

    Raises IPAdapterError (unit named) for a model that is not there, does not fit, needs what is missing, for settings
    that do not go together, and for references that are no usable pictures.
    """
    with told_as(number):
        adapter = _found(catalog, lambda: catalog.find(unit.model))
        check_fit(adapter, topology, catalog)
        encoder = _found(catalog, lambda: encoder_for(adapter, catalog))
        strengths = spread(unit.weight_type, blocks, unit.composition_weight, unit.boost, unit.layer_weights)
        words = _words(unit, adapter, encoder, catalog)
        references, notes = _pictures(unit.references, "images", "the reference: ")
        negatives, more = _pictures(unit.negative_references, "negative_images")
        region, region_mark = _region(unit)
        made = Plan(
            number, unit, adapter, encoder, references, negatives, strengths, region, region_mark, words,
            (*notes, *more),
        )  # fmt: skip
        _check_tiles(made)
        return made


def _words(unit: Unit, adapter: AdapterEntry, encoder: EncoderEntry, catalog: Catalog) -> EncoderEntry | None:
    """The file whose text tower embeds the unit's words, None without words."""
    if not unit.subtract_prompt:
        return None
    if adapter.spec.source != "pooled":
        raise UnitError(
            f"subtract_prompt works on pooled embeddings only, and adapter {adapter.name} ({adapter.spec.variant}) is "
            "fed with hidden states: leave it out, or choose a base adapter."
        )
    return _found(catalog, lambda: catalog.find_text_tower(encoder))


def _pictures(
    references: Sequence[Reference], name: str, single: str | None = None
) -> tuple[tuple[Picture, ...], list[str]]:
    """The decoded references, and notes. ``single`` is what a lone one is called instead of ``name[0]``."""
    pictures, notes = [], []
    for i, reference in enumerate(references):
        where = single if single is not None and len(references) == 1 else f"{name}[{i}]: "
        try:
            image = decode(reference.image)
            mask = None if reference.mask is None else decode_mask(reference.mask)
        except IPAdapterError as error:
            raise type(error)(where + error.detail) from None
        if mask is None or mask.getextrema() == (255, 255):
            pictures.append(Picture(fingerprint(image), reference.weight, None, image))
            continue
        if unlike(mask.size, image.size):
            notes.append(
                f"{where}the mask ({mask.width} x {mask.height}) is stretched over a picture of another form "
                f"({image.width} x {image.height})."
            )
        pictures.append(Picture(fingerprint(image), reference.weight, fingerprint(mask.convert("RGB")), image, mask))
    return tuple(pictures), notes


FORM = 0.02  # by how much the forms of a mask and its picture may differ: rounding to whole pixels


def unlike(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes (width, height) are of different form."""
    return abs(one[0] * other[1] / (one[1] * other[0]) - 1) > FORM


def _region(unit: Unit) -> tuple[Region | None, str | None]:
    """Where the unit acts (None: everywhere), and the mask's content hash."""
    if unit.region_mask is None:
        return None, None
    try:
        mask = decode_mask(unit.region_mask)
    except IPAdapterError as error:
        raise type(error)(f"region_mask: {error.detail}") from None
    values = torch.from_numpy(np.array(mask, dtype=np.float32)) / 255
    region = Region(feathered(values, unit.region_feather))
    return None if region.everywhere else region, fingerprint(mask.convert("RGB"))


def _check_tiles(made: Plan) -> None:
    """Tiles of hidden states become more tokens, whose number must be one and the same where references meet."""
    size = made.encoder.spec.image_size
    unit, counts = made.unit, {tile_count(picture.image, size) for picture in made.references}
    if unit.crop != "tile" or made.spec.source == "pooled" or counts == {1} or len(made.references) == 1:
        return
    if unit.batch == "per image":
        if len(counts) > 1:
            raise UnitError(
                "its references have different forms, so they become different numbers of tiles, and batch is “per "
                "image”: choose another crop, or cut the references to one form."
            )
    elif unit.combine != "concat":
        raise UnitError(
            f"crop “tile” gives adapter {made.adapter.name} more tokens for each reference, and combine is "
            f"“{unit.combine}”: choose combine “concat”, or another crop."
        )


class _References:
    """Encodes the references of several plans, each once, telling how far it is."""

    def __init__(self, plans: Sequence[Plan], resources: Resources, device: Device, progress: Progress) -> None:
        self.resources, self.device, self.progress = resources, device, progress
        keys = {self._key(plan, seen) for plan in plans for seen in _all_seen(plan) if seen.image is not None}
        self.total = sum(key not in self.resources.cache for key in keys)
        self.done = 0
        self.found: dict[Key, Tensor] = {}  # of this job, whatever the cache's size

    def _key(self, plan: Plan, seen: _Seen) -> Key:
        """What an embedding is remembered by."""
        files = self.resources.identity(plan.encoder)
        return ("embedding", files, self.device.dtype, plan.spec.source, plan.unit.crop, *seen.key)

    def embeddings(self, plan: Plan) -> tuple[list[Tensor], Tensor]:
        """[V, E] or [V, N, W] of each reference, V its number of views, and [1, …] of the unconditional side, fp32 in
        main memory.

        Unconditional: zeros for pooled embeddings; for hidden states, what the encoder makes of an all-zeros pixel
        tensor, which is a mean-grey picture (the reference implementation's choice). In its place come the negative
        references, and into it goes noise: the references with their pixels shuffled.
        """
        wanted = {seen: self._key(plan, seen) for seen in _all_seen(plan)}
        for key in wanted.values():
            if key not in self.found and key in self.resources.cache:
                self.found[key] = self.resources.cache.get(key)
        missing = [seen for seen, key in wanted.items() if key not in self.found]
        if missing:
            self._encode(plan, missing)

        def of(picture: Picture, noise: bool = False) -> Tensor:
            return self.found[wanted[_Seen.of(picture, noise)]]

        references = [of(picture) for picture in plan.references]
        pooled = plan.spec.source == "pooled"
        uncond = torch.zeros_like(references[0][:1]) if pooled else self.found[wanted[ZEROS]]
        if plan.negatives:
            uncond = _towards(uncond, [_mean(of(p)) for p in plan.negatives], [p.weight for p in plan.negatives])
        if plan.unit.noise:
            noise = torch.cat([_mean(of(picture, noise=True)) for picture in plan.references]).mean(0, keepdim=True)
            uncond = torch.lerp(uncond, noise, plan.unit.noise)
        return references, uncond

    def _encode(self, plan: Plan, missing: Sequence[_Seen]) -> None:
        """Find the embeddings of ``missing``, with one move of the encoder to the device."""
        self.progress(f"loading image encoder {plan.encoder.name}")
        encoder = self.resources.encoder(plan.encoder, self.device.dtype)
        size = encoder.spec.image_size
        self.device.make_room()
        try:
            encoder.to(self.device.device)
            for seen in missing:
                if seen.image is not None:
                    self.done += 1
                    self.progress(f"encoding reference {self.done} of {self.total}")
                views = seen.pixels(size, plan.unit.crop)
                tensor = torch.cat([self._one(encoder, view[None], plan.source) for view in views])
                key = self._key(plan, seen)
                self.found[key] = tensor
                self.resources.cache.put(key, tensor, tensor.numel() * tensor.element_size())
        finally:
            encoder.to("cpu")

    @staticmethod
    def _one(encoder: ImageEncoder, pixels: Tensor, source: OneSource) -> Tensor:
        """One picture's embedding, fp32 in main memory; computed there too where the device has no room."""
        try:
            embedding = encoder.encode(pixels, source)
        except torch.cuda.OutOfMemoryError:
            log.warning("IP-Adapter: no room for the image encoder on the device, so it works on the CPU.")
            embedding = encoder.to("cpu").encode(pixels, source)
        return embedding.of(source).float().cpu()


@dataclass(frozen=True)
class _Seen:
    """Something that an encoder is shown: a picture, under its mask, perhaps shuffled; without a picture, zeros."""

    mark: str
    mask_mark: str | None = None
    noise: bool = False
    image: Image | None = field(default=None, compare=False)
    mask: Image | None = field(default=None, compare=False)

    @classmethod
    def of(cls, picture: Picture, noise: bool = False) -> _Seen:
        return cls(picture.mark, picture.mask_mark, noise, picture.image, picture.mask)

    @property
    def key(self) -> Key:
        """What it is told apart by."""
        return (self.mark, self.mask_mark, self.noise)

    def pixels(self, size: int, crop: str) -> Tensor:
        """[V, 3, size, size]: the encoder's input."""
        if self.image is None:
            return torch.zeros(1, 3, size, size)
        pixels = to_pixels(self.image, size, crop, self.mask)
        return _shuffled(pixels, self.mark) if self.noise else pixels


ZEROS = _Seen("zeros")


def _shuffled(pixels: Tensor, mark: str) -> Tensor:
    """[V, 3, S, S] with each view's pixels in another order, the same whenever the picture is: its colours without
    what it shows. The global random generator is left alone."""
    order = torch.randperm(pixels[0, 0].numel(), generator=torch.Generator().manual_seed(int(mark[:15], 16)))
    return pixels.flatten(2)[..., order].view_as(pixels)


def _all_seen(plan: Plan) -> list[_Seen]:
    """What the plan's encoder is shown."""
    seen = [_Seen.of(picture) for picture in (*plan.references, *plan.negatives)]
    if plan.unit.noise:
        seen += [_Seen.of(picture, noise=True) for picture in plan.references]
    return seen if plan.spec.source == "pooled" else [*seen, ZEROS]


def _mean(views: Tensor) -> Tensor:
    """[V, …] -> [1, …]."""
    return views.mean(0, keepdim=True)


def _towards(start: Tensor, embeddings: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """From ``start`` to the mean of ``embeddings`` (weights as shares), as far as the weights are from 0 on average."""
    strength = sum(map(abs, weights)) / len(weights)
    return torch.lerp(start, combine(embeddings, "average", weights), strength) if strength else start


def _tokens(
    plan: Plan, projection: Callable[[Tensor], Tensor], references: list[Tensor], uncond: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Image tokens of the cond and uncond sides [pictures, T, D], and each token's factor [pictures, T].

    The views of a reference are averaged where the adapter takes a pooled embedding, else each brings its tokens.
    """
    unit = plan.unit
    weights = [reference.weight for reference in unit.references]
    if plan.spec.source == "pooled":
        references = [_mean(views) for views in references]
    if unit.batch == "same":
        references, weights = _joined(references, unit.combine, weights)
    tokens = [projection(views).flatten(0, 1) for views in references]  # [V * T, D]
    factors = [t.new_tensor(weight).expand(len(t)) for t, weight in zip(tokens, weights, strict=True)]
    of_uncond = projection(uncond)
    if unit.batch == "per image":
        cond, factor = torch.stack(tokens), torch.stack(factors)
    else:
        cond, factor = torch.cat(tokens)[None], torch.cat(factors)[None]
    return cond, of_uncond.repeat(len(cond), cond.shape[1] // of_uncond.shape[1], 1), factor


def _joined(references: list[Tensor], mode: str, weights: list[float]) -> tuple[list[Tensor], list[float]]:
    """The references that every picture sees, and the factors of their tokens."""
    if not any(weights):
        return references[:1], [0.0]
    if mode == "concat" or (len(references) == 1 and len(references[0]) > 1):
        # Tokens of weight 0 would still take their part of the attention.
        kept = [(e, weight) for e, weight in zip(references, weights, strict=True) if weight]
        return [e for e, _ in kept], [weight for _, weight in kept]
    # A reference's weight is its share of the mean; what all shares lack to 1 weakens the unit as a whole.
    strength = sum(map(abs, weights)) / len(weights) if mode == "average" else 1.0
    return [combine(references, mode, weights)], [strength]


def _kv_key(plan: Plan, resources: Resources, device: Device) -> Key:
    """What a plan's keys and values are remembered by: everything that they are made of."""
    pictures = tuple(
        tuple((picture.mark, picture.mask_mark, picture.weight) for picture in pictures)
        for pictures in (plan.references, plan.negatives)
    )
    with told_as(plan.number):
        files = [resources.identity(entry) for entry in (plan.adapter, plan.encoder, plan.words) if entry is not None]
    return ("keys and values", *files, plan.spec, device.dtype, *plan.unit.token_settings(), pictures)


def _without_words(embeddings: Sequence[Tensor], words: Tensor) -> list[Tensor]:
    """Pooled embeddings [V, E] without what they share with the ``words``' [1, E]."""
    from .encode.clip_text import subtract

    return [subtract(views, words.to(views)) for views in embeddings]


def prepare(plans: Sequence[Plan], resources: Resources, device: Device, progress: Progress) -> list[KeysValues]:
    """Encode, project, and compute every layer's keys and values for each plan; fp32 in main memory."""
    keys = [_kv_key(plan, resources, device) for plan in plans]
    ready = {key: resources.cache.get(key) for key in keys}
    missing = [plan for plan, key in zip(plans, keys, strict=True) if ready[key] is None]
    references = _References(missing, resources, device, progress)
    for plan, key in zip(plans, keys, strict=True):
        if ready[key] is not None:
            continue
        with told_as(plan.number):
            embeddings, uncond = references.embeddings(plan)
            embeddings, uncond = [views.to(device.device) for views in embeddings], uncond.to(device.device)
            if plan.words is not None:
                words = resources.words(plan.words, plan.unit.subtract_prompt, progress)
                embeddings = _without_words(embeddings, words)
            progress(f"loading adapter {plan.adapter.name}")
            weights = resources.adapter(plan.adapter, plan.spec)
            projection = build(plan.spec.projection, weights.image_proj, plan.spec.context_width)
            assert not isinstance(projection, FaceIDPlus)  # encoder_for lets no adapter pass that is fed with faces
            with torch.no_grad():
                cond, uncond, factor = _tokens(plan, projection, embeddings, uncond)
                kv = KeysValues.project(weights.key, weights.value, cond, uncond, factor)
        resources.cache.put(key, kv, kv.nbytes)
        ready[key] = kv
    return [ready[key] for key in keys]


def _prompt(made: Plan, kv: KeysValues) -> ImagePrompt:
    unit = made.unit
    return ImagePrompt(kv, unit.weight, unit.start, unit.end, made.spread, unit.embeds_scaling, made.region)


class Generation:
    """One job's image prompts, from the checked units to the clean UNet.

    ``owner`` is the host's object of the job. ``attach`` may be called any number of times, for every sampling pass
    and for every UNet that the job comes to use; ``detach`` takes back what the last ``attach`` did.
    """

    def __init__(
        self,
        units: Iterable[Unit],
        unet: nn.Module,
        resources: Resources,
        device: Device,
        *,
        owner: Any = None,
        progress: Progress = lambda text: None,
        hires_topology: tuple[str, Topology] | None = None,
        measure: bool = True,
    ) -> None:
        """``hires_topology``: name and topology of another checkpoint that the hires pass will load. Without
        ``measure`` there are no influence maps, even for units that ask.

        Raises IPAdapterError before anything is loaded if any unit cannot be honoured.
        """
        self.owner = owner
        self.injection: Injection | None = None
        self.attached = False  # whether attach has ever put anything into a UNet
        self.unfit: nn.Module | None = None  # the UNet last found to be of another topology
        units = list(units)
        with told_as(units[0].number if units else 1):
            layers = cross_attention_layers(unet)
            self.topology = Topology.of(layers)
        blocks = count_blocks(layers)
        self.plans = [plan(unit.number, unit, self.topology, blocks, resources.catalog) for unit in units]
        if hires_topology is not None:
            self._check_hires(resources.catalog, *hires_topology)
        acting = [plan for plan in self.plans if plan.acts]
        prepared = prepare(acting, resources, device, progress)
        self.prompts = [(made.unit.hires, _prompt(made, kv)) for made, kv in zip(acting, prepared, strict=True)]
        self._regions = [made.region for made in acting]  # in the whole picture
        self.asked = [plan.number for plan in self.plans if measure and plan.unit.influence_map]
        self._measured: dict[int, ImagePrompt] = {}
        for acts, (_, prompt) in zip(acting, self.prompts, strict=True):
            if acts.number in self.asked:
                self._measured[acts.number], prompt.influence = prompt, Influence()
        self._maps: dict[tuple[int, int], Tensor] = {}  # by picture and unit
        self.plans = [made.used_up() for made in self.plans]

    def _check_hires(self, catalog: Catalog, name: str, topology: Topology) -> None:
        for plan in self.plans:
            if plan.unit.hires != "base":
                with told_as(plan.number):
                    check_fit(
                        plan.adapter, topology, catalog, f"the hires checkpoint {name}",
                        'set hires to "base", or use a hires checkpoint of the same kind',
                    )  # fmt: skip

    def inside(self, owner: Any) -> Generation:
        """The same prompts for ``owner``, a job inside this one. Nothing is measured there."""
        inner = copy.copy(self)
        inner.owner, inner.injection, inner.attached, inner.unfit = owner, None, False, None
        inner.prompts = [(hires, replace(prompt, influence=None, acted=False)) for hires, prompt in self.prompts]
        inner.asked, inner._measured, inner._maps = [], {}, {}
        return inner

    def attach(
        self,
        unet: nn.Module,
        *,
        hires_pass: bool = False,
        first_picture: int = 0,
        same_pass: bool = False,
        part: tuple[Box, Size] | None = None,
    ) -> Injection | None:
        """Put the prompts of this pass into ``unet``; None if there are none.

        ``first_picture`` is the index in the job of the coming batch's first picture; ``same_pass`` says that another
        UNet goes on with the pass that has begun; ``part`` is the box of the picture, and the picture's height and
        width, where only a part is sampled. Raises MismatchError for a UNet of another topology than the one that the
        units were checked against (SDXL's refiner, say).
        """
        self.detach()
        for (_, prompt), region in zip(self.prompts, self._regions, strict=True):
            prompt.region = region if region is None or part is None else region.within(*part)
        skipped = "base" if hires_pass else "hires"
        prompts = [prompt for hires, prompt in self.prompts if hires != skipped]
        for prompt in prompts:
            if prompt.influence is not None and not same_pass:
                prompt.influence = Influence()
        if not prompts:
            return None
        layers = cross_attention_layers(unet)
        topology = Topology.of(layers)
        if topology != self.topology:
            raise MismatchError(f"the model has {topology}, the job's adapters are for {self.topology}.")
        for prompt in prompts:
            prompt.picture_offset = first_picture
        self.injection = Injection(unet, layers, prompts, self.owner).attach()
        self.attached = True
        return self.injection

    @property
    def missed(self) -> bool:
        """Whether units wanted the job's first pass and were never attached."""
        return not self.attached and any(hires != "hires" for hires, _ in self.prompts)

    def influence(self, picture: int) -> dict[int, Tensor | None]:
        """The heat maps of a picture of the job by unit, for the units that asked: [height, width] of the latent of the
        last pass that the unit took part in, in shares of the text's attention.

        One value, 0, for a unit without influence; None where another extension has taken the pictures apart, so that
        nothing tells where the influence was.
        """
        return {number: self._map(picture, number) for number in self.asked}

    def _map(self, picture: int, number: int) -> Tensor | None:
        found = self._maps.get((picture, number))
        if found is not None:
            return found
        prompt = self._measured.get(number)
        influence = None if prompt is None else prompt.influence
        return None if influence is not None and influence.incomplete else torch.zeros(1, 1)

    def detach(self) -> None:
        """Remove this job's hooks. Does nothing if there are none."""
        if self.injection is not None:
            self.injection.detach()
            self.injection = None
            for number, prompt in self._measured.items():
                influence = prompt.influence
                if influence is not None:
                    self._maps.update({(picture, number): m for picture, m in influence.maps().items()})

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.detach()
