from __future__ import annotations

from pathlib import Path

from tests.zoo.bundles import locked_zoo, package_files, text_files, write_zoo
from zoo.report.tree import tree_text

MULTIMODAL = {**text_files(), **package_files("vision.ane", b"w" * 5000)}


def test_a_tree_has_every_file_and_adds_up(tmp_path: Path) -> None:
    catalog = locked_zoo(tmp_path, {"tiny": text_files(), "tiny-multimodal": MULTIMODAL})
    lines = tree_text(catalog.get("tiny-multimodal"), catalog).splitlines()
    assert lines[0].split() == ["tiny/", "10.1", "kB"]
    assert sum(line.split("── ", 1)[-1].split(" ")[0].endswith("/") for line in lines[1:]) == 2 + 2 * 2 + 1
    files = [line for line in lines[1:] if not line.split("── ")[1].split(" ")[0].endswith("/")]
    assert len(files) == len(MULTIMODAL)
    assert lines[1].startswith("├── chunk1.mlpackage/")
    assert lines[1].split()[-1] == "chunk1"
    # Folders with a single folder in them take one line.
    assert lines[2].startswith("│   ├── Data/com.apple.CoreML/")
    weights = [line for line in lines if "weight.bin" in line]
    assert weights[0].endswith("also in tiny")
    assert weights[1].endswith("same bytes as chunk1.mlpackage/Data/com.apple.CoreML/weights/weight.bin; also in tiny")


def test_without_a_lock_the_manifest_is_shown(tmp_path: Path) -> None:
    catalog = write_zoo(tmp_path / "zoo")
    assert tree_text(catalog.get("tiny"), catalog).splitlines() == [
        "tiny/",
        "├── chunk1.*/                chunk1",
        "├── hf_model/config.json     tokenizer",
        "└── hf_model/tokenizer.json  tokenizer",
    ]
