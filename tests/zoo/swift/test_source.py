from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import tree_sitter_swift
from tree_sitter import Language, Node, Parser

from tests.zoo.bundles import COMMIT, locked_zoo, package_files, text_files
from zoo.catalog import Catalog
from zoo.errors import UnknownEntry
from zoo.swift.files import chosen_entries, generate, write_changed

PARSER = Parser(Language(tree_sitter_swift.language()))


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    multimodal = {**text_files(), **package_files("vision.ane", b"v" * 3000)}
    return locked_zoo(tmp_path, {"tiny": text_files(), "tiny-multimodal": multimodal})


def nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from nodes(child)


def literals_of(source: bytes) -> list[str]:
    tree = PARSER.parse(source)
    return [
        node.text.decode().strip('"')
        for node in nodes(tree.root_node)
        if node.type == "line_string_literal" and node.text is not None
    ]


def test_swift_and_json_say_the_same(catalog: Catalog) -> None:
    files = generate(chosen_entries(catalog, []), endpoint=None)
    assert sorted(files) == ["ZooCatalog.swift", "catalog.json"]
    source = files["ZooCatalog.swift"]
    assert not PARSER.parse(source).root_node.has_error
    document = json.loads(files["catalog.json"])
    assert [entry["id"] for entry in document["entries"]] == ["tiny-multimodal", "tiny"]
    literals = literals_of(source)
    for entry in document["entries"]:
        assert entry["lock"] in literals
        assert entry["size"] in literals
        for file in entry["files"]:
            assert file["path"] in literals
            assert file["sha256"] in literals
            assert f"bytes: {file['bytes']:_}" in source.decode()
            assert file["sources"][0]["commit"] == COMMIT


def test_every_key_of_the_json_has_a_property_in_swift(catalog: Catalog) -> None:
    files = generate(chosen_entries(catalog, []), endpoint=None)
    source = files["ZooCatalog.swift"].decode()
    document = json.loads(files["catalog.json"])

    def properties(type_name: str) -> set[str]:
        body = source.split(f"struct {type_name}: ", 1)[1].split("\n}\n", 1)[0]
        declared = (line.strip() for line in body.splitlines())
        return {line.removeprefix("public let ").split(":")[0] for line in declared if line.startswith("public let ")}

    entry = document["entries"][0]
    assert properties("ZooCatalog") == set(document)
    assert properties("ZooEntry") == set(entry)
    assert properties("ZooComponent") == set(entry["components"][0])
    assert properties("ZooFile") == set(entry["files"][0])
    assert properties("ZooSource") == set(entry["files"][0]["sources"][0])


def test_the_same_locks_give_the_same_bytes(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    first = generate(chosen_entries(catalog, []), endpoint=None)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert generate(chosen_entries(catalog, ["tiny", "tiny-multimodal"]), endpoint=None) == first


def test_prefix_and_access_are_selectable(catalog: Catalog) -> None:
    files = generate(chosen_entries(catalog, ["tiny"]), endpoint=None, access="internal", prefix="Acme")
    source = files["AcmeCatalog.swift"]
    assert not PARSER.parse(source).root_node.has_error
    assert b"public" not in source
    assert b"Zoo" not in source.replace(b"zoo swift", b"")
    assert b"struct AcmeEntry" in source


def test_only_changed_files_are_written(catalog: Catalog, tmp_path: Path) -> None:
    files = generate(chosen_entries(catalog, []), endpoint=None)
    out = tmp_path / "app"
    assert write_changed(out, files, write=False) == ["ZooCatalog.swift", "catalog.json"]
    assert not out.exists()
    write_changed(out, files, write=True)
    assert write_changed(out, files, write=True) == []
    (out / "catalog.json").write_text("{}")
    assert write_changed(out, files, write=False) == ["catalog.json"]


def test_an_entry_without_a_lock_is_named(tmp_path: Path) -> None:
    catalog = locked_zoo(tmp_path, {"tiny": text_files()})
    assert [entry.id for entry in chosen_entries(catalog, [])] == ["tiny"]
    with pytest.raises(UnknownEntry, match="tiny-multimodal has no lock"):
        generate(chosen_entries(catalog, ["tiny-multimodal"]), endpoint=None)
