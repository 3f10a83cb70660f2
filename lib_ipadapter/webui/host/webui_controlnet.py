"""sd-webui-controlnet, by what it offers to other extensions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ...checkpoint.specs import AdapterSpec
from .controlnet import ControlNet, Get, Habits, InstantID, Painted, Pixels

# Names by which older clients call a field of a unit that they send as an object.
ALIASES = {"image": "input_image", "mask": "mask_image", "guidance_end": "guidance"}
LATE = "ControlNet counts steps one behind, so start and end come one step later there."
# Preprocessors by what feeds the adapter and how wide that is; the names of older versions last.
PREPROCESSORS = {
    ("pooled", 1024): ("ip-adapter_clip_h", "ip-adapter_clip_sd15"),
    ("penultimate", 1280): ("ip-adapter_clip_h", "ip-adapter_clip_sd15"),
    ("pooled", 1280): ("ip-adapter_clip_g", "ip-adapter_clip_sdxl"),
    ("penultimate", 1664): ("ip-adapter_clip_g", "ip-adapter_clip_sdxl"),
}
# A unit's field -> how its component's id ends
ENDINGS = {
    "enabled": "_controlnet_enable_checkbox",
    "module": "_controlnet_preprocessor_dropdown",
    "model": "_controlnet_model_dropdown",
    "weight": "_controlnet_control_weight_slider",
    "image": "_input_image",
    "guidance_start": "_controlnet_start_control_step_slider",
    "guidance_end": "_controlnet_ending_control_step_slider",
    "hr_option": "_controlnet_hr_option_radio",
}


class WebUIControlNet(ControlNet):
    """``module`` is its ``external_code``."""

    title, its = "ControlNet", "ControlNet's"
    product = "sd-webui-controlnet"
    remedy = f"install or enable {product}"
    habits = Habits("stretch", averages=True, heeds_passes=False, paints_regions=False, has_layers=True, window=LATE)
    instantid = InstantID(
        "instant_id_face_embedding", "instant_id_face_keypoints", ("instant_id",), names_adapter=True, side_by_side=True
    )

    def __init__(self, module: Any) -> None:
        self.module = module

    def unit_name(self, number: int) -> str:
        return f"{self.its} unit {number} (tab “ControlNet Unit {number - 1}”)"

    def script(self, runner: Any) -> Any | None:
        return self.module.find_cn_script(runner)

    def models(self, *, anew: bool = False) -> Mapping[str, Any]:
        labels = self.module.get_models(update=True) if anew else self.module.get_models()
        files = getattr(getattr(self.module, "global_state", None), "cn_models", {})
        return {**dict.fromkeys(labels), **files}

    def modules(self) -> Sequence[str]:
        names: Sequence[str] = self.module.get_modules()
        return names

    def feeds(self, spec: AdapterSpec) -> Sequence[str]:
        return PREPROCESSORS.get((spec.source, spec.embedding_width), ())

    def unit(self, **fields: Any) -> Any:
        return self.module.ControlNetUnit(**fields)

    def names(self, field: str) -> Sequence[str]:
        return (field, ALIASES[field]) if field in ALIASES else (field,)

    def is_ip_adapter(self, module: str) -> bool:
        return module.casefold().startswith("ip-adapter")

    def pictures(self, get: Get, *, sent: bool) -> Sequence[Painted]:
        image, mask = get("image"), get("mask")
        if image is None or (isinstance(image, (str, list, tuple)) and not len(image)):
            return []
        if isinstance(image, Mapping):
            return [(image.get("image"), image.get("mask"))]
        if isinstance(image, (list, tuple)):
            if all(isinstance(one, Mapping) for one in image):
                return [(one.get("image"), one.get("mask")) for one in image]
            return [(image[0], image[1] if len(image) > 1 else None)]
        return [(image, mask)]

    def region(self, get: Get) -> Any | None:
        return get("effective_region_mask")

    def picture_fields(self, pictures: Sequence[tuple[Pixels, Pixels | None]], region: Pixels | None) -> dict[str, Any]:
        """One picture stands for itself: older versions take a list for a picture and its mask."""
        given: Any = [{"image": picture, "mask": painted} for picture, painted in pictures]
        fields = {"image": pictures[0][0] if len(pictures) == 1 and pictures[0][1] is None else given}
        return fields if region is None else {**fields, "effective_region_mask": region}

    def left_out(self, get: Get) -> Sequence[str]:
        given = get("ipadapter_input") is not None
        return ["its embedding from the API is left out: give the picture."] if given else []

    def has_begun_batch(self, get: Get) -> bool:
        return bool(get("input_mode") == "batch")

    def watch(self, script: Any, enabled: int) -> Callable[[], bool]:
        unknown = object()
        before = getattr(script, "latest_network", None)

        def has_failed() -> bool:
            now = getattr(script, "latest_network", unknown)
            return now is None or now is before

        return has_failed

    def components(self, inputs: Sequence[Any], others: Iterable[Any]) -> dict[str, Any]:
        return {
            field: one
            for field, ending in ENDINGS.items()
            if (one := next((one for one in inputs if str(one.elem_id or "").endswith(ending)), None)) is not None
        }

    def is_complete(self, components: Mapping[str, Any]) -> bool:
        return set(ENDINGS) <= set(components)

    def shown(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        return dict(fields)
