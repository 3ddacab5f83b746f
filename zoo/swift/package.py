"""The catalog as a Swift package: sources, `catalog.json` as a resource, and a small test target."""

from __future__ import annotations

from collections.abc import Mapping

from zoo.swift.catalog import CatalogDocument
from zoo.swift.source import Access
from zoo.swift.writer import SwiftWriter, array_literal, check_type_prefix, generated_header, string_literal

TOOLS_VERSION = "5.9"
"""The oldest SwiftPM that takes the manifest; the first with the access level `package`."""

PLATFORMS = ".iOS(.v16), .macOS(.v13)"
"""What the sources themselves need; each entry says what its models need."""

COMMAND = "zoo swift --package"


def module_name(prefix: str) -> str:
    """What the package, its library and its module are called.

    Not `<prefix>Catalog`: a module that is called like one of its types hides it.
    """
    return f"{prefix}Models"


def package_files(
    document: CatalogDocument, sources: Mapping[str, bytes], *, access: Access = "public", prefix: str = "Zoo"
) -> dict[str, bytes]:
    """The files of the package by path.

    Args:
        document: the catalog.
        sources: the generated files by name: Swift, and `catalog.json`.
        access: access level of every declaration.
        prefix: what the types and the package are called after.

    Raises:
        UsageError: a prefix that cannot start a type name.
    """
    check_type_prefix(prefix)
    name = module_name(prefix)
    locks: dict[str, str | None] = {entry.id: entry.lock for entry in document.entries}
    files = {"Package.swift": _manifest(name, locks).encode()}
    for file, data in sources.items():
        folder = f"Sources/{name}" if file.endswith(".swift") else f"Sources/{name}/Resources"
        files[f"{folder}/{file}"] = data
    files[f"Sources/{name}/{prefix}Bundled.swift"] = _bundled(prefix, access, locks).encode()
    files[f"Tests/{name}Tests/{prefix}CatalogTests.swift"] = _tests(prefix, document, locks).encode()
    return files


def _manifest(name: str, locks: Mapping[str, str | None]) -> str:
    out = SwiftWriter()
    out.line(f"// swift-tools-version: {TOOLS_VERSION}")
    generated_header(out, "Package.swift", COMMAND, locks)
    out.lines("import PackageDescription", "")
    with out.block("let package = Package(", ")"):
        out.lines(
            f"name: {string_literal(name)},",
            f"platforms: [{PLATFORMS}],",
            f"products: [.library(name: {string_literal(name)}, targets: [{string_literal(name)}])],",
        )
        with out.block("targets: [", "]"):
            out.line(f'.target(name: {string_literal(name)}, resources: [.copy("Resources/catalog.json")]),')
            out.line(f".testTarget(name: {string_literal(f'{name}Tests')}, dependencies: [{string_literal(name)}]),")
    return out.text()


def _bundled(prefix: str, access: Access, locks: Mapping[str, str | None]) -> str:
    modifier = "" if access == "internal" else f"{access} "
    out = SwiftWriter()
    generated_header(out, f"{prefix}Bundled.swift", COMMAND, locks)
    out.lines("import Foundation", "", "#if SWIFT_PACKAGE")
    with out.block(f"extension {prefix}Catalog {{"):
        out.line("/// The `catalog.json` that this package carries. It says the same as `compiled`.")
        with out.block(f"{modifier}static func bundled() throws -> {prefix}Catalog {{"):
            with out.block('guard let url = Bundle.module.url(forResource: "catalog", withExtension: "json") else {'):
                out.line("throw CocoaError(.fileNoSuchFile)")
            out.line("return try decode(Data(contentsOf: url))")
    out.line("#endif")
    return out.text()


def _tests(prefix: str, document: CatalogDocument, locks: Mapping[str, str | None]) -> str:
    """Checks that do not repeat what the generator did: resource against source, and the rules of a catalog."""
    name = module_name(prefix)
    out = SwiftWriter()
    generated_header(out, f"{prefix}CatalogTests.swift", COMMAND, locks)
    out.lines("import XCTest", "", f"@testable import {name}", "")
    with out.block(f"final class {prefix}CatalogTests: XCTestCase {{"):
        with out.block("func testTheResourceSaysWhatTheSourceSays() throws {"):
            out.line(f"XCTAssertEqual(try {prefix}Catalog.bundled(), {prefix}Catalog.compiled)")
        out.line()
        with out.block("func testEveryEntryIsFound() {"):
            ids = array_literal([entry.id for entry in document.entries])
            out.line(f"let catalog = {prefix}Catalog.compiled")
            out.line(f"XCTAssertEqual(catalog.entries.map(\\.id), {ids})")
            with out.block("for entry in catalog.entries {"):
                out.line("XCTAssertEqual(catalog.entry(entry.id), entry)")
        out.line()
        with (
            out.block("func testFilesAddUpAndHavePlaces() {"),
            out.block(f"for entry in {prefix}Catalog.compiled.entries {{"),
        ):
            out.lines(
                "XCTAssertEqual(entry.files.reduce(0) { $0 + $1.bytes }, entry.bytes, entry.id)",
                "XCTAssertEqual(Set(entry.files.map(\\.path)).count, entry.files.count, entry.id)",
            )
            with out.block("for file in entry.files {"):
                out.line("XCTAssertTrue(entry.components.contains { $0.name == file.component }, file.path)")
                with out.block("for source in file.sources {"):
                    out.line(f"XCTAssertNotNil(source.url(endpoint: {prefix}Catalog.compiled.endpoint), file.path)")
        out.line()
        with out.block("func testFilesOfOneGroupHaveOneSizeAndOneDigest() {"):
            out.lines(
                f"let files = {prefix}Catalog.compiled.entries.flatMap(\\.files).filter {{ $0.group != nil }}",
            )
            with out.block("for (group, same) in Dictionary(grouping: files, by: \\.group) {"):
                out.line('XCTAssertEqual(Set(same.map(\\.bytes)).count, 1, group ?? "")')
                out.line('XCTAssertLessThanOrEqual(Set(same.compactMap(\\.sha256)).count, 1, group ?? "")')
    return out.text()
