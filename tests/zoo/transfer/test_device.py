from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.zoo.transfer.phone_support import DATA, put_phone, put_xcrun
from zoo.errors import MissingExtra, UsageError
from zoo.plan.device_commands import Target, devices_command
from zoo.plan.sideload import DeviceFile
from zoo.transfer.device import (
    DeviceError,
    choose_device,
    list_devices,
    list_target,
    load_listing,
    read_listing,
    run_devicectl,
)

PHONE = "6F1C2D3E-0000-4000-8000-000000000001"
TARGET = Target(PHONE, "com.example.CoreMLLLMChat", "tiny")


def answering(directory: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An `xcrun` that runs a line of Python; `out` is its --json-output."""
    lines = ["import sys", "out = sys.argv[sys.argv.index('--json-output') + 1]", script]
    put_xcrun(directory, "\n".join(lines), monkeypatch)


def recorded(name: str, code: int = 0) -> str:
    return f"open(out, 'w').write(open({str(DATA / name)!r}).read()); sys.exit({code})"


@pytest.mark.parametrize("name", ["devices.json", "devices-version-5.json"])
def test_devices_are_read_in_both_shapes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(tmp_path, recorded(name), monkeypatch)
    phone = list_devices()[0]
    assert (phone.identifier, phone.udid, phone.name, phone.model) == (
        PHONE,
        "00008150-000000000000001A",
        "Ada's iPhone",
        "iPhone 17 Pro",
    )
    assert phone.physical
    assert phone.available
    for given_name in (PHONE, PHONE.lower(), "00008150-000000000000001A", "Ada's iPhone"):
        assert choose_device((phone,), given_name) is phone


def test_no_device_is_ever_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(tmp_path, recorded("devices.json"), monkeypatch)
    devices = list_devices()
    with pytest.raises(UsageError, match="Ada's iPhone") as nameless:
        choose_device(devices, None)
    assert "also if there is only one" in (nameless.value.hint or "")
    with pytest.raises(DeviceError, match="no device is called 'Bob'"):
        choose_device(devices, "Bob")
    with pytest.raises(DeviceError, match="cannot be reached"):
        choose_device(devices, "Ada's iPad")
    with pytest.raises(UsageError, match="is a simulator"):
        choose_device(devices, "iPhone 17 Pro")
    with pytest.raises(UsageError, match="fits several"):
        choose_device((devices[0], devices[0]), "Ada's iPhone")


def test_a_listing_gives_sizes_times_and_folders(tmp_path: Path) -> None:
    listing = load_listing(DATA / "files.json", TARGET)
    weight = "chunk1.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    assert listing.files[weight] == DeviceFile(5000, "2026-04-15T10:20:30.000Z")
    assert "chunk1.mlpackage/Data/com.apple.CoreML" in listing.folders
    assert len(listing.files) == 6
    assert not listing.folders & listing.files.keys()


@pytest.mark.parametrize(
    "written",
    [
        "m.mlmodelc/a.bin",
        "Documents/Models/tiny/m.mlmodelc/a.bin",
        "/Documents/Models/tiny/m.mlmodelc/a.bin",
        "/private/var/mobile/Containers/Data/Application/0-1/Documents/Models/tiny/m.mlmodelc/a.bin",
    ],
)
def test_paths_may_be_written_from_further_up(written: str) -> None:
    listing = read_listing({"files": [{"relativePath": written, "metadata": {"size": 3}}]}, TARGET.root)
    assert listing.files == {"m.mlmodelc/a.bin": DeviceFile(3)}
    assert listing.folders == {"m.mlmodelc"}


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"files": None},
        {"files": {}},
        {"files": [3]},
        {"files": [{}]},
        {"files": [{"relativePath": "../x"}]},
        {"files": [{"relativePath": "/x"}]},
    ],
)
def test_what_is_not_understood_is_an_error_and_not_an_empty_device(result: dict[str, object]) -> None:
    with pytest.raises(DeviceError):
        read_listing(result, TARGET.root)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["files", "relativePath", "name", "resources", "metadata", "size", "isDirectory"]), inner
        ),
    ),
    max_leaves=12,
)


@given(rows=st.lists(JSON, max_size=4))
def test_any_json_gives_a_listing_of_sane_paths_or_a_clear_error(rows: list[object]) -> None:
    try:
        listing = read_listing({"files": rows}, TARGET.root)
    except DeviceError:
        return
    for path, file in listing.files.items():
        assert ".." not in path.split("/")
        assert not path.startswith("/")
        assert file.size is None or file.size >= 0


@pytest.mark.parametrize(
    ("script", "what", "code"),
    [
        (recorded("locked.json", 1), "operation could not be completed", 10002),
        (recorded("not-found.json", 1), "could not be found", 7000),
        (recorded("not-found.json", 0), "could not be found", 7000),
        ("open(out, 'w').write('<html>')", "no JSON", None),
        ("open(out, 'w').write('[]')", "no JSON", None),
        ("sys.exit('ERROR: tunnel\\x1b[31m is gone')", "ended with 1: ERROR: tunnel", None),
        ("open(out, 'w').write('{}'); sys.exit(1)", "does not say why", None),
        ('open(out, \'w\').write(\'{"info": {"outcome": "success"}}\'); sys.exit(3)', "ended with 3", None),
        ("open(out, 'w').write('[' * 100000)", "no JSON", None),
    ],
)
def test_failures_are_told_in_one_line(
    script: str, what: str, code: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(tmp_path, script, monkeypatch)
    with pytest.raises(DeviceError) as failed:
        run_devicectl(devices_command(), seconds=60)
    assert what in failed.value.message
    assert failed.value.message.startswith("devicectl list devices: ")
    assert failed.value.message.isprintable()
    assert failed.value.code == code
    assert failed.value.exit_code == 8
    if code == 10002:
        assert "unlock" in (failed.value.hint or "")


def test_a_tool_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(tmp_path, "import time; time.sleep(60)", monkeypatch)
    with (
        mock.patch("zoo.transfer.device.GRACE_SECONDS", 0),
        pytest.raises(DeviceError, match="gave no answer for 1 s"),
    ):
        run_devicectl(devices_command(), seconds=1)


def test_without_xcode_the_error_says_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtra, match="Xcode 15") as missing:
        list_devices()
    assert "--listing" in (missing.value.hint or "")
    # An xcrun of an older Xcode knows no devicectl.
    monkeypatch.undo()
    answering(
        tmp_path, "sys.exit('xcrun: error: unable to find utility \"devicectl\", not a developer tool')", monkeypatch
    )
    with pytest.raises(MissingExtra, match="does not know devicectl"):
        list_devices()


def test_nothing_but_devicectl_is_ever_started() -> None:
    with pytest.raises(UsageError):
        run_devicectl(("rm", "-rf", "/"), seconds=1)


@pytest.mark.parametrize("flat", [False, True])
def test_a_tool_that_does_not_descend_is_asked_folder_by_folder(
    flat: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = put_phone(tmp_path, monkeypatch)
    (tmp_path / "mood").write_text(json.dumps({"flat": flat}))
    root = container / TARGET.root
    (root / "a.mlmodelc" / "weights").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "a.mlmodelc" / "weights" / "weight.bin").write_bytes(b"12345")
    (root / "b.bin").write_bytes(b"1")
    listing = list_target(TARGET)
    assert {path: file.size for path, file in listing.files.items()} == {
        "a.mlmodelc/weights/weight.bin": 5,
        "b.bin": 1,
    }
    assert listing.folders == {"a.mlmodelc", "a.mlmodelc/weights", "empty"}


def test_a_folder_that_is_not_there_is_empty_but_a_container_that_cannot_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_phone(tmp_path, monkeypatch)
    assert not list_target(TARGET).files
    (tmp_path / "mood").write_text('{"not_installed": true}')
    with pytest.raises(DeviceError, match="cannot be listed") as unreadable:
        list_target(TARGET)
    assert "is the app installed" in (unreadable.value.hint or "")
