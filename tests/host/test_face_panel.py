"""Faces in the panel and through the routes; who finds them is a stand-in."""

from __future__ import annotations

import json
import re

import pytest

from demo.start import Host
from lib_ipadapter.encode.faces.align import aligned
from lib_ipadapter.encode.picture import content_hash, decode
from tests.helpers.faces import Finder, face
from tests.helpers.files import base64_of, picture, unit
from tests.helpers.host import FAR, difference, make
from tests.helpers.panel import held_of, panel_of, put_in

LEFT, RIGHT = face(1, 2, 20), face(2, 30, 24)


@pytest.fixture
def finder(host: Host, monkeypatch: pytest.MonkeyPatch) -> Finder:
    from lib_ipadapter.webui import process

    found = Finder(lambda image: [LEFT, RIGHT])
    monkeypatch.setattr(process.resources(), "faces", found)
    process.resources().unload()
    return found


def test_the_preview_shows_the_faces_and_what_is_seen_of_the_one_that_is_meant(host: Host, finder: Finder) -> None:
    photo = picture(3)
    for index, meant in (("largest", RIGHT), (1, LEFT)):
        body = {"model": "faceid", "images": [base64_of(photo)], "face_index": index}
        answer = host.client.post("/ip-adapter/preview", json=body).json()
        (crop,) = answer["images"]
        assert decode(crop).tobytes() == aligned(photo, meant.landmarks, 112).tobytes()
        (marked,) = answer["photos"]
        assert decode(marked).size == photo.size and decode(marked).tobytes() != photo.tobytes()
        (told,) = answer["faces"]
        assert [one["chosen"] for one in told["faces"]] == [meant is LEFT, meant is RIGHT]
        assert told["faces"][0]["box"] == list(LEFT.box)


def test_a_preview_without_a_face_is_a_422(host: Host, finder: Finder) -> None:
    finder.faces = lambda image: []
    answer = host.client.post("/ip-adapter/preview", json=unit("faceid", (0, 1)))
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("IP-Adapter unit 1: images[0]: no face was found")


def test_the_cards_show_each_face_with_a_button(host: Host, finder: Finder) -> None:
    editor = panel_of(host).editor
    state = {"shown": 1, "units": [{"model": "faceid", "images": [{"key": "a", "weight": 1}]}]}
    cards, _, details, *_ = editor._drawn("stamp", json.dumps(state), held_of(a=picture(3)), "faceid")
    buttons = re.findall(r"class='ip-adapter-face' data-face='(\d)' aria-pressed='(\w+)'", cards)
    assert buttons == [("1", "false"), ("2", "true")]
    assert "Face 2 of 2 is used" in cards and "faces by buffalo_l" in details
    state["units"][0]["face_index"] = "1"
    cards, *_ = editor._drawn("stamp", json.dumps(state), held_of(a=picture(3)), "faceid")
    assert re.findall(r"data-face='(\d)' aria-pressed='true'", cards) == ["1"]
    finder.faces = lambda image: []
    cards, *_ = editor._drawn("stamp", json.dumps(state), held_of(a=picture(4)), "faceid")
    assert "⚠ no face was found" in cards


@pytest.mark.both_faces
def test_a_picture_with_a_face_and_nothing_left_of_it(host: Host, finder: Finder, plain) -> None:
    ours = make(host, unit("faceid"))
    assert difference(ours, plain) > FAR
    assert difference(make(host, unit("faceid", face_index=1)), ours) > FAR
    assert difference(make(host, unit("faceid", weight=0)), plain) == 0


def test_without_face_analysis_the_sentence_says_what_to_do(host: Host) -> None:
    answer = host.post("txt2img", {"steps": 1, "alwayson_scripts": {"IP-Adapter": {"args": [unit("faceid", (77,))]}}})
    assert answer.status_code == 422
    detail = answer.json()["detail"]
    assert detail.startswith("IP-Adapter unit 1: the reference: ")
    assert "buffalo_l" in detail and "https://" in detail


def test_a_picture_for_the_pose_goes_through_the_panel_and_back(host: Host, finder: Finder) -> None:
    from lib_ipadapter.webui.panel import panel_state

    pose = picture(6)
    sent = {"model": "faceid", "images": [base64_of(picture(3))], "keypoints_image": base64_of(pose)}
    values, notes = put_in(panel_of(host), [sent])
    assert notes == []
    state = panel_state.PanelState.parse(str(values[0]))
    assert [one.get("pose", False) for one in state.items] == [False, True]
    back = panel_state.objects(*values)[0]
    assert len(back["images"]) == 1
    assert content_hash(decode(back["keypoints_image"])) == content_hash(pose)
