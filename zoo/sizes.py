"""Sizes as people type them."""

from __future__ import annotations

import re

from zoo.errors import UsageError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


def parse_size(text: str, option: str) -> int:
    """Bytes: `6G`, `6.5 GB` and plain numbers are decimal, like everything zoo prints; `6GiB` is binary.

    Args:
        text: what was typed.
        option: where, for the message.

    Raises:
        UsageError: not a positive size.
    """
    match = _FORM.fullmatch(text.strip())
    if match:
        number, unit, binary = match.groups()
        size = int(float(number) * (_BINARY if binary else _UNITS)[unit.lower()])
        if size > 0:
            return size
    raise UsageError(f"{option}: {text!r} is not a size", hint="write it like 6G, 500M or 4GiB")
