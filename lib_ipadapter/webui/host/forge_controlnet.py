"""The ControlNet that Forge and its kin (reForge, Forge classic, Forge Neo) have built in.

It has nothing for other extensions: its units are plain records, which differ a little among the kin. Forge's own hold
a picture and what is drawn over it as two pictures (``image``, ``image_fg``), the others as a pair of both.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...checkpoint.specs import AdapterSpec
from ...encode.picture import decode
from ...errors import PictureError, UnitError
from .controlnet import ControlNet, Get, Habits, InstantID, Painted, Pixels
from .page import upload_folder

MODULE, MODELS = "lib_controlnet.external_code", "lib_controlnet.global_state"
MOST_BYTES = 200_000_000  # of an uploaded picture
UNPAINTED = 5  # a layer without any lighter spot counts for none
LAYER = "image_fg"  # the field of what is drawn over the picture, where it is a picture of its own
VIT_H, BIGG, FACE = "CLIP-ViT-H (IPAdapter)", "CLIP-ViT-bigG (IPAdapter)", "InsightFace+CLIP-H (IPAdapter)"
# Preprocessors by what feeds the adapter and how wide that is.
PREPROCESSORS = {
    ("pooled", 1024): (VIT_H,),
    ("penultimate", 1280): (VIT_H,),
    ("pooled", 1280): (BIGG,),
    ("penultimate", 1664): (BIGG,),
    ("face", 512): (FACE,),
}
NEEDED = ("enabled", "module", "model", "weight", "image", "guidance_start", "guidance_end", "hr_option")
SWITCH, RANGE = "_controlnet_enable_checkbox", "_controlnet_control_step_slider"
WINDOW = (
    "Forge's ControlNet counts start and end in timesteps, here they are shares of the steps: with some schedules they "
    "are not the same."
)


class ForgeControlNet(ControlNet):
    """``module`` is its ``external_code``."""

    title = its = product = "Forge's ControlNet"
    remedy = "tick sd_forge_controlnet under Extensions, and restart"
    habits = Habits(
        "center", averages=False, heeds_passes=True, paints_regions=True, has_layers=False, window=WINDOW
    )  # fmt: skip
    instantid = InstantID(
        "InsightFace (InstantID)", "instant_id_face_keypoints", ("instant_id", "instantid", "instant-id"),
        names_adapter=False, side_by_side=False,
    )  # fmt: skip

    def __init__(self, module: Any) -> None:
        self.module = module

    @classmethod
    def is_in(cls, module: Any) -> bool:
        """Whether a module is its ``external_code``, and not sd-webui-controlnet's."""
        return hasattr(module, "ControlNetUnit") and not hasattr(module, "find_cn_script")

    def unit_name(self, number: int) -> str:
        return f"{self.its} unit {number} (“ControlNet Unit {number - 1}”)"

    def script(self, runner: Any) -> Any | None:
        scripts = getattr(runner, "alwayson_scripts", None) or ()
        return next((one for one in scripts if one.title().casefold() == "controlnet"), None)

    def models(self, *, anew: bool = False) -> Mapping[str, Any]:
        known = sys.modules.get(MODELS)
        if known is None:
            return {}
        if anew:
            known.update_controlnet_filenames()
        return {label: file for label, file in known.controlnet_filename_dict.items() if label != "None"}

    def modules(self) -> Sequence[str]:
        known = sys.modules.get(MODELS)
        return [] if known is None else list(known.get_all_preprocessor_names())

    def feeds(self, spec: AdapterSpec) -> Sequence[str]:
        """InstantID's adapter is of no use without the unit of its points."""
        return () if spec.variant == "instantid" else PREPROCESSORS.get((spec.source, spec.embedding_width), ())

    # Its units

    def _fields(self) -> list[str]:
        """The fields of a unit in the order in which it takes them."""
        return list(inspect.signature(self.module.ControlNetUnit).parameters)

    def unit(self, **fields: Any) -> Any:
        return self.module.ControlNetUnit(**fields)

    def names(self, field: str) -> Sequence[str]:
        return (field,)

    def is_ip_adapter(self, module: str) -> bool:
        return module.casefold().endswith("(ipadapter)")

    def pictures(self, get: Get, *, sent: bool) -> Sequence[Painted]:
        mode = get("input_mode")
        if mode == "batch":
            raise UnitError("it takes a folder of pictures, which are not read here: give the pictures themselves.")
        if mode == "merge":
            return self._uploaded(get, sent)
        if get("use_preview_as_input") and get("generated_image") is not None:
            return [(get("generated_image"), None)]
        image, drawn = _pair(get("image"), get(LAYER))
        if image is None or (isinstance(image, str) and not image):
            return []
        if isinstance(image, np.ndarray) and (image < UNPAINTED).all() and _is_painted(drawn):
            return [(drawn, None)]  # something drawn on nothing
        layers = [_alpha(get("mask_image_fg")), *_pair(get("mask_image"), None), drawn]
        painted = next(filter(_is_painted, layers), None)
        return [(image, None if painted is None else _fitted(painted, image))]

    @staticmethod
    def _uploaded(get: Get, sent: bool) -> list[Painted]:
        """The pictures of the gallery, which are files that the page has sent."""
        items = get("batch_input_gallery") or get("multi_inputs_gallery") or ()
        if sent and items:
            raise UnitError("it names files, which are never opened for a request: give the pictures themselves.")
        return [(_file(item), None) for item in items]

    def region(self, get: Get) -> Any | None:
        """Its units act where something is drawn, over their picture or over a mask of its own."""
        layers = [_alpha(get("mask_image_fg")), *_pair(get("mask_image"), None), _pair(get("image"), get(LAYER))[1]]
        return next(filter(_is_painted, layers), None)

    def picture_fields(self, pictures: Sequence[tuple[Pixels, Pixels | None]], region: Pixels | None) -> dict[str, Any]:
        """Of several pictures the first, without what is painted over it: that would be where in the result it acts."""
        as_pairs = LAYER not in self._fields()

        def held(pixels: Pixels) -> Any:
            return {"image": pixels, "mask": np.zeros_like(pixels)} if as_pairs else pixels

        fields = {"image": held(pictures[0][0])} if pictures else {}
        return fields if region is None else {**fields, "mask_image": held(region)}

    def left_out(self, get: Get) -> Sequence[str]:
        layers = get("advanced_weighting") or str(get("ipa_block_weight") or "").strip()
        return ["its weights of single layers are left out: set them here by hand."] if layers else []

    # Its jobs

    def has_begun_batch(self, get: Get) -> bool:
        """It makes a folder's pictures in one job."""
        return False

    def watch(self, script: Any, enabled: int) -> Callable[[], bool]:
        """It keeps something of each unit that it has taken up, from the job's ``process`` to its end."""

        def has_failed() -> bool:
            kept = getattr(script, "current_params", None)
            return isinstance(kept, Mapping) and len(kept) < enabled

        return has_failed

    # Its panel

    def components(self, inputs: Sequence[Any], others: Iterable[Any]) -> dict[str, Any]:
        """``inputs`` are those of a unit's fields, in their order. Forge's own has one slider for both ends of the
        window, which its state follows."""
        found = {field: one for field, one in zip(self._fields(), inputs, strict=False) if field in NEEDED}
        switch = str(getattr(found.get("enabled"), "elem_id", None) or "")
        if switch.endswith(SWITCH):
            wanted = switch.removesuffix(SWITCH) + RANGE
            both = next((one for one in others if getattr(one, "elem_id", None) == wanted), None)
            if both is not None:
                found["window"] = both
        return found

    def is_complete(self, components: Mapping[str, Any]) -> bool:
        switch = str(getattr(components.get("enabled"), "elem_id", None) or "")
        return set(NEEDED) <= set(components) and switch.endswith(SWITCH)

    def shown(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        return {**fields, "window": (fields["guidance_start"], fields["guidance_end"])}


def _pair(image: Any, layer: Any) -> tuple[Any, Any]:
    """A picture, and what is drawn over it: a pair in itself, or with a ``layer`` of its own."""
    if isinstance(image, Mapping):
        return image.get("image"), image.get("mask")
    return image, _alpha(layer)


def _alpha(layer: Any) -> Any | None:
    """How much is drawn where on a layer [H, W, 4], whatever the colour."""
    has_alpha = isinstance(layer, np.ndarray) and layer.ndim == 3 and layer.shape[2] == 4
    return np.ascontiguousarray(layer[:, :, 3]) if has_alpha else None


def _is_painted(mask: Any) -> bool:
    """Raises PictureError for what is no picture."""
    if mask is None or (isinstance(mask, str) and not mask):
        return False
    return bool(np.asarray(decode(mask)).max(initial=0) > UNPAINTED)


def _fitted(mask: Any, image: Any) -> Image.Image:
    """A mask in its picture's size."""
    return decode(mask).resize(decode(image).size, Image.Resampling.NEAREST)


def _file(item: Any) -> bytes:
    """A picture of a gallery: a path with a caption, a record of one, or the path itself. Not all versions of gradio
    look whether it is a file that a page has sent. Raises PictureError."""
    if isinstance(item, Mapping):
        item = item.get("name")
    path = item[0] if isinstance(item, (list, tuple)) and item else item
    try:
        file = Path(str(path)).resolve()
        if upload_folder() in file.parents and file.is_file() and file.stat().st_size <= MOST_BYTES:
            return file.read_bytes()
    except (OSError, ValueError):  # it has gone, or is no path
        pass
    raise PictureError("An uploaded picture is not there any more: upload it again.")
