"""JSON Schemas of the manifest, the lock and the app's catalog, for editors and for programs in other languages.

    python -m zoo.schema            write docs/schemas/
    python -m zoo.schema --check    exit with 1 if they are stale

They are generated from the classes that read the files. Rules that a schema cannot state (unique names, safe paths,
sorted files) are checked when a file is read.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import msgspec

from zoo.documents import canonical_json, write_atomically
from zoo.lock import LOCK_SCHEMA, Lock
from zoo.manifest import MANIFEST_SCHEMA, Manifest
from zoo.swift.catalog import CATALOG_SCHEMA, CatalogDocument

DIRECTORY = Path(__file__).parent.parent / "docs" / "schemas"
"""In a source checkout; an installed zoo does not carry the schemas."""

ATTRIBUTE = re.compile(r"^ {4}(?P<names>\w+(?:, \w+)*): (?P<text>.*(?:\n {8}.*)*)", re.MULTILINE)
"""One entry of a Google docstring's `Attributes:`; further lines are indented deeper."""

DIALECT = "https://json-schema.org/draft/2020-12/schema"

ONE_ORIGIN: list[dict[str, Any]] = [
    {"required": ["recipe"]},
    {"required": ["share"]},
    {"required": ["prebuilt"], "properties": {"prebuilt": {"const": True}}},
]
"""A component is built, shared or prebuilt, and only one of these (`zoo.manifest`)."""


def manifest_schema() -> dict[str, Any]:
    """The JSON Schema of a manifest (TOML editors take it too)."""
    schema = _schema(Manifest, "A zoo manifest: what a bundle is")
    schema["$defs"]["Component"]["oneOf"] = ONE_ORIGIN
    schema["$defs"]["Manifest"]["properties"]["component"]["minItems"] = 1
    schema["$defs"]["Manifest"]["not"] = {"required": ["hub", "archive"]}
    schema["$defs"]["Manifest"]["properties"]["schema"]["const"] = MANIFEST_SCHEMA
    return schema


def lock_schema() -> dict[str, Any]:
    """The JSON Schema of a lock."""
    schema = _schema(Lock, "A zoo lock: which bytes a bundle is")
    schema["$defs"]["Lock"]["properties"]["schema"]["const"] = LOCK_SCHEMA
    return schema


def catalog_schema() -> dict[str, Any]:
    """The JSON Schema of `catalog.json`."""
    schema = _schema(CatalogDocument, "A zoo catalog: what an app can offer and fetch")
    schema["$defs"]["CatalogDocument"]["properties"]["schema"]["const"] = CATALOG_SCHEMA
    return schema


def _schema(kind: type[msgspec.Struct], title: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"$schema": DIALECT, "title": title, **msgspec.json.schema(kind)}
    for definition in schema["$defs"].values():
        _describe(definition)
    return schema


def _describe(definition: dict[str, Any]) -> None:
    """Spread a class's docstring: its first paragraph describes the object, `Attributes:` its properties."""
    # Python 3.13 takes the indentation out of docstrings itself; the result must not depend on the version.
    text = inspect.cleandoc(definition.pop("description", ""))
    summary, _, attributes = text.partition("\n\nAttributes:\n")
    if summary:
        definition["description"] = " ".join(summary.split())
    for match in ATTRIBUTE.finditer(attributes):
        for name in match["names"].split(", "):
            definition["properties"][_key(name, definition)]["description"] = " ".join(match["text"].split())


def _key(name: str, definition: dict[str, Any]) -> str:
    """The JSON key of an attribute: the catalog spells `remote_path` as `remotePath`."""
    if name in definition["properties"]:
        return name
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


def documents() -> dict[str, bytes]:
    """File name and canonical bytes of every schema."""
    return {
        "manifest.schema.json": canonical_json(manifest_schema()),
        "lock.schema.json": canonical_json(lock_schema()),
        "catalog.schema.json": canonical_json(catalog_schema()),
    }


def stale(directory: Path) -> list[str]:
    """The names of the schemas in a directory that are missing or not what the classes say."""
    return [
        name
        for name, data in documents().items()
        if not (directory / name).is_file() or (directory / name).read_bytes() != data
    ]


def main(arguments: list[str]) -> int:
    """Write the schemas, or check them; returns the exit code."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    names = stale(DIRECTORY)
    for name in names:
        if arguments:
            print(f"{DIRECTORY / name}: stale; run `python -m zoo.schema`", file=sys.stderr)
        else:
            write_atomically(DIRECTORY / name, documents()[name])
            print(f"written: {DIRECTORY / name}")
    return 1 if arguments and names else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
