"""``python -m benchmarks.likeness`` against the miniature WebUI, beside ControlNet's stand-in: a few tiny pictures."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from benchmarks.likeness.__main__ import main
from demo.start import Host
from tests.helpers.likeness import write_clip, write_references

pytestmark = pytest.mark.host("controlnet")


def test_both_methods_in_one_table(host: Host, tmp_path: Path, clean, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "prompts.txt").write_text("a cat")
    command = [
        "--webui", "http://testserver", "--references", str(write_references(tmp_path / "refs")), "--prompts",
        str(tmp_path / "prompts.txt"), "--clip", str(write_clip(tmp_path / "clip.safetensors")), "--adapter", "base",
        "--against", "controlnet", "--weights", "0,1", "--seeds", "1", "--size", "64x64", "--steps", "2",
        "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    assert main(command, host.client) == 0
    with (tmp_path / "out" / "likeness.csv").open() as file:
        found = {(row["method"], row["weight"], row["figure"]): row for row in csv.DictReader(file)}
    for method in ("IP-Adapter", "ControlNet"):
        assert float(found[method, "0.0", "over_clip_i"]["value"]) == 0
        assert float(found[method, "1.0", "over_clip_i"]["value"]) != 0
        assert found[method, "1.0", "time"]["pictures"] == "2"
    assert float(found["IP-Adapter / ControlNet", "0.0", "clip_i difference"]["value"]) == 0
    assert float(found["IP-Adapter / ControlNet", "1.0", "clip_i difference"]["value"]) != 0
    said = capsys.readouterr().out
    assert "IP-Adapter at weight 0: 2 of 2 are the plain picture" in said and "has not acted" not in said


@pytest.mark.parametrize(("more", "said"), [
    (["--adapter", "gone"], "has no adapter called 'gone': give --adapter one of"),
    (["--adapter", "base", "--size", "64x64", "--sampler", "nobody"], "refused a request"),
])  # fmt: skip
def test_what_the_webui_says_is_told(host: Host, tmp_path: Path, more: list[str], said: str, capsys) -> None:
    (tmp_path / "prompts.txt").write_text("a cat")
    command = [
        "--webui", "http://testserver", "--references", str(write_references(tmp_path / "refs", 1)), "--prompts",
        str(tmp_path / "prompts.txt"), "--clip", str(write_clip(tmp_path / "clip.safetensors")),
        "--out", str(tmp_path / "out"), "--steps", "1", "--weights", "1", *more,
    ]  # fmt: skip
    assert main(command, host.client) == 2
    assert said in capsys.readouterr().err


def test_an_interrupted_picture_is_not_kept(host: Host, tmp_path: Path, clean, monkeypatch, capsys) -> None:
    from modules import script_callbacks, shared

    # In the real host an interruption stands until the next job begins.
    monkeypatch.setattr(shared.state, "end", lambda: vars(shared.state).update(job="", job_count=0))

    (tmp_path / "prompts.txt").write_text("a cat")
    command = [
        "--webui", "http://testserver", "--references", str(write_references(tmp_path / "refs", 1)), "--prompts",
        str(tmp_path / "prompts.txt"), "--clip", str(write_clip(tmp_path / "clip.safetensors")), "--adapter", "base",
        "--weights", "1", "--seeds", "2", "--size", "64x64", "--steps", "2", "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    first_steps: list[int] = []

    def stop(params: Any) -> None:
        first_steps.extend([1] * (params.denoiser.step == 0))
        if len(first_steps) == 4:  # the first two pictures load the models
            shared.state.interrupt()

    script_callbacks.on_cfg_denoiser(stop)
    try:
        assert main(command, host.client) == 2
    finally:
        script_callbacks.remove_callbacks_for_function(stop)
    assert "has interrupted a picture" in capsys.readouterr().err
    assert len([*(tmp_path / "out" / "pictures").glob("*.png")]) == 1
    assert main(command, host.client) == 0
