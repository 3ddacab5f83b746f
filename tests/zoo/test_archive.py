from __future__ import annotations

import io
import ntpath
import posixpath
import random
import shutil
import stat
import struct
import subprocess
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.zoo.archives import TOP, zip_of, zipped_bundle
from zoo.archive import common_top, read_members, unpack
from zoo.errors import InvalidDocument, UnsafePath, ZooError
from zoo.paths import STATE_DIRECTORY

Change = Callable[[zipfile.ZipInfo], None]


def raw_zip(
    *members: tuple[str, bytes], change: Change = lambda info: None, method: int = zipfile.ZIP_DEFLATED
) -> bytes:
    """A zip file with names as they are given, however bad; `change` sees each entry before it is written."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, data in members:
            info = zipfile.ZipInfo("x")
            info.filename = name
            info.compress_type = method
            change(info)
            archive.writestr(info, data)
    return buffer.getvalue()


def members_of(tmp_path: Path, data: bytes) -> dict[str, bytes]:
    """Everything that comes out of an archive, by name."""
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    found = {}
    for member in read_members(path):
        with path.open("rb") as file:
            pieces = unpack(
                file, offset=member.offset, packed=member.packed, size=member.size, method=member.method, where="a"
            )
            found[member.name] = b"".join(pieces)
        assert zlib.crc32(found[member.name]) == member.crc32
    return found


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("top", ["", TOP])
def test_what_was_packed_comes_out(tmp_path: Path, top: str, stored: bool) -> None:
    files = zipped_bundle()
    found = members_of(tmp_path, zip_of(files, top=top, stored=stored))
    assert found == {top + name: data for name, data in files.items()}
    assert common_top(found) == top


@pytest.mark.skipif(shutil.which("zip") is None, reason="needs zip")
def test_what_the_zip_command_makes(tmp_path: Path) -> None:
    for name, data in zipped_bundle().items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    subprocess.run(["zip", "-q", "-r", "../a.zip", "."], cwd=tmp_path / "in", check=True)
    assert members_of(tmp_path, (tmp_path / "a.zip").read_bytes()) == zipped_bundle()


class Pipe:
    """Somewhere to write to that cannot go back: sizes come behind the bytes then."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> int:
        self.written += data
        return len(data)

    def flush(self) -> None:
        """There is nothing to flush."""


def test_data_descriptors_and_zip64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)  # so that the directory's end is one of zip64
    files = zipped_bundle()
    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            with archive.open(name, "w", force_zip64=True) as out:
                out.write(data)
    for signature in (b"PK\x07\x08", b"PK\x06\x06", b"PK\x06\x07"):
        assert signature in pipe.written
    assert members_of(tmp_path, pipe.written) == files


def test_an_archive_behind_something_else(tmp_path: Path) -> None:
    files = {"a.bin": b"a" * 1000}
    assert members_of(tmp_path, b"#!/bin/sh\n" + zip_of(files)) == files


hostile_parts = st.sampled_from(
    [
        "..",
        ".",
        "",
        "a",
        "A",
        "ä",
        "a\u0308",
        "C:",
        "\\",
        "..\\",
        "~",
        "con",
        "nul.txt",
        "x\0y",
        "x\ny",
        " a",
        "a.",
        "\u202e",
        "*",
    ]
)
hostile_names = st.one_of(
    st.lists(hostile_parts, min_size=1, max_size=4).map("/".join),
    st.lists(hostile_parts, min_size=1, max_size=3).map("\\".join),
    st.text(max_size=12).filter(lambda name: not any("\ud800" <= c <= "\udfff" for c in name)),
    st.sampled_from(
        ["/etc/passwd", "//host/share", "C:/x", "\\\\host\\x", STATE_DIRECTORY + "/receipt.json", "a/" * 300]
    ),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(names=st.lists(hostile_names, min_size=1, max_size=4))
def test_no_name_leads_out_of_a_folder(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "hostile.zip"
    path.write_bytes(raw_zip(*((name, b"x") for name in names)))
    try:
        found = [member.name for member in read_members(path)]
    except (UnsafePath, InvalidDocument):
        return
    assert set(found) <= set(names)
    assert len({name.casefold() for name in found}) == len(found)
    for name in found:
        for library, base in ((posixpath, "/base/folder"), (ntpath, "C:\\base\\folder")):
            joined = library.normpath(library.join(base, name))
            assert joined.startswith(base), f"{name!r} leaves the folder"
            assert joined != base
        assert not name.startswith(STATE_DIRECTORY)
        assert "\0" not in name


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(seed=st.integers(0, 2**32), flips=st.integers(1, 6))
def test_damage_is_found_or_harmless(tmp_path: Path, seed: int, flips: int) -> None:
    """Whatever bytes are changed: the members come out as they were packed, or an error of zoo's, nothing else."""
    files = {"model.mlmodelc/weight.bin": b"12345678" * 500, "b.json": b"{}"}
    data = bytearray(zip_of(files, extra=False))
    random_ = random.Random(seed)
    for _ in range(flips):
        data[random_.randrange(len(data))] ^= 1 << random_.randrange(8)
    try:
        found = members_of(tmp_path, bytes(data))
    except (ZooError, AssertionError):  # the assertion compares the CRC
        return
    for name, content in found.items():
        assert content in files.values() or name not in files


def test_the_same_name_twice_or_in_another_case(tmp_path: Path) -> None:
    for other, reason in (("a.bin", "twice"), ("A.bin", "letter case"), ("a.bin/b", "a folder")):
        with pytest.raises(UnsafePath, match=reason):
            members_of(tmp_path, raw_zip(("a.bin", b"1"), (other, b"2")))


def unix_mode(mode: int) -> Change:
    def change(info: zipfile.ZipInfo) -> None:
        info.create_system, info.external_attr = 3, mode << 16

    return change


@pytest.mark.parametrize(
    ("mode", "reason"), [(stat.S_IFLNK | 0o777, "symbolic link"), (stat.S_IFIFO | 0o644, "not a regular file")]
)
def test_links_and_devices(tmp_path: Path, mode: int, reason: str) -> None:
    with pytest.raises(InvalidDocument, match=reason):
        members_of(tmp_path, raw_zip(("link", b"/etc/passwd"), change=unix_mode(mode)))
    assert members_of(tmp_path, raw_zip(("file", b"1"), change=unix_mode(stat.S_IFREG | 0o644))) == {"file": b"1"}


def patched(data: bytes, *changes: tuple[int, str, int], central: bool = True, local: bool = True) -> bytes:
    """`data` with fields of its headers overwritten: offset in a central header, format, value."""
    out = bytearray(data)
    at = data.index(b"PK\x01\x02")
    for offset, kind, value in changes:
        if central:
            struct.pack_into(kind, out, at + offset, value)
        if local:
            struct.pack_into(kind, out, offset - 2, value)
    return bytes(out)


FLAGS, METHOD, CRC, PACKED, SIZE = 8, 10, 16, 20, 24
"""Offsets of fields in a central header (APPNOTE 4.3.12); in a local one they come two bytes earlier."""


def test_an_encrypted_member(tmp_path: Path) -> None:
    for flag in (0x1, 0x41, 0x2000):
        with pytest.raises(InvalidDocument, match=r"encrypted|damaged"):
            members_of(tmp_path, patched(raw_zip(("a.bin", b"1" * 50)), (FLAGS, "<H", flag)))


def test_an_unknown_method(tmp_path: Path) -> None:
    with pytest.raises(InvalidDocument, match="method 14"):
        members_of(tmp_path, raw_zip(("a.bin", b"1" * 50), method=zipfile.ZIP_LZMA))
    with pytest.raises(InvalidDocument, match="method 97"):
        members_of(tmp_path, patched(raw_zip(("a.bin", b"1" * 50)), (METHOD, "<H", 97)))


def test_two_accounts_of_one_member(tmp_path: Path) -> None:
    """The central directory and the local header differ: other programs would unpack something else."""
    data = raw_zip(("aaa.bin", b"1" * 50))
    renamed = data.replace(b"aaa.bin", b"bbb.bin", 1)
    for wrong in (renamed, patched(data, (METHOD, "<H", 0), central=False), b"\0\0\0\0" + data[4:]):
        with pytest.raises(InvalidDocument, match="damaged"):
            members_of(tmp_path, wrong)


def test_sizes_that_lie(tmp_path: Path) -> None:
    data = raw_zip(("a.bin", b"1" * 5000))
    for size in (4999, 5001, 0):
        with pytest.raises(InvalidDocument, match=r"unpacks to|cannot have"):
            members_of(tmp_path, patched(data, (SIZE, "<L", size)))
    with pytest.raises(InvalidDocument, match="cannot have"):
        members_of(tmp_path, patched(data, (SIZE, "<L", 500_000_000)))
    with pytest.raises(InvalidDocument, match=r"cannot have|damaged"):
        members_of(tmp_path, patched(raw_zip(("a.bin", b"12"), method=0), (SIZE, "<L", 7), (PACKED, "<L", 7)))


def test_a_bomb(tmp_path: Path) -> None:
    with pytest.raises(InvalidDocument, match="bomb"):
        members_of(tmp_path, raw_zip(("zeros.bin", bytes(30_000_000))))


def test_a_real_size_beyond_the_declared_one_is_never_unpacked() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = packer.compress(bytes(50_000_000)) + packer.flush()
    out: list[bytes] = []
    pieces = unpack(io.BytesIO(bomb), offset=0, packed=len(bomb), size=1000, method="deflated", where="x")
    with pytest.raises(InvalidDocument, match="more than its 1,000 bytes"):
        out.extend(pieces)
    assert len(b"".join(out)) <= 1000


def test_members_that_share_bytes(tmp_path: Path) -> None:
    """David Fifield's bombs: many directory entries, one body."""
    data = raw_zip(("a.bin", b"x" * 1000), ("b.bin", b"x" * 1000))
    second = data.index(b"PK\x03\x04", 4)
    header = data.rindex(b"PK\x01\x02")
    out = bytearray(data)
    struct.pack_into("<L", out, header + 42, 0)  # where the second member's local header is: that of the first
    with pytest.raises(InvalidDocument, match="damaged"):
        members_of(tmp_path, bytes(out))
    # The quoting kind: the first member's body holds the second local header and body.
    stored = bytearray(raw_zip(("a.bin", b"y" * 100), ("b.bin", b"z" * 100), method=zipfile.ZIP_STORED))
    second = stored.index(b"PK\x03\x04", 4)
    reach = len(stored[: stored.index(b"PK\x01\x02")]) - 35
    first = stored.index(b"PK\x01\x02")
    for place in (18, first + PACKED):
        struct.pack_into("<2L", stored, place, reach, reach)
    assert second < 35 + reach
    with pytest.raises(InvalidDocument, match="overlap"):
        members_of(tmp_path, bytes(stored))


@pytest.mark.parametrize("data", [b"", b"PK\x05\x06", b"<html>" * 100, b"PK\x03\x04" + bytes(500)])
def test_what_is_no_zip_file(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InvalidDocument, match="zip file"):
        members_of(tmp_path, data)


def test_a_cut_archive_and_a_huge_directory(tmp_path: Path) -> None:
    data = zip_of(zipped_bundle())
    with pytest.raises(InvalidDocument):
        members_of(tmp_path, data[: len(data) // 2])
    huge = bytearray(data)
    struct.pack_into("<L", huge, data.rindex(b"PK\x05\x06") + 12, 40 << 20)
    with pytest.raises(InvalidDocument, match="directory"):
        members_of(tmp_path, bytes(huge))


def test_litter_is_passed_over_but_nothing_else(tmp_path: Path) -> None:
    data = raw_zip((".DS_Store", b"x"), ("a/Thumbs.db", b"x"), ("__MACOSX/._a", b"x"), ("a/b.bin", b"y"))
    assert members_of(tmp_path, data) == {"a/b.bin": b"y"}
    assert common_top(["a/b", "a/c"]) == "a/"
    assert common_top(["a/b", "c"]) == ""
    assert common_top([]) == ""


def test_names_in_other_alphabets(tmp_path: Path) -> None:
    files = {"modèle/poids.bin": b"1", "模型.json": b"2"}
    assert members_of(tmp_path, zip_of(files, extra=False)) == files
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"], "nothing is unpacked by reading"
