"""The Swift package: its layout, and that SwiftPM builds and tests it."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path

import pytest

from tests import swift_toolchain
from tests.zoo.bundles import locked_zoo, package_files, text_files
from tests.zoo.swift.conftest import Compiler
from tests.zoo.swift.swift_values import constants, parse
from zoo.catalog import Catalog, load_catalog
from zoo.provisional import ROOT
from zoo.swift.files import chosen_entries, generate, generate_package, write_changed
from zoo.swift.source import Access

STRICT = ("-Xswiftc", "-warnings-as-errors", "-Xswiftc", "-strict-concurrency=complete")


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    multimodal = {**text_files(), **package_files("vision.ane", b"v" * 3000)}
    return locked_zoo(tmp_path, {"tiny": text_files(), "tiny-multimodal": multimodal})


def test_the_layout(catalog: Catalog) -> None:
    files = generate_package(chosen_entries(catalog, []), endpoint=None)
    sources = generate(chosen_entries(catalog, []), endpoint=None)
    assert files.keys() == {
        "Package.swift",
        "Sources/ZooModels/ZooBundled.swift",
        "Sources/ZooModels/Resources/catalog.json",
        "Tests/ZooModelsTests/ZooCatalogTests.swift",
        *(f"Sources/ZooModels/{name}" for name in sources if name.endswith(".swift")),
    }
    assert files["Sources/ZooModels/Resources/catalog.json"] == sources["catalog.json"]
    assert files["Package.swift"].startswith(b"// swift-tools-version: 5.9\n")
    package = constants(files["Package.swift"])["package"]
    assert package["name"] == "ZooModels"
    assert [target["name"] for target in package["targets"]] == ["ZooModels", "ZooModelsTests"]
    assert package["targets"][1]["dependencies"] == ["ZooModels"]


def test_every_file_says_who_made_it(catalog: Catalog) -> None:
    files = generate_package(chosen_entries(catalog, []), endpoint=None)
    locks = {entry["id"]: entry["lock"] for entry in json.loads(files.pop(RESOURCE))["entries"]}
    for name, data in files.items():
        parse(data)
        comment = data.decode().split("\n\n")[0]
        assert name.rsplit("/", 1)[-1] in comment
        assert "by `zoo swift" in comment
        if "the same for every catalog" not in comment:
            assert dict(re.findall(r"^//   (\S+)  ([0-9a-f]{64})$", comment, re.MULTILINE)) == locks


RESOURCE = "Sources/ZooModels/Resources/catalog.json"


@pytest.mark.parametrize(("access", "prefix"), [("internal", "Acme"), ("package", "Zoo")])
def test_prefix_and_access(catalog: Catalog, access: Access, prefix: str) -> None:
    files = generate_package(chosen_entries(catalog, []), endpoint=None, access=access, prefix=prefix)
    for name, data in files.items():
        assert b"public " not in data, name
        if prefix != "Zoo" and name.endswith(".swift"):
            assert b"Zoo" not in data, name
    assert f"Sources/{prefix}Models/{prefix}Catalog.swift" in files
    bundled = files[f"Sources/{prefix}Models/{prefix}Bundled.swift"].decode()
    assert ("package static func bundled()" in bundled) == (access == "package")


def test_the_same_locks_give_the_same_package(catalog: Catalog, tmp_path: Path) -> None:
    first = generate_package(chosen_entries(catalog, []), endpoint=None)
    assert generate_package(chosen_entries(catalog, ["tiny", "tiny-multimodal"]), endpoint=None) == first
    write_changed(tmp_path / "package", first, write=True)
    assert write_changed(tmp_path / "package", first, write=False) == []


def test_swift_builds_and_tests_it(swift: Compiler, catalog: Catalog, tmp_path: Path) -> None:
    """`Bundle.module` finds the resource, and it decodes into what the source has compiled in.

    The shipped entries, most of them without digests and sources, and two small ones that have them. Without the
    runtime, which other tests compile: it would take twice the time.
    """
    entries = (*chosen_entries(load_catalog(ROOT / "manifests"), []), *chosen_entries(catalog, []))
    files = generate_package(entries, endpoint=None, runtime=False)
    key = hashlib.sha256(repr((swift.version, STRICT, sorted(files.items()))).encode()).hexdigest()
    kept = swift_toolchain.cache_directory() / "zoo-swift-programs" / key[:32] / "package-tested"
    if kept.exists():
        return
    package = tmp_path / "package"
    write_changed(package, files, write=True)

    def swift_test() -> subprocess.CompletedProcess[str]:
        command = f"cd '{package}' && HOME=$PWD exec swift test --disable-sandbox {' '.join(STRICT)}"
        return swift.toolchain.run("sh", "-c", command, place=tmp_path)

    done = swift_test()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Executed 4 tests, with 0 failures" in done.stdout

    (package / RESOURCE).write_bytes(files[RESOURCE].replace(b'"name": "Tiny"', b'"name": "Other"'))
    done = swift_test()
    assert done.returncode != 0, "its tests notice a resource that says something else than the source"
    assert "Executed 4 tests, with 1 failure" in done.stdout
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.touch()
