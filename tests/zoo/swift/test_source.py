from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from tests.zoo.bundles import COMMIT, locked_zoo, package_files, text_files
from tests.zoo.swift.swift_values import constants, parse
from zoo.catalog import Catalog, load_catalog
from zoo.errors import UnknownEntry
from zoo.lock import load_lock
from zoo.provisional import ROOT
from zoo.schema import catalog_schema
from zoo.swift.files import chosen_entries, generate, write_changed
from zoo.swift.writer import identifier


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    multimodal = {**text_files(), **package_files("vision.ane", b"v" * 3000)}
    return locked_zoo(tmp_path, {"tiny": text_files(), "tiny-multimodal": multimodal})


@pytest.fixture(scope="module")
def shipped() -> Catalog:
    return load_catalog(ROOT / "manifests")


def test_swift_and_json_say_the_same(catalog: Catalog) -> None:
    files = generate(chosen_entries(catalog, []), endpoint=None)
    document = json.loads(files["catalog.json"])
    assert [entry["id"] for entry in document["entries"]] == ["tiny-multimodal", "tiny"]
    values = constants(files["ZooCatalog.swift"])
    assert [values[identifier(entry["id"])] for entry in document["entries"]] == document["entries"]
    assert values["compiled"] == {
        "schema": document["schema"],
        "endpoint": document["endpoint"],
        "entries": [".tinyMultimodal", ".tiny"],
    }


def test_the_shipped_zoo_in_swift_and_json(shipped: Catalog) -> None:
    files = generate(chosen_entries(shipped, []), endpoint=None)
    document = json.loads(files["catalog.json"])
    values = constants(files["ZooCatalog.swift"])
    assert [values[identifier(entry["id"])] for entry in document["entries"]] == document["entries"]
    assert [error.message for error in Draft202012Validator(catalog_schema()).iter_errors(document)] == []


def test_a_file_says_all_that_the_lock_and_the_manifest_do(catalog: Catalog) -> None:
    document = json.loads(generate(chosen_entries(catalog, []), endpoint=None)["catalog.json"])
    multimodal, tiny = document["entries"]
    weights = "Data/com.apple.CoreML/weights/weight.bin"
    by_path = {file["path"]: file for file in multimodal["files"]}
    lock = load_lock(catalog.get("tiny-multimodal").lock_file).by_path()
    assert by_path[f"vision.ane.mlpackage/{weights}"] == {
        "path": f"vision.ane.mlpackage/{weights}",
        "remotePath": f"vision.ane.mlpackage/{weights}",
        "component": "vision",
        "modality": "image",
        "required": False,
        "bytes": 3000,
        "sha256": lock[f"vision.ane.mlpackage/{weights}"].sha256,
        "group": None,
        "sources": [
            {"repo": "zoo/tiny-multimodal-coreml", "commit": COMMIT, "path": f"vision.ane.mlpackage/{weights}"}
        ],
        "member": None,
    }
    assert by_path[f"chunk1.mlpackage/{weights}"]["group"] == f"tiny-multimodal/chunk1.mlpackage/{weights}"
    one = len(package_files("x", b"")["x.mlpackage/Manifest.json"])
    assert multimodal["bytes"] - multimodal["uniqueBytes"] == one, "both packages have the same one"
    assert tiny["hub"] == {"repo": "zoo/tiny-coreml", "revision": "main"}
    assert (multimodal["order"], tiny["order"]) == (1, 2)
    assert multimodal["environment"] == {"LLM_VISION_FORCE_ANE": "1"}


def test_an_entry_says_where_it_does_not_run_and_what_must_not_be_there(shipped: Catalog) -> None:
    entries = {
        entry["id"]: entry
        for entry in json.loads(generate(chosen_entries(shipped, []), endpoint=None)["catalog.json"])["entries"]
    }
    for name, entry in entries.items():
        manifest = shipped.get(name).manifest
        assert (entry["blockedIos"], entry["blockedMacos"]) == (manifest.blocked.ios, manifest.blocked.macos)
        assert tuple(entry["absent"]) == manifest.absent
        assert (entry["minimumIos"], entry["minimumMacos"]) == ("18.0", "15.0")
    assert any(entry["absent"] for entry in entries.values())
    legacy = {file["path"]: file for file in entries["gemma4-e2b"]["files"]}
    lent = legacy["prefill_chunk4.mlmodelc/weights/weight.bin"]
    assert lent["remotePath"] == "swa/chunk4.mlmodelc/weights/weight.bin", "the repo has it once, as chunk4's"
    assert lent["group"] == legacy["chunk4.mlmodelc/weights/weight.bin"]["group"]
    unique = entries["gemma4-e2b"]["bytes"] - entries["gemma4-e2b"]["uniqueBytes"]
    assert unique == 155_436_864 + 133_963_968 + 325_282_880 + 526_874_880


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
    assert properties("ZooHub") == set(entry["hub"])
    assert properties("ZooMember") == set(catalog_schema()["$defs"]["CatalogMember"]["properties"])
    assert properties("ZooArchive") == set(catalog_schema()["$defs"]["CatalogArchive"]["properties"])


def test_the_same_locks_give_the_same_bytes(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    first = generate(chosen_entries(catalog, []), endpoint=None)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert generate(chosen_entries(catalog, ["tiny", "tiny-multimodal"]), endpoint=None) == first


def test_prefix_and_access_are_selectable(catalog: Catalog) -> None:
    files = generate(chosen_entries(catalog, ["tiny"]), endpoint=None, access="internal", prefix="Acme")
    source = files["AcmeCatalog.swift"]
    parse(source)
    assert b"public" not in source
    assert b"Zoo" not in source.replace(b"zoo swift", b"")
    assert b"struct AcmeEntry" in source


def test_only_changed_files_are_written(catalog: Catalog, tmp_path: Path) -> None:
    files = generate(chosen_entries(catalog, []), endpoint=None)
    out = tmp_path / "app"
    assert write_changed(out, files, write=False) == list(files)
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
