"""Sizes as people write them: `20 GB`, `20GB`, `1.5 gib`."""

import math
import re

GB = 10**9
GIB = 1 << 30
_SIZE = re.compile(r"([0-9.]+(?:[eE][0-9]+)?)\s*([A-Za-z]+)", re.ASCII)
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": GB, "TB": 10**12, "MIB": 1 << 20, "GIB": GIB}


def bytes_of(text: str) -> int:
    """How many bytes `text` says; ValueError for what is no size or more than any disk has."""
    found = _SIZE.fullmatch(text.strip())
    if found is None or found[2].upper() not in _UNITS:
        raise ValueError(f"{text!r} is no size.")
    size = float(found[1]) * _UNITS[found[2].upper()]
    if not math.isfinite(size) or size >= 1 << 63:
        raise ValueError(f"{text!r} is too large.")
    return int(size)
