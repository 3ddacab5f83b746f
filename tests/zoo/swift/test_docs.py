"""The Swift in docs/swift.md compiles, section by section; docs/swift-app.md names what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.zoo.bundles import locked_zoo, text_files
from tests.zoo.swift.conftest import Compiler
from zoo.catalog import Catalog, load_catalog
from zoo.provisional import ROOT
from zoo.swift.files import chosen_entries, generate, generate_drop_in

PAGE = Path(__file__).parents[3] / "docs" / "swift.md"
SECTIONS = ("The catalog in the app", "Fetch, link, keep, delete")


@pytest.fixture(scope="module")
def shipped() -> Catalog:
    return load_catalog(ROOT / "manifests")


@pytest.mark.parametrize("section", SECTIONS)
def test_the_samples_compile(swift: Compiler, tmp_path: Path, section: str) -> None:
    text = PAGE.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    samples = re.findall(r"^```swift\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert samples
    body = "import Foundation\n\nfunc samples() async throws {\n" + "\n".join(samples) + "\n}\n"
    catalog = locked_zoo(tmp_path, {"tiny": text_files()})
    sources = generate(chosen_entries(catalog, []), endpoint=None)
    assert (
        swift.typecheck({**sources, "Samples.swift": body.encode()}, "-parse-as-library", "-swift-version", "6") == ""
    )


def test_what_the_app_s_page_names_is_generated(shipped: Catalog) -> None:
    """`ZooStore.remove(_:)` and the like: the type is declared, and the member, with its labels."""
    page = PAGE.with_name("swift-app.md").read_text(encoding="utf-8")
    sources = generate(chosen_entries(shipped, []), endpoint=None)
    sources |= generate_drop_in(chosen_entries(shipped, [], unlocked=True), endpoint=None)
    swift = b"\n".join(data for name, data in sources.items() if name.endswith(".swift")).decode()
    named = set(re.findall(r"`(Zoo\w+)(?:\.(\w+)(\([\w:]*\))?)?[`(]", page))
    assert len(named) > 15
    for kind, member, labels in named:
        assert re.search(rf"(?:struct|enum|class) {kind}\b", swift), kind
        if member in ("", "swift"):
            continue
        assert re.search(rf"\b(?:let|var|func|case) {member}\b|\b{member}\(", swift), f"{kind}.{member}"
        asked = [label for label in labels.strip("()").split(":") if label]
        heads = re.findall(rf"(?:func )?\b{member}(?:<\w+>)?\(([^)]*)", swift)
        assert not asked or any(
            [part.split()[0].rstrip(":") for part in head.split(",")][: len(asked)] == asked for head in heads
        ), f"{kind}.{member}{labels}"
