"""What a reference of an adapter for faces shows: the faces that were found, and the crop that is looked at."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw

from ...checkpoint.catalog import Catalog
from ...checkpoint.entries import AdapterEntry
from ...encode.faces.align import SIDE, aligned
from ...encode.faces.choice import chosen
from ...encode.faces.face import Face, Found
from ...encode.faces.photo import in_whole, photo
from ...encode.picture import Mask, Picture
from ...errors import UnitError
from ...jobs.faces import faces_in
from ...jobs.fit import encoder_for, recogniser, seen_size, with_variant
from ...jobs.planned import PlannedReference
from ...jobs.resources import Resources
from ...unit import Unit
from . import html_controls

CHOSEN, OTHER = (34, 197, 94), (234, 179, 8)  # colours of the frames around faces


@dataclass(frozen=True)
class FaceLook:
    """How faces are looked for: who finds and recognises them, in what ``crop`` leaves, which of them is meant, and the
    side in pixels of what an encoder, or recognition, is shown."""

    resources: Resources
    pack: str
    crop: str
    face_index: int | str
    size: int

    @property
    def name(self) -> tuple[Any, ...]:
        """What is drawn by it is remembered by this."""
        return ("faces", self.pack, self.crop, self.face_index, self.size)

    def at(self, picture: Picture, mask: Mask | None) -> FacesSeen:
        """Raises IPAdapterError where there is no face, or nothing to find it with."""
        reference = PlannedReference(
            picture.content_hash, 1.0, None if mask is None else mask.content_hash, picture, mask
        )
        found = faces_in(reference, self.crop, self.pack, self.resources, lambda _text: None)
        try:
            return FacesSeen(picture.size, self.crop, found, chosen(found, self.face_index))
        except UnitError as error:
            return FacesSeen(picture.size, self.crop, found, None, error.detail)


def face_look(unit: Unit, resources: Resources) -> FaceLook | None:
    """For the unit's adapter; None for one that takes no faces. Raises IPAdapterError for one that is not there."""
    adapter = with_variant(resources.catalog.find(unit.model), unit)
    if not adapter.spec.source.startswith("face"):
        return None
    size = seen_side(unit, adapter, resources.catalog)
    return FaceLook(resources, recogniser(adapter.spec), unit.crop, unit.face_index, size)


def seen_side(unit: Unit, adapter: AdapterEntry, catalog: Catalog) -> int:
    """The side, in pixels, of what the adapter's image encoder is shown, or recognition where it has none. Raises
    IPAdapterError for an encoder that is not there."""
    encoder = encoder_for(adapter, catalog, unit.encoder)
    return SIDE if encoder is None else seen_size(unit, adapter, encoder)


@dataclass(frozen=True)
class FacesSeen:
    """The faces in what ``crop`` leaves of a picture of ``size`` (width, height), and the one that is meant; where none
    is, ``problem`` says why."""

    size: tuple[int, int]
    crop: str
    found: Found
    meant: Face | None
    problem: str = ""

    def cut(self, image: Image.Image, mask: Image.Image | None, size: int) -> Image.Image:
        """What is looked at of the whole picture's ``image``: the face that is meant, ``size`` pixels square."""
        assert self.meant is not None, "there is nothing to look at"
        return aligned(photo(image, mask, self.crop), self.meant.landmarks, size)

    def box(self, face: Face) -> tuple[float, float, float, float]:
        """Of a face in the whole picture: left, top, right, bottom in pixels."""
        left, top = in_whole(face.box[:2], self.size, self.crop)
        right, bottom = in_whole(face.box[2:], self.size, self.crop)
        return left, top, right, bottom

    def marked(self, image: Image.Image) -> Image.Image:
        """The whole picture's ``image`` with a frame around each face, and the landmarks."""
        drawn = image.copy()
        draw = ImageDraw.Draw(drawn)
        width = max(1, round(max(image.size) / 200))
        for face in self.found.faces:
            colour = CHOSEN if face is self.meant else OTHER
            draw.rectangle(self.box(face), outline=colour, width=width)
            for x, y in (in_whole(point, self.size, self.crop) for point in face.landmarks):
                draw.ellipse((x - width, y - width, x + width, y + width), fill=colour)
        return drawn

    def told(self) -> dict[str, Any]:
        """The faces for clients: pixels of the whole picture."""
        return {
            "found": self.found.how or "at once",
            "faces": [
                {
                    "box": [round(number, 2) for number in self.box(face)],
                    "landmarks": [
                        [round(number, 2) for number in in_whole(point, self.size, self.crop)]
                        for point in face.landmarks
                    ],
                    "score": round(face.score, 4),
                    "chosen": face is self.meant,
                }
                for face in self.found.faces
            ],
        }

    def buttons(self) -> str:
        """HTML over the picture: a button for each face where there are several, at its place."""
        count = len(self.found.faces)
        return "".join(self._button(i, face) for i, face in enumerate(self.found.faces, 1)) if count > 1 else ""

    def _button(self, number: int, face: Face) -> str:
        left, top, right, bottom = self.box(face)
        width, height = self.size
        place: Mapping[str, float] = {
            "left": left / width, "top": top / height, "width": (right - left) / width,
            "height": (bottom - top) / height,
        }  # fmt: skip
        style = ";".join(f"{name}:{100 * share:.2f}%" for name, share in place.items())
        is_meant = face is self.meant
        count = len(self.found.faces)
        title = f"Face {number} of {count} is used" if is_meant else f"Face {number} of {count}: click to use it"
        about = html_controls.attributes(
            data_face=number, aria_pressed=str(is_meant).lower(), aria_label=title, title=title, style=style
        )
        return f"<button type='button' class='ip-adapter-face'{about}></button>"


def problem(sentence: str) -> str:
    return f"<em class='ip-adapter-problem'>⚠ {html.escape(sentence)}</em>"
