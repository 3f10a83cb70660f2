"""Parameters of a picture bring its units back."""

from __future__ import annotations

import json

import pytest

from demo.start import Answer, Host
from lib_ipadapter import infotext
from lib_ipadapter.encode.picture import content_hash
from tests.helpers.files import base64_of, picture
from tests.helpers.host import ours
from tests.helpers.panel import panel_of, put_in
from tests.helpers.presets import put_png


def generated(host: Host, *units: dict, **payload) -> Answer:
    payload = {"prompt": "a cat", "steps": 1, "width": 64, "height": 64, **payload}
    return host.txt2img(**payload, alwayson_scripts=ours(*units))


def test_parameters_are_read_as_they_were_written(host: Host, store) -> None:
    """Written into a picture, read by the host, restored from the store: the same units in the same places."""
    from modules.infotext_utils import parse_generation_parameters

    images = [{"image": base64_of(picture(0)), "weight": 0.25}, base64_of(picture(1))]
    settings = {"weight": 0.123456, "start": 0.1, "end": 0.75, "combine": "average", "influence_map": True}
    answer = generated(host, {"enabled": False}, {"model": "A, B: C", "images": images, **settings})
    units, notes = infotext.restored(parse_generation_parameters(answer.infotext), store.picture)
    assert notes == []
    assert units[0] == {"enabled": False}
    assert {name: units[1][name] for name in settings} == settings
    assert units[1]["model"] == "a, b: c"
    assert [content_hash(one["image"]) for one in units[1]["images"]] == [content_hash(picture(i)) for i in (0, 1)]
    assert [one["weight"] for one in units[1]["images"]] == [0.25, 1]


def test_a_clients_infotext_brings_the_references_along(host: Host, store) -> None:
    """The API's ``infotext``: the same picture again, from its parameters alone; or a sentence, and no picture."""
    settings = {"model": "base", "images": [base64_of(picture(0)), base64_of(picture(1))], "weight": 0.8}
    first = generated(host, {"enabled": False}, settings)
    again = generated(host, infotext=first.infotext)
    assert again.infotext == first.infotext
    assert pixels_of(again) == pixels_of(first) != pixels_of(generated(host))
    # What the request itself says counts, and so do parameters that were written without us.
    other = generated(host, {**settings, "weight": 0.3})
    assert pixels_of(generated(host, {**settings, "weight": 0.3}, infotext=first.infotext)) == pixels_of(other)
    assert pixels_of(generated(host, infotext=generated(host).infotext)) == pixels_of(generated(host))

    put_png(store, content_hash(picture(1)), b"")
    with pytest.raises(RuntimeError, match=r"422.*Unit 2: 1 of its 2 references cannot be restored.*add the picture"):
        generated(host, infotext=first.infotext)
    assert pixels_of(generated(host, {"enabled": False}, infotext=first.infotext)) == pixels_of(generated(host))


def pixels_of(answer) -> bytes:
    return answer.images[0].tobytes()


def test_a_mere_prompt_changes_nothing(host: Host) -> None:
    made = panel_of(host)
    assert made._read({"Prompt": "a cat"}) is None
    assert json.loads(made._read({"Prompt": "a cat", "Steps": "3"})["value"])["entries"] == {}
    first, second = (made._read({"Steps": "3", "IP-Adapter 1": "x"})["value"] for _ in range(2))
    assert first != second  # pasted twice, read twice


def test_pasted_parameters_count_in_requests_only(host: Host, store) -> None:
    """In the page they are in the panel, which may have been changed or unticked since."""
    from lib_ipadapter.webui.panel import accordion as panel

    in_panel = panel_of(host)
    text = generated(host, {"model": "base", "images": [base64_of(picture(0))]}).infotext
    from modules.infotext_utils import parse_generation_parameters

    pasted = in_panel._read(parse_generation_parameters(text))["value"]
    args = (*[panel.NOT_SENT] * panel.API_PLACES, pasted, False, *put_in(in_panel, [])[0])
    assert panel.units(args) == []
    (unit,) = panel.units(args, is_api=True)
    assert unit["model"] == "base" and content_hash(unit["images"][0]["image"]) == content_hash(picture(0))
