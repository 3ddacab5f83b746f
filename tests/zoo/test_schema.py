from __future__ import annotations

import copy
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.zoo.transfer.push_support import tiny_zoo
from zoo import schema
from zoo.errors import InvalidDocument
from zoo.lock import dump_lock, parse_lock
from zoo.manifest import parse_manifest

MANIFESTS = sorted((Path(__file__).parents[2] / "manifests").glob("*.toml"))

GOOD: dict[str, Any] = tomllib.loads(
    next(path for path in MANIFESTS if path.stem == "gemma4-e4b-multimodal").read_text(encoding="utf-8")
)


def validator(document: dict[str, Any]) -> Draft202012Validator:
    Draft202012Validator.check_schema(document)
    return Draft202012Validator(document)


def test_the_checked_in_schemas_are_what_the_classes_say() -> None:
    assert schema.stale(schema.DIRECTORY) == [], "run `python -m zoo.schema`"


def test_a_stale_or_missing_schema_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "lock.schema.json").write_text("{}")
    assert set(schema.stale(tmp_path)) == {"catalog.schema.json", "lock.schema.json", "manifest.schema.json"}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_the_manifests_of_this_repo_are_valid(path: Path) -> None:
    errors = validator(schema.manifest_schema()).iter_errors(tomllib.loads(path.read_text(encoding="utf-8")))
    assert [error.message for error in errors] == []


def test_a_lock_is_valid(tmp_path: Path) -> None:
    zoo = tiny_zoo(tmp_path)
    data = json.loads(dump_lock(zoo.build_entry("tiny")))
    check = validator(schema.lock_schema())
    assert check.is_valid(data)
    for change in ({"path": 7}, {"sha256": "ABC"}, {"size": -1}, {"xxh3": "0" * 31}, {"more": 1}):
        wrong = copy.deepcopy(data)
        wrong["files"][0] |= change
        assert not check.is_valid(wrong), change
        with pytest.raises(InvalidDocument):
            parse_lock(json.dumps(wrong).encode(), where="test")


def test_the_catalog_s_keys_are_described_as_swift_spells_them() -> None:
    entry = schema.catalog_schema()["$defs"]["CatalogEntry"]["properties"]
    assert entry["blockedIos"]["description"] == entry["blockedMacos"]["description"]
    for definition in schema.catalog_schema()["$defs"].values():
        assert set(definition["required"]) == set(definition["properties"]), "a decoder may rely on every key"


def broken(change: str) -> dict[str, Any]:
    data = copy.deepcopy(GOOD)
    match change:
        case "no id":
            del data["id"]
        case "bad id":
            data["id"] = "Upper Case"
        case "unknown key":
            data["siez"] = 1
        case "order is text":
            data["order"] = "10"
        case "unknown role":
            data["component"][0]["role"] = "wizard"
        case "two origins":
            data["component"][0] |= {"recipe": "gemma4.rope", "share": "gemma4-e4b/rope"}
        case "no origin":
            data["component"][0].pop("recipe", None)
            data["component"][0].pop("share", None)
        case "no component":
            data["component"] = []
        case "bad repo":
            data["hub"]["repo"] = "no-namespace"
        case "repo and archive":
            data["archive"] = {"url": "https://example.org/x.zip"}
        case "plain http":
            del data["hub"]
            data["archive"] = {"url": "http://example.org/x.zip"}
    return data


@pytest.mark.parametrize(
    "change",
    [
        "no id",
        "bad id",
        "unknown key",
        "order is text",
        "unknown role",
        "two origins",
        "no origin",
        "no component",
        "bad repo",
        "repo and archive",
        "plain http",
    ],
)
def test_bad_manifests_are_refused_by_schema_and_reader_alike(change: str) -> None:
    data = broken(change)
    assert not validator(schema.manifest_schema()).is_valid(data)
    with pytest.raises(InvalidDocument):
        parse_manifest(toml(data).encode(), where="test")


def toml(data: dict[str, Any]) -> str:
    """TOML of a manifest, with inline tables for everything but the components."""
    lines = [f"{key} = {_value(value)}" for key, value in data.items() if key != "component"]
    if not data["component"]:
        lines.append("component = []")
    for component in data["component"]:
        lines.append("[[component]]")
        lines.extend(f"{key} = {_value(value)}" for key, value in component.items())
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + " }"
    return json.dumps(value)
