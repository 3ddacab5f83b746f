"""The hand-written Swift: parses everywhere, and compiles without a warning where there is a compiler."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import tree_sitter_swift
from tree_sitter import Language, Parser

from tests.zoo.bundles import locked_zoo, text_files
from tests.zoo.swift.conftest import Compiler
from zoo.errors import UsageError
from zoo.swift.files import chosen_entries, generate
from zoo.swift.runtime import runtime_files

PARSER = Parser(Language(tree_sitter_swift.language()))


@pytest.mark.parametrize("name", runtime_files())
def test_it_parses(name: str) -> None:
    assert not PARSER.parse(runtime_files()[name]).root_node.has_error


def test_prefix_and_access_are_replaced_everywhere() -> None:
    files = runtime_files(access="internal", prefix="Acme")
    assert sorted(files) == [name.replace("Zoo", "Acme") for name in sorted(runtime_files())]
    for name, text in files.items():
        assert b"Zoo" not in text, name
        assert b"public " not in text, name
    assert b"package enum ZooPlanner {" in runtime_files(access="package")["ZooPlanner.swift"]


def test_a_prefix_that_is_no_name_is_refused() -> None:
    with pytest.raises(UsageError):
        runtime_files(prefix="a b")


def test_it_can_be_left_out(tmp_path: Path) -> None:
    catalog = locked_zoo(tmp_path, {"tiny": text_files()})
    files = generate(chosen_entries(catalog, []), endpoint=None, runtime=False)
    assert sorted(files) == ["ZooCatalog.swift", "catalog.json"]


@pytest.mark.parametrize(
    ("options", "access", "prefix"),
    [
        (["-swift-version", "6"], "public", "Zoo"),
        (["-swift-version", "5", "-strict-concurrency=complete"], "internal", "Acme"),
        (["-swift-version", "6", "-package-name", "app"], "package", "Zoo"),
    ],
)
def test_it_compiles_without_a_warning(
    swift: Compiler, tmp_path: Path, options: list[str], access: Literal["public", "package", "internal"], prefix: str
) -> None:
    catalog = locked_zoo(tmp_path, {"tiny": text_files()})
    sources = generate(chosen_entries(catalog, []), endpoint=None, access=access, prefix=prefix)
    assert swift.typecheck(sources, "-parse-as-library", *options) == ""


def test_the_compiler_notices_mistakes(swift: Compiler) -> None:
    assert "cannot convert" in swift.typecheck({"a.swift": b'let x: Int = "1"\n'})
    assert "never used" in swift.typecheck({"a.swift": b"func f() { let x = 1 }\n"})


CRYPTOKIT = b"""
public struct SHA256Digest: Sequence {
    public func makeIterator() -> IndexingIterator<[UInt8]> { [UInt8]().makeIterator() }
}
public struct SHA256 {
    public init() {}
    public mutating func update(bufferPointer: UnsafeRawBufferPointer) {}
    public func finalize() -> SHA256Digest { SHA256Digest() }
}
"""
"""The part of Apple's CryptoKit that the runtime uses, as its documentation declares it."""


def test_the_side_with_cryptokit_compiles_too(swift: Compiler, tmp_path: Path) -> None:
    catalog = locked_zoo(tmp_path / "zoo", {"tiny": text_files()})
    sources = generate(chosen_entries(catalog, []), endpoint=None)
    for name, text in {**sources, "CryptoKit.swift": CRYPTOKIT}.items():
        (tmp_path / name).write_bytes(text)
    module = ["-emit-module", "-parse-as-library", "-module-name", "CryptoKit"]
    made = swift.toolchain.run(
        *("swiftc", *module, "-o", str(tmp_path / "CryptoKit.swiftmodule"), str(tmp_path / "CryptoKit.swift")),
        place=tmp_path,
    )
    assert made.returncode == 0, made.stderr
    files = [str(tmp_path / name) for name in sources if name.endswith(".swift")]
    done = swift.toolchain.run(
        *("swiftc", "-typecheck", "-parse-as-library", "-swift-version", "6", "-warnings-as-errors"),
        *("-I", str(tmp_path), *files),
        place=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
