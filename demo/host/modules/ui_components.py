"""gradio components in the shapes that extensions know."""

import itertools

import gradio as gr


class FormComponent:
    """Components that stand next to each other in one frame."""

    def get_expected_parent(self):
        return gr.components.Form


def _variant(name, base, *, form=True, css=(), **preset):
    """A class of gradio's under another name, with classes for the style sheet and preset arguments."""

    class Variant(*([FormComponent] if form else []), base):
        def __init__(self, *args, **kwargs):
            own = kwargs.pop("elem_classes", None) or []
            classes = [*css, *([own] if isinstance(own, str) else own)]
            super().__init__(*args, elem_classes=classes, **{**preset, **kwargs})

        def get_block_name(self):
            return base.__name__.lower()  # the page knows only gradio's own

    Variant.__name__ = Variant.__qualname__ = name
    return Variant


ToolButton = _variant("ToolButton", gr.Button, css=["tool"])
ResizeHandleRow = _variant("ResizeHandleRow", gr.Row, form=False, css=["resize-handle-row"])
FormRow = _variant("FormRow", gr.Row)
FormColumn = _variant("FormColumn", gr.Column)
FormGroup = _variant("FormGroup", gr.Group)
FormHTML = _variant("FormHTML", gr.HTML)
FormColorPicker = _variant("FormColorPicker", gr.ColorPicker)
DropdownMulti = _variant("DropdownMulti", gr.Dropdown, multiselect=True)
DropdownEditable = _variant("DropdownEditable", gr.Dropdown, allow_custom_value=True)

_numbers = itertools.count()


class InputAccordion(gr.Checkbox):
    """An accordion with a tick, which is its value. It is a hidden checkbox, and script.js shows it."""

    def __init__(self, value, **kwargs):
        self.accordion_id = kwargs.pop("elem_id", None) or f"input-accordion-{next(_numbers)}"
        label = kwargs.setdefault("label", "Accordion")
        super().__init__(value, elem_id=f"{self.accordion_id}-checkbox", **{**kwargs, "visible": False})
        self.accordion = gr.Accordion(
            label, open=value, elem_id=self.accordion_id, elem_classes=["input-accordion"],
            visible=kwargs.get("visible", True),
        )  # fmt: skip
        follow = f"(ticked) => {{ setInputAccordion({self.accordion_id!r}, ticked); }}"
        self.change(None, inputs=[self], outputs=[], _js=follow)

    def extra(self):
        """Room for more in the accordion's title."""
        return gr.Column(elem_id=f"{self.accordion_id}-extra", elem_classes=["input-accordion-extra"], min_width=0)

    def __enter__(self):
        self.accordion.__enter__()
        return self

    def __exit__(self, exc_type, exc_val, exc_tb):
        return self.accordion.__exit__(exc_type, exc_val, exc_tb)

    def get_block_name(self):
        return gr.Checkbox.__name__.lower()
