"""Everything a network and a server can do to a pull and to a push."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

import pytest

from tests.zoo.faults.place import TEXT, Place, version
from tests.zoo.faults.state import third_state
from zoo.errors import Conflict, DigestMismatch, HubError
from zoo.hub_server.faults import Fault

WEIGHTS = "/resolve/.*chunk1.*weight\\.bin"
SIZE = len(version(TEXT, 2)["chunk1.mlmodelc/weights/weight.bin"])
PART = 100_000
"""Bytes of the weights that arrive before the connection is cut."""

DONE = 0
GIVEN_UP = HubError.exit_code
WRONG_BYTES = DigestMismatch.exit_code
OTHER_BYTES = os.urandom(SIZE)
HTML = {"content-type": "text/html; charset=utf-8"}


@dataclass(frozen=True)
class Trouble:
    """What happens to requests, and how the command ends."""

    code: int
    faults: tuple[Fault, ...]


def at_once(code: int, **fault: object) -> Trouble:
    """The first request for the weights is spoiled, or with `times=None` every one."""
    return Trouble(code, (Fault(path=WEIGHTS, **fault),))  # type: ignore[arg-type]


def in_the_middle(code: int, **fault: object) -> Trouble:
    """The connection is cut, and what comes next is spoiled."""
    return Trouble(code, (Fault(path=WEIGHTS, cut_after=PART), Fault(path=WEIGHTS, skip=1, **fault)))  # type: ignore[arg-type]


def redirect(target: str) -> dict[str, Any]:
    return {"status": 302, "headers": {"Location": target}, "times": None}


PULL = {
    "connection cut": at_once(DONE, cut_after=PART),
    "connection cut again and again": at_once(DONE, cut_after=PART, times=2),
    "connection cut before a byte, always": at_once(GIVEN_UP, cut_after=0, times=None),
    "stalled": at_once(DONE, delay_s=1.5),
    "slow": at_once(DONE, bytes_per_s=600_000),
    "slow and cut": in_the_middle(DONE, bytes_per_s=600_000),
    "wrong range answered": in_the_middle(
        DONE, status=206, headers={"Content-Range": f"bytes 7-16/{SIZE}"}, body=b"0123456789"
    ),
    "later range answered": in_the_middle(
        DONE, status=206, headers={"Content-Range": f"bytes {SIZE - 10}-{SIZE - 1}/{SIZE}"}, body=b"0123456789"
    ),
    "range without a word which": in_the_middle(DONE, status=206, body=b"0123456789"),
    "range of a file of another size": in_the_middle(
        GIVEN_UP, status=206, headers={"Content-Range": f"bytes {PART}-{PART + 9}/77"}, body=b"0123456789"
    ),
    "range ignored": in_the_middle(DONE, ignore_range=True),
    "length too small": at_once(GIVEN_UP, status=200, body=b"x" * 1000),
    "length too large": at_once(GIVEN_UP, status=200, body=b"x" * (SIZE + 1)),
    "HTML instead of bytes": at_once(GIVEN_UP, status=200, headers=HTML, body=b"<html>log in</html>"),
    "HTML of the right length": at_once(GIVEN_UP, status=200, headers=HTML, body=b" " * SIZE),
    "flipped bit": at_once(DONE, flip_at=1234),
    "flipped bit, always": at_once(WRONG_BYTES, flip_at=1234, times=None),
    "flipped bit after the cut": in_the_middle(DONE, flip_at=PART + 99_000),
    "changed file between two requests": in_the_middle(
        DONE, status=206, headers={"Content-Range": f"bytes {PART}-{SIZE - 1}/{SIZE}"}, body=OTHER_BYTES[PART:]
    ),
    "changed file for good": at_once(WRONG_BYTES, status=200, body=OTHER_BYTES, times=None),
    "announced digest of another file": at_once(
        WRONG_BYTES, status=200, headers={"X-Linked-ETag": f'"{"0" * 64}"'}, body=OTHER_BYTES
    ),
    **{f"{status}": at_once(GIVEN_UP, status=status) for status in (400, 401, 403, 404, 409, 410, 412)},
    "416": at_once(DONE, status=416),
    "416 after a cut": in_the_middle(DONE, status=416),
    "416, always": at_once(GIVEN_UP, status=416, times=None),
    "429 with Retry-After": at_once(DONE, status=429, headers={"Retry-After": "1"}),
    "429, always": at_once(GIVEN_UP, status=429, times=None),
    **{f"{status}": at_once(DONE, status=status) for status in (408, 500, 502, 503, 504)},
    "503, always": at_once(GIVEN_UP, status=503, times=None),
    "redirect loop": at_once(GIVEN_UP, **redirect("?again")),
    "redirect to nowhere": at_once(GIVEN_UP, **redirect("http://127.0.0.1:9/")),
    "redirect to another protocol": at_once(GIVEN_UP, **redirect("file:///etc/passwd")),
}


def in_groups(troubles: dict[str, Trouble], count: int) -> list[list[str]]:
    """The names in groups, so that a Hub serves several."""
    names = list(troubles)
    return [names[start : start + count] for start in range(0, len(names), count)]


@pytest.mark.parametrize("names", in_groups(PULL, 10), ids=lambda names: re.sub(r"\W+", "-", names[0]))
def test_a_pull_installs_right_bytes_or_nothing(place: Place, names: list[str]) -> None:
    place.succeed("pull", TEXT)
    kept, old = place.keep(), place.installed()
    place.release(2)
    place.succeed("pull", TEXT)
    new = place.installed()
    for name in names:
        trouble = PULL[name]
        place.restore(kept)
        place.hub.log.clear()
        for fault in trouble.faults:
            place.hub.faults.add(fault)
        ended = place.run("pull", TEXT)
        assert (ended.code, name) == (trouble.code, name), ended.stderr
        assert place.installed() == (new if ended.code == 0 else old), name
        assert ended.code == 0 or ended.stderr.strip().splitlines()[-1].startswith(("error: ", "hint: ")), ended.stderr
        place.hub.faults.clear()
        place.succeed("pull", TEXT)
        assert place.installed() == new, name
    place.succeed("verify")


@pytest.mark.parametrize("times", [1, 3])
def test_after_a_cut_no_byte_that_arrived_travels_again(place: Place, times: int) -> None:
    place.succeed("pull", TEXT)
    place.release(2)
    place.hub.log.clear()
    place.hub.faults.add(Fault(path=WEIGHTS, cut_after=PART // times, times=times))
    place.succeed("pull", TEXT)
    starts = [exchange.start for exchange in place.hub.log.all(WEIGHTS, "GET") if exchange.status in (200, 206)]
    assert starts == [PART // times * index for index in range(times + 1)]


API = r"/api/models/zoo/tiny-text"
COMMIT = r"/commit/main"
OBJECTS = r"/lfs/objects/"
BATCH = r"/objects/batch"
LISTING = r"/tree/"


def api(code: int, path: str, *, method: str | None = None, **fault: object) -> Trouble:
    return Trouble(code, (Fault(path=path, method=method, **fault),))  # type: ignore[arg-type]


PUSH = {
    "connection cut during an upload": api(DONE, OBJECTS, cut_request_after=10_000),
    "answer to an upload lost": api(DONE, OBJECTS, cut_after=0),
    "answer to the commit lost": api(DONE, COMMIT, cut_after=0),
    "commit cut on its way": api(DONE, COMMIT, cut_request_after=10),
    "answer to the commit cut, always": api(DONE, COMMIT, cut_after=5, times=None),
    "listing cut": api(DONE, LISTING, cut_after=30),
    "slow upload answer": api(DONE, OBJECTS, delay_s=0.5),
    "HTML instead of a listing": api(GIVEN_UP, LISTING, status=200, headers=HTML, body=b"<html>log in</html>"),
    "HTML instead of upload addresses": api(GIVEN_UP, BATCH, status=200, headers=HTML, body=b"<html></html>"),
    "HTML instead of a small file": api(WRONG_BYTES, r"/resolve/.*README", status=200, headers=HTML, body=b"<html/>"),
    "HTML instead of a commit": api(GIVEN_UP, COMMIT, status=200, headers=HTML, body=b"<html></html>"),
    **{f"{status} at the first look": api(GIVEN_UP, API, status=status) for status in (401, 403)},
    **{f"{status} for the commit": api(GIVEN_UP, COMMIT, status=status) for status in (400, 401, 403, 404)},
    **{f"{status} for the commit": api(Conflict.exit_code, COMMIT, status=status) for status in (409, 412)},
    **{f"{status} for an object": api(GIVEN_UP, OBJECTS, status=status, times=None) for status in (403, 404, 410)},
    "429 with Retry-After for the commit": api(DONE, COMMIT, status=429, headers={"Retry-After": "1"}),
    "429 with Retry-After at the first look": api(DONE, API, status=429, headers={"Retry-After": "1"}),
    **{f"{status} for the commit": api(DONE, COMMIT, status=status) for status in (500, 502, 503, 504)},
    "503 for the commit, always": api(GIVEN_UP, COMMIT, status=503, times=None),
    "503 for an object": api(DONE, OBJECTS, status=503),
    "503 for a listing": api(DONE, LISTING, status=503),
    "redirect loop": api(GIVEN_UP, LISTING, **redirect("?again")),
    "redirect loop for the commit": api(GIVEN_UP, COMMIT, **redirect("?again")),
}


@pytest.mark.parametrize("names", in_groups(PUSH, 9), ids=lambda names: re.sub(r"\W+", "-", names[0]))
def test_a_push_commits_everything_or_nothing(place: Place, names: list[str]) -> None:
    number = 2
    for name in names:
        trouble = PUSH[name]
        number += 1
        place.make(number, TEXT)
        old = place.everything()
        for fault in trouble.faults:
            place.hub.faults.add(fault)
        ended = place.run("push", TEXT, "--yes")
        now = place.everything()
        place.hub.faults.clear()
        place.succeed("push", TEXT, "--yes")
        new = place.everything()
        assert (ended.code, name) == (trouble.code, name), ended.stderr
        if ended.code == 0:
            assert now == new, name
        else:
            assert now["zoo"] == old["zoo"], name
            assert third_state(old["hub"], new["hub"], now["hub"]) == [], name
        assert new["hub"] != old["hub"]
    place.succeed("lock", TEXT, "--from-hub", "--check")
