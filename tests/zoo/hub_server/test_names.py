from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.hub_server.errors import Refusal
from zoo.hub_server.names import check_ref_name, check_repo_name, check_repo_path, check_tree_paths

HOSTILE_PATHS = [
    "",
    "/etc/passwd",
    "../x",
    "a/../../x",
    "a//b",
    "a/",
    "./a",
    "a\\b",
    "a\nb",
    "a\0b",
    "\x7f",
    "\x85",
    ".git/config",
    "a/.GIT/x",
    "\ud800",
    "x" * 2000,
]


@pytest.mark.parametrize("path", HOSTILE_PATHS)
def test_hostile_paths_are_refused(path: str) -> None:
    with pytest.raises(Refusal) as caught:
        check_repo_path(path)
    assert caught.value.status == 400


@given(st.text())
def test_a_path_that_is_taken_stays_inside(path: str) -> None:
    try:
        check_repo_path(path)
    except Refusal:
        return
    assert not PurePosixPath(path).is_absolute()
    assert Path("/root", path).parts[:2] == ("/", "root")
    assert ".." not in path.split("/")
    path.encode()


@pytest.mark.parametrize("path", ["a", "a b/c+d.bin", "Ä/ü", "a.lock", "..a", "CON", "A/x"])
def test_what_git_takes_is_taken(path: str) -> None:
    assert check_repo_path(path) == path


def test_a_file_cannot_be_a_folder() -> None:
    with pytest.raises(Refusal, match="which is a file"):
        check_tree_paths(["a/b", "a/b/c/d"])
    check_tree_paths(["a/b", "a/bc", "A/b"])


@pytest.mark.parametrize(
    "name", ["a", "a/b/c", "../x", "a/..", "a/.x", "a/b.git", "a/" + "b" * 97, "a/b c", "a/b\n", "/b"]
)
def test_bad_repo_names(name: str) -> None:
    with pytest.raises(Refusal):
        check_repo_name(name)


@pytest.mark.parametrize("name", ["", "a..b", "refs/x", "a b", "0" * 40, "-/", "a.lock", "/a", "a//b", "x" * 300])
def test_bad_ref_names(name: str) -> None:
    with pytest.raises(Refusal):
        check_ref_name(name, "branch")
