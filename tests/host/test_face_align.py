"""The aligned crop of a face, against insightface's own and against its formula."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_ipadapter.encode.faces.align import aligned, similarity, template
from tests.helpers.face_pack import astronaut
from tests.setup import faces as setup

UPRIGHT = ((205.0, 103.0), (244.0, 106.0), (222.0, 128.0), (207.0, 141.0), (241.0, 144.0))  # of the astronaut
TURNED = tuple((511.0 - y, x) for x, y in UPRIGHT)  # in the picture turned clockwise
SMALL = tuple((100 + (x - 222) / 5, 100 + (y - 120) / 5) for x, y in UPRIGHT)
NORM_CROP = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from insightface.utils.face_align import norm_crop
given = np.load(sys.argv[2])
crops = {}
for size in (112, 224, 256, 336):
    crop = norm_crop(given["picture"][:, :, ::-1].copy(), given["landmarks"], size)
    crops[str(size)] = crop[:, :, ::-1]
np.savez(sys.argv[3], **crops)
"""


@pytest.mark.downloads
@pytest.mark.parametrize(
    ("turn", "landmarks"), [(0, UPRIGHT), (90, TURNED), (0, SMALL)], ids=["upright", "turned", "small"]
)
def test_crops_are_insightfaces(tmp_path: Path, turn: int, landmarks: tuple) -> None:
    picture = astronaut().rotate(-turn)
    given, made = tmp_path / "given.npz", tmp_path / "made.npz"
    np.savez(given, picture=np.asarray(picture), landmarks=np.array(landmarks, np.float32))
    arguments = [sys.executable, "-I", "-S", "-c", NORM_CROP, str(setup.ready().packages), str(given), str(made)]
    subprocess.run(arguments, check=True, capture_output=True)
    for size in (112, 224, 256, 336):
        ours = np.asarray(aligned(picture, landmarks, size)).astype(int)
        apart = np.abs(ours - np.load(made)[str(size)].astype(int))
        assert ours.shape == (size, size, 3)
        assert apart.mean() < 0.6 and apart.max() <= 4, (size, apart.mean(), apart.max())  # of 255: Pillow rounds down


def umeyama(points: np.ndarray, there: np.ndarray) -> np.ndarray:
    """[2, 3]: Umeyama's similarity by singular values, as skimage has it."""
    a, b = points - points.mean(0), there - there.mean(0)
    u, s, v = np.linalg.svd(b.T @ a / len(a))
    signs = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(v))])
    turn = u @ np.diag(signs) @ v
    scale = (s * signs).sum() / a.var(0).sum()
    return np.hstack([scale * turn, (there.mean(0) - scale * turn @ points.mean(0))[:, None]])


@pytest.mark.parametrize("size", [112, 128, 224, 256, 336, 448])
def test_the_transform_is_umeyamas(size: int) -> None:
    for landmarks in (UPRIGHT, TURNED, SMALL):
        there = template(size)
        matrix = umeyama(np.array(landmarks), np.stack([there.real, there.imag], 1))
        a, b = similarity(landmarks, size)
        assert np.allclose(matrix, [[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def test_pixels_are_read_between_their_middles() -> None:
    picture = astronaut()
    pixels, (a, b) = np.asarray(picture).astype(float), similarity(UPRIGHT, 112)
    crop = np.asarray(aligned(picture, UPRIGHT, 112)).astype(float)
    for x, y in ((0, 0), (30, 77), (56, 56), (111, 40)):
        there = (complex(x, y) - b) / a
        left, top = int(np.floor(there.real)), int(np.floor(there.imag))
        s, t = there.real - left, there.imag - top
        near = pixels[top : top + 2, left : left + 2]
        expected = (1 - t) * ((1 - s) * near[0, 0] + s * near[0, 1]) + t * ((1 - s) * near[1, 0] + s * near[1, 1])
        assert np.abs(crop[y, x] - expected).max() <= 1


def test_beyond_the_picture_is_black() -> None:
    white = Image.new("RGB", (300, 300), "white")
    corner = tuple((x - 205, y - 103) for x, y in UPRIGHT)
    crop = np.asarray(aligned(white, corner, 112))
    assert crop[0, 0].max() == 0 and crop[111, 111].min() == 255


def test_landmarks_in_one_point_have_no_transform() -> None:
    with pytest.raises(ValueError, match="one point"):
        similarity([(3.0, 3.0)] * 5, 112)
