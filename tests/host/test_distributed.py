"""Beside sd-webui-distributed: what other machines make from the job's JSON alone."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from demo.start import Host
from tests.helpers.files import base64_of, picture, unit
from tests.helpers.host import FAR, difference, make, pixels
from tests.helpers.panel import from_panel

pytestmark = pytest.mark.host("neighbours")


@pytest.fixture
def machines(host: Host, near):
    """Another machine: what is sent to it, it makes from the JSON alone."""
    script = near.Distributed
    script.world.enabled = script.world.enabled_i2i = True
    script.sent.clear()
    script.failed.clear()
    yield script
    script.world.enabled = script.world.enabled_i2i = False


def remote(host: Host, script, path: str = "txt2img") -> list[np.ndarray]:
    """The last job as the other machine makes it."""
    assert not script.failed
    payload = json.loads(script.sent[-1])
    script.world.enabled = False
    try:
        wanted = ("prompt", "negative_prompt", "seed", "steps", "width", "height", "alwayson_scripts", "sampler_name")
        return pixels(getattr(host, path)(**{name: payload[name] for name in wanted}).images)
    finally:
        script.world.enabled = True


def test_the_panels_units_arrive_at_other_machines(host: Host, machines) -> None:
    tabs = [
        {"pictures": [picture(0), picture(3)], "weights": [1, 0.5], "model": "base", "weight": 0.7},
        {},
        {"pictures": [picture(5)], "model": "base", "weight": 0.4},
    ]
    units = [unit(weight=0.7), {"enabled": False}, unit(seeds=(5,), weight=0.4)]
    units[0]["images"] = [base64_of(picture(0)), {"image": base64_of(picture(3)), "weight": 0.5}]
    here = from_panel(host, *tabs)
    assert difference(remote(host, machines), here) == 0
    machines.world.enabled = False
    assert difference(make(host, *units), here) == 0
    assert difference(make(host), here) > FAR


def test_pictures_in_a_panel_that_is_not_ticked_do_no_harm(host: Host, machines) -> None:
    here = from_panel(host, {"pictures": [picture(0), picture(5)], "model": "base"}, {}, {}, tick=False)
    assert difference(remote(host, machines), here) == 0
    machines.world.enabled = False
    assert difference(make(host), here) == 0


def test_a_clients_units_arrive_too(host: Host, machines) -> None:
    here = make(host, unit(), unit(seeds=(3,), weight=0.5, influence_map=True))
    assert len(here) == 1  # a map would be taken for a picture of the job
    assert difference(remote(host, machines), here) == 0


def test_looks_arrive_whole(host: Host, machines, tmp_path, monkeypatch) -> None:
    from lib_ipadapter.presets.looks import Looks
    from lib_ipadapter.webui import process

    monkeypatch.setattr(process, "looks", lambda: Looks(tmp_path / "looks"))
    assert host.client.put("/ip-adapter/looks/Oil", json={"unit": unit()}).status_code == 200
    here = make(host, unit(), {"model": "base", "images": [{"look": "Oil", "weight": 0.5}]})
    monkeypatch.setattr(process, "looks", lambda: Looks(tmp_path / "elsewhere"))
    assert difference(remote(host, machines), here) == 0


def test_a_plots_values_arrive_too(host: Host, machines) -> None:
    from types import SimpleNamespace

    from lib_ipadapter.webui.host import record
    from lib_ipadapter.webui.neighbours import xyz

    cell = SimpleNamespace(extra_generation_params={})
    xyz.Axis(1, "weight", float).apply(cell, 0.3, [])
    json.dumps(copy.deepcopy(vars(cell)))
    from modules import processing

    plain = processing.process_images

    def process_images(p):
        record.opened(p).axis_values.update(record.axis_values(cell))
        return plain(p)

    processing.process_images = process_images
    try:
        here = from_panel(host, {"pictures": [picture(0)], "model": "base"}, {}, {})
    finally:
        processing.process_images = plain
    assert difference(remote(host, machines), here) == 0
    machines.world.enabled = False
    assert difference(make(host, unit(weight=0.3)), here) == 0


@pytest.mark.parametrize("again", ["not", "itself", "a copy"])
@pytest.mark.parametrize("axes", [{"1 reference": 2}, {"0 preset": "p"}, {"1 look": "Oil"}])
def test_a_plots_sources_are_used_once(
    axes: dict, again: str, host: Host, machines, store, tmp_path, monkeypatch
) -> None:
    """Also where the job is run once more with the arguments that it has got."""
    from modules import processing

    from lib_ipadapter.presets.looks import Looks
    from lib_ipadapter.webui import process
    from lib_ipadapter.webui.host import record

    monkeypatch.setattr(process, "looks", lambda: Looks(tmp_path / "looks"))
    assert host.client.put("/ip-adapter/looks/Oil", json={"unit": unit(seeds=(3,))}).status_code == 200
    store.save("p", [unit(seeds=(3,))])
    plain = processing.process_images

    def process_images(p):
        record.opened(p).axis_values.update(axes)
        p.extra_generation_params = dict(p.extra_generation_params)
        if again == "not":
            return plain(p)
        plain(p)
        return plain(copy.copy(p) if again == "a copy" else p)

    with monkeypatch.context() as patch:
        patch.setattr(processing, "process_images", process_images)
        here = make(host, unit(seeds=(0, 3)))
    assert difference(remote(host, machines), here) == 0
    machines.world.enabled = False
    assert difference(make(host, unit(seeds=(3,))), here) == 0


def test_what_other_machines_could_not_do_right_is_refused(host: Host, machines) -> None:
    with pytest.raises(RuntimeError, match="IP-Adapter unit 1: batch .*per image.* does not work while"):
        make(host, unit(seeds=(0, 3), batch="per image"), batch_size=2)
    over_time = unit(seeds=(0, 3))
    over_time["images"] = [{"image": image, "at": at} for at, image in enumerate(over_time["images"])]
    with pytest.raises(RuntimeError, match="IP-Adapter unit 1: references over time .* do not work while"):
        make(host, over_time, batch_size=2)
    machines.world.enabled = False
    assert len(make(host, unit(seeds=(0, 3), batch="per image"), batch_size=2)) == 2
    assert len(make(host, over_time, batch_size=2)) == 2


def test_a_panels_sentences_and_models_stay_the_panels(host: Host, near, tmp_path, monkeypatch) -> None:
    from lib_ipadapter.checkpoint.catalog import Catalog
    from lib_ipadapter.errors import IPAdapterError
    from lib_ipadapter.presets.used_models import UsedModels
    from lib_ipadapter.webui import process

    used = UsedModels(tmp_path / "used.json")
    monkeypatch.setattr(process, "used_models", lambda: used)
    from_panel(host, {"pictures": [picture(0)], "model": "base"})
    assert used.last("SD1.5") == ["base"]
    monkeypatch.setattr(Catalog, "refresh", lambda self: None)
    monkeypatch.setattr(process.resources().catalog, "_entries", ())
    with pytest.raises(IPAdapterError, match="^IP-Adapter unit 1: no adapter here is for SD1.5: download"):
        from_panel(host, {"pictures": [picture(0)]})
