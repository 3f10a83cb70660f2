"""Pages that nobody looks at any more cost next to nothing: gradio keeps the session of each."""

from __future__ import annotations

import base64
import json
import pickle
from typing import Any

import pytest

from demo.start import Host
from tests.helpers.files import base64_of, picture

PAGES, SIDE = 6, 256


def event(host: Host, elem_id: str, trigger: str) -> int:
    """The number of the event that a component's trigger starts on the server."""
    config = host.blocks.config
    (component,) = (one["id"] for one in config["components"] if one["props"].get("elem_id") == elem_id)
    return next(
        number for number, one in enumerate(config["dependencies"])
        if component in one["targets"] and one["trigger"] == trigger and one["backend_fn"]
    )  # fmt: skip


def ask(host: Host, session: str, elem_id: str, trigger: str, *data: Any) -> list[Any]:
    order = {"fn_index": event(host, elem_id, trigger), "session_hash": session, "data": data}
    answer = host.client.post("/run/predict", json=order)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def test_old_pages_keep_no_pictures(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    from lib_ipadapter.webui.panel import picture_pool

    pool = picture_pool.PicturePool(3 * SIDE * SIDE * 3)  # three pictures
    monkeypatch.setattr(picture_pool, "pool", lambda: pool)
    state = json.dumps({"shown": 1, "units": [{"images": [{"key": "k"}]}]})

    def cards(page: int) -> str:
        answer = ask(host, f"page {page}", "txt2img_ip_adapter_stamp", "change", "s", state, None, "None")
        return answer[0]

    for page in range(PAGES):
        inbox = json.dumps({"key": "k", "data": base64_of(picture(page, (SIDE, SIDE)))})
        answer = ask(host, f"page {page}", "txt2img_ip_adapter_take", "click", inbox, state, None, "None")
        assert json.loads(answer[0]) == {"taken": "k"} and "<img" in cards(page)
    kept = [one for page in range(PAGES) for one in host.app.state_holder[f"page {page}"].values()]
    assert len(pickle.dumps(kept)) < PAGES * 1000
    assert pool._pictures.nbytes == 3 * SIDE * SIDE * 3
    assert ["not there any more: add it again" in cards(page) for page in range(PAGES)] == [True] * 3 + [False] * 3
    stranger = ask(host, "a stranger", "txt2img_ip_adapter_stamp", "change", "s", state, {"k": "x"}, "None")[0]
    assert "not there any more" in stranger


def test_a_page_is_given_its_own_pictures_whole_and_no_others(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from PIL import Image

    state = json.dumps({"shown": 1, "units": [{"images": [{"key": "k"}, {"key": "e"}]}]})

    def take(session: str, held: Any = None, **inbox: str) -> dict[str, str]:
        text = json.dumps(inbox)
        answer = ask(host, session, "txt2img_ip_adapter_take", "click", text, state, held, "None")
        return json.loads(answer[0])

    assert take("one", key="k", data=base64_of(picture(1, (3000, 1500)))) == {"taken": "k"}
    head, _, data = take("one", wanted="k")["whole"].partition(",")
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (head, shown.size) == ("data:image/jpeg;base64", (2048, 1024))
    assert take("another", {"k": "what a page says of its session counts for nothing"}, wanted="k") == {}
    assert take("one", wanted="what it has not") == {}
    from lib_ipadapter.errors import PictureError
    from lib_ipadapter.webui.panel import reference_cards

    def damaged(_picture: Any) -> str:
        raise PictureError("This picture is damaged: add it again.")

    with monkeypatch.context() as patch:
        patch.setattr(reference_cards, "enlarged", damaged)
        assert take("one", wanted="k") == {"problem": "This picture is damaged: add it again."}
    assert take("one", key="k", data=base64_of(picture(1, (64, 64)))) == {"taken": "k"}  # and goes on
    assert (
        "text, not a picture" in take("one", key="e", data=base64.b64encode(b"hello there, world").decode())["problem"]
    )
