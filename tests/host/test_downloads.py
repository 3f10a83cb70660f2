"""Downloads in the WebUI: the settings, the routes, the card in the panel and the press of its button."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from demo.start import Host
from lib_ipadapter.attend.layers import Topology, cross_attention_layers
from lib_ipadapter.checkpoint.catalog import Catalog
from tests.helpers.files import write_adapter
from tests.helpers.hub import Hub, listed, serving, small
from tests.helpers.unets import sd_unet, sdxl_unet
from tests.host.test_page_memory import event

ROUTE = "/ip-adapter/downloads"
FILE = small("one.safetensors", bytes(1_000_000))


@pytest.fixture
def hub(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stand-in of the hub; files go into a folder of the test's own."""
    from lib_ipadapter.webui import downloads
    from lib_ipadapter.webui.host import folders

    listed(monkeypatch, FILE)
    monkeypatch.setattr(
        folders, "downloads", lambda *, encoders: tmp_path / ("clip_vision" if encoders else "ipadapter")
    )
    downloads.forget()
    with serving() as (made, address):
        made.files = {FILE.path: bytes(1_000_000)}
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield made
    downloads.desk().cancel()
    downloads.desk().wait(10)
    downloads.forget()


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch, host: Host) -> Callable[[int], None]:
    from modules import shared

    from lib_ipadapter.webui import options

    return lambda number: monkeypatch.setitem(
        shared.opts.data, "ip_adapter_downloads", options.DOWNLOAD_CHOICES[number]
    )


def press(host: Host, headers: dict[str, str] | None = None, **order: Any) -> Any:
    """What the page's script does."""
    data = [json.dumps({"stamp": "s", **order})]
    body = {"fn_index": event(host, "txt2img_ip_adapter_downloads", "click"), "session_hash": "s", "data": data}
    answer = host.client.post("/run/predict", json=body, headers=headers or {})
    return json.loads(answer.json()["data"][0]) if answer.status_code == 200 else answer


def waited() -> dict[str, Any]:
    from lib_ipadapter.webui import downloads

    downloads.desk().wait(60)
    return downloads.desk().state()


def test_a_client_downloads_where_the_setting_allows_it(
    host: Host, hub: Hub, choose: Callable[[int], None], tmp_path: Path
) -> None:
    for number in (0, 1, 3):
        choose(number)
        refused = host.client.post(ROUTE, json={"file": FILE.name})
        assert refused.status_code == 403 and "switched off: set “Adapters and" in refused.json()["detail"]
    assert hub.asked == [] and host.client.get(ROUTE).json()["files"] == []
    choose(2)
    answer = host.client.post(ROUTE, json={"file": FILE.name})
    assert answer.status_code == 200 and answer.json()["files"][0]["file"] == FILE.name
    assert waited()["files"][0]["state"] == "done"
    assert host.client.get(ROUTE).json()["files"][0]["done"] == FILE.size
    assert (tmp_path / "ipadapter" / FILE.name).stat().st_size == FILE.size
    assert host.client.post(ROUTE, json={"files": [FILE.name]}).status_code == 200
    assert host.client.delete(ROUTE).json()["files"][0]["state"] in ("cancelled", "done", "coming")


def test_what_is_no_order_is_refused(host: Host, hub: Hub, choose: Callable[[int], None]) -> None:
    choose(2)
    for body in ({}, [], "x", {"file": 1}, {"files": []}, {"files": [FILE.name], "folder": "/"}, {"file": "../x"}):
        answer = host.client.post(ROUTE, json=body)
        assert answer.status_code == 422, body
    assert "is none of the files that can be downloaded: choose one of one.safetensors" in answer.json()["detail"]
    assert host.client.post(ROUTE, data=json.dumps({"file": FILE.name})).status_code == 415
    foreign = {"Origin": "https://evil.example"}
    assert host.client.post(ROUTE, json={"file": FILE.name}, headers=foreign).status_code == 403
    assert host.client.delete(ROUTE, headers=foreign).status_code == 403
    assert hub.asked == []


@pytest.mark.host("guarded")
def test_the_route_asks_for_the_apis_password(host: Host, choose: Callable[[int], None]) -> None:
    choose(2)
    assert host.client.get(ROUTE).status_code == 401
    assert host.client.post(ROUTE, json={"file": "x"}).status_code == 401
    assert host.client.delete(ROUTE).status_code == 401
    assert host.client.get(ROUTE, auth=("bob", "x")).status_code == 200


def test_a_press_downloads_and_tells_how_far_it_is(host: Host, hub: Hub, choose: Callable[[int], None]) -> None:
    choose(0)
    assert press(host, do="look") == {"stamp": "s", "running": False, "files": [], "done": 0, "size": 0, "speed": 0,
                                      "left": None}  # fmt: skip
    hub.stop_after, hub.hold = 500_000, True
    assert press(host, do="start", files=[FILE.name])["running"]
    assert press(host, do="start", files=[FILE.name])["size"] == FILE.size
    assert press(host, do="cancel")["files"][0]["state"] == "cancelled"
    waited()
    hub.go.set()
    assert press(host, do="start", files=["x"])["problem"].startswith("'x' is none of the files")
    foreign = press(host, {"Origin": "https://evil.example"}, do="start", files=[FILE.name])
    assert "another site" in foreign["problem"] and not waited()["running"]


def test_what_is_on_its_way_can_be_called_off_once_nothing_may_be_downloaded(
    host: Host, hub: Hub, choose: Callable[[int], None]
) -> None:
    from lib_ipadapter.webui.panel import download_card

    hub.stop_after, hub.hold = 500_000, True
    for call_off in (lambda: press(host, do="cancel"), lambda: host.client.delete(ROUTE).json()):
        choose(0)
        assert press(host, do="start", files=[FILE.name])["running"]
        choose(3)
        assert "data-do='cancel'" in download_card.card(None, Catalog([], []))
        answer = call_off()
        assert answer["files"][0]["state"] == "cancelled" and "problem" not in answer
        waited()
    assert "data-do='cancel'" not in download_card.card(None, Catalog([], []))
    hub.go.set()


def test_two_that_ask_first_at_once_share_one_desk(host: Host, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading
    import time

    from lib_ipadapter.downloads import desk
    from lib_ipadapter.webui import downloads

    class Slow(desk.Desk):
        def __init__(self, *args: Any) -> None:
            time.sleep(0.2)
            super().__init__(*args)

    monkeypatch.setattr(desk, "Desk", Slow)
    downloads.forget()
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(downloads.desk())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and len({id(one) for one in found}) == 1


def test_no_press_downloads_where_others_reach_the_webui(
    host: Host, hub: Hub, choose: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from modules import shared

    from lib_ipadapter.webui import downloads

    choose(0)
    for flag, value in (("listen", True), ("share", True), ("server_name", "0.0.0.0"), ("ngrok", "token")):
        with monkeypatch.context() as patch:
            patch.setattr(shared.cmd_opts, flag, value, raising=False)
            answer = press(host, do="start", files=[FILE.name])
            assert answer["problem"].startswith("Others can reach this WebUI, so nothing is downloaded"), flag
            patch.setattr(shared.cmd_opts, "enable_insecure_extension_access", True, raising=False)
            assert downloads.refusal() == ""
    monkeypatch.setattr(shared.cmd_opts, "listen", True, raising=False)
    choose(1)
    assert downloads.refusal() == ""
    choose(3)
    assert "Downloads are switched off" in press(host, do="start", files=[FILE.name])["problem"]
    assert hub.asked == []


def test_the_card(host: Host, tmp_path: Path, choose: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    from lib_ipadapter.webui.panel import download_card

    def card() -> str:
        catalog.refresh()
        return download_card.card(None, catalog)

    loaded = SimpleNamespace(present_topology=lambda: loaded.topology, topology=None)
    monkeypatch.setattr(download_card, "host", SimpleNamespace(current=lambda: loaded))
    choose(0)
    catalog = Catalog([tmp_path], [])
    unknown = card()
    assert "No adapter is here yet: choose the one for your checkpoints." in unknown and " checked>" not in unknown
    assert "ip-adapter-plus_sd15.safetensors" in unknown and "ip-adapter-plus_sdxl_vit-h.safetensors" in unknown
    loaded.topology = Topology.of(cross_attention_layers(sd_unet()))
    nothing = card()
    assert "No adapter for SD1.5 is here yet." in nothing and "data-active" in nothing
    assert nothing.count(" checked>") == 2  # the starter and its encoder
    assert "ip-adapter-plus_sd15.safetensors" in nothing and "CLIP-ViT-H-14.safetensors" in nothing
    assert "98 MB" in nothing and "2.5 GB" in nothing and "Apache-2.0" in nothing and "models/ipadapter" in nothing
    assert "More …" in nothing and "ip-adapter-faceid_sd15.bin" in nothing and "sdxl" not in nothing
    assert ">Download<" in nothing
    choose(3)
    off = card()
    assert "Downloads are switched off" in off and ">Download<" not in off and "checkbox" not in off
    assert "https://huggingface.co/h94/IP-Adapter/resolve/018e402774aeeddd60609b4ecdb7e298259dc729/models/" in off
    assert "/models/ipadapter/ip-adapter-plus_sd15.safetensors" in off
    choose(0)
    write_adapter(tmp_path / "base.safetensors", sd_unet(), "base")
    assert "is here yet" not in card() and "Get more adapters …" in card() and "data-active" not in card()
    loaded.topology = Topology.of(cross_attention_layers(sdxl_unet()))
    wide = card()
    assert "No adapter for SDXL is here yet." in wide and "848 MB" in wide and "unknown size" in wide
    loaded.topology = Topology.of(cross_attention_layers(sd_unet(1024)))
    assert card() == ""  # nothing is published for it


def test_the_card_of_an_adapter_without_its_encoder(
    host: Host, choose: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lib_ipadapter.webui.panel import download_card

    choose(0)
    spec = SimpleNamespace(source="penultimate", embedding_width=1280, clip_width=None, image_encoder=None)
    spec.base, spec.variant, spec.family = "SD1.5", "plus", "CLIP"
    topology = Topology.of(cross_attention_layers(sd_unet()))
    spec.context_width, spec.layer_widths = topology.context_width, topology.layer_widths
    loaded = SimpleNamespace(present_topology=lambda: topology)
    monkeypatch.setattr(download_card, "host", SimpleNamespace(current=lambda: loaded))
    lacking = SimpleNamespace(
        adapters=[], encoders=[], keypoints_networks=[], find=lambda name: SimpleNamespace(spec=spec),
        find_encoder=Catalog([], []).find_encoder,
    )  # fmt: skip
    shown = download_card.card("plus", lacking)
    assert "The image encoder of this adapter is not here yet." in shown
    assert shown.count("data-file=") == 1 and "CLIP-ViT-H-14.safetensors" in shown
    loaded.present_topology = lambda: Topology.of(cross_attention_layers(sdxl_unet()))
    assert "No adapter for SDXL is here yet." in download_card.card("plus", lacking)  # of no use, with it or without
    loaded.present_topology = lambda: topology
    spec.image_encoder = "somebody's own"
    assert "The image encoder" not in download_card.card("plus", lacking)


def test_folders_are_made_at_the_start(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules import paths

    from lib_ipadapter.webui.host import folders

    monkeypatch.setattr(paths, "models_path", str(tmp_path / "models"))
    folders.make()
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["clip_vision", "ipadapter"]
    assert folders.downloads(encoders=False) in folders.adapter_folders()
    assert folders.downloads(encoders=True) in folders.encoder_folders()
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(paths, "models_path", str(tmp_path / "file" / "models"))
    folders.make()  # nothing is raised
