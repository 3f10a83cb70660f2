"""Callbacks that extensions register. An exception in one is reported and swallowed.

For each event there is ``on_EVENT(callback)``, by which an extension registers, and ``EVENT_callback(…)``, by which the
host announces it.
"""

import inspect
from collections import defaultdict

from modules import errors
from modules.util import record

ImageSaveParams = record("ImageSaveParams", "image p filename pnginfo")
ExtraNoiseParams = record("ExtraNoiseParams", "noise x xi")
CFGDenoiserParams = record(
    "CFGDenoiserParams", "x image_cond sigma sampling_step total_sampling_steps text_cond text_uncond", denoiser=None
)
CFGDenoisedParams = record("CFGDenoisedParams", "x sampling_step total_sampling_steps inner_model")
AfterCFGCallbackParams = record("AfterCFGCallbackParams", "x sampling_step total_sampling_steps")
ImageGridLoopParams = record("ImageGridLoopParams", "imgs cols rows")
ScriptCallback = record("ScriptCallback", "script callback", name="unnamed")

_EVENTS = """app_started model_loaded ui_tabs ui_settings before_image_saved image_saved extra_noise cfg_denoiser
cfg_denoised cfg_after_cfg before_component after_component image_grid infotext_pasted script_unloaded before_ui
before_reload""".split()
_NEVER = "ui_train_tabs list_optimizers list_unets before_token_counter".split()  # the demo has no such thing
_LAST_FIRST = {"script_unloaded", "before_ui"}
_registered = defaultdict(list)


def _registering(event):
    def on(callback, *, name=None):
        source = getattr(inspect.unwrap(callback), "__code__", None)
        script = source.co_filename if source else repr(callback)
        _registered[event].append(ScriptCallback(script, callback, name or f"{script}/{event}"))

    on.__name__ = on.__qualname__ = f"on_{event}"
    return on


def _announcing(event):
    def announce(*args, **kwargs):
        """Call all that registered; returns what they returned, without those that failed."""
        results = []
        for entry in _registered[event][:: -1 if event in _LAST_FIRST else 1]:
            try:
                results.append(entry.callback(*args, **kwargs))
            except Exception:
                report_exception(entry, event)
        return results

    return announce


def report_exception(c, job):
    errors.report(f"{c.name} failed at {job}", exc_info=True)


for _event in _EVENTS + _NEVER:
    globals()[f"on_{_event}"] = _registering(_event)
for _event in _EVENTS:
    globals()[f"{_event}_callback"] = _announcing(_event)
app_reload_callback = globals().pop("before_reload_callback")


def clear_callbacks():
    _registered.clear()


def remove_callbacks_for_function(callback_func):
    for entries in _registered.values():
        entries[:] = [entry for entry in entries if entry.callback != callback_func]
