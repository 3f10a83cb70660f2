"""What this extension wants of a host, in small questions. Each host answers them in a file of its own.

The questions are those that hosts answer differently, or that hang on attributes of a host's objects. ``p`` is always
the host's processing object of a job.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from ...attend.layers import Topology
    from ...attend.regions import Box, Part
    from ...attend.step import Step
    from ...encode.device import Device
    from .controlnet import ControlNet


@dataclass(frozen=True)
class SamplingPass:
    """The pass that a job is about to sample.

    ``first_picture`` is the index in the job of the batch's first picture, ``hires`` says whether it is the second pass
    of hires fix, ``part`` is what of the picture is sampled, where that is not all of it.
    """

    first_picture: int
    hires: bool
    part: Part | None = None


class Interrupted(Exception):
    """The user has pressed Interrupt; the host stops by itself before it samples."""


class Host(ABC):
    """One host. It holds no state: what it answers is what is true when it is asked."""

    @abstractmethod
    def loaded_model(self) -> Any | None:
        """The checkpoint that is loaded now, None if there is none yet. Loads nothing."""

    @abstractmethod
    def is_loading(self) -> bool:
        """Whether a checkpoint is being loaded just now, on whatever thread."""

    @abstractmethod
    def recognises(self, model: Any) -> bool:
        """Whether a loaded checkpoint (None: none yet) is this host's, by what it has, not by a product's name."""

    # The model

    def runs_flux(self) -> bool:
        """Whether it can load FLUX checkpoints."""
        return False

    @abstractmethod
    def usable_unet(self) -> nn.Module:
        """The UNet of the loaded checkpoint, for hooks. Raises MismatchError where there is none, or where the host
        would not call its modules."""

    @abstractmethod
    def sampled_unet(self) -> nn.Module | None:
        """The UNet that is sampled with now, None where there is none."""

    @abstractmethod
    def loaded_unets(self) -> Iterator[nn.Module]:
        """The UNets of all checkpoints that the host keeps in memory."""

    @abstractmethod
    def present_topology(self) -> Topology | None:
        """Of the loaded checkpoint, or else of the one that would be loaded; None if nothing tells. Loads nothing."""

    @abstractmethod
    def hires_topology(self, p: Any) -> tuple[str, Topology] | None:
        """Name and topology of the other checkpoint that p's hires pass will load, None if there is none or it is no
        readable Stable Diffusion checkpoint (the host has its own word on that)."""

    @abstractmethod
    def named_checkpoint(self, name: str) -> tuple[str, Topology | None] | None:
        """Name and topology (None: nothing tells it) of the checkpoint that a job with the setting ``name`` loads; None
        where there is no such checkpoint, so that the job goes on with the present one."""

    @abstractmethod
    def device(self) -> Device:
        """Where to compute, and how to make room there."""

    # A job's course

    @abstractmethod
    def before_prompts(self, p: Any, act: Callable[[], None]) -> None:
        """Call ``act`` once p's checkpoint and options are in force, before any script's ``process``. What it raises
        refuses the job, and the user sees it."""

    @abstractmethod
    def passed_over_before_prompts(self, p: Any) -> bool:
        """Whether that moment has gone by without a call, for p or for the object which p is a copy of. It will not be
        called any more."""

    @abstractmethod
    def before_latents(self, p: Any, act: Callable[[], None]) -> None:
        """Call ``act`` after every script's ``process``, before anything is encoded or sampled. What it raises refuses
        the job, and the user sees it."""

    @abstractmethod
    def at_the_end(self, p: Any, act: Callable[[], None], failure: Callable[[], Exception | None]) -> None:
        """Call ``act`` when the job ends, however it does. The error that ``failure`` then gives is raised, and the
        user sees it in the place of the pictures."""

    @abstractmethod
    def leave_the_end_alone(self, p: Any, *, copied: bool = False) -> None:
        """Take back ``at_the_end``; with ``copied`` only what p has from the object which it is a copy of."""

    @abstractmethod
    def has_an_end(self, p: Any) -> bool:
        """Whether ``at_the_end`` is in force for p itself, and not for an object which p is a copy of."""

    @abstractmethod
    def sample_nothing(self, p: Any) -> None:
        """Let p's job end in blank pictures of the size that they would have had."""

    @abstractmethod
    def sampling_pass(self, p: Any) -> SamplingPass:
        """The pass that p samples next."""

    @abstractmethod
    def pass_inside(self, p: Any, outer: Any) -> SamplingPass:
        """The pass of p, a job that goes on with the picture of ``outer`` that was finished last."""

    @abstractmethod
    def denoised_job(self, params: Any) -> Any | None:
        """The processing object that a denoising step (the host's parameters of it) belongs to."""

    @abstractmethod
    def denoising_step(self, params: Any) -> Step:
        """A denoising step, from the host's parameters of it."""

    @abstractmethod
    def cut_short(self) -> bool:
        """Whether the user has ended the job or its picture early, so that the picture is not complete."""

    @abstractmethod
    def is_stopping(self) -> bool:
        """Whether the user has ended the job after the picture that is being made. It is made completely, but jobs that
        begin inside it make nothing."""

    @abstractmethod
    def has_second_pass(self, p: Any) -> bool:
        """Whether p has the second pass of hires fix."""

    @abstractmethod
    def starts_with_second_pass(self, p: Any) -> bool:
        """Whether p only upscales a finished picture, so that there is no first pass."""

    @abstractmethod
    def changes_checkpoint_midway(self, p: Any) -> bool:
        """Whether p goes on with a refiner's checkpoint."""

    # Its pictures

    @abstractmethod
    def frames(self, p: Any) -> int | None:
        """How many frames each of p's batches has as a film, None where its pictures are none."""

    @abstractmethod
    def file_of_batch(self, p: Any) -> tuple[int, int]:
        """When p begins: which of img2img's files, from 0 on, it makes, and how many there are; (0, 1) where it is no
        batch of files."""

    @abstractmethod
    def seems_of_batch(self, p: Any) -> bool:
        """Whether p seems to make one of img2img's files, whatever script makes it."""

    def pictures(self, p: Any) -> range:
        """When p begins: the indices of the pictures that it makes, from 0 on, or, for a file of img2img's batch, from
        the number of pictures that the files before it have."""
        count: int = p.n_iter * p.batch_size
        first = self.file_of_batch(p)[0] * count
        return range(first, first + count)

    @abstractmethod
    def finished_picture(self, p: Any) -> int:
        """The index in the job of the picture that was finished last."""

    @abstractmethod
    def picture_form(self, p: Any) -> tuple[int, int]:
        """Width and height of the pictures that the job makes, or numbers of their ratio."""

    @abstractmethod
    def sampled_box(self, p: Any) -> Box | None:
        """The part (left, top, width, height) of the finished picture that was sampled, None for all of it."""

    @abstractmethod
    def start_picture(self, p: Any) -> Any | None:
        """Img2img's first start picture, as the host has it."""

    @abstractmethod
    def start_pictures(self, p: Any) -> list[Any]:
        """Before img2img's start pictures are encoded: of each the part that is sampled. None in txt2img. The pictures
        of a batch begin with one each, or all with the same."""

    @abstractmethod
    def samples_tiles(self, p: Any) -> str | None:
        """The title of the script that lets the model work on tiles of one picture, one job for all, in p's job."""

    # Its prompts

    @abstractmethod
    def prompt_loras(self, p: Any) -> list[str]:
        """The names of the LoRAs that p's prompts ask for, in all of its passes, each as the prompt says it and as its
        file is called. What scripts put into the prompts is known once every script's ``process`` is done."""

    # Who asks

    @abstractmethod
    def is_api(self, p: Any) -> bool:
        """Whether a request of the API has made the job, and no page."""

    @abstractmethod
    def script_chosen(self, p: Any) -> bool:
        """Whether one of the page's scripts (X/Y/Z plot, SD upscale, …) makes this job as one of several, or as a
        part."""

    @abstractmethod
    def chosen_script(self, p: Any) -> Any | None:
        """That script, None where none is chosen."""

    @abstractmethod
    def watch_parts(self, p: Any) -> None:
        """Before such a script runs: from here on, parts that it takes a picture into tell where they lie."""

    @abstractmethod
    def unwatch_parts(self) -> None:
        """Take back what ``watch_parts`` has put into the host."""

    @abstractmethod
    def lost_part(self, p: Any, elsewhere: bool) -> str | None:
        """The title of the script that makes p's job of parts of a picture, where nothing tells where these lie; None
        where they are known, or the job's pictures are whole ones. ``elsewhere`` says that other machines make some of
        them, which are not told."""

    @abstractmethod
    def script(self, p: Any, title: str) -> Any | None:
        """The always-on script of this title in p's job, None where it is absent or switched off."""

    @abstractmethod
    @contextmanager
    def progress_text(self) -> Iterator[Callable[[str], None]]:
        """A function that shows a text on the page's progress bar; afterwards the bar is what it was.

        The function raises Interrupted where there is nothing to wait for any more.
        """

    @abstractmethod
    def alone(self) -> AbstractContextManager[None]:
        """While nobody makes a picture: for what computes beside jobs."""

    @abstractmethod
    def controlnet(self) -> ControlNet | None:
        """The ControlNet that is loaded, None where none is."""

    @abstractmethod
    def expected_controlnet(self) -> type[ControlNet]:
        """The ControlNet that this host has or can have: where none is loaded, sentences speak of it."""
