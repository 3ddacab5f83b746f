from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from zoo.hub_server.changes import Change, PutLarge, PutSmall
from zoo.hub_server.downloads import ByteRange, parse_range
from zoo.hub_server.errors import Refusal
from zoo.hub_server.process import RunningHub, running_hub
from zoo.hub_server.records import RepoId

CONTENT = bytes(range(256)) * 40_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    """One Hub for all tests here, which only read."""
    with running_hub(tmp_path_factory.mktemp("hub")) as running:
        repo = RepoId("models", "me/a")
        running.store.create_repo(repo)
        running.store.grant_object(repo, running.store.blobs.put(CONTENT))
        changes: list[Change] = [PutLarge("w.bin", SHA256, None), PutSmall("t.txt", b"hi")]
        running.store.commit(repo, "main", changes, title="m")
        yield running


@pytest.fixture
def url(hub: RunningHub) -> str:
    return f"{hub.endpoint}/me/a/resolve/main/w.bin"


def get(url: str, **headers: str) -> requests.Response:
    return requests.get(url, headers={name.replace("_", "-"): value for name, value in headers.items()}, timeout=20)


def test_whole_file_with_its_headers(url: str, hub: RunningHub) -> None:
    response = get(url)
    assert response.status_code == 200
    assert response.content == CONTENT
    assert response.headers["ETag"] == f'"{SHA256}"' == response.headers["X-Linked-ETag"]
    assert response.headers["X-Linked-Size"] == str(len(CONTENT)) == response.headers["Content-Length"]
    assert response.headers["X-Repo-Commit"] == hub.store.resolve(RepoId("models", "me/a"), "main")
    assert "X-Xet-Hash" not in response.headers
    head = requests.head(url, timeout=20)
    same = ("ETag", "X-Repo-Commit", "Content-Length", "Accept-Ranges", "X-Linked-Size")
    assert [head.headers[name] for name in same] == [response.headers[name] for name in same]
    small = get(url.replace("w.bin", "t.txt"))
    assert small.headers["ETag"] == '"32f95c0d1244a78b2be1bab8de17906fabb2c4a8"'  # printf hi | git hash-object
    assert "X-Linked-Size" not in small.headers


@pytest.mark.parametrize(
    ("header", "expected", "place"),
    [
        ("bytes=0-0", CONTENT[:1], "0-0"),
        ("bytes=5000000-", CONTENT[5_000_000:], f"5000000-{len(CONTENT) - 1}"),
        ("bytes=10-19", CONTENT[10:20], "10-19"),
        ("bytes=-7", CONTENT[-7:], f"{len(CONTENT) - 7}-{len(CONTENT) - 1}"),
        (f"bytes=3-{10**30}", CONTENT[3:], f"3-{len(CONTENT) - 1}"),
    ],
)
def test_a_range(url: str, header: str, expected: bytes, place: str) -> None:
    response = get(url, Range=header)
    assert response.status_code == 206
    assert response.content == expected
    assert response.headers["Content-Range"] == f"bytes {place}/{len(CONTENT)}"


@pytest.mark.parametrize("header", ["bytes=1-2,5-6", "bytes=9-3", "items=0-1", "bytes=-", "bytes=a-b", "bytes= 1-2"])
def test_a_range_that_is_not_understood_gives_the_file(url: str, header: str) -> None:
    assert get(url, Range=header).status_code == 200


@pytest.mark.parametrize("header", [f"bytes={len(CONTENT)}-", "bytes=99999999-", "bytes=-0"])
def test_a_range_behind_the_end(url: str, header: str) -> None:
    response = get(url, Range=header)
    assert response.status_code == 416
    assert response.headers["Content-Range"] == f"bytes */{len(CONTENT)}"
    assert response.headers["ETag"] == f'"{SHA256}"'


def test_conditions(url: str) -> None:
    assert get(url, If_None_Match=f'"{SHA256}"').status_code == 304
    assert get(url, If_None_Match='"other"').status_code == 200
    assert get(url, Range="bytes=0-1", If_Range=f'"{SHA256}"').status_code == 206
    changed = get(url, Range="bytes=0-1", If_Range='"other"')
    assert (changed.status_code, changed.content) == (200, CONTENT)


def test_what_is_missing_is_named(url: str, hub: RunningHub) -> None:
    for path, code in {
        "/me/a/resolve/main/none": "EntryNotFound",
        "/me/a/resolve/none/w.bin": "RevisionNotFound",
        "/me/none/resolve/main/w.bin": "RepoNotFound",
        "/api/models/me/none": "RepoNotFound",
        "/me/a/resolve/main/..%2F..%2Fw.bin": "EntryNotFound",
    }.items():
        response = requests.get(hub.endpoint + path, timeout=20)
        assert (response.status_code, response.headers["X-Error-Code"]) == (404, code), path
        assert response.json()["error"] == response.headers["X-Error-Message"]


def test_a_path_cannot_smuggle_headers(url: str) -> None:
    response = requests.get(url.replace("w.bin", "%0d%0aSet-Cookie:%20a=b"), timeout=20)
    assert response.status_code == 404
    assert "Set-Cookie" not in response.headers


def test_a_client_that_leaves_does_not_disturb(url: str) -> None:
    for _ in range(3):
        with requests.get(url, stream=True, timeout=20) as response:
            assert next(response.iter_content(1000)) == CONTENT[:1000]
    assert hashlib.sha256(get(url).content).hexdigest() == SHA256


@given(st.integers(0, 50), st.integers(0, 60), st.integers(0, 60))
def test_a_range_lies_in_the_file(size: int, first: int, last: int) -> None:
    for header in (f"bytes={first}-{last}", f"bytes={first}-", f"bytes=-{last}"):
        wanted = bytes(range(size))
        expected = wanted[first:] if header.endswith("-") else wanted[first : last + 1]
        if header.startswith("bytes=-"):
            expected = wanted[-last:] if last else b""
        elif not header.endswith("-") and last < first:
            assert parse_range(header, size) is None
            continue
        if not expected:
            with pytest.raises(Refusal, match="Range"):
                parse_range(header, size)
            continue
        part = parse_range(header, size)
        assert part is not None
        assert wanted[part.start : part.start + part.length] == expected
        assert part == ByteRange(part.start, len(expected))
