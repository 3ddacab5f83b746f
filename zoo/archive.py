"""Zip files from strangers: what is in them, and streaming a member out of one.

Whatever a zip file says about itself is checked before a byte of it is used: names, kinds, sizes, where each
member's bytes lie, and that no two members share any. Everything is read by offset, nothing is extracted by name.

Format: PKWARE APPNOTE 6.3.10; section numbers below are its.
"""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from zoo.errors import InvalidDocument
from zoo.lock import MAX_DEFLATE_RATIO, Method
from zoo.paths import check_bundle_path, check_no_clashes

METHODS: dict[int, Method] = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
"""What is understood (4.4.5); the others are rare, and Apple's own tools write none of them."""

MAX_UNPACKED_RATIO = 200
"""A whole archive that grows more is a bomb, not a model: weights shrink by a few per cent, text by four fifths."""

SMALL_BYTES = 1 << 20
"""Archives that unpack to less than this may have any ratio."""

MAX_DIRECTORY_BYTES = 32 << 20
"""Of a central directory. 60 files take 6 kB; one of this size describes about 300,000."""

PIECE_BYTES = 256 << 10
"""Most that is unpacked at once."""

_LOCAL_HEADER_BYTES = 30
"""4.3.7, without name and extra field."""

_END_BYTES = 22
_END64_BYTES = 56
_END64_LOCATOR_BYTES = 20
"""4.3.16, 4.3.14, 4.3.15: the ends of the directory, without a comment."""

_ENCRYPTED = 0x1 | 0x40 | 0x2000
"""4.4.4: encrypted, strongly encrypted, masked local headers."""

_LITTER_FOLDER = "__MACOSX/"
_LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """One file in a zip file.

    Attributes:
        name: as the archive spells it; a safe relative path.
        offset: where its packed bytes begin.
        packed: how many there are.
        size: bytes when unpacked.
        method: how they are packed.
        crc32: of the unpacked bytes.
    """

    name: str
    offset: int
    packed: int
    size: int
    method: Method
    crc32: int


def read_members(path: Path) -> tuple[ArchiveMember, ...]:
    """The files in a zip file, sorted by name; folders and what file managers leave behind are passed over.

    Raises:
        InvalidDocument: not a zip file, a damaged one, or one that zoo refuses: encrypted, an unknown method, a link,
            a bomb, members that overlap or are there twice.
        UnsafePath: a name that could leave a folder, or two that are one file on some file system.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        _check_directory_size(file, path)
        try:
            with zipfile.ZipFile(file) as archive:
                listed = archive.infolist()
                start = archive.start_dir
        except (zipfile.BadZipFile, NotImplementedError, struct.error, UnicodeDecodeError, ValueError) as error:
            raise _damaged(path, str(error)) from None
        members = [_member(file, info, path) for info in listed if not _is_passed_over(info, path)]
    check_no_clashes((member.name for member in members), where=str(path))
    _check_spans(members, start, path)
    _check_growth(members, path)
    return tuple(sorted(members, key=lambda member: member.name))


def unpack(file: BinaryIO, *, offset: int, packed: int, size: int, method: Method, where: str) -> Iterator[bytes]:
    """The unpacked bytes of a member, in pieces; never more than `size` in all.

    Args:
        file: the archive, or any file that holds the member's packed bytes.
        offset: where they begin in `file`.
        packed: how many there are.
        size: bytes that must come out.
        method: how they are packed.
        where: archive and member, for messages.

    Raises:
        InvalidDocument: what comes out is not `size` bytes, or the packed bytes are damaged.
        OSError: `file` cannot be read.
    """
    file.seek(offset)
    pieces = _inflated(file, packed, where) if method == "deflated" else _stored(file, packed)
    count = 0
    for piece in pieces:
        count += len(piece)
        if count > size:
            break
        yield piece
    if count != size:
        raise InvalidDocument(f"{where}: unpacks to {'more' if count > size else 'less'} than its {size:,} bytes")


def common_top(names: Iterable[str]) -> str:
    """The one folder that all names lie in, with a slash at its end; empty if there is none."""
    tops = {name.partition("/")[0] if "/" in name else "" for name in names}
    top = tops.pop() if len(tops) == 1 else ""
    return f"{top}/" if top else ""


def _stored(file: BinaryIO, packed: int) -> Iterator[bytes]:
    while packed and (piece := file.read(min(packed, PIECE_BYTES))):
        packed -= len(piece)
        yield piece


def _inflated(file: BinaryIO, packed: int, where: str) -> Iterator[bytes]:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for piece in _stored(file, packed):
            packed -= len(piece)
            while piece:
                yield inflate.decompress(piece, PIECE_BYTES)
                piece = inflate.unconsumed_tail
            if inflate.eof:
                break
        # Output may be held back although all input is taken.
        while not inflate.eof and (rest := inflate.decompress(b"", PIECE_BYTES)):
            yield rest
    except zlib.error as error:
        raise InvalidDocument(f"{where}: damaged: {error}") from None
    if not inflate.eof or inflate.unused_data or packed:
        raise InvalidDocument(f"{where}: damaged: its packed bytes {'go on after' if inflate.eof else 'lack'} the end")


def _is_passed_over(info: zipfile.ZipInfo, path: Path) -> bool:
    """Folders and litter. A folder's name is checked all the same: nothing in the archive may be out of order."""
    name = info.orig_filename
    if name.endswith("/"):
        check_bundle_path(name.rstrip("/"), where=str(path))
        if info.file_size:
            raise _damaged(path, f"{name!r} is a folder with bytes")
        return True
    return name.startswith(_LITTER_FOLDER) or name.rsplit("/", 1)[-1] in _LITTER


def _member(file: BinaryIO, info: zipfile.ZipInfo, path: Path) -> ArchiveMember:
    """Check one entry of the central directory, and its local header against it."""
    name = info.orig_filename  # zipfile cuts `filename` at a NUL
    check_bundle_path(name, where=str(path))
    if info.flag_bits & _ENCRYPTED:
        raise InvalidDocument(f"{path}: {name} is encrypted", hint="ask the publisher for an archive without password")
    method = METHODS.get(info.compress_type)
    if method is None:
        raise InvalidDocument(
            f"{path}: {name} is packed with method {info.compress_type}, which zoo does not unpack",
            hint="pack it anew, stored or deflated, as `zip` and the Finder do",
        )
    mode = info.external_attr >> 16
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        kind = "a symbolic link" if stat.S_ISLNK(mode) else "not a regular file"
        raise InvalidDocument(f"{path}: {name} is {kind}")
    lying = info.compress_size != info.file_size
    if method == "deflated":
        lying = info.file_size > info.compress_size * MAX_DEFLATE_RATIO
    if lying:
        raise _damaged(path, f"{name} cannot have {info.file_size:,} bytes from {info.compress_size:,}")
    offset = _data_offset(file, info, path)
    return ArchiveMember(name, offset, info.compress_size, info.file_size, method, info.CRC)


def _data_offset(file: BinaryIO, info: zipfile.ZipInfo, path: Path) -> int:
    """Where the packed bytes begin: after the local header, which must tell of the same member (4.3.7)."""
    if not 0 <= info.header_offset < path.stat().st_size:
        raise _damaged(path, f"no local header of {info.orig_filename}")
    file.seek(info.header_offset)
    header = file.read(_LOCAL_HEADER_BYTES)
    if len(header) < _LOCAL_HEADER_BYTES or header[:4] != b"PK\x03\x04":
        raise _damaged(path, f"no local header of {info.orig_filename}")
    flags, method = struct.unpack_from("<2H", header, 6)
    name_length, extra_length = struct.unpack_from("<2H", header, 26)
    raw = file.read(name_length)
    try:
        name = raw.decode("utf-8" if flags & 0x800 else "cp437")
    except UnicodeDecodeError:
        name = ""
    if name != info.orig_filename or method != info.compress_type or (flags ^ info.flag_bits) & _ENCRYPTED:
        raise _damaged(path, f"two accounts of {info.orig_filename}: its local header says {name!r}, method {method}")
    begin: int = info.header_offset
    return begin + _LOCAL_HEADER_BYTES + int(name_length) + int(extra_length)


def _check_spans(members: Iterable[ArchiveMember], directory: int, path: Path) -> None:
    """Refuse members that share bytes with one another or with the directory: how the densest bombs are made."""
    reached, before = 0, ""
    for member in sorted(members, key=lambda member: (member.offset, member.name)):
        if member.offset < reached:
            raise _damaged(path, f"{before} and {member.name} overlap")
        reached, before = member.offset + member.packed, member.name
    if reached > directory:
        raise _damaged(path, f"{before} reaches into the directory")


def _check_growth(members: Iterable[ArchiveMember], path: Path) -> None:
    size = sum(member.size for member in members)
    here = path.stat().st_size
    if size > SMALL_BYTES and size > here * MAX_UNPACKED_RATIO:
        raise InvalidDocument(f"{path}: {here:,} bytes would unpack to {size:,}: refused as a bomb")


def _check_directory_size(file: BinaryIO, path: Path) -> None:
    """Refuse a huge central directory before it is read into memory (4.3.16, 4.3.14)."""
    end = file.seek(0, 2)
    tail_size = min(end, _END64_BYTES + _END64_LOCATOR_BYTES + _END_BYTES + 0xFFFF)
    file.seek(end - tail_size)
    tail = file.read(tail_size)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END_BYTES:
        raise InvalidDocument(f"{path}: not a zip file")
    size = struct.unpack_from("<L", tail, at + 12)[0]
    if size == 0xFFFFFFFF:
        big = tail.rfind(b"PK\x06\x06")
        size = struct.unpack_from("<Q", tail, big + 40)[0] if 0 <= big <= len(tail) - _END64_BYTES else end
    if size > MAX_DIRECTORY_BYTES:
        raise _damaged(path, f"a directory of {size:,} bytes")
    file.seek(0)


def _damaged(path: Path, reason: str) -> InvalidDocument:
    return InvalidDocument(f"{path}: damaged or hostile zip file: {reason}")
