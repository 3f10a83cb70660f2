"""The documentation's table of a unit's fields, printed by ``python -m lib_ipadapter.field_table``."""

from __future__ import annotations

import json

from .fields import Setting, settings_of
from .reference import References
from .unit import Unit

HEAD = ("| field | default | values | meaning |", "|---|---|---|---|")


def _row(setting: Setting) -> str:
    kind = setting.kind
    names = list(reversed(kind.names)) if isinstance(kind, References) else [setting.name]
    shown = " or ".join(f"`{name}`" for name in names)
    default = list(setting.default or ()) if isinstance(kind, References) else setting.default
    written = "required" if setting.is_required else f"`{json.dumps(default)}`"
    return f"| {shown} | {written} | {kind.values} | {setting.about} |"


def table(unit_class: type[Unit] = Unit) -> str:
    """A Markdown table with a row for each declared field."""
    return "\n".join([*HEAD, *map(_row, settings_of(unit_class).values())])


if __name__ == "__main__":
    print(table())
