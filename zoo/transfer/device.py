"""Runs `xcrun devicectl` and reads what it answers. The only place that starts it.

Its JSON is the one interface Apple calls stable, and even that changed: devices were described by
`deviceProperties` and `hardwareProperties` up to version 3 of the output and are by `properties` in version 5.
Both are read. What is not understood is an error, never an empty answer: an empty listing would have every
file copied, and would hide every orphan.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import DiskError, MissingExtra, UsageError
from zoo.plan.device_commands import DEVICECTL, LIST_SECONDS, Target, devices_command, list_command
from zoo.plan.sideload import DeviceFile, DeviceListing

NO_DEVICE = 1000
"""CoreDeviceError: no such device."""

NOT_FOUND = 7000
"""CoreDeviceError: no such file or folder, among others."""

LOCKED = 10002
"""CoreDeviceError: the device is locked; it may hide below `NSUnderlyingError`."""

GRACE_SECONDS = 30
"""How much longer than its own `--timeout` the tool may take to give up."""

MOST_LISTINGS = 500
"""Folders listed one by one, should the tool not descend into them itself."""

_HINTS = {
    NO_DEVICE: "connect it, unlock it and trust this Mac; `xcrun devicectl list devices` shows what is there",
    LOCKED: "unlock it and keep its screen on, then run the same command again",
}


class DeviceError(DiskError):
    """The device refused, cannot be reached, or answered something that cannot be understood.

    Attributes:
        code: the tool's own error number; None if there was none.
    """

    def __init__(self, message: str, *, hint: str | None = None, code: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code


@dataclass(frozen=True, slots=True)
class Device:
    """One device as `devicectl list devices` describes it."""

    identifier: str
    udid: str
    name: str
    model: str
    physical: bool
    available: bool

    def answers_to(self, given: str) -> bool:
        """Whether somebody who says `given` may mean this one."""
        return given == self.name or given.casefold() in (self.identifier.casefold(), self.udid.casefold())


def run_devicectl(command: tuple[str, ...], *, seconds: int) -> dict[str, Any]:
    """Run one command and return the `result` of its JSON output.

    Args:
        command: as `zoo.plan.device_commands` makes them.
        seconds: after which it is given up.

    Raises:
        MissingExtra: there is no `xcrun` or no `devicectl` here.
        DeviceError: it failed, did not end in time, or its answer is not understood.
    """
    if command[: len(DEVICECTL)] != DEVICECTL:
        raise UsageError(f"not a devicectl command: {command[:2]}")
    if shutil.which(DEVICECTL[0]) is None:
        raise _no_devicectl("xcrun is not on this machine")
    with tempfile.TemporaryDirectory(prefix="zoo-devicectl-") as directory:
        output = Path(directory) / "output.json"
        try:
            done = subprocess.run(
                [*command, "--json-output", str(output)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds + GRACE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DeviceError(
                f"{_words(command)}: gave no answer for {seconds + GRACE_SECONDS} s",
                hint="check the cable and that the device is unlocked, then run the same command again",
            ) from None
        except OSError as error:
            raise _no_devicectl(f"xcrun cannot be started: {error.strerror}") from None
        text = output.read_bytes() if output.is_file() else b""
    return _result(command, text, done)


def _no_devicectl(why: str) -> MissingExtra:
    return MissingExtra(
        f"{why}: sideloading needs devicectl of Xcode 15 or newer, on a Mac",
        hint="without it, --listing FILE plans from a listing that was saved on a Mac",
    )


def _words(command: tuple[str, ...]) -> str:
    """`devicectl device copy to`: the command without its options."""
    return " ".join(word for word in command[1:5] if not word.startswith("-"))


def _result(command: tuple[str, ...], text: bytes, done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    answer = _parse(text)
    if done.returncode == 0 and answer is not None and _table(answer, "info").get("outcome") == "success":
        return _table(answer, "result")
    if answer is None and "unable to find utility" in done.stderr:
        raise _no_devicectl("xcrun does not know devicectl")
    if answer is not None and _table(answer, "info").get("outcome") != "success":
        raise _refusal(command, answer)
    said = next((line.strip() for line in reversed((done.stderr + done.stdout).splitlines()) if line.strip()), "")
    what = f"ended with {done.returncode}" if done.returncode else "wrote no JSON that can be understood"
    raise DeviceError(f"{_words(command)}: {what}{': ' + _plain(said) if said else ''}")


def _refusal(command: tuple[str, ...], answer: Mapping[str, Any]) -> DeviceError:
    error = _table(answer, "error")
    code = LOCKED if _has_code(error, LOCKED) else error.get("code")
    said = _table(error, "userInfo").get("NSLocalizedDescription")
    text = said.get("string") if isinstance(said, dict) else said
    number = code if isinstance(code, int) else None
    reason = _plain(text) if isinstance(text, str) else "failed and does not say why"
    return DeviceError(
        f"{_words(command)}: {reason}{f' (error {number})' if number is not None else ''}",
        hint=_HINTS.get(number) if number is not None else None,
        code=number,
    )


def _has_code(value: Any, code: int, depth: int = 12) -> bool:
    if depth == 0:
        return False
    if isinstance(value, dict):
        return value.get("code") == code or any(_has_code(item, code, depth - 1) for item in value.values())
    return isinstance(value, list) and any(_has_code(item, code, depth - 1) for item in value)


def _plain(text: str) -> str:
    """One printable line of what the tool said."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]


def _parse(text: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def _table(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def list_devices() -> tuple[Device, ...]:
    """Every device this Mac knows, connected or not.

    Raises:
        MissingExtra, DeviceError: as `run_devicectl`.
    """
    found = run_devicectl(devices_command(), seconds=LIST_SECONDS).get("devices")
    if not isinstance(found, list):
        raise DeviceError("devicectl list devices: the answer has no list of devices")
    return tuple(device for item in found if isinstance(item, dict) and (device := _device(item)) is not None)


def _device(item: Mapping[str, Any]) -> Device | None:
    properties = _table(item, "properties")
    hardware = {**_table(properties, "hardware"), **_table(item, "hardwareProperties")}
    state = {**_table(properties, "state"), **_table(item, "deviceProperties")}
    connection = {**_table(properties, "connection"), **_table(item, "connectionProperties")}
    identifier = _text(item.get("identifier")) or _text(hardware.get("udid"))
    if not identifier:
        return None
    return Device(
        identifier=identifier,
        udid=_text(hardware.get("udid")) or identifier,
        name=_text(state.get("name")) or "?",
        model=_text(hardware.get("marketingName")) or _text(hardware.get("productType")) or "?",
        physical=hardware.get("reality") != "simulated",
        available=connection.get("tunnelState") != "unavailable",
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def choose_device(devices: tuple[Device, ...], given: str | None) -> Device:
    """The device that was named; never one that merely happens to be connected.

    Raises:
        UsageError: no device was named, or the name fits several.
        DeviceError: none has that name, or it cannot be reached.
    """
    usable = [device for device in devices if device.physical and device.available]
    known = ", ".join(f"{_plain(device.name)} ({device.identifier})" for device in usable) or "none"
    if given is None:
        raise UsageError(
            f"which device? connected: {known}", hint="name it: --device IDENTIFIER, also if there is only one"
        )
    fitting = [device for device in devices if device.answers_to(given)]
    if not fitting:
        raise DeviceError(f"no device is called {given!r}; connected: {known}", hint=_HINTS[NO_DEVICE])
    if len(fitting) > 1:
        names = ", ".join(device.identifier for device in fitting)
        raise UsageError(f"{given!r} fits several devices: {names}", hint="use the identifier")
    (device,) = fitting
    if not device.physical:
        raise UsageError(f"{_plain(device.name)} is a simulator", hint="copy into its container with `xcrun simctl`")
    if not device.available:
        raise DeviceError(f"{_plain(device.name)} ({device.identifier}) cannot be reached", hint=_HINTS[NO_DEVICE])
    return device


def list_target(target: Target) -> DeviceListing:
    """What lies in the target's folder; nothing, if there is no such folder yet.

    Raises:
        MissingExtra, DeviceError: as `run_devicectl`; also if the app's container cannot be read at all.
    """
    try:
        listing = _list(target, target.root)
    except DeviceError as error:
        if error.code != NOT_FOUND:
            raise
        _confirm_absent(target, error)
        return DeviceListing()
    return _descend(target, listing)


def _list(target: Target, subdirectory: str) -> DeviceListing:
    result = run_devicectl(list_command(target, subdirectory), seconds=LIST_SECONDS)
    return read_listing(result, subdirectory)


def _confirm_absent(target: Target, error: DeviceError) -> None:
    """7000 has several meanings. Believe that the folder is not there only if the container lists without it."""
    try:
        documents = _list(target, "Documents")
    except DeviceError as again:
        raise DeviceError(
            f"{target.app} on {target.device}: its documents cannot be listed: {again.message}",
            hint="is the app installed from Xcode, and was it started once?",
            code=again.code,
        ) from None
    inside = target.root.removeprefix("Documents/")
    if any(path == inside or path.startswith(inside + "/") for path in {*documents.files, *documents.folders}):
        raise error


def _descend(target: Target, listing: DeviceListing) -> DeviceListing:
    """List the folders that seem empty: a tool that does not descend itself shows every folder so."""
    files, folders = dict(listing.files), set(listing.folders)
    parents = {parent for path in {*files, *folders} for parent in _parents(path)}
    pending = sorted(folders - parents)
    for count, folder in enumerate(pending):  # grows while it runs
        if count >= MOST_LISTINGS:
            raise DeviceError(f"{target.root}: more than {MOST_LISTINGS} folders on the device have to be listed")
        inside = _list(target, f"{target.root}/{folder}")
        files.update({f"{folder}/{path}": file for path, file in inside.files.items()})
        new = {f"{folder}/{path}" for path in inside.folders} - folders
        folders |= new
        parents |= {parent for path in {*inside.files, *inside.folders} for parent in _parents(f"{folder}/{path}")}
        pending += sorted(new - parents)
    return DeviceListing(files, frozenset(folders))


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def load_listing(path: Path, target: Target) -> DeviceListing:
    """A listing that was saved with `--json-output`, of the target's folder.

    Raises:
        DeviceError: it cannot be read, is of a command that failed, or is not a listing.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DeviceError(f"{path}: cannot be read: {error.strerror}") from None
    answer = _parse(text)
    if answer is None:
        raise DeviceError(
            f"{path}: is not JSON", hint="save it with `xcrun devicectl device info files --json-output`"
        )
    if _table(answer, "info").get("outcome") != "success":
        refusal = _refusal(list_command(target, target.root), answer)
        raise DeviceError(f"{path}: is of a command that failed: {refusal.message}", code=refusal.code)
    return read_listing(_table(answer, "result"), target.root)


def read_listing(result: Mapping[str, Any], subdirectory: str) -> DeviceListing:
    """Files and folders of the `result` of `device info files`, with paths relative to `subdirectory`.

    Raises:
        DeviceError: something is not understood.
    """
    rows = result.get("files")
    if not isinstance(rows, list):
        raise DeviceError(f"{subdirectory}: the device's answer has no list of files")
    files: dict[str, DeviceFile] = {}
    folders: set[str] = set()
    for row in rows:
        path = _relative(row, subdirectory)
        resources, metadata = _table(row, "resources"), _table(row, "metadata")
        if resources.get("isDirectory") is True:
            folders.add(path)
            continue
        size = metadata.get("size", resources.get("fileSize"))
        modified = metadata.get("lastModDate")
        files[path] = DeviceFile(
            size=size if isinstance(size, int) and not isinstance(size, bool) and size >= 0 else None,
            modified=modified if isinstance(modified, str) and modified else None,
            regular=resources.get("isSymbolicLink") is not True,
        )
    folders |= {parent for path in {*files, *folders} for parent in _parents(path)}
    return DeviceListing(files, frozenset(folders))


def _relative(row: Any, subdirectory: str) -> str:
    path = (row.get("relativePath") or row.get("name")) if isinstance(row, dict) else None
    if not isinstance(path, str):
        raise DeviceError(f"{subdirectory}: the device lists something without a name")
    # Relative to the folder that was asked for; should a version write more of the path, what is above is cut off.
    _, found, below = path.partition(f"/{subdirectory}/") if path.startswith("/") else ("", "", "")
    inside = below if found else path.removeprefix(subdirectory + "/").rstrip("/")
    if not inside or any(part in ("", ".", "..") for part in inside.split("/")):
        raise DeviceError(f"{subdirectory}: the device lists a path that makes no sense: {_plain(path)!r}")
    return inside
