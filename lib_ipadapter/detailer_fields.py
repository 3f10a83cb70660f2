"""The declarations of the fields that say where a unit acts beside ADetailer."""

from __future__ import annotations

from .fields import WHERE, PanelPlace, declared
from .kinds import Choice, Whole

MAX_TABS = 15  # the most tabs that ADetailer's own settings offer

ACTS_IN = declared(
    Choice(("as set", "picture", "detailer", "both")),
    PanelPlace(
        "Acts in",
        "The picture itself, ADetailer's passes over its faces and hands, or both; else as in Settings.",
        order=14,
        group=WHERE,
    ),
    about="where the unit acts: the job's own passes, ADetailer's (whose checkpoint it has to fit then), or both; "
    '`"as set"` is what Settings say',
    changes_tokens=False,
)
DETAILER_TAB = declared(
    Whole(1, MAX_TABS, empty="every tab"),
    PanelPlace(
        "ADetailer's tab",
        "The one of ADetailer's tabs in whose passes the unit acts, by its number: 1 for faces and 2 for hands, say; "
        "empty: every tab.",
        order=14,
        group=WHERE,
        needs="detailer",
        placeholder="every tab",
    ),
    about="the one of ADetailer's tabs in whose passes the unit acts, from 1 on, where it acts in ADetailer's; `null`: "
    "every tab",
    changes_tokens=False,
)
