"""What a job leaves on the host's objects while it runs, and whom it belongs to."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

from demo.start import Host
from tests.helpers.files import base64_of, picture, unit
from tests.helpers.host import make


def test_one_attribute_and_nothing_afterwards(host: Host, plain, monkeypatch) -> None:
    from lib_ipadapter.webui import callbacks
    from lib_ipadapter.webui.host import record

    jobs, during, finished = [], [], callbacks.picture_finished

    def watched(p, shown):
        jobs.append(p)
        during.append(sorted(name for name in vars(p) if name.startswith("ip_adapter")))
        assert [one.number for one in record.own(p).units] == [1]
        finished(p, shown)

    monkeypatch.setattr(callbacks, "picture_finished", watched)
    make(host, unit(influence_map=True))
    assert during == [[record.ATTRIBUTE]]
    assert not [name for name in vars(jobs[0]) if name.startswith("ip_adapter")]
    assert "close" not in vars(jobs[0])


def test_a_job_without_units_leaves_no_record(host: Host, monkeypatch) -> None:
    from lib_ipadapter.webui import callbacks
    from lib_ipadapter.webui.host import record

    seen, finished = [], callbacks.picture_finished
    monkeypatch.setattr(callbacks, "picture_finished", lambda p, pp: seen.append(record.attached(p)) or finished(p, pp))
    make(host)
    assert seen == [None]


def test_a_copy_has_a_record_of_its_own_when_it_begins(host: Host) -> None:
    from lib_ipadapter.webui.host import record

    p = SimpleNamespace()
    job = record.opened(p)
    assert record.opened(p) is job
    job.axis_values["1 weight"] = 0.5
    job.arguments = ("ours",)
    again = copy.copy(p)
    assert record.is_copy(again)
    assert not record.is_copy(p)
    assert record.own(again) is None
    assert record.axis_values(again) == {"1 weight": 0.5}
    other = record.opened(again)
    other.axis_values["1 weight"] = 0.7
    assert record.axis_values(p) == {"1 weight": 0.5}
    assert (other.arguments, job.arguments) == (None, ("ours",))
    job.forget_run()
    assert record.own(p) is job  # a plot's values stay
    assert not job.running


def test_a_record_means_nothing_elsewhere(host: Host) -> None:
    from lib_ipadapter.webui.host import record

    p = SimpleNamespace()
    record.opened(p).arguments = (lambda: None,)
    assert pickle.loads(pickle.dumps(copy.deepcopy(p))) == SimpleNamespace(ip_adapter_job=None)


def test_a_picture_is_decoded_and_hashed_once_in_a_job(host: Host, store, monkeypatch) -> None:
    from lib_ipadapter.encode import picture as pictures

    decoded, hashed = [], []
    decode, content_hash = pictures._decoded, pictures.content_hash
    monkeypatch.setattr(pictures, "_decoded", lambda data, *args: decoded.append(data) or decode(data, *args))
    monkeypatch.setattr(pictures, "content_hash", lambda image: hashed.append(image.size) or content_hash(image))
    one, mask = base64_of(picture(71, (40, 50))), base64_of(picture(72, (40, 50)))
    region, negative = base64_of(picture(73, (64, 64))), base64_of(picture(74, (30, 30)))
    make(host, {**unit(), "images": [{"image": one, "mask": mask}], "region_mask": region,
                "negative_images": [negative]})  # fmt: skip
    assert sorted(decoded) == sorted([one, mask, region, negative])
    assert sorted(hashed) == [(30, 30), (40, 50), (40, 50), (64, 64)]


def test_nothing_outside_the_hosts_room_asks_what_hosts_differ_in() -> None:
    from pathlib import Path

    import lib_ipadapter

    room = Path(lib_ipadapter.__file__).parent
    asked = ("shared.sd_model", "is_hr_pass", "p.iteration", "loaded_sd_models", "lowvram", "sd_unet", "forge_objects")
    for file in room.rglob("*.py"):
        if "host" not in file.relative_to(room).parts:
            assert not [name for name in asked if name in file.read_text()], file
