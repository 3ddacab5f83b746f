"""The store that machines share outputs in: a directory, or an object store: one in memory, and moto's S3."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.zoo.build.conftest import Bench
from tests.zoo.build.test_build import tree
from zoo.build.run import BuildResult, Where
from zoo.build.store import StepStore
from zoo.errors import ConversionError, DiskError, UsageError
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


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """An S3 on loopback. Its process-wide state is this module's alone."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """s3fs, told by the environment where S3 is and who asks, as a user would; with an empty bucket `models`."""
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()  # it would remember another test's environment
    files = s3fs.S3FileSystem()
    files.mkdir("models")
    yield files
    s3fs.S3FileSystem.clear_instance_cache()
    found = s3fs.S3FileSystem(key="somebody", secret="secret", endpoint_url=s3_server)
    found.rm("models", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("kind", ["directory", "memory", "s3"])
def test_what_one_machine_made_another_one_takes(
    bench: Bench, elsewhere: Elsewhere, lines: Lines, kind: str, request: pytest.FixtureRequest
) -> None:
    store = {
        "directory": str(bench.root / "store"),
        "memory": f"memory://{bench.root.name}",
        "s3": "s3://models/steps",
    }[kind]
    if kind == "s3":
        request.getfixturevalue("s3")
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


def test_a_bucket_that_is_not_there_is_told_at_once_and_not_made(bench: Bench, s3: Any) -> None:
    with pytest.raises(DiskError, match=r"s3://modles/steps: cannot be written: .*bucket does not exist") as caught:
        bench.run(where=Where(store="s3://modles/steps"))
    assert caught.value.hint
    assert len(bench.ran()) == 5  # nothing was made before
    assert s3.ls("") == ["models"]


def test_credentials_that_are_missing_are_told_at_once(
    bench: Bench, s3: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    s3.clear_instance_cache()
    with pytest.raises(DiskError, match=r"cannot be written: .*credentials"):
        bench.run(where=Where(store="s3://models/steps"))


def test_objects_that_were_damaged_are_made_here(bench: Bench, elsewhere: Elsewhere, lines: Lines, s3: Any) -> None:
    bench.run(where=Where(store="s3://models/steps"))
    made = tree(bench.build / "fake-text")
    (path,) = (path for path in s3.find("models/steps") if path.endswith("cos.npy"))
    s3.pipe_file(path, b"?" * s3.size(path))
    result = elsewhere("s3://models/steps")
    assert {item.component for item in result.components if item.state == "built"} == {"rope"}
    assert any("is not what its digest says" in line for line in lines.lines)
    assert tree(bench.build / "fake-text") == made


def test_a_store_that_went_away_is_one_line(s3: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as silent:  # bound, but nobody listens
        silent.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        s3.clear_instance_cache()
        store = StepStore("s3://models/steps")
        (tmp_path / "a").write_bytes(b"a")
        with pytest.raises(ConversionError, match="s3://models/steps: cannot be read: Could not connect"):
            store.fetch("0" * 64, tmp_path)
        with pytest.raises(DiskError, match="s3://models/steps: cannot be written: Could not connect"):
            store.put("0" * 64, tmp_path, ["a"])


def test_a_store_of_an_unknown_kind_is_one_line() -> None:
    with pytest.raises(UsageError, match="--store nosuch://place") as caught:
        StepStore("nosuch://place")
    assert caught.value.hint


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    from zoo.digests import Digests

    with pytest.raises(ConversionError, match=r"cannot be read at .*/a/b\.bin: "):
        StepStore(str(tmp_path)).bring("0" * 64, "a", [("b.bin", Digests(1, "0" * 64, "0" * 32))], tmp_path)
