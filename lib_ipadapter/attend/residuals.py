"""What networks of keypoints add to a UNet: to its middle, and to what its input blocks hand to the output blocks.

The first layer of an output block is given what comes from below with the skip behind it, so a forward pre-hook there
adds to the last channels of its input; a forward hook on the middle's last layer adds to its output. All hosts call
these two as modules, whatever they do with the blocks around them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import DeviceMemoryError, is_device_full
from .control import ControlNetwork, resized
from .prompt import ImagePrompt
from .regions import Region, Size
from .room import empty_device_cache, has_room
from .rows import Rows

log = logging.getLogger("ip-adapter")
PIXELS = 8  # of the picture along a side of a place of the latent
# Bytes for each place of the latent and row that stay free for what UNet and network compute with: 2 GiB for both rows
# of a picture of 1024 x 1024.
COMPUTING = 2**16


class UNetCall(NamedTuple):
    """A call of the UNet: its rows, latents, steps, and what SDXL is told beside the text."""

    rows: Rows
    x: Tensor
    timesteps: Tensor
    y: Tensor


class Residuals:
    """The hooks of those ``prompts`` that have keypoints. Whoever owns it tells it each step and each call."""

    def __init__(self, unet: nn.Module, prompts: Sequence[ImagePrompt]) -> None:
        """Raises MismatchError for a UNet that a network does not fit."""
        self.unet = unet
        self.prompts = [(prompt, prompt.keypoints) for prompt in prompts if prompt.keypoints is not None]
        for _, keypoints in self.prompts:
            keypoints.network.fit(unet)
        self.active: list[int] = []
        self.announced = False  # whether any step so far was one in which a network acts
        self.fired = False  # whether any has added anything
        self.misplaced = False  # whether one was left out where nothing told the place
        self._step = 0
        self._later = False  # whether any acts in a later step
        self._calls, self._calls_before = 0, 1  # that were served in the present step, and in the one before
        self._call: UNetCall | None = None
        self._made: list[Tensor] = []  # in this call: what the skips are given, in order, and the middle
        self._hints: dict[tuple[int, int, Size], Tensor] = {}  # embedded, by prompt, picture of the batch, and size

    def hooks(self) -> list[torch.utils.hooks.RemovableHandle]:
        """Register the hooks, if there is anything for them to do."""
        if not self.prompts:
            return []
        *_, last = self.unet.middle_block.children()
        handles = [last.register_forward_hook(self._add_to_middle)]
        for i, block in enumerate(self.unet.output_blocks):
            handles.append(next(block.children()).register_forward_pre_hook(partial(self._add_to_skip, i)))
        return handles

    def begin(self, step: int, steps: int) -> None:
        """A denoising step begins."""
        self.leave()
        if step != self._step:
            self._step, self._calls, self._calls_before = step, 0, self._calls
        self.active = [i for i, (_, keypoints) in enumerate(self.prompts) if keypoints.acts_in(step, steps)]
        self.announced |= bool(self.active)
        self._later = any(
            keypoints.acts_in(later, steps) for _, keypoints in self.prompts for later in range(step + 1, steps)
        )
        if not self.active and not self._later:
            self._make_room()

    def pause(self) -> None:
        """Do nothing until the next ``begin``."""
        self.active = []
        self.leave()

    def enter(self, rows: Rows, args: tuple[Any, ...], kwargs: dict[str, Any], *, whole: bool) -> bool:
        """A call of the UNet with these arguments and rows begins; ``whole`` says that it is one on the whole latent.
        False for one that cannot be served."""
        self.leave()
        if not self.active:
            return True
        x, timesteps, y = (
            kwargs.get(name, args[i] if len(args) > i else None) for i, name in ((0, "x"), (1, "timesteps"), (3, "y"))
        )
        if x is None or timesteps is None or y is None or not len(x) == len(y) == len(rows):
            return False
        if whole:
            self._call = UNetCall(rows, x, timesteps.reshape(-1), y)
        self.misplaced |= not whole
        return True

    def leave(self) -> bool:
        """The call is over. Whether it was to be served, and passed the UNet's middle by."""
        missed = self._call is not None and not self._made
        self._calls += self._call is not None
        ended, self._call, self._made = self._call is not None, None, []
        if ended and not self._later and self._calls >= self._calls_before:
            self._make_room()
        return missed

    def leave_device(self) -> None:
        """Let go of everything on the device."""
        self.pause()
        self._make_room()

    def _make_room(self) -> None:
        """What comes after the last step in which they act needs it: decoding, upscaling, the rest of the steps."""
        self._hints.clear()
        for _, keypoints in self.prompts:
            keypoints.network.leave_device()

    def _add_to_middle(self, _module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        call = self._call
        if call is None or len(output) != len(call.rows):
            return None
        if not self._made:
            self._made = self._sum(call, output)
            self.fired = True
        return output + resized(self._made[-1], _size(output)).to(output.dtype)

    def _add_to_skip(self, i: int, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """``i``: which of the output blocks it is; the first is given the last of the skips."""
        if not self._made or len(args[0]) != len(self._made[-2 - i]):
            return None
        hidden, *rest = args
        added = resized(self._made[-2 - i], _size(hidden)).to(hidden.dtype)
        below, skip = hidden[:, : -added.shape[1]], hidden[:, -added.shape[1] :]
        return (torch.cat([below, skip + added], dim=1), *rest)

    def _sum(self, call: UNetCall, like: Tensor) -> list[Tensor]:
        """What all prompts add in this call, on ``like``'s device."""
        total: list[Tensor] = []
        for i in self.active:
            prompt, keypoints = self.prompts[i]
            made = _weighted(self._of(i, call, like), keypoints.strength, prompt.region, call.rows)
            total = [a + b for a, b in zip(total, made, strict=True)] if total else made
            prompt.fired = True
        return total

    def _of(self, i: int, call: UNetCall, like: Tensor) -> list[Tensor]:
        """What the network of prompt ``i`` makes of the call. Where the device has no room for its weights, they go
        there in turn. Raises DeviceMemoryError where even that is too much."""
        (prompt, keypoints), error = self.prompts[i], None
        network = keypoints.network
        for in_turn in (False, True):
            try:
                _place(network, call, like, in_turn=in_turn)
                context = keypoints.context(call.rows, prompt.tokens_of)
                return network(call.x, call.timesteps, context, call.y, self._hint(i, call))
            except RuntimeError as raised:
                if not is_device_full(raised):
                    raise
                error = raised.with_traceback(None)  # which holds what there is no room for
            network.leave_device()
            self._hints.clear()
            empty_device_cache(like.device)
        raise DeviceMemoryError(
            "IP-Adapter: the device has no room for InstantID's network of keypoints: use a smaller picture or batch, "
            "start the WebUI with --medvram, or set keypoints_weight to 0."
        ) from error

    def _hint(self, i: int, call: UNetCall) -> Tensor:
        """[rows, channels, height, width]: the embedded hint of each row's picture. A pass draws each of them once."""
        (prompt, keypoints), size = self.prompts[i], _size(call.x)
        for picture in {row.picture for row in call.rows}:
            if (i, picture, size) not in self._hints:
                height, width = size[0] * PIXELS, size[1] * PIXELS
                whole, box = (height, width), (0, 0, width, height)
                if prompt.part is not None:
                    whole, box = prompt.part.picture, prompt.part.of(picture)
                drawn = keypoints.drawing(prompt.nearest(picture))(whole, box, (height, width))
                self._hints[i, picture, size] = keypoints.network.embed(drawn[None])[0]
        return torch.stack([self._hints[i, row.picture, size] for row in call.rows])


def _size(tensor: Tensor) -> Size:
    return tensor.shape[-2], tensor.shape[-1]


def _weighted(made: list[Tensor], strength: float, region: Region | None, rows: Rows) -> list[Tensor]:
    """What a network has ``made``, as strongly as its prompt wants it, and where."""
    if region is None:
        return [one * strength for one in made]
    pictures = [row.picture for row in rows]
    masks = (region.at(_size(one), one, pictures).transpose(1, 2).unflatten(2, _size(one)) for one in made)
    return [one * (mask * strength) for one, mask in zip(made, masks, strict=True)]


def _place(network: ControlNetwork, call: UNetCall, like: Tensor, *, in_turn: bool) -> None:
    """The network computes where and in what the UNet does, whole where there is room for that."""
    device, dtype = like.device, _dtype(like)
    if network.place == (device, dtype) and network.in_turn >= in_turn:
        return
    rows, (height, width) = len(call.x), _size(call.x)
    needed = network.bytes_in(dtype) + COMPUTING * rows * height * width
    if not in_turn and not has_room(device, needed):
        empty_device_cache(device)
        in_turn = not has_room(device, needed)
    if in_turn:
        log.warning(
            "IP-Adapter: the device has no room for InstantID's network of keypoints beside the model, so its weights "
            "go there in turn, and each step is slower."
        )
    network.to(device, dtype, in_turn=in_turn)


def _dtype(like: Tensor) -> torch.dtype:
    """What the UNet computes in: that of its tensors, or what the host has torch cast them to."""
    if like.device.type == "cuda" and torch.is_autocast_enabled():
        dtype: torch.dtype = torch.get_autocast_gpu_dtype()
        return dtype
    return like.dtype
