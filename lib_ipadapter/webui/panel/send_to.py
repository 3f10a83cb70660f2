"""Buttons that send a picture to the panel: under the galleries, and on the page that shows a picture's parameters."""

from __future__ import annotations

from typing import Any

import gradio as gr
from modules.ui_components import ToolButton

from ..host.page import SCRIPT

LABEL = "Send to IP-Adapter"
# elem_id of the host's last button in a row -> where the page's script finds the picture
AFTER = {f"{tab}_send_to_extras": tab for tab in ("txt2img", "img2img", "extras")}
PNG_INFO, PNG_INFO_PICTURE = "extras_tab", "pnginfo_image"


class Buttons:
    """Watches the host building its page, and adds a button after each of those that send pictures elsewhere."""

    def __init__(self) -> None:
        self._png_info = False  # the page of parameters has begun: other pages have buttons of the same name

    def after_component(self, _component: Any, **kwargs: Any) -> None:
        elem_id = kwargs.get("elem_id")
        if elem_id in AFTER:
            tab = AFTER[elem_id]
            button = ToolButton(
                "🧲", elem_id=f"{tab}_send_to_ip_adapter", tooltip=f"{LABEL}: use the picture as a reference."
            )
            self._connect(button, tab)
        elif elem_id == PNG_INFO_PICTURE:
            self._png_info = True
        elif elem_id == PNG_INFO and self._png_info:
            self._png_info = False
            self._connect(gr.Button(LABEL, elem_id="pnginfo_send_to_ip_adapter"), "pnginfo")

    @staticmethod
    def _connect(button: gr.Button, source: str) -> None:
        button.click(None, None, None, **{SCRIPT: f"() => ipAdapter.call('pictures.send', {source!r})"})
