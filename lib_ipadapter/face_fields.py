"""The declarations of the fields that only adapters for faces have."""

from __future__ import annotations

from .fields import EXPERT, TRANSFERS, WHEN, WHERE, PanelPlace, declared
from .kinds import Choice, FaceNumber, Number, PictureKind

LORA = ("faceid", "faceid-plus", "faceid-plus-v2")  # variants that carry a LoRA
FACES = (*LORA, "faceid-portrait", "faceid-portrait-unnorm", "instantid")  # that are fed with a face
UNTOLD = ("faceid-plus", "faceid-plus-v2", "instantid", "faceid-portrait-unnorm")  # that shapes do not tell apart

VARIANT = declared(
    Choice(("auto", *UNTOLD)),
    PanelPlace(
        "Variant",
        "What the adapter is where its file leaves that open: FaceID-Plus v1 or v2, InstantID or portrait-unnorm.",
        order=20,
        group=EXPERT,
    ),
    about="what the adapter is, where its file leaves it open (FaceID-Plus or its version 2, InstantID or "
    'portrait-unnorm); `"auto"` goes by the file\'s hash, name and precision',
    variants=UNTOLD,
)
FACE_INDEX = declared(
    FaceNumber(),
    PanelPlace("Face", "Which face of a photo: largest, or its number from left to right.", order=21, group=TRANSFERS),
    about="which face of a reference: the largest, or a number from left to right, from 1 on",
    variants=FACES,
)
FACEID_V2_WEIGHT = declared(
    Number(-1, 5),
    PanelPlace(
        "Face structure",
        "How much of the photo's face, beside its identity, FaceID-Plus v2 sees.",
        order=22,
        group=TRANSFERS,
        step=0.05,
    ),
    about="FaceID-Plus v2: how much of what the image encoder sees is added to the identity (the shortcut's scale)",
    variants=("faceid-plus-v2",),
)
LORA_STRENGTH = declared(
    Number(0, 2),
    PanelPlace(
        "LoRA strength", "The strength of the LoRA that the FaceID file carries.", order=23, group=EXPERT, step=0.05
    ),
    about="strength of the LoRA that FaceID files carry; it acts by itself in the unit's steps, and is left out, with "
    "a note, where the prompt names a FaceID LoRA",
    changes_tokens=False,
    variants=LORA,
)
KEYPOINTS_WEIGHT = declared(
    Number(0, 2),
    PanelPlace(
        "Keypoints strength",
        "How strictly InstantID keeps the face where it is in the reference.",
        order=24,
        group=WHERE,
        step=0.05,
    ),
    about="InstantID: how strictly the face stays where it is in the reference; 0 does without the keypoints network",
    changes_tokens=False,
    variants=("instantid",),
)
KEYPOINTS_START = declared(
    Number(0, 1),
    PanelPlace(
        "Keypoints start",
        "The share of the steps after which InstantID's keypoints begin to act.",
        order=25,
        group=WHEN,
    ),
    about="InstantID: share of the sampling steps after which the keypoints begin to act",
    changes_tokens=False,
    variants=("instantid",),
)
KEYPOINTS_END = declared(
    Number(0, 1),
    PanelPlace(
        "Keypoints end", "The share of the steps after which InstantID's keypoints act no more.", order=26, group=WHEN
    ),
    about="InstantID: share of the sampling steps after which the keypoints act no more",
    changes_tokens=False,
    variants=("instantid",),
)
KEYPOINTS_IMAGE = declared(
    PictureKind(),
    about="InstantID: a picture whose face says where the face stands, in the place of the reference's",
    changes_tokens=False,
    variants=("instantid",),
)
