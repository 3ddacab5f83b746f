"""Compiled models are checked as packages are; what only they can have wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.converters.check.bundles import MODEL, Copy
from tests.converters.check.conftest import MakeCopy
from tests.converters.mil.mil_text import write_mlmodelc
from zoo.check import check_folder

pytestmark = pytest.mark.convert


@pytest.fixture(scope="module")
def compiled(good: dict[str, Copy], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """E2B's chunks as compiled models, beside links to its other files."""
    output = tmp_path_factory.mktemp("compiled") / "e2b"
    output.mkdir()
    for path in good["e2b"].folder.iterdir():
        if path.suffix == ".mlpackage":
            write_mlmodelc(path, output / f"{path.stem}.mlmodelc")
        else:
            (output / path.name).symlink_to(path)
    return output


@pytest.fixture
def copy(compiled: Path, tmp_path: Path) -> Copy:
    """A copy that may be changed."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in compiled.iterdir():
        (folder / path.name).symlink_to(path)
    return Copy(folder, folder)


def found(copy: Copy) -> list[tuple[str, str]]:
    """Rules and files."""
    return [(finding.rule, finding.file) for finding in check_folder(copy.root).findings]


def test_a_good_bundle_is_silent(copy: Copy) -> None:
    assert found(copy) == []


def test_a_changed_program_is_named(copy: Copy) -> None:
    path = copy.own("chunk3.mlmodelc") / "model.mil"
    text = path.read_text()
    assert 'string("TANH_APPROXIMATION")' in text
    path.write_text(text.replace('string("TANH_APPROXIMATION")', 'string("EXACT")'))
    assert set(found(copy)) == {("graph.exact-gelu", "chunk3.mlmodelc")}


def test_a_program_that_cannot_be_read_is_named(copy: Copy) -> None:
    path = copy.own("chunk2.mlmodelc") / "model.mil"
    path.write_text(path.read_text()[:2000])
    assert found(copy) == [("files.unreadable", "chunk2.mlmodelc")]


def test_weights_of_another_chunk_are_named(copy: Copy) -> None:
    copy.write("chunk1.mlmodelc/weights/weight.bin", (copy.folder / "chunk2.mlmodelc/weights/weight.bin").read_bytes())
    assert found(copy) == [("weights.damaged", "chunk1.mlmodelc/weights/weight.bin")]


def test_half_a_model_is_named(copy: Copy) -> None:
    copy.delete("chunk4.mlmodelc/coremldata.bin")
    assert found(copy) == [("files.incomplete-model", "chunk4.mlmodelc/coremldata.bin")]


def test_a_package_beside_a_compiled_model_is_not_loaded(copy: Copy, copied: MakeCopy) -> None:
    package = copied("e2b").folder / "chunk2.mlpackage"
    shutil.copytree(package.resolve(), copy.folder / "chunk2.mlpackage")
    (copy.folder / "chunk2.mlpackage" / MODEL).write_bytes(b"not looked at")
    assert found(copy) == [("files.shadowed-model", "chunk2.mlpackage")]


def test_metadata_of_another_program_is_named(copy: Copy) -> None:
    def schema(context: int) -> bytes:
        inputs = [{"name": "causal_mask_full", "dataType": "Float16", "shape": f"[1, 1, 1, {context}]"}]
        return json.dumps([{"inputSchema": inputs}]).encode()

    copy.own("chunk1.mlmodelc")
    copy.write("chunk1.mlmodelc/metadata.json", schema(40))
    assert found(copy) == []
    copy.write("chunk1.mlmodelc/metadata.json", schema(8192))
    assert found(copy) == [("files.stale-metadata", "chunk1.mlmodelc/metadata.json")]
    assert "[1, 1, 1, 8192]" in check_folder(copy.root).findings[0].message
    copy.write("chunk1.mlmodelc/metadata.json", b"[" * 100_000)
    assert found(copy) == []
