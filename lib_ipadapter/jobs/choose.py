"""Which adapter a unit takes where nobody has chosen one, and what to get where there is none.

An adapter may be taken that was made for the checkpoint, and whose image encoder or face pack is here. Of several, one
that was used lately comes first, then what its content says: the kinds in ``KINDS``, and those for faces last. Content
does not tell a "plus" from the ones trained on faces or on composition: there, and only there, the file's name counts,
as it does for the variants that shapes leave open (``checkpoint/ties.py``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..checkpoint.wanted import ENCODERS
from ..downloads import published
from ..encode.faces.face import PACKS
from ..errors import CheckpointError, IPAdapterError, printable
from .fit import encoder_for, fits, recogniser

if TYPE_CHECKING:
    from pathlib import Path

    from ..attend.layers import Topology
    from ..checkpoint.catalog import Catalog
    from ..checkpoint.entries import AdapterEntry

KINDS = ("plus", "base", "redux", "xlabs", "instantx")
FACES = (
    "faceid-plus-v2", "instantid", "faceid-plus", "faceid", "faceid-portrait", "faceid-portrait-unnorm", "plus",
    "full-face",
)  # fmt: skip
_FACE = re.compile(r"(?<![a-z])faces?(?![a-z])")
_COMPOSITION = re.compile(r"(?<![a-z])composition(?![a-z])")
_LIGHT = re.compile(r"(?<![a-z])light(?![a-z])")

HasPack = Callable[[str], bool]  # whether a face pack of that name is here


def is_for_faces(adapter: AdapterEntry) -> bool:
    """Whether it was trained to show a person's face."""
    spec = adapter.spec
    if spec.source.startswith("face") or spec.variant == "full-face":
        return True
    return spec.variant == "plus" and _FACE.search(_stem(adapter)) is not None


def is_for_composition(adapter: AdapterEntry) -> bool:
    """Whether it was trained to give a picture's arrangement alone."""
    return not is_for_faces(adapter) and _COMPOSITION.search(_stem(adapter)) is not None


def _stem(adapter: AdapterEntry) -> str:
    return adapter.path.stem.casefold().replace("_", " ")


def _rank(adapter: AdapterEntry) -> tuple[object, ...]:
    """The less, the sooner it is taken."""
    spec, faces = adapter.spec, is_for_faces(adapter)
    order = FACES if faces else KINDS
    kind = order.index(spec.variant) if spec.variant in order else len(order)
    retrained = spec.image_encoder is not None
    light = _LIGHT.search(_stem(adapter)) is not None
    return faces, is_for_composition(adapter), retrained, kind, light, adapter.name.casefold()


def in_order(
    catalog: Catalog, topology: Topology, remembered: Sequence[str] = (), *, faces: bool | None = None
) -> list[AdapterEntry]:
    """The adapters that were made for ``topology``, the likeliest first: those ``remembered`` (names, the one used last
    first), then by their kinds. ``faces``: only those for faces, or none of them."""
    used = [name.casefold() for name in remembered]

    def place(adapter: AdapterEntry) -> tuple[object, ...]:
        name = adapter.name.casefold()
        return used.index(name) if name in used else len(used), *_rank(adapter)

    fitting = (one for one in catalog.adapters if fits(one, topology))
    return sorted((one for one in fitting if faces is None or is_for_faces(one) is faces), key=place)


def check_ready(adapter: AdapterEntry, catalog: Catalog, has_pack: HasPack | None = None) -> None:
    """Raises CheckpointError, with the file to get, where something is missing that ``adapter`` cannot do without.
    Face packs are looked for only where ``has_pack`` says how."""
    encoder_for(adapter, catalog)
    if adapter.spec.variant == "instantid":
        catalog.find_keypoints_network()
    if not adapter.spec.source.startswith("face"):
        return
    pack = recogniser(adapter.spec)
    if pack not in PACKS:
        raise CheckpointError(f"it is fed by the face recognition {pack}, which is not to be had here: get another.")
    if has_pack is not None and not has_pack(pack):
        from ..encode.faces import packs  # not when the WebUI starts

        raise packs.missing(pack)


def is_ready(adapter: AdapterEntry, catalog: Catalog, has_pack: HasPack | None = None) -> bool:
    """Whether everything is here that ``adapter`` needs."""
    try:
        check_ready(adapter, catalog, has_pack)
    except IPAdapterError:
        return False
    return True


def chosen(
    catalog: Catalog, topology: Topology | None, remembered: Sequence[str] = (), *, faces: bool | None = None,
    has_pack: HasPack | None = None,
) -> AdapterEntry | None:  # fmt: skip
    """The adapter for a unit that has none, for a checkpoint of ``topology`` (None: not known); None where none is
    ready. ``remembered``: names of those used with such checkpoints, the last one first. ``faces``: True for one that
    shows a face, False for none of these, None for any."""
    if topology is None:
        return None
    found = in_order(catalog, topology, remembered, faces=faces)
    return next((adapter for adapter in found if is_ready(adapter, catalog, has_pack)), None)


def missing(catalog: Catalog, topology: Topology) -> str:
    """A sentence for where no adapter fits: which file to get, and where to put it; and so of the image encoder that it
    needs, unless it is here."""
    base = topology.base
    file = published.starter(base)
    if file is None:
        bases = " or ".join(one.base for one in published.PUBLISHED if one.starter)
        return f"no adapter here is for {base}: get one, or load a checkpoint for {bases}."
    parts = [f"no adapter here is for {base}: {_get(file, catalog.adapter_folders, 'ipadapter')}"]
    lacking = [published.named(name) for name in file.needs if not is_here(name, catalog)]
    parts += [f"for its image encoder {_get(one, catalog.encoder_folders, 'clip_vision')}" for one in lacking]
    return f"{'; '.join(parts)}, and refresh the list of models."


def _get(file: published.Published, folders: Sequence[Path], name: str) -> str:
    """How to get a file into the one of ``folders`` that is called ``name``, or into the first."""
    folder = next((one for one in folders if one.name == name), None) or next(iter(folders), None)
    where = printable(str(folder or f"models/{name}"))
    renamed = f" as {file.name}" if not file.path.endswith(file.name) else ""
    return f"download {file.path} from {file.repo}, put it into {where}{renamed}"


def is_here(name: str, catalog: Catalog) -> bool:
    """Whether a published file of that name is here, or an encoder of its kind under another name."""
    entries = (*catalog.adapters, *catalog.encoders, *catalog.keypoints_networks)
    kind = next((kind for kind, wanted in ENCODERS.items() if wanted.save_as == name), None)
    return any(entry.file_name == name for entry in entries) or any(
        entry.spec.kind == kind and entry.spec.image_encoder is None for entry in catalog.encoders
    )
