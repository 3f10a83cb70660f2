"""A device without room: encoder and projection work on the CPU then, and what both make is remembered apart."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from lib_ipadapter.attend.prompt import KeysValues
from lib_ipadapter.encode.clip_image import ImageEncoder
from lib_ipadapter.encode.device import Device
from lib_ipadapter.errors import is_device_full
from lib_ipadapter.jobs.generation import prepare_generation
from lib_ipadapter.jobs.resources import Resources
from lib_ipadapter.unit import parse_units
from tests.helpers.files import unit

CARD = torch.device("cpu:0")  # another device than "cpu" for all who ask, with the same arithmetic


class OutOfMemoryError(RuntimeError):
    """Called as CUDA's."""


class Card:
    """A device that is full where it is told to be. Its encoder's answers are half of the CPU's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full: set[str] = set()
        self.error: Exception = OutOfMemoryError("CUDA out of memory")
        self.encoded: list[str] = []
        where = {}
        to, encode, project = ImageEncoder.to, ImageEncoder.encode, KeysValues.project.__func__
        self.projected = 0

        def moved(encoder: ImageEncoder, device: torch.device | str | None = None, dtype=None) -> ImageEncoder:
            where[id(encoder)] = torch.device(device)
            self._fail("move", where[id(encoder)])
            return to(encoder, device, dtype)

        def encoded(encoder: ImageEncoder, pixels: torch.Tensor, source: str):
            self._fail("encode", where[id(encoder)])
            self.encoded.append(str(where[id(encoder)]))
            halved = pixels * 0.5 if where[id(encoder)] == CARD else pixels
            return encode(encoder, halved, source)

        def projected(cls, *args, **kwargs) -> KeysValues:
            self.projected += 1
            if self.projected % 2:  # the CPU is asked next
                self._fail("project", CARD)
            return project(cls, *args, **kwargs)

        monkeypatch.setattr(ImageEncoder, "to", moved)
        monkeypatch.setattr(ImageEncoder, "encode", encoded)
        monkeypatch.setattr(KeysValues, "project", classmethod(projected))

    def _fail(self, what: str, device: torch.device) -> None:
        if what in self.full and device == CARD:
            raise self.error


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, resources: Resources) -> Iterator[Card]:
    """What it makes is in nobody else's cache."""
    resources.unload()
    yield Card(monkeypatch)
    resources.unload()


def keys(unet, resources: Resources, settings: dict, device: torch.device = CARD) -> torch.Tensor:
    made = prepare_generation(parse_units([settings]), unet, resources, Device(device, torch.float32))
    return made.prompts[0].prompt.kv.keys[0]


@pytest.mark.parametrize("what", ["move", "encode", "project"])
@pytest.mark.parametrize("kind", ["base", "plus"])
def test_what_has_no_room_is_done_on_the_cpu(kind: str, what: str, unet, resources, card: Card, caplog) -> None:
    settings = unit(kind, (0, 1))
    on_card = keys(unet, resources, settings)
    on_cpu = keys(unet, resources, settings, torch.device("cpu"))
    assert not torch.equal(on_card, on_cpu)
    resources.unload()
    card.full, card.projected = {what}, 0
    assert torch.equal(keys(unet, resources, settings), on_card if what == "project" else on_cpu)
    thing = "projection" if what == "project" else "image encoder"
    assert [record.getMessage() for record in caplog.records] == [
        f"IP-Adapter: no room for the {thing} on the device, so it works on the CPU."
    ]


@pytest.mark.parametrize("what", ["move", "encode"])
def test_what_the_cpu_and_the_device_have_made_is_not_mixed_up(what: str, unet, resources, card: Card) -> None:
    on_card = keys(unet, resources, unit(seeds=(0, 1)))
    resources.unload()
    card.full = {what}
    on_cpu = keys(unet, resources, unit(seeds=(0, 1)))
    card.full, card.encoded = set(), []
    assert torch.equal(keys(unet, resources, unit(seeds=(0, 1))), on_card)
    assert card.encoded == ["cpu:0"] * 2
    card.full = {what}
    assert torch.equal(keys(unet, resources, unit(seeds=(0, 1))), on_card)  # remembered from when there was room
    assert torch.equal(keys(unet, resources, unit(seeds=(1, 2))), keys(unet, resources, unit(seeds=(1, 2))))
    assert not torch.equal(on_card, on_cpu)


def test_a_picture_that_had_no_room_is_not_encoded_anew_as_long_as_there_is_none(unet, resources, card: Card) -> None:
    card.full = {"encode"}
    first = keys(unet, resources, unit(seeds=(0, 1)))
    card.encoded = []
    assert torch.equal(keys(unet, resources, unit(seeds=(0, 1))), first)
    assert card.encoded == []


@pytest.mark.parametrize("what", ["move", "encode", "project"])
def test_another_error_is_told_as_it_is(what: str, unet, resources, card: Card) -> None:
    card.full, card.error = {what}, RuntimeError("CUDA error: device-side assert triggered")
    with pytest.raises(RuntimeError, match="device-side assert"):
        keys(unet, resources, unit())
    assert resources._encoder is None or resources._encoder[2].device.type == "cpu"
    card.full = set()
    keys(unet, resources, unit())


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OutOfMemoryError("anything"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB). Tried to allocate 2 GB"), True),
        (RuntimeError("HIP out of memory. Tried to allocate 20 MiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("Could not allocate tensor. There is not enough GPU video memory available!"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"), True),
        (RuntimeError("Native API failed. Native API returns: -5 (PI_ERROR_OUT_OF_DEVICE_MEMORY)"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            False,
        ),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (MemoryError("out of memory"), False),
        (ValueError("out of memory"), False),
    ],
    ids=str,
)
def test_how_devices_say_that_they_are_full(error: Exception, full: bool) -> None:
    assert is_device_full(error) is full
