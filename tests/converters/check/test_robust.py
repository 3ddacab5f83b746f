"""Whatever a file holds, a check ends with findings, not with a traceback."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from converters.check.facts import Bundle
from converters.check.gather import DOCUMENTS, MEL_FILE, NPY_FILES, gather
from converters.check.rule import Finding
from converters.check.rules import RULES
from converters.check.run import examine
from converters.errors import RecipeError
from tests.converters.check.bundles import MODEL, WEIGHTS, Copy
from tests.converters.check.conftest import MakeCopy
from zoo.check import check_folder
from zoo.errors import DiskError

pytestmark = pytest.mark.convert

PROGRAMS = ("device", "files", "graph", "interface", "layers", "weights")
"""Groups of rules that do not look at documents and arrays, and take the most time."""

RULE_IDS = {rule.id for rule in RULES}

STRANGE: tuple[Any, ...] = (None, True, -1, 0, 1 << 70, 1e400, "x", "", [], [None], {}, {"content": 1})


@pytest.fixture(scope="module")
def bundle(good: dict[str, Copy]) -> Bundle:
    return gather(good["e4b"].root)


def judged(bundle: Bundle, *, ignore: Collection[str] = ()) -> tuple[Finding, ...]:
    """What is found, which is whole sentences about the bundle whatever it holds."""
    found = examine(bundle, ignore=ignore)
    assert all(finding.rule in RULE_IDS and finding.message for finding in found)
    return found


@pytest.mark.parametrize("name", ["model_config.json", "audio_config.json", *DOCUMENTS[3:]])
def test_any_value_of_any_key(bundle: Bundle, name: str) -> None:
    document = bundle.documents[name]
    for key in [*document, "parts"]:
        for value in STRANGE:
            changed = {**bundle.documents, name: {**document, key: value}}
            judged(dataclasses.replace(bundle, documents=changed), ignore=(*PROGRAMS, "rope"))
    for value in ([], [1], {}):
        judged(dataclasses.replace(bundle, documents={**bundle.documents, name: value}), ignore=PROGRAMS)


def test_any_array(bundle: Bundle) -> None:
    shapes: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (0, 16), (40, 16), (3, 3, 3))
    for name in (*NPY_FILES, MEL_FILE):
        for shape in shapes:
            for dtype in ("<f2", "<f4", "i4"):
                changed = {**bundle.arrays, name: np.full(shape, 1, dtype)}
                judged(dataclasses.replace(bundle, arrays=changed), ignore=PROGRAMS)
        nan = np.full_like(np.asarray(bundle.arrays[name]), np.nan)
        found = examine(dataclasses.replace(bundle, arrays={**bundle.arrays, name: nan}), ignore=PROGRAMS)
        assert found or "proj" in name


def test_nothing_but_models_and_nothing_but_files(bundle: Bundle) -> None:
    judged(dataclasses.replace(bundle, documents={}, arrays={}, samples={}, config=None, template=None))
    judged(dataclasses.replace(bundle, models={}))
    assert judged(Bundle("", {"x": 1}, {})) == ()


def test_files_of_no_length(copied: MakeCopy) -> None:
    copy = copied("e4b")
    for path in sorted(copy.folder.iterdir()):
        if path.is_file():
            copy.write(path.name, b"")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        copy.write(f"hf_model/{name}", b"")
    copy.write(f"chunk1.mlpackage/{MODEL}", b"")
    copy.write(f"chunk2.mlpackage/{WEIGHTS}", b"")
    copy.write("chunk3.mlpackage/Manifest.json", b"")
    found = {finding.rule for finding in check_folder(copy.root).findings}
    assert found >= {"files.unreadable", "weights.damaged", "tables.size"}


@pytest.mark.parametrize(
    "manifest",
    [b"[]", b"[" * 100_000, b'{"itemInfoEntries": {"a": {"path": "../../x"}}}', b"\xff"],
    ids=["list", "deep", "outside", "binary"],
)
def test_hostile_manifests(copied: MakeCopy, manifest: bytes) -> None:
    copy = copied("e4b")
    copy.write("audio.mlpackage/Manifest.json", manifest)
    assert {finding.rule for finding in check_folder(copy.root).findings} & {
        "files.unreadable",
        "files.incomplete-model",
    }


def test_links_in_circles_and_into_nothing(copied: MakeCopy) -> None:
    copy = copied("e4b")
    (copy.folder / "again").symlink_to(copy.folder)
    (copy.folder / "dangling").symlink_to(copy.folder / "nowhere")
    assert check_folder(copy.root).findings == ()


UNREADABLE = Path("/proc/self/mem")
"""Not even root can read its beginning."""


@pytest.mark.skipif(not UNREADABLE.exists(), reason="only Linux has such a file")
@pytest.mark.parametrize("name", ["cos_full.npy", "model_config.json", f"chunk1.mlpackage/{WEIGHTS}"])
def test_a_file_that_cannot_be_read(copied: MakeCopy, name: str) -> None:
    copy = copied("e4b")
    place = copy.own(name)
    place.unlink()
    place.symlink_to(UNREADABLE)
    with pytest.raises(DiskError, match="cannot be read: Input/output error"):
        check_folder(copy.root)


def test_no_folder_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="missing: no such folder"):
        gather(tmp_path / "missing")
    with pytest.raises(RecipeError, match="has no files"):
        gather(tmp_path)
