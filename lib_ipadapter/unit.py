"""Unit and Reference: the validated settings of one API object = one tab of the panel = one entry of a preset."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from . import detailer_fields, face_fields, flux_fields
from .bases import blocks_of_each
from .errors import UnitError
from .fields import EXPERT, TRANSFERS, WHEN, WHERE, PanelPlace, declared, settings_of
from .kinds import BlockFactors, Choice, EncoderName, Flag, ModelName, Number, PictureKind, Text, Weight, Whole, Wording
from .reference import FOLDER_PLACE, WEIGHT, References
from .reference import Reference as Reference
from .weighting import FACTOR_LIMITS, INVERTING, SCALINGS, WEIGHT_TYPES, Curve, LayerWeights

MAX_UNITS = 10
RESOLUTIONS = (112, 1024)  # sides of what an image encoder may be shown, in pixels, where it is not its own
# Fields that may not go together.
WINDOW = ("start", "end")
KEYPOINTS_WINDOW = ("keypoints_start", "keypoints_end")
FACTORS = ("weight_type", "layer_weights")


@dataclass(frozen=True)
class Unit:
    """One adapter with its references. The fields are the API's, in the order in which infotext shows them.

    ``number`` is the place among the job's units, counted from 1 (0 outside a job); ``wording`` is how the settings
    were given, which sentences about them should keep to. Neither is a setting.
    """

    # fmt: off
    model: str = field(metadata=declared(
        ModelName(),
        PanelPlace("Model", "The IP-Adapter that carries the references into the picture.", "model"),
        about="as `GET /ip-adapter/models` lists it; file ending optional, any case",
    ))
    references: tuple[Reference, ...] = field(metadata=declared(
        References("images", "image"),
        FOLDER_PLACE,
        about='a mask is white where the reference counts, a region where in the picture it acts; `at` makes it a '
        'keyframe, from 0, the first picture or frame, to 1, the last; `{"controlnet": 1}` '
        "takes the picture of ControlNet's first unit, `{\"start_picture\": true}` what img2img begins with, in tiles "
        "each its own part",
    ))
    weight: float | Curve = field(default=1.0, metadata=declared(
        Weight(WEIGHT.low, WEIGHT.high),
        PanelPlace("Weight", "How strongly the references steer the picture beside the prompt.", "weight", step=0.05),
        PanelPlace(
            "Weight over the steps",
            "Points step:weight in the place of the weight, both as shares: 0:1 0.6:0.2 falls until six tenths.",
            order=7, group=WHEN, key="curve", placeholder="0:1 0.6:0.2",
        ),
        about="strength of the image prompt; 0 gives exactly the picture without the unit",
        changes_tokens=False,
    ))
    start: float = field(default=0.0, metadata=declared(
        Number(0, 1),
        PanelPlace("Start", "The share of the sampling steps after which the unit begins to act.", "weight"),
        about="share of the sampling steps after which the unit begins to act",
        changes_tokens=False,
    ))
    end: float = field(default=1.0, metadata=declared(
        Number(0, 1),
        PanelPlace("End", "The share of the sampling steps after which the unit acts no more.", "weight"),
        about="share of the sampling steps after which the unit acts no more",
        changes_tokens=False,
    ))
    weight_type: str = field(default="linear", metadata=declared(
        Choice(WEIGHT_TYPES, table="table below"),
        PanelPlace(
            "Weight type",
            "Which of the model's blocks get how much of the weight: all alike, or those of style or composition.",
            order=1, group=TRANSFERS,
        ),
        about="how the weight spreads over the model's blocks",
        changes_tokens=False, not_for=flux_fields.FLUX,
    ))
    layer_weights: LayerWeights | None = field(default=None, metadata=declared(
        BlockFactors(*FACTOR_LIMITS),
        PanelPlace(
            "Layer weights",
            f"A factor for each block ({blocks_of_each()}), or for some, as 5:0.4 6:1; the others get nothing then.",
            order=8, group=EXPERT, placeholder="5:0.4 6:1",
        ),
        about="a factor of the weight for each block, in the place of `weight_type`; blocks that are not named get "
        "nothing then",
        changes_tokens=False, not_for=flux_fields.REDUX,
    ))
    composition_weight: float = field(default=1.0, metadata=declared(
        Number(-5, 5),
        PanelPlace(
            "Composition weight",
            "The strength at the composition's blocks, for the weight types “… style and composition”.",
            order=1, group=TRANSFERS, needs="composition", step=0.05,
        ),
        about="strength at the composition's blocks, for the types “… style and composition”",
        changes_tokens=False, not_for=flux_fields.FLUX,
    ))
    boost: float | None = field(default=None, metadata=declared(
        Number(-5, 5, empty="the weight"),
        PanelPlace(
            "Boost of precise types",
            "How strongly the “precise” weight types turn against the other half; empty: by the weight.",
            order=1, group=TRANSFERS, needs="boost", placeholder="the weight",
        ),
        about="for the “precise” types: strength of what they turn against; `null` is the weight, as in "
        "ComfyUI_IPAdapter_plus's Advanced node (its node Precise Style Transfer has 1, Precise Composition 0)",
        changes_tokens=False, not_for=flux_fields.FLUX,
    ))
    crop: str = field(default="center", metadata=declared(
        Choice(("center", "top", "bottom", "left", "right", "pad", "stretch", "tile")),
        PanelPlace(
            "Crop",
            "How a reference that is not square meets the square encoder; “tile” shows all of it in several squares.",
            order=2, group=TRANSFERS,
        ),
        about='how a reference that is not square meets the square encoder; `"tile"`: up to four overlapping squares '
        "that show all of it",
    ))
    resolution: int | None = field(default=None, metadata=declared(
        Whole(*RESOLUTIONS, empty="the adapter's or the encoder's own"),
        PanelPlace(
            "Resolution",
            "The side of what the image encoder sees, in pixels; empty: what the adapter was trained with, as far as "
            "its file says.",
            order=17, group=EXPERT, placeholder="the adapter's own",
        ),
        about="side of what the image encoder sees, for an adapter that was trained with another than the encoder's "
        "own (448, say): a multiple of the encoder's patch, mostly 14; positions are interpolated",
    ))
    combine: str = field(default="concat", metadata=declared(
        Choice(("concat", "average", "add", "subtract", "norm average", "max", "min")),
        PanelPlace(
            "Combine references", "Whether several references act side by side, or as one embedding made of theirs.",
            order=3, group=TRANSFERS, needs="several references",
        ),
        about="several references: all of their tokens, or one embedding made of theirs",
    ))
    embeds_scaling: str = field(default="V only", metadata=declared(
        Choice(SCALINGS),
        PanelPlace(
            "Embeds scaling",
            "What the weight multiplies; “K+V w/ C penalty” keeps strong references from burning the picture.",
            order=9, group=EXPERT,
        ),
        about="what the weight multiplies",
        changes_tokens=False, not_for=flux_fields.FLUX,
    ))
    region_mask: Any = field(default=None, metadata=declared(
        PictureKind(),
        about="white where the unit acts in the picture; any size; what a script such as SD upscale makes in tiles is "
        "one picture",
        changes_tokens=False,
    ))
    region_feather: float = field(default=0.0, metadata=declared(
        Number(0, 1),
        PanelPlace(
            "Region feather", "How soft the edge of the region mask is, as a share of the picture's shorter side.",
            order=11, group=WHERE, needs="region",
        ),
        about="how soft the edge of the region is, as a share of the picture's shorter side",
        changes_tokens=False,
    ))
    negative_references: tuple[Reference, ...] = field(default=(), metadata=declared(
        References("negative_images"),
        about="what the picture should move away from; their average replaces the empty reference of the "
        "unconditional side",
    ))
    subtract_prompt: str = field(default="", metadata=declared(
        Text(1000),
        PanelPlace(
            "Subtract prompt",
            "Words whose meaning is taken out of the references; needs an image encoder with its text encoder.",
            order=4, group=TRANSFERS, placeholder="what should not come along",
        ),
        not_for=flux_fields.WORDLESS,
        about="words whose meaning is projected out of the reference (base adapters; needs an encoder file with its "
        "text encoder)",
    ))
    encoder: str = field(default="auto", metadata=declared(
        EncoderName(500),
        PanelPlace(
            "Image encoder",
            "Which image encoder reads the references, where several fit: the line below the model names them.",
            order=16, group=EXPERT, placeholder="auto",
        ),
        about="which image encoder reads the references, as `GET /ip-adapter/models` lists it; `\"auto\"` takes the "
        "one that the adapter is for",
    ))
    noise: float = field(default=0.0, metadata=declared(
        Number(0, 1),
        PanelPlace(
            "Noise", "How much of the references' shuffled colours the negative side gets: less copying, less burn.",
            order=6, group=TRANSFERS,
        ),
        not_for=flux_fields.REDUX,
        about="how much of the references' shuffled pixels is mixed into the unconditional side: less copying, less "
        "burn",
    ))
    hires: str = field(default="both", metadata=declared(
        Choice(("both", "base", "hires")),
        PanelPlace(
            "Passes of hires fix", "The passes of a hires-fix run in which the unit acts.", order=13, group=WHEN
        ),
        about="passes of a hires-fix run in which the unit acts",
        changes_tokens=False,
    ))
    batch: str = field(default="same", metadata=declared(
        Choice(("same", "per image")),
        PanelPlace(
            "References in a batch",
            "Whether each picture of a batch sees all references, or the first sees the first, and so on.",
            order=12, group=TRANSFERS,
        ),
        about='`"per image"`: picture i of the job, or of img2img\'s batch of files, sees reference i, starting over',
    ))
    influence_map: bool = field(default=False, metadata=declared(
        Flag(),
        PanelPlace("Influence map", "Adds a picture of where the references weighed how much.", order=15, group=WHERE),
        about="adds a heat map of the unit's influence after the job's pictures",
        changes_tokens=False, not_for=flux_fields.FLUX,
    ))
    acts_in: str = field(default="as set", metadata=detailer_fields.ACTS_IN)
    detailer_tab: int | None = field(default=None, metadata=detailer_fields.DETAILER_TAB)
    downsampling: int = field(default=1, metadata=flux_fields.DOWNSAMPLING)
    variant: str = field(default="auto", metadata=face_fields.VARIANT)
    face_index: int | str = field(default="largest", metadata=face_fields.FACE_INDEX)
    faceid_v2_weight: float = field(default=1.0, metadata=face_fields.FACEID_V2_WEIGHT)
    lora_strength: float = field(default=1.0, metadata=face_fields.LORA_STRENGTH)
    keypoints_weight: float = field(default=1.0, metadata=face_fields.KEYPOINTS_WEIGHT)
    keypoints_start: float = field(default=0.0, metadata=face_fields.KEYPOINTS_START)
    keypoints_end: float = field(default=1.0, metadata=face_fields.KEYPOINTS_END)
    keypoints_image: Any = field(default=None, metadata=face_fields.KEYPOINTS_IMAGE)
    enabled: bool = field(default=True, metadata=declared(
        Flag(),
        PanelPlace("Enabled", "Whether this unit takes part; its settings stay either way.", "model"),
        about="whether the unit takes part",
        changes_tokens=False,
    ))
    # fmt: on
    number: int = 0
    wording: Wording = field(default=Wording.API, compare=False, repr=False)

    @classmethod
    def parse(
        cls, settings: object, number: int = 0, wording: Wording = Wording.API, later: Collection[str] = ()
    ) -> Unit:
        """One API object -> Unit. Raises UnitError with the field's name, what it holds and what it may hold.

        A disabled unit may lack its model and its references. Fields that are set ``later`` are not looked at: they
        have their defaults, and the model may be missing, as ``references`` may.
        """
        if not isinstance(settings, Mapping):
            raise UnitError(
                f'a unit is an object such as {{"model": …, "images": […]}}, not {Wording.API.shown(settings)}: see '
                "the API page."
            )
        _check_names(settings, cls)
        settings = {name: value for name, value in settings.items() if name not in later}
        own = settings_of(cls)
        enabled = own["enabled"].parse(settings, wording)
        values: dict[str, Any] = {}
        for name, setting in own.items():
            if isinstance(setting.kind, ModelName):
                lacks = not enabled and _is_blank(settings.get(name))
                values[name] = "" if lacks or name in later else setting.parse({name: None, **settings}, wording)
            elif isinstance(setting.kind, References):
                values[name] = () if name in later else setting.kind.parse_all(settings, enabled)
            else:
                values[name] = setting.parse(settings, wording)
        for _, sentence in conflicts(values, wording):
            raise UnitError(sentence)
        return cls(**values, number=number, wording=wording)

    def with_values(self, values: Mapping[str, Any]) -> Unit:
        """The unit with other values of some fields, as a client would give them. Raises UnitError as ``parse``."""
        own = settings_of(type(self))
        changed = replace(self, **{name: own[name].parse(values) for name in values})
        for _, sentence in conflicts(vars(changed), self.wording):
            raise UnitError(sentence)
        return changed

    @property
    def joins(self) -> bool:
        """Whether it makes one reference of several."""
        return self.batch == "same" and self.combine != "concat"

    def called(self, name: str) -> str:
        """What a sentence about this unit calls a field: in the words in which its settings were given."""
        return settings_of(type(self))[name].called(self.wording, getattr(self, name))

    def changed(self) -> dict[str, Any]:
        """The fields that differ from their defaults, pictures and ``enabled`` aside, in the table's order."""
        return {
            name: getattr(self, name)
            for name, setting in settings_of(type(self)).items()
            if setting.kind.is_value and name != "enabled" and getattr(self, name) != setting.default
        }

    def token_settings(self) -> tuple[Hashable, ...]:
        """The settings that image tokens depend on, pictures and the adapter aside: part of their cache key."""
        return tuple(
            getattr(self, name)
            for name, setting in settings_of(type(self)).items()
            if setting.changes_tokens and setting.kind.is_value
        )

    def to_object(self) -> dict[str, Any]:
        """The API object that ``parse`` makes this unit of, without what is at its default. Pictures are as they are
        here, decoded or not."""
        own = settings_of(type(self))
        written: dict[str, Any] = {} if self.enabled else {"enabled": False}
        written["model"] = self.model
        written |= {name: own[name].kind.to_json(value) for name, value in self.changed().items()}
        for name, setting in own.items():
            value = getattr(self, name)
            if isinstance(setting.kind, References) and (value or setting.is_required):
                written[setting.kind.plural] = [reference.to_item() for reference in value if not reference.repeats]
            elif isinstance(setting.kind, PictureKind) and value is not None:
                written[name] = value
        return written


def _is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _check_names(settings: Mapping[str, Any], cls: type[Unit]) -> None:
    """Raises UnitError for a field that no unit has."""
    kinds = {name: setting.kind for name, setting in settings_of(cls).items()}
    known = [name for name, kind in kinds.items() if not isinstance(kind, References)]
    known += [name for kind in kinds.values() if isinstance(kind, References) for name in kind.names]
    for name in settings:
        if name not in known:
            raise UnitError(f"unknown field {Wording.API.shown(name)}: known are {', '.join(known)}.")


def conflicts(values: Mapping[str, Any], wording: Wording = Wording.API) -> Iterator[tuple[tuple[str, ...], str]]:
    """The fields that do not go together, though each value is one that it may have, with a sentence for each group.

    ``values`` are a unit's by name, its defaults included.
    """
    own = settings_of(Unit)

    def called(name: str) -> str:
        return own[name].called(wording)

    for window in (WINDOW, KEYPOINTS_WINDOW):
        start, end = window
        if values[start] >= values[end]:
            yield (
                window,
                (
                    f"{called(start)} is {values[start]:g} and {called(end)} is {values[end]:g}: no step lies between; "
                    f"make {called(start)} less than {called(end)}."
                ),
            )
    weight_type = values["weight_type"]
    if values["layer_weights"] is not None and weight_type not in ("linear", *INVERTING):
        yield FACTORS, (
            f"{called('weight_type')} is “{weight_type}” and {called('layer_weights')} are given too, which take its "
            "place: leave one out."
        )  # fmt: skip


def to_objects(units: Sequence[Unit], count: int = 0) -> list[dict[str, Any]]:
    """Units -> API objects in the places that the units' numbers say, at least ``count``; the other places are disabled
    units."""
    objects: list[dict[str, Any]] = [{"enabled": False}] * max([count, *(unit.number for unit in units)])
    for unit in units:
        objects[unit.number - 1] = unit.to_object()
    return objects


def parse_units(
    objects: Sequence[object],
    wording: Wording = Wording.API,
    later: Mapping[int, Collection[str]] | None = None,
) -> list[Unit]:
    """API objects -> the enabled units, numbered by their places from 1 on. Errors name the unit.

    ``later``: the fields that are set afterwards, by the unit's number.
    """
    if len(objects) > MAX_UNITS:
        raise UnitError(f"IP-Adapter: more than {MAX_UNITS} units are given: leave out what exceeds {MAX_UNITS}.")
    units = []
    for number, settings in enumerate(objects, 1):
        try:
            units.append(Unit.parse(settings, number, wording, (later or {}).get(number, ())))
        except UnitError as error:
            raise error.in_unit(number) from None
    return [unit for unit in units if unit.enabled]
