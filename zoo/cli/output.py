"""What commands write: reports to standard output, everything else to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.errors import ZooError
from zoo.report.text import paint


def print_report(text: str) -> None:
    """Write a report for people to standard output."""
    print(text, flush=True)


def print_json(data: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write a report for programs to standard output: one JSON document, keys sorted."""
    print(json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False), flush=True)


def say(text: str) -> None:
    """Tell the person something that is not the report."""
    print(text, file=sys.stderr, flush=True)


def print_error(error: ZooError) -> None:
    """One line for what is wrong and where, one for what to do."""
    say(f"{paint('error:', 'red', sys.stderr)} {error.message}")
    if error.hint:
        say(f"{paint('hint:', 'cyan', sys.stderr)} {error.hint}")
