from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from zoo.hub_server import gitids

FILES = {"a": b"1", "a-b": b"2", "a.b/c": b"3", "ab/c/d": b"", "a0/x": b"5", "z/y/x/w": b"6", "é/ü": b"7"}


@pytest.mark.skipif(shutil.which("git") is None, reason="compares with git")
def test_ids_are_those_of_git(tmp_path: Path) -> None:
    identity = {
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in {"NAME": "zoo", "EMAIL": "zoo@localhost", "DATE": "@0 +0000"}.items()
    }
    environment = {**os.environ, **identity, "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=tmp_path, env=environment, capture_output=True, check=True)
        return done.stdout.decode().strip()

    git("init", "-q")
    for path, content in FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    git("add", "-A")
    tree = git("write-tree")
    ids = gitids.tree_ids({path: gitids.object_id("blob", content) for path, content in FILES.items()})
    assert ids[""] == tree
    assert ids["z/y"] == git("rev-parse", f"{tree}:z/y")
    first = git("commit-tree", tree, "-m", "one")
    assert gitids.commit_id(tree, None, "one") == first
    second = git("commit-tree", tree, "-p", first, "-m", "two", "-m", "why")
    assert gitids.commit_id(tree, first, "two\n\nwhy") == second


def test_a_tree_without_files_has_git_s_empty_id() -> None:
    assert gitids.tree_ids({}) == {"": "4b825dc642cb6eb9a060e54bf8d69288fbee4904"}
