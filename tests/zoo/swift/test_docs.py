"""The Swift in docs/swift.md compiles, section by section."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.zoo.bundles import locked_zoo, text_files
from tests.zoo.swift.conftest import Compiler
from zoo.swift.files import chosen_entries, generate

PAGE = Path(__file__).parents[3] / "docs" / "swift.md"
SECTIONS = ("The catalog in the app", "Fetch, link, keep, delete")


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
