"""gradio, changed as the real host changes it: component callbacks, tooltips, extensions' scripts and styles."""

import functools
import os

import gradio as gr

from modules import script_callbacks, scripts
from modules.paths import script_path
from modules.util import truncate_path


def _address(file):
    return f"file={truncate_path(file)}?{os.path.getmtime(file)}"  # the time: browsers keep old files otherwise


def _head():
    """The tags that bring the host's and the extensions' scripts and style sheets into the page."""
    files = [os.path.join(script_path, "script.js"), *(file.path for file in scripts.list_scripts("javascript", ".js"))]
    tags = [f'<script src="{_address(file)}"></script>' for file in files]
    tags += [f'<link rel="stylesheet" href="{_address(file)}">' for file in scripts.list_files_with_name("style.css")]
    return "\n".join(tags)


_plain_response = gr.routes.templates.TemplateResponse


def reload_javascript():
    """From now on the page is answered with the scripts and styles of the present extensions."""
    tags = _head().encode()

    @functools.wraps(_plain_response)
    def respond(*args, **kwargs):
        response = _plain_response(*args, **kwargs)
        response.body = response.body.replace(b"</head>", tags + b"</head>")
        response.init_headers()
        return response

    gr.routes.templates.TemplateResponse = respond


def _announce(moment, component, kwargs):
    """Tell the callbacks and the scripts of the tab that is being built."""
    getattr(script_callbacks, f"{moment}_callback")(component, **kwargs)
    if scripts.scripts_current is not None:
        getattr(scripts.scripts_current, moment)(component, **kwargs)


def _watch(cls, **own):
    """Let every component of ``cls`` announce itself, and have the arguments ``own`` beside gradio's."""
    plain = cls.__init__

    @functools.wraps(plain)
    def construct(self, *args, **kwargs):
        for name, default in own.items():
            setattr(self, f"webui_{name}", kwargs.pop(name, default))
        _announce("before_component", self, kwargs)
        plain(self, *args, **kwargs)
        self.elem_classes = [f"gradio-{self.get_block_name()}", *(self.elem_classes or ())]
        _announce("after_component", self, kwargs)

    cls.__init__ = construct


def _tell_tooltips(plain):
    @functools.wraps(plain)
    def get_config(self):
        tooltip = getattr(self, "webui_tooltip", None)
        return plain(self) | ({"webui_tooltip": tooltip} if tooltip else {})

    return get_config


_watch(gr.components.IOComponent, tooltip=None)
_watch(gr.blocks.BlockContext)
gr.blocks.Block.get_config = _tell_tooltips(gr.blocks.Block.get_config)
