"""The Swift that goes beside the catalog: planner, receipt, folder, downloader. Written by hand, in the files here.

They are ordinary Swift with `public` declarations called `Zoo...`; both are replaced by what the app asks for.
"""

from __future__ import annotations

import re
from importlib import resources

from zoo.swift.source import Access
from zoo.swift.writer import check_type_prefix

_NAMES = re.compile(r"\bZoo(?=[A-Z])")
_PUBLIC = re.compile(r"^( *)public ", re.MULTILINE)

_HEADER = """\
// {name}
// Written by `zoo swift`; the same for every catalog. Do not edit: run `zoo swift` again.

// swift-format-ignore-file
// swiftlint:disable all

"""


def runtime_files(*, access: Access = "public", prefix: str = "Zoo") -> dict[str, bytes]:
    """The runtime's source files by name.

    Args:
        access: access level of every declaration the app is meant to use.
        prefix: what the types are called after, and the files.

    Raises:
        UsageError: a prefix that cannot start a type name.
    """
    check_type_prefix(prefix)
    modifier = "" if access == "internal" else f"{access} "
    found = {}
    for file in sorted(resources.files(__name__).iterdir(), key=lambda file: file.name):
        if file.name.endswith(".swift"):
            name = _NAMES.sub(prefix, file.name)
            text = _PUBLIC.sub(rf"\g<1>{modifier}", _NAMES.sub(prefix, file.read_text(encoding="utf-8")))
            found[name] = (_HEADER.format(name=name) + text).encode()
    return found
