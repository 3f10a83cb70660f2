"""InstantID through ControlNet: one unit of ours fills two of its units for the run.

InstantID is an adapter that is fed with a recognised face, and a ControlNet that is fed with the face's five points and
whose context are the adapter's tokens. ControlNet has the face recognition and the second network, and it takes the
tokens only from a unit of its own (sd-webui-controlnet: just before the one with the points; Forge's: for all of its
networks); so both are its units.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ...attend.layers import Topology
from ...bases import SDXL
from ...checkpoint.catalog import Catalog
from ...checkpoint.containers import read_shapes
from ...checkpoint.control import FILE
from ...checkpoint.entries import AdapterEntry
from ...encode.picture import Picture
from ...errors import CheckpointError, IPAdapterError, UnitError, errors_name_unit
from ...jobs.fit import check_fit, with_variant
from ...jobs.planned import PlannedReference
from ...unit import Unit
from .. import host
from ..host import ControlNet
from . import controlnet
from .controlnet import ControlNetUnitView
from .controlnet.models import MAX_WEIGHT, label

VARIANT = "instantid"
APPLIED = ("weight", "start", "end", "keypoints_weight")  # of a unit's fields; the others have no counterpart


@dataclass(frozen=True)
class Filled:
    """A unit of ours that ControlNet's units do the work of."""

    unit: Unit
    adapter: AdapterEntry
    references: tuple[PlannedReference, ...]
    negatives: tuple[PlannedReference, ...] = ()
    region_hash: str | None = None
    pose_hash: str | None = None

    @property
    def number(self) -> int:
        return self.unit.number


class Hooked:
    """Whether ControlNet has taken up its units: the host swallows whatever goes wrong when it does."""

    def __init__(self, p: Any) -> None:
        """``p`` has ControlNet's units, filled."""
        views = controlnet.units_of(p) or []
        self.home = views[0].home
        self.has_failed = self.home.watch(controlnet.script(p), sum(view.enabled for view in views))

    def check(self, number: int) -> None:
        """Raises IPAdapterError where ControlNet has failed. Call it after every ``process``."""
        if self.has_failed():
            raise IPAdapterError(
                f"{self.home.title} could not set up InstantID; the console's log says why: most often there is no "
                "face in the picture, or its face recognition (antelopev2) is missing."
            ).in_unit(number)


def fill(p: Any, units: Sequence[Unit], catalog: Catalog, topology: Topology) -> tuple[list[Unit], list[Filled]]:
    """Fill ControlNet's units for every InstantID unit among ``units``; returns the others, and what was filled.

    Raises IPAdapterError (unit named) with everything that is missing; nothing is changed then.
    """
    left, filled = [], []
    for unit in units:
        entry = _instantid(unit, catalog)
        if entry is None:
            left.append(unit)
            continue
        with errors_name_unit(unit.number):
            check_fit(entry, topology, catalog)
            filled.append(Filled(unit, entry, _fill(p, unit, entry)))
    return left, filled


def _instantid(unit: Unit, catalog: Catalog) -> AdapterEntry | None:
    try:
        entry = with_variant(catalog.find(unit.model), unit)
    except (CheckpointError, UnitError):
        return None  # its own sentence is told when the unit is prepared
    return entry if entry.spec.variant == VARIANT else None


def _fill(p: Any, unit: Unit, entry: AdapterEntry) -> tuple[PlannedReference, ...]:
    views = controlnet.units_of(p)
    if views is None:
        expected = host.current().expected_controlnet()
        raise UnitError(
            f"InstantID is left to {expected.product}, which is not there: let it run by itself (Settings, "
            f"IP-Adapter), or {expected.remedy}."
        )
    home = views[0].home
    if controlnet.has_begun_batch(p):
        raise UnitError("InstantID cannot join ControlNet's batch of files: set ControlNet's units to single pictures.")
    weight, reference = _checked_weight(unit, home.title), unit.references[0]
    weight *= reference.weight
    if not 0 <= weight <= MAX_WEIGHT:
        raise UnitError(f"weight is {weight:g}: InstantID runs in {home.title}, which allows 0 to {MAX_WEIGHT:g}.")
    picture = Picture.of(reference.image)
    if picture.carries_embeddings:
        raise UnitError("embeddings cannot go to ControlNet: give a photo, or let InstantID run by itself (Settings).")
    face, points = _models(home, entry)
    places = _free(views)
    common = {
        "enabled": True, "guidance_start": unit.start, "guidance_end": unit.end, "pixel_perfect": True,
        **home.picture_fields([(np.asarray(picture.image), None)], None),
    }  # fmt: skip
    units = [
        home.unit(**common, module=home.instantid.face, model=face, weight=weight),
        home.unit(**common, module=home.instantid.points, model=points, weight=unit.keypoints_weight),
    ]
    controlnet.replace(p, dict(zip(places, units, strict=True)))
    return (PlannedReference(picture.content_hash, reference.weight),)


def _checked_weight(unit: Unit, title: str) -> float:
    """The unit's weight. Raises UnitError for settings that ControlNet cannot honour."""
    if (count := sum(not one.repeats for one in unit.references)) != 1:
        raise UnitError(f"InstantID takes one photo, not {count}: leave one.")
    if len(unit.references) != 1:
        raise UnitError(
            f"InstantID in {title} has one photo for all pictures of a batch, and these begin with different ones: set "
            "the batch size to 1, give a photo, or let InstantID run by itself (Settings, IP-Adapter)."
        )
    foreign = [name for name in unit.changed() if name not in (*APPLIED, "combine")]
    foreign += ["folder of references"] * (unit.references[0].folder is not None)
    foreign += ["keypoints image"] * (unit.keypoints_image is not None)
    foreign += ["region mask"] * (unit.region_mask is not None) + ["negative images"] * bool(unit.negative_references)
    foreign += ["mask of a reference"] * (unit.references[0].mask is not None)
    foreign += ["region of a reference"] * (unit.references[0].region is not None)
    foreign += ["weight curve"] * isinstance(unit.weight, tuple)
    if foreign or isinstance(unit.weight, tuple):
        raise UnitError(f"InstantID runs in {title}, which has no {' or '.join(foreign)}: leave it at its default.")
    return unit.weight


def _free(views: Sequence[ControlNetUnitView]) -> tuple[int, int]:
    """Two disabled units, one after the other where ControlNet wants that."""
    home = views[0].home
    off = [view for view in views if not view.enabled]
    for first, second in pairwise(off):
        if second.number == first.number + 1 or not home.instantid.side_by_side:
            return first.number, second.number
    where = " that stand side by side" if home.instantid.side_by_side else ""
    raise UnitError(
        f"InstantID fills two units of {home.title}{where}, and no two such are disabled: disable them, or raise their "
        "number in Settings, ControlNet."
    )


def _models(home: ControlNet, entry: AdapterEntry) -> tuple[str, str]:
    """What ControlNet calls the adapter and the network of the points.

    Raises UnitError that names all that is missing.
    """
    files = home.models()
    face, points = label(entry.path, files), _points(home, files)
    if face is None or points is None:  # put there since it has looked
        files = home.models(anew=True)
        face, points = label(entry.path, files), _points(home, files)
    missing = _missing(home, entry, face and str(files.get(face) or entry.path), points)
    if missing or face is None or points is None:
        raise UnitError(f"for InstantID, {home.title} lacks {'; and '.join(missing)}.")
    return face, points


def _missing(home: ControlNet, entry: AdapterEntry, face: str | None, points: str | None) -> list[str]:
    """``face`` is the file that it has of the adapter, ``points`` what it calls the network of the points."""
    missing, names = [], home.instantid
    part = names.name_parts[0]
    if face is None:
        missing.append(f"{entry.file_name} in a folder that it searches, such as models/ControlNet")
    elif names.names_adapter and not any(one in face for one in names.name_parts):
        missing.append(f"{entry.file_name} under a name with “{part}” in it, which is all it goes by")
    if points is None:
        missing.append(f"{FILE}, saved as models/ControlNet/control_{part}_sdxl.safetensors")
    if not {names.face, names.points} <= set(home.modules()):
        missing.append(f"a newer version of itself, with the preprocessors {names.face} and {names.points}")
    packages = [name for name in ("insightface", "onnxruntime") if not _installed(name)]
    if packages:
        missing.append(f"the Python package {' and '.join(packages)} (pip install {' '.join(packages)})")
    return missing


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _points(home: ControlNet, files: Mapping[str, Any]) -> str | None:
    """What ControlNet calls InstantID's network of the points: by its name, because any ControlNet for SDXL has its
    shapes, and by those, because InstantID's adapter has the same name."""
    for one, file in files.items():
        is_named = file is not None and any(part in str(file).lower() for part in home.instantid.name_parts)
        if is_named and _is_sdxl_controlnet(Path(file)):
            return one
    return None


def _is_sdxl_controlnet(file: Path) -> bool:
    try:
        shapes = read_shapes(file)
    except (IPAdapterError, OSError):
        return False
    hints = any("controlnet_cond_embedding." in key or "input_hint_block." in key for key in shapes)
    contexts = {shape[-1] for key, shape in shapes.items() if key.endswith("attn2.to_k.weight")}
    return hints and contexts == {SDXL.context_width} and not any("control_add_embedding." in key for key in shapes)
