"""Repos as they are, the app's lists as they are: what `zoo lock --from-hub` and `zoo pull` make of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.zoo.transfer.pull_support import World, content, publish
from zoo import provisional
from zoo.catalog import load_catalog
from zoo.hub_server.process import RunningHub, running_hub
from zoo.lock import save_lock
from zoo.plan.lock import check_lock, remote_paths
from zoo.transfer.hub import HubClient
from zoo.transfer.locking import lock_repo

LISTS = provisional.load_lists(provisional.ROOT / provisional.LISTS)

MOVED = ("gemma4-e2b", "gemma4-e2b-3way", "gemma4-e2b-stateful-linear", "qwen3.5-0.8b")
"""Entries whose repo has another form than the folder, and one with models in folders."""

STALE = ("chunk1.mlmodelc/model.mil", "sdpa/chunk1.mlmodelc/weights/weight.bin", "lite-chunks/x.bin", "README.md")
"""What the E2B repo also has, at its top, from earlier forms."""

LINKED = {
    "gemma4-e2b": {1: "chunk1", 2: "chunk2", 3: "chunk3", 4: "chunk4"},
    "gemma4-e2b-3way": {1: "chunk1", 4: "chunk3_3way"},
}
"""Prefill chunk -> the model whose weights the app links there."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with running_hub(tmp_path_factory.mktemp("hub")) as found:
        yield found


@pytest.mark.parametrize("name", MOVED)
def test_a_pulled_repo_is_the_folder_that_the_app_makes(hub: RunningHub, tmp_path: Path, name: str) -> None:
    world = World(hub, tmp_path)
    shutil.copytree(provisional.ROOT / "manifests", world.zoo)
    entry = load_catalog(world.zoo).get(name)
    assert entry.manifest.hub is not None
    files = {line.remote: line.remote.encode() for line in LISTS[name]}
    stale = {path: b"stale" for path in STALE if path not in files}
    # One repo has two entries, on two branches; here each gets a repo of its own.
    text = entry.manifest.hub.repo
    manifest = world.zoo / f"{name}.toml"
    manifest.write_text(manifest.read_text().replace(f'"{text}"', f'"zoo/{name}"').replace('revision = "n1024"\n', ""))
    commit = publish(hub, f"zoo/{name}", {**files, **stale})

    entry = load_catalog(world.zoo).get(name)
    locked = lock_repo(HubClient(hub.endpoint), entry)
    save_lock(entry.lock_file, locked.lock)
    check_lock(entry, locked.lock)
    assert not locked.lock.provisional
    assert set(locked.left_out) == stale.keys() - {"README.md"}
    assert {source.commit for file in locked.lock.files for source in file.sources} == {commit}

    world.pull(name)
    expected = {line.path: line.remote.encode() for line in LISTS[name]}
    for number, lender in LINKED.get(name, {}).items():
        weights = "weights/weight.bin"
        expected[f"prefill_chunk{number}.mlmodelc/{weights}"] = expected[f"{lender}.mlmodelc/{weights}"]
    assert content(world.models / entry.manifest.folder) == expected
    # Pushed again, everything would go where it was.
    places = remote_paths(entry, locked.lock)
    assert {line.path: places[line.path] for line in LISTS[name]} == {line.path: line.remote for line in LISTS[name]}
