"""The probe in the miniature host: what it noted, and what it is told."""

from __future__ import annotations

import base64
import io
import json

from PIL import Image

from tests.helpers.paths import ROOT

CONTRACT = json.loads((ROOT / "tests" / "contract" / "webui-contract.json").read_text())["modules"]


def names(log: list[tuple]) -> list[str]:
    return [entry[0] for entry in log if entry[0] != "cfg_denoiser"]


def plain_colour(colour: str = "red", size: int = 128) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def probe(value: str) -> dict:
    return {"Probe": {"args": [value]}}
