from __future__ import annotations

import hashlib
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from zoo.hub_server.process import RunningHub
from zoo.hub_server.records import RepoId

DATA = bytes(range(256)) * 10_000
OID = hashlib.sha256(DATA).hexdigest()
REPO = RepoId("models", "me/a")


@pytest.fixture
def address(hub: RunningHub) -> str:
    """Where a client would be told to send DATA."""
    hub.store.create_repo(REPO)
    return str(ask(hub, OID, len(DATA))["actions"]["upload"]["href"])


def ask(hub: RunningHub, oid: str, size: int) -> dict[str, Any]:
    body = {"operation": "upload", "transfers": ["basic"], "objects": [{"oid": oid, "size": size}]}
    response = requests.post(f"{hub.endpoint}/me/a.git/info/lfs/objects/batch", json=body, timeout=20)
    assert response.status_code == 200, response.text
    row: dict[str, Any] = response.json()["objects"][0]
    return row


def leftovers(hub: RunningHub) -> list[Path]:
    return list((hub.directory / "uploads").iterdir())


def test_an_object_is_kept_under_its_digest(hub: RunningHub, address: str) -> None:
    assert requests.put(address, data=DATA, timeout=20).status_code == 200
    assert hub.store.blobs.read(OID) == DATA
    row = ask(hub, OID, len(DATA))
    assert "actions" not in row
    assert "error" in ask(hub, OID, 5)
    assert leftovers(hub) == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (DATA[:-1] + b"x", "Digest mismatch"),
        (DATA[:-1], "Content-Length"),
        (DATA + b"x", "Content-Length"),
        (iter([DATA[:100]]), "Size mismatch"),
        (iter([DATA, b"x"]), "More than the announced"),
    ],
    ids=["digest", "short", "long", "short without a length", "long without a length"],
)
def test_what_was_not_announced_is_refused(hub: RunningHub, address: str, body: Any, reason: str) -> None:
    response = requests.put(address, data=body, timeout=20)
    assert response.status_code in (400, 413)
    assert reason in response.headers["X-Error-Message"]
    assert hub.store.blobs.size(OID) is None
    assert leftovers(hub) == []


def test_a_ticket_is_for_one_object(hub: RunningHub, address: str) -> None:
    other = hashlib.sha256(b"other").hexdigest()
    for wrong in (
        address.replace(OID, other),
        address.replace("me%2Fa", "me%2Fb"),
        address.replace("ticket=", "ticket=0"),
        address.split("?")[0],
        address.replace("size=", "size=1"),
    ):
        assert requests.put(wrong, data=DATA, timeout=20).status_code == 403, wrong
    assert hub.store.blobs.size(OID) is None


def test_an_upload_that_breaks_off_leaves_nothing(hub: RunningHub, address: str) -> None:
    parts = urlsplit(address)
    assert parts.hostname
    with socket.create_connection((parts.hostname, parts.port or 80), timeout=20) as connection:
        head = f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(DATA)}\r\n\r\n"
        connection.sendall(head.encode() + DATA[:1_500_000])
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1000):
            pass
    for _ in range(500):  # the Hub notices and cleans up after the connection has ended
        if not leftovers(hub):
            break
        time.sleep(0.02)
    assert leftovers(hub) == []
    assert hub.store.blobs.size(OID) is None
    assert requests.put(address, data=DATA, timeout=20).status_code == 200


NONSENSE = [
    b"",
    b"[]",
    b"{",
    b'{"files": 3}',
    b'{"files": [{"path": 1}]}',
    b'{"files":[{"path":"a","size":-1}]}',
    b'{"files":[{"path":"a","size":1,"sample":"*"}]}',
    b"\xff",
    b"[" * 100_000,
]


def test_nonsense_is_answered_politely(hub: RunningHub, address: str) -> None:
    for path in ("preupload/main", "commit/main", "lfs-files/duplicate", "discussions"):
        for body in NONSENSE:
            response = requests.post(f"{hub.endpoint}/api/models/me/a/{path}", data=body, timeout=20)
            assert response.status_code == 400, (path, body[:40], response.text)
            assert "error" in response.json()
