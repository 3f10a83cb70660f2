"""Which host this is."""

from __future__ import annotations

from .a1111 import A1111
from .forge import Forge
from .interface import Host

HOSTS: tuple[Host, ...] = (Forge(), A1111())  # the first that recognises the model; the last takes every model


def current() -> Host:
    """The host, by what the loaded model is. Asked anew each time: some load their first model with the first job."""
    return next((host for host in HOSTS if host.recognises(host.loaded_model())), HOSTS[-1])
