"""The store that machines share outputs in: a directory, or an object store, here one in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.zoo.build.conftest import Bench
from tests.zoo.build.test_build import tree
from zoo.build.run import BuildResult, Where
from zoo.build.store import StepStore
from zoo.errors import ConversionError, UsageError
from zoo.events import Silent

Elsewhere = Callable[[str], BuildResult]


class Lines(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def elsewhere(bench: Bench, monkeypatch: pytest.MonkeyPatch, lines: Lines) -> Elsewhere:
    """Builds on a machine with an empty cache."""

    def build(store: str) -> BuildResult:
        monkeypatch.setenv("ZOO_CACHE", str(bench.root / "elsewhere"))
        bench.build = bench.root / "build-elsewhere"
        return bench.run(where=Where(store=store), progress=lines)

    return build


def states(result: BuildResult) -> set[str]:
    return {item.state for item in result.components}


@pytest.mark.parametrize("kind", ["directory", "memory"])
def test_what_one_machine_made_another_one_takes(bench: Bench, elsewhere: Elsewhere, lines: Lines, kind: str) -> None:
    store = str(bench.root / "store") if kind == "directory" else f"memory://{bench.root.name}"
    assert states(bench.run(where=Where(store=store))) == {"built"}
    made = tree(bench.build / "fake-text")
    assert states(elsewhere(store)) == {"cached"}
    assert sorted(lines.lines) == [
        f"fake-text/{name}: from {store}" for name in ("chunk1", "chunk2", "model-config", "rope", "tokenizer")
    ]
    assert tree(bench.build / "fake-text") == made


def _record_of(store: Path, name: str) -> Path:
    for path in store.rglob("step.json"):
        if name in path.read_text():
            return path
    raise AssertionError(name)


def damage_bytes(store: Path) -> None:
    (path,) = store.rglob("cos.npy")
    path.write_bytes(b"?" * path.stat().st_size)


def remove_file(store: Path) -> None:
    (path,) = store.rglob("sin.npy")
    path.unlink()


def leave_the_folder(store: Path) -> None:
    record = _record_of(store, "cos.npy")
    record.write_text(record.read_text().replace("cos.npy", "../../cos.npy"))


def name_other_files(store: Path) -> None:
    record = _record_of(store, "cos.npy")
    (path,) = store.rglob("cos.npy")
    path.rename(path.with_name("tan.npy"))
    record.write_text(record.read_text().replace("cos.npy", "tan.npy"))


@pytest.mark.parametrize("damage", [damage_bytes, remove_file, leave_the_folder, name_other_files])
def test_what_is_damaged_is_made_here_and_replaced(
    bench: Bench, elsewhere: Elsewhere, lines: Lines, damage: Callable[[Path], None]
) -> None:
    store = bench.root / "store"
    bench.run(where=Where(store=str(store)))
    made = tree(bench.build / "fake-text")
    damage(store)
    result = elsewhere(str(store))
    assert {item.component: item.state for item in result.components if item.state == "built"} == {"rope": "built"}
    assert any("is not used" in line for line in lines.lines)
    assert tree(bench.build / "fake-text") == made
    output = bench.root / "output"
    output.mkdir()
    key = next(planned.key for planned in result.plan.steps if planned.step.component == "rope")
    assert StepStore(str(store)).fetch(key, output) is not None
    assert not (bench.root / "cos.npy").exists()


def test_half_a_record_is_no_record(bench: Bench, elsewhere: Elsewhere) -> None:
    store = bench.root / "store"
    bench.run(where=Where(store=str(store)))
    for text, name in (("{", "cos.npy"), (json.dumps({"record": 1}), "tokenizer.json")):
        _record_of(store, name).write_text(text)
    result = elsewhere(str(store))
    assert {item.component for item in result.components if item.state == "built"} == {"rope", "tokenizer"}


def test_a_store_of_an_unknown_kind_is_one_line() -> None:
    with pytest.raises(UsageError, match="--store nosuch://place") as caught:
        StepStore("nosuch://place")
    assert caught.value.hint


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    from zoo.digests import Digests

    with pytest.raises(ConversionError, match=r"a/b\.bin cannot be read"):
        StepStore(str(tmp_path)).bring("0" * 64, "a", [("b.bin", Digests(1, "0" * 64, "0" * 32))], tmp_path)
