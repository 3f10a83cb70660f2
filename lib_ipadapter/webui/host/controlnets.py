"""Which ControlNet is loaded."""

from __future__ import annotations

import sys

from .controlnet import ControlNet
from .forge_controlnet import MODULE, ForgeControlNet
from .webui_controlnet import WebUIControlNet

OFFERED = ("internal_controlnet.external_code", "scripts.external_code")  # sd-webui-controlnet's, the older name last


def loaded() -> ControlNet | None:
    """The ControlNet that is loaded, None where none is. Asked anew each time: it may be loaded again at any time."""
    for name in OFFERED:
        module = sys.modules.get(name)
        if hasattr(module, "find_cn_script"):
            return WebUIControlNet(module)
    module = sys.modules.get(MODULE)
    return ForgeControlNet(module) if ForgeControlNet.is_in(module) else None
