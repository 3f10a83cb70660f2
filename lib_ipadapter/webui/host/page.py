"""What the versions of gradio that hosts have differ in: 3.41 (the WebUI, reForge), 4.40 (Forge, Neo)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import gradio as gr

# Whether a list on the page takes its choices with their labels, and nothing else.
LABELLED = int(gr.__version__.split(".")[0]) >= 4
# How an event's settings call the script that runs in the page. Hosts with gradio 4 take the older name, too, but not
# yet where a component has just been made (``on_after_component``).
SCRIPT = "js" if LABELLED else "_js"


def listing(names: Sequence[str]) -> list[str] | list[tuple[str, str]]:
    """``names`` as a list on the page takes them where they are changed; gradio converts those that it is made with."""
    return [(name, name) for name in names] if LABELLED else list(names)


def upload_folder() -> Path:
    """Where gradio keeps what pages have sent; a path that a page names may lie anywhere."""
    return Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio").resolve()
