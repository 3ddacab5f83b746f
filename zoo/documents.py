"""Reading and writing zoo's own documents: strict on the way in, canonical on the way out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from zoo.errors import DiskError, InvalidDocument

Document = TypeVar("Document")

NEWER_SCHEMA_HINT = "it was written by a newer zoo; upgrade with `pip install -U zoo`"


def decode(data: Any, kind: type[Document], *, where: str, schema: int) -> Document:
    """Turn parsed TOML or JSON into a document, refusing what the schema does not know.

    Args:
        data: what the TOML or JSON parser returned.
        kind: a `msgspec.Struct` class with a `schema` field.
        where: the file, for messages.
        schema: the schema version this zoo reads.

    Raises:
        InvalidDocument: naming the file, the key and the reason.
    """
    if not isinstance(data, dict):
        raise InvalidDocument(f"{where}: expected a table at the top, found {type(data).__name__}")
    found = data.get("schema")
    if isinstance(found, int) and found > schema:
        raise InvalidDocument(f"{where}: schema {found} is newer than {schema}", hint=NEWER_SCHEMA_HINT)
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise InvalidDocument(f"{where}: {_sentence(error)}") from None


def _sentence(error: msgspec.ValidationError) -> str:
    """Say `key: reason` instead of msgspec's `reason - at `$.key``."""
    reason, separator, path = str(error).partition(" - at `")
    if not separator:
        return reason
    key = path.rstrip("`").removeprefix("$").removeprefix(".")
    return f"{key or 'top level'}: {reason}"


def parse_json(text: bytes, *, where: str) -> Any:
    """Parse JSON, refusing duplicate keys and the non-standard `NaN` and `Infinity`.

    Raises:
        InvalidDocument: naming the file, the line and the reason.
    """

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            raise InvalidDocument(f"{where}: a key appears twice in one object")
        return table

    def no_constant(name: str) -> None:
        raise InvalidDocument(f"{where}: {name} is not JSON")

    try:
        return json.loads(text, object_pairs_hook=no_duplicates, parse_constant=no_constant)
    except UnicodeDecodeError:
        raise InvalidDocument(f"{where}: not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise InvalidDocument(f"{where}: line {error.lineno}: {error.msg}") from None
    except RecursionError:
        raise InvalidDocument(f"{where}: nested too deeply") from None


def read_bytes(path: Path) -> bytes:
    """Read a small document.

    Raises:
        InvalidDocument: if there is no such file.
        DiskError: if it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InvalidDocument(f"{path}: no such file") from None
    except OSError as error:
        raise DiskError(f"{path}: cannot be read: {error.strerror}") from None


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside, flush to disk, then replace, so that a reader sees the old file or the new one.

    Raises:
        DiskError: no space or no permission; the old file is untouched.
    """
    import tempfile  # half of what this module costs, and most commands only read

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise DiskError(f"{path}: cannot be written: {error.strerror}") from None


def canonical_json(data: dict[str, Any], *, one_line_each: str | None = None) -> bytes:
    """Serialise with sorted keys, two-space indent, LF and a final newline: same content, same bytes.

    Args:
        data: JSON-compatible values.
        one_line_each: a top-level key whose value is a list that gets one item per line, so that a change of
            one file is a change of one line.
    """
    if one_line_each is None:
        return (json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
    marker = f"@{one_line_each}@"
    shell = json.dumps({**data, one_line_each: marker}, indent=2, sort_keys=True, ensure_ascii=False)
    rows = [json.dumps(item, sort_keys=True, ensure_ascii=False) for item in data[one_line_each]]
    body = "[\n    " + ",\n    ".join(rows) + "\n  ]" if rows else "[]"
    return (shell.replace(json.dumps(marker), body, 1) + "\n").encode()
