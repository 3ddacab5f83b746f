from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import InvalidDocument, UnsafePath
from zoo.lock import Lock, LockedFile, Source, dump_lock, is_weight, lock_digest, make_lock, parse_lock, save_lock

MANIFEST = "a" * 64

names = st.text("abcdefg_-", min_size=1, max_size=8)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
sources = st.builds(
    Source, repo=st.just("zoo/x"), commit=st.text("0123456789abcdef", min_size=40, max_size=40), path=names
)


@st.composite
def locks(draw: st.DrawFn) -> Lock:
    paths = draw(st.lists(names, unique=True, max_size=8))
    sizes: dict[str, int] = {}
    files = []
    for path in paths:
        sha256 = draw(st.none() | digests)
        size = draw(st.integers(0, 2**53))
        if sha256 is not None:
            size = sizes.setdefault(sha256, size)
        files.append(
            LockedFile(
                path=f"{path}.bin",
                component="part",
                size=size,
                sha256=sha256,
                sources=tuple(draw(st.lists(sources, max_size=2))),
            )
        )
    return make_lock("tiny", MANIFEST, files, {"coremltools": "9.0"})


@given(locks())
def test_a_lock_survives_being_written(lock: Lock) -> None:
    text = dump_lock(lock)
    again = parse_lock(text, where="x")
    assert again == lock
    assert dump_lock(again) == text
    assert lock_digest(again) == lock_digest(lock)
    assert json.loads(text)["entry"] == "tiny"


@given(locks(), st.randoms(use_true_random=False))
def test_the_order_files_come_in_does_not_matter(lock: Lock, random: Any) -> None:
    shuffled = list(lock.files)
    random.shuffle(shuffled)
    assert dump_lock(make_lock("tiny", MANIFEST, shuffled, lock.provenance)) == dump_lock(lock)


def test_one_file_is_one_line() -> None:
    files = [LockedFile(path=f"f{i}.bin", component="part", size=i) for i in range(5)]
    text = dump_lock(make_lock("tiny", MANIFEST, files)).decode()
    assert [line for line in text.splitlines() if '"path"' in line] == [
        f'    {{"component": "part", "path": "f{i}.bin", "size": {i}}}' + ("," if i < 4 else "") for i in range(5)
    ]
    assert text.endswith("}\n")


def _document(**changes: Any) -> bytes:
    file = {"path": "a.bin", "component": "part", "size": 1, "sha256": "b" * 64}
    document: dict[str, Any] = {"schema": 1, "entry": "tiny", "manifest": MANIFEST, "files": [file]}
    document.update(changes)
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "line 1"),
        (b"[]", "expected a table"),
        (b'{"schema": 1, "schema": 1}', "twice"),
        (b'{"schema": NaN}', "NaN is not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff", "not UTF-8"),
        (_document(schema=2), "newer than 1"),
        (_document(extra=1), "unknown field `extra`"),
        (_document(manifest="x"), "manifest: Expected `str` matching regex"),
        (_document(files=[{"path": "a", "component": "part", "size": -1}]), "files[0].size"),
        (_document(files=[{"path": "a", "component": "part", "size": 1.5}]), "files[0].size"),
        (
            _document(files=[{"path": p, "component": "part", "size": 1} for p in ("b", "a")]),
            "not sorted by path",
        ),
        (
            _document(
                files=[
                    {"path": p, "component": "part", "size": s, "sha256": "b" * 64} for p, s in (("a", 1), ("b", 2))
                ]
            ),
            "same sha256 as another file but another size",
        ),
    ],
)
def test_a_damaged_lock_is_one_line(text: bytes, message: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        parse_lock(text, where="tiny.lock.json")
    assert caught.value.message.startswith("tiny.lock.json: ")
    assert message in caught.value.message


@pytest.mark.parametrize("path", ["../x", "/x", "a\\b", "C:x"])
def test_a_hostile_lock_is_refused(path: str) -> None:
    with pytest.raises(UnsafePath):
        parse_lock(_document(files=[{"path": path, "component": "part", "size": 1}]), where="x")
    source = {"repo": "a/b", "commit": "0" * 40, "path": path}
    with pytest.raises(UnsafePath):
        parse_lock(_document(files=[{"path": "a", "component": "part", "size": 1, "sources": [source]}]), where="x")


def test_sizes_and_formats() -> None:
    weight = "chunk1.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    files = [
        LockedFile(path=weight, component="chunk1", size=10, sha256="a" * 64),
        LockedFile(path=weight.replace("chunk1", "chunk2"), component="chunk2", size=10, sha256="a" * 64),
        LockedFile(path="config.json", component="c", size=3, sha256="b" * 64),
    ]
    lock = make_lock("tiny", MANIFEST, files)
    assert (lock.size, lock.unique_size, lock.provisional) == (23, 13, False)
    assert lock.model_format == "mlpackage"
    assert is_weight(weight)
    assert is_weight("embed_tokens_q8.bin")
    assert not is_weight("config.json")
    assert not is_weight("chunk1.mlpackage/Manifest.json")
    provisional = make_lock("tiny", MANIFEST, [*files, LockedFile(path="x", component="c", size=1)])
    assert provisional.provisional


def test_saving_says_whether_anything_changed(tmp_path: Path) -> None:
    lock = make_lock("tiny", MANIFEST, [])
    path = tmp_path / "new" / "tiny.lock.json"
    assert save_lock(path, lock)
    assert not save_lock(path, lock)
    assert save_lock(path, make_lock("tiny", "c" * 64, []))
    assert [file.name for file in path.parent.iterdir()] == ["tiny.lock.json"]
