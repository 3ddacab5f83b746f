"""The static table of tools among the converters: besides recipes, the only way from `zoo` to them.

A tool's module is imported when it is asked for, so commands that need none start without torch or coremltools.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType

from zoo.errors import CONVERT_HINT, MissingExtra

TOOLS: Mapping[str, str] = {
    "errors": "converters.errors",
    "program": "converters.mil.program",
    "folder": "converters.run.folder",
    "run": "converters.run.session",
    "coreml": "converters.run.coreml",
    "parity": "converters.parity.measure",
}
"""What a tool is called here -> its module."""


def load_tool(name: str) -> ModuleType:
    """Imports a tool.

    Args:
        name: a key of `TOOLS`.

    Raises:
        MissingExtra: a library that it needs is not installed.
    """
    try:
        return importlib.import_module(TOOLS[name])
    except ModuleNotFoundError as error:
        raise MissingExtra(f"zoo {name} needs the package {error.name!r}", hint=CONVERT_HINT) from None
