from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.zoo.cli.in_process import TOKEN, run_zoo
from tests.zoo.transfer.push_support import SIGHT_REPO, TEXT_REPO, TinyZoo, tiny_zoo
from zoo.errors import HubError, UnknownEntry, UsageError
from zoo.hub_server.faults import Fault
from zoo.hub_server.process import RunningHub, running_hub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    with running_hub(tmp_path / "hub") as running:
        yield running


@pytest.fixture
def zoo(tmp_path: Path) -> TinyZoo:
    return tiny_zoo(tmp_path)


def test_a_family_is_planned_together_and_published_once(tmp_path: Path, zoo: TinyZoo, hub: RunningHub) -> None:
    dry = run_zoo("push", "--family", "tiny", "--dry-run", cwd=tmp_path, hub=hub)
    assert dry.returncode == 0, dry.stderr
    assert "together: 2 entries, 2 commits, in this order: tiny, tiny-sight" in dry.stdout
    assert "published with tiny" in dry.stdout
    assert "of that from this push's own commits" in dry.stdout
    assert hub.log.all("/repos/create") == []
    done = run_zoo("push", "tiny-sight", "tiny", "-q", cwd=tmp_path, hub=hub)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f"tiny: published as {TEXT_REPO}@" in done.stdout
    assert f"tiny-sight: published as {SIGHT_REPO}@" in done.stdout
    again = run_zoo("push", "--family", "tiny", "-q", cwd=tmp_path, hub=hub)
    assert again.returncode == 0, again.stderr
    assert "together: 2 entries, 0 commits" in again.stdout
    assert again.stdout.count("lock unchanged") == 2


def test_json_of_a_family(tmp_path: Path, zoo: TinyZoo, hub: RunningHub) -> None:
    arguments = ("push", "--family", "tiny", "--format", "json", "-q")
    planned = json.loads(run_zoo(*arguments, "--dry-run", cwd=tmp_path, hub=hub).stdout)
    text, sight = planned["pushes"]
    assert planned["family"] == "tiny"
    assert planned["error"] is None
    assert (text["entry"], text["after"], text["result"]) == ("tiny", [], None)
    assert (sight["entry"], sight["after"], sight["result"]) == ("tiny-sight", ["tiny"], None)
    sources = [action["source"] for action in sight["actions"] if action["action"] == "copy"]
    assert {(source["repo"], source["commit"], source["entry"]) for source in sources} == {(TEXT_REPO, None, "tiny")}
    assert planned["bytes_to_move"] == text["bytes_to_move"] + sight["bytes_to_move"]
    done = json.loads(run_zoo(*arguments, cwd=tmp_path, hub=hub).stdout)
    text, sight = done["pushes"]
    sources = [action["source"] for action in sight["actions"] if action["action"] == "copy"]
    assert {(source["commit"], source["entry"]) for source in sources} == {(text["result"]["commit"], None)}
    assert done["bytes_to_move"] == planned["bytes_to_move"]


def test_the_document_of_a_single_entry_has_what_is_documented(tmp_path: Path, zoo: TinyZoo, hub: RunningHub) -> None:
    result = run_zoo("push", "tiny", "--dry-run", "--format", "json", cwd=tmp_path, hub=hub)
    assert set(json.loads(result.stdout)) == {
        *("entry", "repo", "branch", "parent", "new_branch"),
        *("actions", "totals", "bytes_to_move", "extra", "notes", "result"),
    }


def test_a_failure_in_the_middle_says_what_is_published(tmp_path: Path, zoo: TinyZoo, hub: RunningHub) -> None:
    hub.faults.add(Fault(path=f"/{SIGHT_REPO}/commit/", method="POST", times=1, status=403))
    failed = run_zoo("push", "--family", "tiny", "--format", "json", "-q", cwd=tmp_path, hub=hub)
    assert failed.returncode == HubError.exit_code
    assert "published and pinned: tiny; not yet: tiny-sight" in failed.stderr
    document = json.loads(failed.stdout)
    assert document["error"]["entry"] == "tiny-sight"
    assert document["pushes"][0]["result"]["made"] is True
    assert document["pushes"][1]["result"] is None
    assert zoo.catalog.get("tiny").lock is not None
    again = run_zoo("push", "--family", "tiny", "-q", cwd=tmp_path, hub=hub)
    assert again.returncode == 0, again.stderr
    assert f"tiny: is there already: {TEXT_REPO}@" in again.stdout
    assert f"tiny-sight: published as {SIGHT_REPO}@" in again.stdout


def test_one_yes_for_all_deletions(tmp_path: Path, zoo: TinyZoo, hub: RunningHub) -> None:
    from huggingface_hub import CommitOperationAdd, HfApi

    assert run_zoo("push", "--family", "tiny", "-q", cwd=tmp_path, hub=hub).returncode == 0
    for repo in (TEXT_REPO, SIGHT_REPO):
        HfApi(endpoint=hub.endpoint, token=TOKEN).create_commit(
            repo, [CommitOperationAdd("old.txt", b"old")], commit_message="by hand"
        )
    hub.log.clear()
    refused = run_zoo("push", "--family", "tiny", "--delete", cwd=tmp_path, hub=hub)
    assert refused.returncode == UsageError.exit_code
    assert hub.log.all("/commit/") == []
    done = run_zoo("push", "--family", "tiny", "--delete", "--yes", cwd=tmp_path, hub=hub)
    assert done.returncode == 0, done.stderr
    assert len(hub.log.all("/commit/")) == 2


def test_entries_without_a_repo_are_left_out_of_a_family(tmp_path: Path, zoo: TinyZoo, hub: RunningHub) -> None:
    sight = zoo.manifests / "tiny-sight.toml"
    sight.write_text("".join(line for line in sight.read_text().splitlines(keepends=True) if "hub =" not in line))
    result = run_zoo("push", "--family", "tiny", "--dry-run", "-q", cwd=tmp_path, hub=hub)
    assert result.returncode == 0, result.stderr
    assert "tiny-sight is left out" in result.stderr
    assert "together: 1 entry, 1 commit" in result.stdout


def test_what_cannot_be_meant(tmp_path: Path, zoo: TinyZoo) -> None:
    one_repo = run_zoo("push", "tiny", "tiny-sight", "--repo", "me/x", cwd=tmp_path)
    assert one_repo.returncode == UsageError.exit_code
    assert "--repo is one repo for 2 entries" in one_repo.stderr
    nothing = run_zoo("push", cwd=tmp_path)
    assert nothing.returncode == UsageError.exit_code
    assert "nothing to push" in nothing.stderr
    unknown = run_zoo("push", "--family", "tinny", cwd=tmp_path)
    assert unknown.returncode == UnknownEntry.exit_code
