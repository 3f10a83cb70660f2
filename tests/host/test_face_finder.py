"""Finding people in photographs, with insightface, a real detector and a recogniser that tells people apart."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from lib_ipadapter.encode.faces.face import Face
from lib_ipadapter.encode.faces.finder import InsightFace
from lib_ipadapter.encode.faces.packs import FILES
from lib_ipadapter.errors import CheckpointError, PictureError
from tests.helpers.face_pack import astronaut, finder, noise, photo, write_archive, write_shim
from tests.setup import faces as setup

pytestmark = pytest.mark.downloads

NO_NETWORK = """
import os
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system"):
        print(event, arguments, file=sys.stderr, flush=True)
        os._exit(99)
sys.addaudithook(hook)
"""
PEOPLE = ("person_a_1", "person_a_2", "person_b_1", "person_b_2", "impostor_1", "impostor_2")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InsightFace]:
    """Whose process ends if it asks the network for anything, or starts another."""
    made = finder(None, write_shim(tmp_path_factory.mktemp("faces") / "shim", NO_NETWORK))
    yield made
    made.end()


@pytest.fixture(scope="module")
def people(faces: InsightFace) -> dict[str, Face]:
    found = {name: faces.find(photo(name), "buffalo_l") for name in PEOPLE}
    assert all(len(one.faces) == 1 and one.how == "" for one in found.values())
    return {name: one.faces[0] for name, one in found.items()}


def cosine(one: Face, other: Face) -> float:
    return float(F.cosine_similarity(one.embedding, other.embedding, dim=0))


def test_two_photos_of_a_person_are_nearer_than_two_people(people: dict[str, Face]) -> None:
    for face in people.values():
        assert face.embedding.shape == (512,) and face.embedding.dtype == torch.float32
        assert face.embedding.norm() > 2  # as it comes, not brought to length 1
        assert face.score > 0.8
    near = [cosine(people[f"person_{who}_1"], people[f"person_{who}_2"]) for who in "ab"]
    far = [
        cosine(people[one], people[other])
        for one in PEOPLE
        for other in PEOPLE
        if one.rpartition("_")[0] != other.rpartition("_")[0] or (one != other and "impostor" in one)
    ]
    assert min(near) > 0.6 and max(far) < 0.25 and len(far) == 26


INSIGHTFACE = """
import sys
sys.path.insert(0, sys.argv[1])
import cv2, numpy as np
from insightface.app.common import Face
from insightface.model_zoo import get_model
detector = get_model(sys.argv[2] + "/det_10g.onnx", providers=["CPUExecutionProvider"])
recogniser = get_model(sys.argv[2] + "/w600k_r50.onnx", providers=["CPUExecutionProvider"])
picture = cv2.imread(sys.argv[3])
boxes, landmarks = detector.detect(picture, input_size=(640, 640))
face = Face(bbox=boxes[0, :4], kps=landmarks[0], det_score=boxes[0, 4])
recogniser.get(picture, face)
np.savez(sys.argv[4], box=face.bbox, landmarks=face.kps, embedding=face.embedding)
"""


@pytest.mark.parametrize("name", ["person_a_1", "person_b_2"])
def test_box_landmarks_and_embedding_are_insightfaces(people: dict[str, Face], name: str, tmp_path: Path) -> None:
    files, given, made = setup.ready(), tmp_path / "photo.png", tmp_path / "face.npz"
    photo(name).save(given)
    arguments = [str(files.packages), str(files.packs / "buffalo_l"), str(given), str(made)]
    subprocess.run([sys.executable, "-I", "-S", "-c", INSIGHTFACE, *arguments], check=True, capture_output=True)
    face, theirs = people[name], np.load(made)
    assert np.allclose(face.box, theirs["box"], atol=0.01) and np.allclose(
        face.landmarks, theirs["landmarks"], atol=0.01
    )
    assert F.cosine_similarity(face.embedding, torch.tensor(theirs["embedding"]), dim=0) > 0.999


@pytest.mark.parametrize("turn", [90, 180, 270])
@pytest.mark.parametrize("name", ["person_a_2", "person_b_1", "impostor_1"])
def test_photos_that_are_not_upright(faces: InsightFace, people: dict[str, Face], name: str, turn: int) -> None:
    """A detector finds these faces as they are. Recognition sees nobody then: the photo has to be turned."""
    given = photo(name).rotate(turn, expand=True)
    found = faces.find(given, "buffalo_l")
    assert found.how == f"after a turn by {turn}°"
    assert cosine(found.faces[0], people[name]) > 0.98


def test_a_group_from_left_to_right(faces: InsightFace, people: dict[str, Face]) -> None:
    group, x = Image.new("RGB", (1800, 700), (90, 110, 90)), 0
    order = ("impostor_2", "person_a_2", "person_b_1")
    for name, height in zip(order, (400, 690, 550), strict=True):
        one = photo(name)
        one = one.resize((one.width * height // one.height, height))
        group.paste(one, (x, 700 - height))
        x += 600
    found = faces.find(group, "buffalo_l").faces
    assert len(found) == 3
    for face, name in zip(found, order, strict=True):
        assert max(people, key=lambda one: cosine(face, people[one])) == name and cosine(face, people[name]) > 0.8
    assert max(found, key=lambda face: face.area) is found[1]
    assert [face.box[0] // 600 for face in found] == [0, 1, 2]


@pytest.mark.parametrize("name", ["person_a_2", "impostor_2"])
def test_a_face_that_fills_its_picture(faces: InsightFace, people: dict[str, Face], name: str) -> None:
    found = faces.find(photo(name).crop(tuple(map(int, people[name].box))), "buffalo_l")
    assert found.how and max(people, key=lambda one: cosine(found.faces[0], people[one])) == name
    assert cosine(found.faces[0], people[name]) > 0.8


def test_the_crop_of_a_large_photo_is_cut_from_the_photo_itself(faces: InsightFace, people: dict[str, Face]) -> None:
    name = "person_b_2"
    large = photo(name).resize((689 * 5, 900 * 5), Image.Resampling.BICUBIC)
    [face] = faces.find(large, "buffalo_l").faces
    assert np.allclose(face.box, np.array(people[name].box) * 5, atol=30)
    assert cosine(face, people[name]) > 0.9


def test_tiny_faces(faces: InsightFace) -> None:
    clear = faces.find(astronaut(), "buffalo_l").faces[0]
    small = faces.find(astronaut().resize((64, 64), Image.Resampling.BILINEAR), "buffalo_l").faces[0]
    assert np.allclose(np.array(small.box) * 8, clear.box, atol=20)
    lost = Image.new("RGB", (3000, 2000), (90, 110, 90))
    lost.paste(astronaut().resize((180, 180), Image.Resampling.BILINEAR), (2500, 300))
    found = faces.find(lost, "buffalo_l")
    left, top, right, bottom = found.faces[0].box
    assert found.how == "at detection size 1280" and 2500 < left < right < 2680 and 300 < top < bottom < 480


def cartoon(eye: float) -> Image.Image:
    """A drawn head; ``eye``: how large its eyes are."""
    skin, hair = (255, 214, 170), (90, 50, 30)
    picture = Image.new("RGB", (512, 512), (120, 180, 230))
    drawing = ImageDraw.Draw(picture)
    drawing.rectangle((196, 380, 316, 512), skin)
    drawing.ellipse((120, 40, 392, 260), hair)
    drawing.ellipse((136, 90, 376, 420), skin)
    drawing.polygon([(130, 170), (200, 80), (330, 80), (384, 170), (330, 120), (190, 125)], hair)
    for x in (200, 312):
        drawing.ellipse((x - 34 * eye, 205 - 20 * eye, x + 34 * eye, 205 + 20 * eye), "white", (40, 30, 30), 4)
        drawing.ellipse((x - 15 * eye, 205 - 15 * eye, x + 15 * eye, 205 + 15 * eye), (60, 90, 140))
        drawing.ellipse((x - 7, 198, x + 7, 212), "black")
        drawing.line((x - 38, 168, x + 38, 164), (60, 35, 20), 8)
    drawing.line((256, 215, 246, 285, 262, 288), (190, 140, 110), 5)
    drawing.arc((206, 290, 306, 360), 20, 160, (170, 50, 50), 9)
    return picture


@pytest.mark.parametrize(("eye", "how"), [(1.0, "at detection size 192"), (1.7, "with a detection threshold of 0.3")])
def test_drawn_faces(faces: InsightFace, eye: float, how: str) -> None:
    found = faces.find(cartoon(eye), "buffalo_l")
    [face] = found.faces
    assert found.how.endswith(how) and np.allclose(face.box, (136, 100, 376, 410), atol=15)


@pytest.mark.parametrize("picture", [noise(), Image.new("RGB", (700, 400), "white")], ids=["noise", "white"])
def test_no_face(faces: InsightFace, picture: Image.Image) -> None:
    with pytest.raises(PictureError, match="no face was found, neither at detection sizes from"):
        faces.find(picture, "buffalo_l")


def test_a_pack_in_its_archive(tmp_path: Path) -> None:
    pack = setup.ready().packs / "buffalo_l"
    members = {f"buffalo_l/{file}": (pack / file).read_bytes() for file in FILES["buffalo_l"]}
    write_archive(tmp_path / "models" / "buffalo_l.zip", members)
    made = finder([tmp_path], cache=tmp_path / "cache")
    try:
        assert len(made.find(astronaut(), "buffalo_l").faces) == 1
    finally:
        made.end()


def test_networks_that_are_not_what_their_names_say(tmp_path: Path) -> None:
    pack, place = setup.ready().packs / "buffalo_l", tmp_path / "buffalo_l"
    place.mkdir()
    for file, other in zip(FILES["buffalo_l"], reversed(FILES["buffalo_l"]), strict=True):
        (place / file).write_bytes((pack / other).read_bytes())
    made = finder([tmp_path])
    try:
        with pytest.raises(
            CheckpointError, match="det_10g.onnx of the face pack buffalo_l in .* is no network for detec"
        ):
            made.find(astronaut(), "buffalo_l")
        for content in (
            b"",
            b"version https://git-lfs.github.com/spec/v1",
            (pack / "det_10g.onnx").read_bytes()[:9999],
        ):
            (place / "det_10g.onnx").write_bytes(content)
            with pytest.raises(
                CheckpointError, match=r"det_10g.onnx .* cannot be used \(.*\): download .*buffalo_l.zip"
            ):
                made.find(astronaut(), "buffalo_l")
        for file in FILES["buffalo_l"]:  # and the same process goes on
            (place / file).write_bytes((pack / file).read_bytes())
        assert made.find(astronaut(), "buffalo_l").faces
    finally:
        made.end()


CARD = """
real.get_available_providers = lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]

class Session(real.InferenceSession):
    def __init__(self, *arguments, providers=(), **settings):
        if list(providers) != ["CPUExecutionProvider"]:
            raise SystemExit("a card was asked for")
        super().__init__(*arguments, providers=providers, **settings)

real.InferenceSession = Session
"""


def test_faces_take_nothing_from_a_card(tmp_path: Path, people) -> None:
    made = finder(None, write_shim(tmp_path / "shim", CARD))
    try:
        [face] = made.find(photo("person_a_1"), "buffalo_l").faces
    finally:
        made.end()
    assert cosine(face, people["person_a_1"]) > 0.9999
