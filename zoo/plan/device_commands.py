"""The `xcrun devicectl` command lines that zoo prints and runs, and the forms it never does. Pure: text to text.

`devicectl` (Xcode 15 and newer) copies into an app's data container but cannot delete there, and some of its forms
report success after doing harm. What is known of them was found out by others on real phones:

- `--remove-existing-content true` with a destination below the container's top empties the destination's *parent*,
  in some versions the whole `Documents`, and everything of the app with it;
- a destination that ends in `/` reports success and puts the file where nothing finds it;
- an empty source is refused, so a folder is "removed" by leaving a placeholder that belongs to root and that the app
  can neither delete nor replace.

`check_copy` refuses these before anything is run, whoever made the command line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from zoo.errors import UsageError
from zoo.paths import check_bundle_path

MODELS = "Documents/Models"
"""Where the app looks for its models, in its data container."""

DEVICECTL = ("xcrun", "devicectl")

LIST_SECONDS = 120
"""How long a listing may take: it needs a tunnel to the phone first."""

COPY_SECONDS = 300
"""How long the smallest copy may take."""

SLOWEST_BYTES_PER_SECOND = 2_000_000
"""A copy may take this long a byte; a cable does ten times better, a bad wireless link does not."""

_BUNDLE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,154}")
_PLAIN = re.compile(r"[^\x00-\x1f\x7f-\x9f]+")


@dataclass(frozen=True, slots=True)
class Target:
    """One folder of one app on one device.

    Attributes:
        device: the identifier, UDID or name that `devicectl --device` takes.
        app: bundle identifier.
        folder: name of the folder in `Documents/Models`.
    """

    device: str
    app: str
    folder: str

    @property
    def root(self) -> str:
        """The folder in the app's data container; no trailing slash."""
        return f"{MODELS}/{self.folder}"


def check_target(target: Target) -> Target:
    """Return `target` if it is fit for a command line.

    Raises:
        UsageError: a name that would be read as an option, leaves `Documents/Models`, or is no bundle identifier.
        UnsafePath: a folder name that not every file system takes.
    """
    if not _PLAIN.fullmatch(target.device) or target.device.startswith("-"):
        raise UsageError(
            f"--device: {target.device!r} is not the name of a device", hint="xcrun devicectl list devices"
        )
    if not _BUNDLE_ID.fullmatch(target.app):
        raise UsageError(
            f"--app: {target.app!r} is not a bundle identifier", hint="it looks like com.example.CoreMLLLMChat"
        )
    if "/" in target.folder:
        raise UsageError(f"folder {target.folder!r}: one name without a slash is wanted; devicectl loses others")
    check_bundle_path(target.folder, where="folder on the device")
    return target


def copy_seconds(size: int) -> int:
    """Seconds after which a copy of `size` bytes is given up."""
    return COPY_SECONDS + size // SLOWEST_BYTES_PER_SECOND


def copy_command(target: Target, source: str, path: str, size: int) -> tuple[str, ...]:
    """Copy one file, or one folder whole, to bundle path `path` of the target.

    Args:
        target: where to.
        source: absolute path here, of a file or of a folder that is not empty.
        path: where it goes, relative to the target's folder. The whole name is given, never the folder to put it in.
        size: bytes, for the time limit.

    Raises:
        UsageError, UnsafePath: a form that is known to wipe or to misplace.
    """
    command = (
        *DEVICECTL,
        *("device", "copy", "to"),
        *("--device", target.device),
        *("--domain-type", "appDataContainer"),
        *("--domain-identifier", target.app),
        *("--source", source),
        *("--destination", f"{target.root}/{path}"),
        *("--timeout", str(copy_seconds(size))),
    )
    check_copy(command, target)
    return command


def list_command(target: Target, subdirectory: str) -> tuple[str, ...]:
    """List a folder of the app's data container."""
    return (
        *DEVICECTL,
        *("device", "info", "files"),
        *("--device", target.device),
        *("--domain-type", "appDataContainer"),
        *("--domain-identifier", target.app),
        *("--subdirectory", subdirectory),
        *("--timeout", str(LIST_SECONDS)),
    )


def devices_command() -> tuple[str, ...]:
    """List the devices this Mac knows."""
    return (*DEVICECTL, "list", "devices", "--timeout", str(LIST_SECONDS))


_TAKES_A_VALUE = frozenset(
    {"--device", "--domain-type", "--domain-identifier", "--source", "--destination", "--timeout", "--json-output"}
)


def check_copy(command: tuple[str, ...], target: Target) -> None:
    """Refuse a copy that is known, or able, to wipe or to misplace.

    Only what zoo needs is let through; an option nobody thought about is refused as well.

    Raises:
        UsageError: what is wrong with it.
        UnsafePath: the destination leaves the target's folder.
    """
    start = (*DEVICECTL, "device", "copy", "to")
    if command[: len(start)] != start:
        raise UsageError(f"not a copy to a device: {' '.join(command[:6])}")
    options: dict[str, str] = {}
    rest = command[len(start) :]
    for name, value in zip(rest[::2], (*rest[1::2], ""), strict=False):
        if any(word.startswith("--remove-existing-content") for word in (name, value)):
            raise UsageError(
                "--remove-existing-content is never used: below the top of the container it empties the parent folder,"
                " with every model in it",
                hint="copy without it; see docs/sideload.md about files that are left over",
            )
        if name not in _TAKES_A_VALUE or name in options or not value or value.startswith("-"):
            raise UsageError(f"refused: {name} {value}".rstrip(), hint="zoo copies one source to one destination")
        options[name] = value
    if options.get("--domain-type") != "appDataContainer" or options.get("--domain-identifier") != target.app:
        raise UsageError("refused: the copy does not go to the app's data container")
    if options.get("--device") != target.device:
        raise UsageError("refused: the copy does not name its device; the first one connected may be another")
    _check_ends(options.get("--source", ""), options.get("--destination", ""), target)


def _check_ends(source: str, destination: str, target: Target) -> None:
    if destination.endswith("/") or source.endswith("/"):
        raise UsageError(
            f"refused: {destination!r}: devicectl reports success for a trailing slash and puts the file elsewhere"
        )
    if not source.startswith("/"):
        raise UsageError(f"refused: source {source!r} is not absolute")
    inside = destination.removeprefix(f"{target.root}/")
    if inside == destination:
        raise UsageError(f"refused: {destination!r} is not below {target.root}")
    check_bundle_path(inside, where="destination on the device")
