"""Face packs in the shapes in which people have them, and what is said of those that cannot be used."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from lib_ipadapter.encode.faces import packs
from lib_ipadapter.encode.faces.packages import is_installed
from lib_ipadapter.encode.faces.packs import FILES, find_pack, pack_identity
from lib_ipadapter.errors import CheckpointError
from tests.helpers.face_pack import write_archive, write_pack

ADDRESS = "https://github.com/deepinsight/insightface/releases/download/v0.7/"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("shape", ["{0}", "{0}/{0}", "models/{0}", "models/{0}/{0}", "."])
def test_shapes(tmp_path: Path, name: str, shape: str) -> None:
    place = tmp_path / "insightface" / shape.format(name)
    write_pack(place, name)
    found = find_pack(name, [tmp_path / "none", tmp_path / "insightface"], tmp_path / "cache")
    assert (found.name, found.detection, found.recognition) == (name, *(place / file for file in FILES[name]))
    assert not (tmp_path / "cache").exists()
    other = next(other for other in FILES if other != name)
    with pytest.raises(CheckpointError, match=f"pack {other} is missing"):
        find_pack(other, [tmp_path / "insightface"], tmp_path / "cache")


@pytest.mark.parametrize("place", [".", "models", "antelopev2"])
@pytest.mark.parametrize("inside", ["", "antelopev2/", "antelopev2\\", "/", "../../"])
def test_archives(tmp_path: Path, place: str, inside: str) -> None:
    members = {f"{inside}{file}": file.encode() for file in (*FILES["antelopev2"], "2d106det.onnx")}
    write_archive(tmp_path / "folder" / place / "antelopev2.zip", members)
    found = find_pack("antelopev2", [tmp_path / "folder"], tmp_path / "cache")
    assert found.detection.read_bytes() == b"scrfd_10g_bnkps.onnx"
    assert found.recognition.read_bytes() == b"glintr100.onnx"
    written = list(tmp_path.rglob("*.onnx"))
    assert len(written) == 2 and all(path.parent.parent == tmp_path / "cache" for path in written)
    assert found.detection.parent.stat().st_mode & 0o777 == 0o755
    before = found.detection.stat().st_mtime_ns
    assert find_pack("antelopev2", [tmp_path / "folder"], tmp_path / "cache") == found
    assert found.detection.stat().st_mtime_ns == before


def test_an_archive_that_is_replaced_is_unpacked_anew(tmp_path: Path) -> None:
    archive = tmp_path / "buffalo_l.zip"
    for content in (b"one", b"another"):
        write_archive(archive, dict.fromkeys(FILES["buffalo_l"], content))
        found = find_pack("buffalo_l", [tmp_path], tmp_path / "cache")
        assert found.detection.read_bytes() == content
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [found.detection.parent.name]


def test_files_come_before_an_archive_and_a_complete_pack_before_an_incomplete_one(tmp_path: Path) -> None:
    write_archive(tmp_path / "buffalo_l.zip", dict.fromkeys(FILES["buffalo_l"], b"zip"))
    write_pack(tmp_path / "buffalo_l")
    (tmp_path / "buffalo_l" / "w600k_r50.onnx").unlink()
    write_pack(tmp_path / "later" / "models" / "buffalo_l")
    found = find_pack("buffalo_l", [tmp_path, tmp_path / "later"], tmp_path / "cache")
    assert found.detection.parent == tmp_path / "later" / "models" / "buffalo_l"


@pytest.mark.parametrize("lacking", FILES["buffalo_l"])
def test_an_incomplete_pack(tmp_path: Path, lacking: str) -> None:
    place = tmp_path / "models" / "buffalo_l"
    write_pack(place)
    (place / lacking).unlink()
    with pytest.raises(CheckpointError) as refused:
        find_pack("buffalo_l", [tmp_path], tmp_path / "cache")
    assert refused.value.detail == (
        f"the face pack buffalo_l in {place} lacks {lacking}: download {ADDRESS}buffalo_l.zip and put the file from it "
        "there."
    )


def test_a_missing_pack(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as refused:
        find_pack("antelopev2", [tmp_path / "insightface"], tmp_path / "cache")
    models = tmp_path / "insightface" / "models"
    assert refused.value.detail == (
        f"the face pack antelopev2 is missing: download {ADDRESS}antelopev2.zip and put scrfd_10g_bnkps.onnx and "
        f"glintr100.onnx from it into {models / 'antelopev2'}, or the archive as it is into {models}."
    )
    write_pack(models / "antelopev2", "antelopev2")  # what the sentence says helps
    find_pack("antelopev2", [tmp_path / "insightface"], tmp_path / "cache")


def large(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "MEMBER_LIMIT", 2 * 2**20)
    write_archive(path, dict.fromkeys(FILES["buffalo_l"], bytes(3 * 2**20)))


def cut(path: Path, _: pytest.MonkeyPatch) -> None:
    data = write_archive(path, dict.fromkeys(FILES["buffalo_l"], os.urandom(100_000))).read_bytes()
    path.write_bytes(data[:50_000])


def flipped(path: Path, _: pytest.MonkeyPatch) -> None:
    data = bytearray(write_archive(path, dict.fromkeys(FILES["buffalo_l"], os.urandom(100_000))).read_bytes())
    data[5000:6000] = bytes(1000)
    path.write_bytes(data)


def page(path: Path, _: pytest.MonkeyPatch) -> None:
    path.write_bytes(b"<!doctype html><title>Sign in</title>")


def locked(path: Path, _: pytest.MonkeyPatch) -> None:
    """Its files say that they are encrypted."""
    data = write_archive(path, dict.fromkeys(FILES["buffalo_l"], b"a")).read_bytes()
    with zipfile.ZipFile(path) as archive:
        offsets = [one.header_offset for one in archive.infolist()]
    changed = bytearray(data)
    for offset in offsets:
        changed[offset + 6] |= 1
    start = 0
    while (start := data.find(b"PK\x01\x02", start)) >= 0:
        changed[start + 8] |= 1
        start += 4
    path.write_bytes(changed)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (large, "a file in it is larger than 2 MB"), (cut, "not a zip file"), (flipped, "invalid|Bad CRC|Error -3"),
        (page, "not a zip file"), (locked, "encrypted"),
    ],
)  # fmt: skip
def test_an_archive_that_cannot_be_unpacked(tmp_path: Path, monkeypatch, make, why: str) -> None:
    archive = tmp_path / "buffalo_l.zip"
    make(archive, monkeypatch)
    with pytest.raises(
        CheckpointError, match=f"archive {archive} of the face pack buffalo_l cannot be unpacked .*{why}"
    ):
        find_pack("buffalo_l", [tmp_path], tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*")) and list(tmp_path.rglob("*.onnx")) == []


def test_an_archive_that_lacks_a_file(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "buffalo_l.zip", {"det_10g.onnx": b"a"})
    with pytest.raises(CheckpointError, match=f"archive {archive} lacks w600k_r50.onnx .*{ADDRESS}buffalo_l.zip again"):
        find_pack("buffalo_l", [tmp_path], tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_folders_that_may_not_be_read_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as another user's ~/.insightface."""
    stat = os.stat

    def refuse(path: object, *arguments: object, **settings: object) -> os.stat_result:
        if "locked" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *arguments, **settings)

    monkeypatch.setattr(os, "stat", refuse)
    folders = [tmp_path / "locked", tmp_path / "open"]
    with pytest.raises(CheckpointError, match="pack buffalo_l is missing"):
        find_pack("buffalo_l", folders, tmp_path / "cache")
    assert pack_identity("buffalo_l", folders) is None and not is_installed(tmp_path / "locked")
    write_pack(tmp_path / "open" / "buffalo_l")
    assert find_pack("buffalo_l", folders, tmp_path / "cache").detection.parent == tmp_path / "open" / "buffalo_l"


def test_a_pack_is_known_by_its_files(tmp_path: Path) -> None:
    seen = [pack_identity("buffalo_l", [tmp_path])]
    assert seen == [None]
    write_archive(tmp_path / "buffalo_l.zip", dict.fromkeys(FILES["buffalo_l"], b"zip"))
    seen.append(pack_identity("buffalo_l", [tmp_path]))
    write_archive(tmp_path / "buffalo_l.zip", dict.fromkeys(FILES["buffalo_l"], b"another"))
    seen.append(pack_identity("buffalo_l", [tmp_path]))
    for content in (b"one", b"another"):
        write_pack(tmp_path / "buffalo_l", content=content)
        seen.append(pack_identity("buffalo_l", [tmp_path]))
    for number, file in enumerate(FILES["buffalo_l"]):  # of the same size
        os.utime(tmp_path / "buffalo_l" / file, (number, number))
        seen.append(pack_identity("buffalo_l", [tmp_path]))
    write_pack(tmp_path / "before" / "buffalo_l")
    seen.append(pack_identity("buffalo_l", [tmp_path / "before", tmp_path]))
    assert len(set(seen)) == len(seen) == 8
    assert pack_identity("buffalo_l", [tmp_path / "before"]) == seen[-1]
