"""Errors a person can do something about, and the exit code of each.

Every error is one line that says what is wrong and where; `hint` is the next step. The command line prints both
and exits with `exit_code`; the table in `docs/exit-codes.md` is generated from the classes below.
"""

from __future__ import annotations

from typing import ClassVar


class ZooError(Exception):
    """Something a person asked for cannot be done.

    Args:
        message: one line: what is wrong, and where.
        hint: what to do about it, if there is something to do.
    """

    exit_code: ClassVar[int] = 1
    meaning: ClassVar[str] = "the command could not be carried out"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class CheckFailed(ZooError):
    """A check that was asked for did not pass: `verify`, `check`, `lock --check`, `swift --check`."""

    exit_code = 1
    meaning = "a check did not pass: files differ from their lock, a bundle has errors, or a generated file is stale"


class UsageError(ZooError):
    """Options that do not go together. Exit code 2 is also what a misspelt option gives."""

    exit_code = 2
    meaning = "the command line was not understood"


class InvalidDocument(ZooError):
    """A manifest, lock, receipt or catalog does not have the form it must have."""

    exit_code = 3
    meaning = "a manifest, lock or receipt is malformed"


class UnknownEntry(ZooError):
    """No entry, component or modality of that name."""

    exit_code = 4
    meaning = "no entry, component or modality of that name"


class ConversionError(ZooError):
    """The checkpoint does not fit the manifest, or a conversion step failed."""

    exit_code = 5
    meaning = "the checkpoint does not fit, or a conversion step failed"


class HubError(ZooError):
    """The Hub could not be reached, refused, or does not have what was asked for."""

    exit_code = 6
    meaning = "the Hub could not be reached, refused, or lacks a repo, revision or file"


class DigestMismatch(ZooError):
    """Bytes are not what their digest says."""

    exit_code = 7
    meaning = "bytes are not what their digest says"


class DiskError(ZooError):
    """No space, no permission, or a file system that cannot do what is needed."""

    exit_code = 8
    meaning = "no space, no permission, or another problem with the disk"


class Conflict(ZooError):
    """Somebody else changed the same thing first: a moved branch, a folder in use."""

    exit_code = 9
    meaning = "somebody else changed the same thing: a moved branch, a folder in use"


class UnsafePath(ZooError):
    """A path in a manifest, lock, listing or archive would leave its folder or clash with another."""

    exit_code = 10
    meaning = "a path in untrusted input leaves its folder or is not portable"


CONVERT_HINT = "pip install 'zoo[convert]'"
"""What to do where a library of the converters is missing."""


class MissingExtra(ZooError):
    """A command needs an optional part of zoo that is not installed."""

    exit_code = 11
    meaning = "an optional part of zoo is not installed"


class UnusableBundle(ZooError):
    """A folder cannot be run: a model or a sidecar is missing, damaged, or does not fit the others."""

    exit_code = 12
    meaning = "a bundle cannot be run: a file is missing, damaged, or does not fit the others"


INTERRUPTED_EXIT_CODE = 130
"""128 + SIGINT, what shells use."""


def exit_codes() -> dict[int, str]:
    """Every exit code with its meaning, for the documentation and `zoo --help`."""
    kinds: list[type[ZooError]] = [ZooError, *ZooError.__subclasses__()]
    table = {0: "done, or nothing to do"}
    table.update({kind.exit_code: kind.meaning for kind in kinds})
    table[INTERRUPTED_EXIT_CODE] = "interrupted; what was verified is kept, run the same command again"
    return dict(sorted(table.items()))
