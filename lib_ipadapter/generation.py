"""One job, start to end: units -> image prompts -> the UNet's hooks -> undo.

Everything that can be wrong with any unit is found before anything is loaded, everything that is loaded is turned
into keys and values before the first step, and what is attached for a sampling pass is removed after it.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .attend.influence import Influence
from .attend.inject import Injection
from .attend.layers import Topology, cross_attention_layers
from .attend.prompt import ImagePrompt, KeysValues
from .checkpoint.identify import AdapterSpec
from .encode.cache import ByteCache
from .encode.combine import combine
from .encode.picture import decode, fingerprint, to_pixels
from .errors import CheckpointError, IPAdapterError, MismatchError
from .project import build
from .unit import Unit

if TYPE_CHECKING:
    from PIL.Image import Image

    from .checkpoint.catalog import Catalog, Entry
    from .checkpoint.load import AdapterWeights
    from .encode.clip import ImageEncoder

log = logging.getLogger("ip-adapter")

Progress = Callable[[str], None]
CROP = "center"
ZEROS = "zeros"
SOURCES = ("pooled", "penultimate")  # what projections can be fed with here; faces are not among it yet
KEPT_ADAPTER_BYTES = 2**30  # adapters in main memory; the one used last stays whatever its size
DEFAULT_CACHE_BYTES = 512 * 2**20


@contextmanager
def _named(entry: Entry):
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
        self._adapters: dict[tuple, AdapterWeights] = {}
        self._encoder: tuple[tuple, ImageEncoder] | None = None

    @staticmethod
    def identity(entry: Entry) -> tuple:
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

    def adapter(self, entry: Entry, spec: AdapterSpec) -> AdapterWeights:
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

    def encoder(self, entry: Entry, dtype: torch.dtype) -> ImageEncoder:
        """The image encoder in main memory; only the one used last is kept."""
        from .checkpoint.load import load_encoder_state
        from .encode.clip import ImageEncoder

        key = (*self.identity(entry), dtype)
        if self._encoder is None or self._encoder[0] != key:
            self._encoder = None  # free the old one before the new one is read
            with _named(entry):
                state = load_encoder_state(entry.path)
                self._encoder = (key, ImageEncoder.from_state(entry.spec, state, dtype=dtype))
        return self._encoder[1]

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
class Plan:
    """A unit that was found to be possible: the files and decoded pictures that it will use."""

    number: int
    unit: Unit
    adapter: Entry
    encoder: Entry
    pictures: tuple[Image, ...]
    fingerprints: tuple[str, ...]

    @property
    def spec(self) -> AdapterSpec:
        return self.adapter.spec


@contextmanager
def told_as(number: int):
    """Errors of the floors below become the unit's."""
    try:
        yield
    except IPAdapterError as error:
        raise error.in_unit(number) from None  # the sentence says it all; the host prints every link of a chain


def check_fit(
    adapter: Entry, topology: Topology, catalog: Catalog, model: str = "the model", remedy: str | None = None
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


def encoder_for(adapter: Entry, catalog: Catalog) -> Entry:
    """The image encoder that feeds ``adapter``. Raises CheckpointError where it needs a face, or has none here."""
    spec = adapter.spec
    if spec.source not in SOURCES:
        raise CheckpointError(
            f"adapter {adapter.name} ({spec.variant}) is fed with a face recognition embedding, which this version "
            "cannot make: choose an adapter that is fed by an image encoder."
        )
    return catalog.find_encoder(spec.embedding_width, spec.source, trained_with=spec.image_encoder)


def _found(catalog: Catalog, look: Callable[[], Entry]) -> Entry:
    """What ``look`` finds in the catalogue; what it misses may have been put there since the disk was looked at."""
    try:
        return look()
    except CheckpointError:
        catalog.refresh()
        return look()


def plan(number: int, unit: Unit, topology: Topology, catalog: Catalog) -> Plan:
    """Check everything about a unit that can be checked without loading weights.

    Raises IPAdapterError (unit named) for a model that is not there, does not fit, needs what is missing, and for
    references that are no usable pictures.
    """
    with told_as(number):
        adapter = _found(catalog, lambda: catalog.find(unit.model))
        check_fit(adapter, topology, catalog)
        encoder = _found(catalog, lambda: encoder_for(adapter, catalog))
        pictures = []
        for i, reference in enumerate(unit.references):
            try:
                pictures.append(decode(reference.image))
            except IPAdapterError as error:
                where = "the reference: " if len(unit.references) == 1 else f"images[{i}]: "
                raise type(error)(where + error.detail) from None
        return Plan(number, unit, adapter, encoder, tuple(pictures), tuple(map(fingerprint, pictures)))


class _References:
    """Encodes the references of several plans, each once, telling how far it is."""

    def __init__(self, plans: Sequence[Plan], resources: Resources, device: Device, progress: Progress) -> None:
        self.resources, self.device, self.progress = resources, device, progress
        keys = {self._key(plan, mark) for plan in plans for mark in plan.fingerprints}
        self.total = sum(key not in self.resources.cache for key in keys)
        self.done = 0
        self.found: dict[tuple, Tensor] = {}  # of this job, whatever the cache's size

    def _key(self, plan: Plan, mark: str) -> tuple:
        """What an embedding is remembered by; ``mark`` is the picture's fingerprint, or ZEROS."""
        return ("embedding", self.resources.identity(plan.encoder), self.device.dtype, plan.spec.source, CROP, mark)

    def embeddings(self, plan: Plan) -> tuple[list[Tensor], Tensor]:
        """[1, E] or [1, N, W] of each reference, and the same of the unconditional side, fp32 in main memory.

        Unconditional: zeros for pooled embeddings; for hidden states, what the encoder makes of an all-zeros pixel
        tensor, which is a mean-grey picture (the reference implementation's choice).
        """
        wanted: dict[str, Image | None] = dict(zip(plan.fingerprints, plan.pictures, strict=True))
        if plan.spec.source != "pooled":
            wanted[ZEROS] = None
        keys = {mark: self._key(plan, mark) for mark in wanted}
        for key in keys.values():
            if key not in self.found and key in self.resources.cache:
                self.found[key] = self.resources.cache.get(key)
        missing = {mark: picture for mark, picture in wanted.items() if keys[mark] not in self.found}
        if missing:
            self._encode(plan, missing)
        references = [self.found[keys[mark]] for mark in plan.fingerprints]
        return references, self.found[keys[ZEROS]] if ZEROS in keys else torch.zeros_like(references[0])

    def _encode(self, plan: Plan, pictures: Mapping[str, Image | None]) -> None:
        """Find the embeddings of ``pictures`` (None: all zeros), with one move of the encoder to the device."""
        self.progress(f"loading image encoder {plan.encoder.name}")
        encoder = self.resources.encoder(plan.encoder, self.device.dtype)
        self.device.make_room()
        try:
            encoder.to(self.device.device)
            for mark, picture in pictures.items():
                if picture is None:
                    pixels = torch.zeros(1, 3, encoder.spec.image_size, encoder.spec.image_size)
                else:
                    self.done += 1
                    self.progress(f"encoding reference {self.done} of {self.total}")
                    pixels = to_pixels(picture, encoder.spec.image_size, CROP)[None]
                tensor = self._one(encoder, pixels, plan.spec.source)
                key = self._key(plan, mark)
                self.found[key] = tensor
                self.resources.cache.put(key, tensor, tensor.numel() * tensor.element_size())
        finally:
            encoder.to("cpu")

    @staticmethod
    def _one(encoder: ImageEncoder, pixels: Tensor, source: str) -> Tensor:
        """One picture's embedding, fp32 in main memory; computed there too where the device has no room."""
        try:
            embedding = encoder.encode(pixels, source)
        except torch.cuda.OutOfMemoryError:
            log.warning("IP-Adapter: no room for the image encoder on the device, so it works on the CPU.")
            embedding = encoder.to("cpu").encode(pixels, source)
        return getattr(embedding, source).float().cpu()


def _tokens(plan: Plan, projection: Any, references: list[Tensor], zeros: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Image tokens of the cond and uncond sides [pictures, T, D], and each token's factor [pictures, T]."""
    unit = plan.unit
    weights = [reference.weight for reference in unit.references]
    if unit.combine == "concat" and unit.batch == "same" and any(weights):
        # Tokens of weight 0 would still take their part of the attention.
        references = [e for e, weight in zip(references, weights, strict=True) if weight]
        weights = [weight for weight in weights if weight]
    if unit.combine == "average" and unit.batch == "same":
        # A reference's weight is its share of the mean; what all shares lack to 1 weakens the unit as a whole.
        strength = sum(map(abs, weights)) / len(weights)
        shares = weights if strength else [1.0] * len(weights)
        references, weights = [combine(references, "average", shares)], [strength]
    uncond = projection(zeros)
    cond = projection(torch.cat(references))
    n, tokens, width = cond.shape
    factor = cond.new_tensor(weights)[:, None].expand(n, tokens)
    if unit.batch == "per image":
        return cond, uncond.expand(n, tokens, width), factor
    return cond.reshape(1, -1, width), uncond.repeat(1, n, 1), factor.reshape(1, -1)


def _moved(tensors: Tensor | list[Tensor], device: torch.device) -> Tensor | list[Tensor]:
    return [t.to(device) for t in tensors] if isinstance(tensors, list) else tensors.to(device)


def _kv_key(plan: Plan, resources: Resources, device: Device) -> tuple:
    """What a plan's keys and values are remembered by: everything that they are made of."""
    unit = plan.unit
    references = tuple(zip(plan.fingerprints, (r.weight for r in unit.references), strict=True))
    with told_as(plan.number):
        files = resources.identity(plan.adapter), resources.identity(plan.encoder)
    return ("keys and values", *files, plan.spec, device.dtype, CROP, unit.combine, unit.batch, references)


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
            embeddings, zeros = (_moved(x, device.device) for x in references.embeddings(plan))
            progress(f"loading adapter {plan.adapter.name}")
            weights = resources.adapter(plan.adapter, plan.spec)
            projection = build(plan.spec.projection, weights.image_proj, plan.spec.context_width)
            with torch.no_grad():
                cond, uncond, factor = _tokens(plan, projection, embeddings, zeros)
                kv = KeysValues.project(weights.key, weights.value, cond, uncond, factor)
        resources.cache.put(key, kv, kv.nbytes)
        ready[key] = kv
    return [ready[key] for key in keys]


class Generation:
    """One job's image prompts, from the checked units to the clean UNet.

    ``owner`` is the host's object of the job. ``attach`` may be called any number of times, for every sampling pass
    and for every UNet that the job comes to use; ``detach`` takes back what the last ``attach`` did.
    """

    def __init__(
        self,
        units: Iterable[tuple[int, Unit]],
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
        with told_as(units[0][0] if units else 1):
            self.topology = Topology.of(cross_attention_layers(unet))
        self.plans = [plan(number, unit, self.topology, resources.catalog) for number, unit in units]
        if hires_topology is not None:
            self._check_hires(resources.catalog, *hires_topology)
        acting = [plan for plan in self.plans if plan.unit.weight != 0]
        prepared = prepare(acting, resources, device, progress)
        self.prompts = [
            (plan.unit.hires, ImagePrompt(kv, plan.unit.weight, plan.unit.start, plan.unit.end))
            for plan, kv in zip(acting, prepared, strict=True)
        ]
        self.asked = [plan.number for plan in self.plans if measure and plan.unit.influence_map]
        self._measured: dict[int, ImagePrompt] = {}
        for acts, (_, prompt) in zip(acting, self.prompts, strict=True):
            if acts.number in self.asked:
                self._measured[acts.number], prompt.influence = prompt, Influence()
        self._maps: dict[tuple[int, int], Tensor] = {}  # by picture and unit
        self.plans = [replace(plan, pictures=()) for plan in self.plans]  # large, and used up

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
        self, unet: nn.Module, *, hires_pass: bool = False, first_picture: int = 0, same_pass: bool = False
    ) -> Injection | None:
        """Put the prompts of this pass into ``unet``; None if there are none.

        ``first_picture`` is the index in the job of the coming batch's first picture; ``same_pass`` says that another
        UNet goes on with the pass that has begun. Raises MismatchError for a UNet of another topology than the one
        that the units were checked against (SDXL's refiner, say).
        """
        self.detach()
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
        return None if prompt is not None and prompt.influence.incomplete else torch.zeros(1, 1)

    def detach(self) -> None:
        """Remove this job's hooks. Does nothing if there are none."""
        if self.injection is not None:
            self.injection.detach()
            self.injection = None
            for number, prompt in self._measured.items():
                self._maps.update({(picture, number): m for picture, m in prompt.influence.maps().items()})

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.detach()
