"""A Hub, or somebody between, that lies: listings, commits and locks that want to write elsewhere or never end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.zoo.faults.place import TEXT, Place
from tests.zoo.faults.state import snapshot
from zoo.errors import Conflict, DigestMismatch, DiskError, HubError, InvalidDocument, UnsafePath
from zoo.hub_server.faults import Fault
from zoo.lock import lock_path

REFUSED = {error.exit_code for error in (UnsafePath, HubError, InvalidDocument, DigestMismatch, DiskError)}

JSON = {"content-type": "application/json"}


def large(path: object, **changes: object) -> dict[str, Any]:
    lfs = {"oid": "3" * 64, "size": 5, "pointerSize": 130}
    return {"type": "file", "path": path, "size": 5, "oid": "4" * 40, "lfs": lfs} | changes


def small(path: object, **changes: object) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": 5, "oid": "4" * 40} | changes


LISTINGS: dict[str, object] = {
    "out of the folder": [large("chunk1.mlmodelc/../../../etc/passwd")],
    "absolute": [large("/etc/passwd")],
    "a drive": [large("C:/windows/system.ini")],
    "backslashes": [large("chunk1.mlmodelc\\..\\..\\x.bin")],
    "a control character": [large("chunk1.mlmodelc/weights/\x00.bin")],
    "zoo's own": [large("chunk1.mlmodelc/.zoo/receipt.json")],
    "one path twice": [small("model_config.json"), small("model_config.json", oid="5" * 40)],
    "one file on some disks": [
        large("chunk1.mlmodelc/weights/weight.bin"),
        large("chunk1.mlmodelc/weights/WEIGHT.bin"),
    ],
    "a file that is a folder": [small("chunk1.mlmodelc"), large("chunk1.mlmodelc/model.mil")],
    "a negative size": [large("chunk1.mlmodelc/model.mil", size=-1, lfs={"oid": "3" * 64, "size": -1})],
    "a size that no disk has": [large("cos_full.npy", size=10**30, lfs={"oid": "3" * 64, "size": 10**30})],
    "a size that is text": [small("model_config.json", size="many")],
    "a digest that is none": [large("cos_full.npy", lfs={"oid": "../../x", "size": 5, "pointerSize": 1})],
    "a path that is a number": [small(7)],
    "no path": [{"type": "file", "size": 5, "oid": "4" * 40}],
    "no list": {"error": None},
    "a list of lists": [[[]]],
    "numbers": [1, 2, 3],
    "nothing": [],
    "git's id of other bytes": [small("model_config.json", oid="0" * 40)],
}


@pytest.mark.parametrize("arguments", [("lock", TEXT, "--from-hub"), ("push", TEXT, "--yes")], ids=["lock", "push"])
def test_hostile_listings_change_nothing(place: Place, arguments: tuple[str, ...]) -> None:
    place.make(3, TEXT)
    (place.root / "elsewhere").mkdir()
    old = place.everything()
    for name, listing in LISTINGS.items():
        body = json.dumps(listing).encode()
        place.hub.faults.add(Fault(path="/tree/", times=None, status=200, headers=JSON, body=body))
        ended = place.run(*arguments)
        place.hub.faults.clear()
        if arguments[0] == "lock":
            assert ended.code in REFUSED, (name, ended.stderr)
            assert place.everything() == old, name
        # A push that compares what it finds afterwards pins nothing that it cannot recognise.
        assert ended.code in {*REFUSED, Conflict.exit_code}, (name, ended.code, ended.stderr)
        assert place.everything()["zoo"] == old["zoo"], name
        assert ended.stderr.strip().splitlines()[-1].startswith(("error: ", "hint: ")), ended.stderr
    place.succeed(*arguments)
    assert snapshot(place.root / "elsewhere") == {}


@pytest.mark.parametrize(
    "sha", ["../../../../x", "main", "0" * 39, "0" * 41, "A" * 40, "\n", 7, None, ["0" * 40]], ids=repr
)
def test_a_commit_that_is_none_is_not_pinned(place: Place, sha: object) -> None:
    old = place.everything()
    body = json.dumps({"id": "zoo/tiny-text", "sha": sha, "siblings": []}).encode()
    place.hub.faults.add(Fault(path=r"/revision/", times=None, status=200, headers=JSON, body=body))
    ended = place.run("lock", TEXT, "--from-hub")
    assert ended.code in REFUSED, ended.stderr
    assert place.everything() == old


def test_a_listing_that_never_ends_does(place: Place) -> None:
    """Every page says that there is another one, at the same address."""
    old = place.everything()
    (repo,) = (one for one in place.hub.store.list_repos("models") if one.name == "zoo/tiny-text")
    commit = place.hub.store.refs(repo).branches["main"]
    url = f"{place.hub.endpoint}/api/models/zoo/tiny-text/tree/{commit}?recursive=true"
    page = json.dumps([small(f"notes/{number}.txt") for number in range(3)]).encode()
    headers = JSON | {"Link": f'<{url}>; rel="next"'}
    place.hub.faults.add(Fault(path="/tree/", times=None, status=200, headers=headers, body=page))
    ended = place.run("lock", TEXT, "--from-hub")
    assert ended.code == HubError.exit_code, ended.stderr
    assert place.everything() == old


LOCKS: dict[str, tuple[str, str]] = {
    "out of the folder": ('"cos_full.npy"', '"../../cos_full.npy"'),
    "into zoo's own": ('"cos_full.npy"', '".zoo/receipt.json"'),
    "one file on some disks": ('"cos_full.npy"', '"CHUNK1.mlmodelc/coremldata.bin"'),
    "out of the repo": ('"zoo/tiny-text"', '"../../etc"'),
    "a repo that is an address": ('"zoo/tiny-text"', '"http://evil.example/x"'),
    "a branch instead of a commit": ('"commit": "', '"commit": "main'),
    "a digest that is a path": ('"sha256": "', '"sha256": "../'),
}


@pytest.mark.parametrize("name", LOCKS)
def test_hostile_locks_change_nothing(place: Place, name: str) -> None:
    place.succeed("pull", TEXT)
    place.release(2)
    old = place.installed()
    path = lock_path(place.zoo.manifests, TEXT)
    text, (before, after) = path.read_text(), LOCKS[name]
    assert before in text
    path.write_text(text.replace(before, after))
    outside = snapshot(place.root, lambda path: path.startswith(("models/", "cache/")))
    ended = place.run("pull", TEXT, "--yes")
    assert ended.code in REFUSED, ended.stderr
    assert place.installed() == old
    assert snapshot(place.root, lambda path: path.startswith(("models/", "cache/"))) == outside
    path.write_text(text)
    place.succeed("pull", TEXT, "--yes")
