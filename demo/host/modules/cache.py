"""Remembered values, kept in memory for as long as the process lives."""

import os
from collections import defaultdict

_caches = defaultdict(dict)


def cache(subsection):
    return _caches[subsection]


def cached_data_for_file(subsection, title, filename, func):
    """``func()``, remembered for as long as the file is not written to."""
    known, key = cache(subsection), (title, os.path.getmtime(filename))
    if key not in known:
        known[key] = func()
    return known[key]
