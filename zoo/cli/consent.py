"""Has it confirmed that something goes away."""

from __future__ import annotations

import sys

import typer

from zoo.errors import UsageError


def agree(what: str, *, yes: bool) -> None:
    """Return if the person agrees to `what`, e.g. `delete 3 files`; the plan has been shown.

    Args:
        what: what would be done, as an order.
        yes: agreed beforehand (`--yes`).

    Raises:
        UsageError: they do not, or there is nobody to ask.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"this would {what}", hint="add --yes to agree, or --dry-run to see the plan")
    if not typer.confirm(f"{what[0].upper()}{what[1:]}?", err=True):
        raise UsageError("nothing was changed")
