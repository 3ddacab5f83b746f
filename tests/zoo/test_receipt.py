from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.errors import InvalidDocument, UnsafePath
from zoo.receipt import Installed, Receipt, ReceiptFile, load_receipt, receipt_path, save_receipt

names = st.from_regex(r"[a-z0-9][a-z0-9.\-]{0,9}", fullmatch=True)
digests = st.none() | st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
files = st.builds(
    ReceiptFile,
    path=st.sampled_from(["a.bin", "b/c.json", "d.mlmodelc/weights/weight.bin"]),
    size=st.integers(0, 2**53),
    sha256=digests,
)
entries = st.builds(
    Installed,
    lock=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    without=st.lists(names, max_size=2).map(tuple),
    files=st.lists(files, max_size=3).map(tuple),
)


@settings(max_examples=25)
@given(st.dictionaries(names, entries, max_size=3))
def test_a_receipt_survives_the_disk(tmp_path_factory: pytest.TempPathFactory, entries: dict[str, Installed]) -> None:
    folder = tmp_path_factory.mktemp("folder")
    save_receipt(folder, Receipt(entries=entries))
    assert load_receipt(folder) == Receipt(entries=entries)


def test_the_same_receipt_is_the_same_bytes(tmp_path: Path) -> None:
    one, two = (Installed(lock=c * 64, files=()) for c in "ab")
    save_receipt(tmp_path / "x", Receipt(entries={"one": one, "two": two}))
    save_receipt(tmp_path / "y", Receipt(entries={"two": two, "one": one}))
    assert receipt_path(tmp_path / "x").read_bytes() == receipt_path(tmp_path / "y").read_bytes()


def test_no_receipt_means_nothing_is_installed(tmp_path: Path) -> None:
    assert load_receipt(tmp_path) == Receipt()


def test_owners_of_a_shared_file(tmp_path: Path) -> None:
    shared, own = ReceiptFile(path="shared", size=1), ReceiptFile(path="own", size=1)
    receipt = Receipt().with_entry("b", Installed(lock="0" * 64, files=(own, shared)))
    receipt = receipt.with_entry("a", Installed(lock="0" * 64, files=(shared,)))
    assert receipt.owners() == {"shared": ("a", "b"), "own": ("b",)}
    assert receipt.without_entry("b").owners() == {"shared": ("a",)}


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("{", InvalidDocument, "receipt.json: line 1"),
        ('{"schema": 99, "entries": {}}', InvalidDocument, "newer"),
        ('{"schema": 1, "entries": {"x": {"lock": "zz", "files": []}}}', InvalidDocument, "entries"),
        (
            '{"schema": 1, "entries": {"x": {"lock": "%s", "files": [{"path": "../../etc/passwd", "size": 1}]}}}'
            % ("0" * 64),
            UnsafePath,
            r"\.\.",
        ),
    ],
)
def test_damaged_and_hostile_receipts(tmp_path: Path, text: str, error: type[Exception], said: str) -> None:
    receipt_path(tmp_path).parent.mkdir()
    receipt_path(tmp_path).write_text(text)
    with pytest.raises(error, match=said):
        load_receipt(tmp_path)
