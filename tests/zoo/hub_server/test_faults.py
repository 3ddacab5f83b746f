from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

import pytest
import requests
from huggingface_hub import CommitOperationAdd, HfApi

from zoo.hub_server.faults import Exchange, Fault, Faults, RequestLog
from zoo.hub_server.process import RunningHub, running_hub

CONTENT = hashlib.sha256(b"seed").digest() * 100_000


@pytest.fixture
def url(hub: RunningHub, api: HfApi) -> str:
    api.create_repo("me/a")
    api.create_commit("me/a", [CommitOperationAdd("w.bin", CONTENT)], commit_message="m")
    hub.log.clear()
    return f"{hub.endpoint}/me/a/resolve/main/w.bin"


def get(url: str, start: int | None = None) -> requests.Response:
    return requests.get(url, headers={} if start is None else {"Range": f"bytes={start}-"}, timeout=20)


def read_until_it_breaks(url: str, start: int = 0) -> bytes:
    received = bytearray()
    with requests.get(url, headers={"Range": f"bytes={start}-"}, stream=True, timeout=20) as response:
        try:
            for chunk in response.iter_content(10_000):
                received += chunk
        except requests.RequestException:
            pass
    return bytes(received)


def test_a_status_for_the_next_requests(hub: RunningHub, url: str) -> None:
    hub.faults.add(Fault(r"w\.bin$", status=503, times=2, headers={"Retry-After": "0"}))
    hub.faults.add(
        Fault("/tree/", method="GET", status=200, body=b'[{"type":"file","path":"../x","size":1,"oid":"0"}]')
    )
    assert [get(url).status_code for _ in range(3)] == [503, 503, 200]
    assert [entry.path for entry in HfApi(hub.endpoint, token="t").list_repo_tree("me/a")] == ["../x"]


def test_some_may_pass_first(hub: RunningHub, url: str) -> None:
    hub.faults.add(Fault("resolve", skip=1, times=None, status=404))
    assert [get(url).status_code for _ in range(3)] == [200, 404, 404]
    hub.faults.clear()
    assert get(url).status_code == 200


def test_a_download_that_breaks_can_go_on_without_a_byte_sent_twice(hub: RunningHub, url: str) -> None:
    hub.faults.add(Fault("resolve", cut_after=500_000))
    hub.faults.add(Fault("resolve", skip=1, cut_after=1_230_000))
    received = b""
    for _ in range(3):
        received += read_until_it_breaks(url, len(received))
    assert received == CONTENT
    # The client has the last byte a moment before the Hub writes its log.
    deadline = time.monotonic() + 10
    while len(hub.log.all("resolve")) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [(e.start, e.sent, e.whole) for e in hub.log.all("resolve")] == [
        (0, 500_000, False),
        (500_000, 1_230_000, False),
        (1_730_000, len(CONTENT) - 1_730_000, True),
    ]
    assert hub.log.bytes_sent_twice() == 0


def test_the_stock_client_survives_a_break(hub: RunningHub, url: str, api: HfApi, tmp_path: Path) -> None:
    hub.faults.add(Fault("resolve", method="GET", cut_after=1_000_000))
    path = api.hf_hub_download("me/a", "w.bin", local_dir=tmp_path / "out")
    assert Path(path).read_bytes() == CONTENT
    assert [e.status for e in hub.log.all("resolve", "GET")] == [200, 200]


def test_a_flipped_bit_lies_where_it_was_asked_for(hub: RunningHub, url: str) -> None:
    for start in (0, 1_500_000, 2_000_000):
        hub.faults.add(Fault("resolve", flip_at=2_000_000))
        flipped = bytearray(CONTENT)
        flipped[2_000_000] ^= 1
        assert get(url, start).content == flipped[start:]
    hub.faults.add(Fault("resolve", flip_at=10))
    assert get(url, 11).content == CONTENT[11:]


def test_a_server_without_ranges(hub: RunningHub, url: str) -> None:
    hub.faults.add(Fault("resolve", ignore_range=True))
    response = get(url, 1000)
    assert (response.status_code, response.content) == (200, CONTENT)
    assert "Accept-Ranges" not in response.headers
    assert hub.log.all("resolve")[0].range == "bytes=1000-"


def test_slow_is_slow(hub: RunningHub, url: str) -> None:
    hub.faults.add(Fault("resolve", bytes_per_s=len(CONTENT) * 4, delay_s=0.05))
    begin = time.monotonic()
    assert get(url).content == CONTENT
    assert time.monotonic() - begin > 0.25  # a lower bound: a busy machine only makes it longer


def test_the_stock_client_survives_a_cut_upload(hub: RunningHub, api: HfApi, url: str) -> None:
    hub.faults.add(Fault("^/lfs/objects/", cut_request_after=1_000_000))
    body = b"\1" * 3_000_000
    api.create_commit("me/a", [CommitOperationAdd("x.bin", body)], commit_message="m")
    assert [e.status for e in hub.log.all("/lfs/objects/", "PUT")] == [0, 200]
    assert list((hub.directory / "uploads").iterdir()) == []


def test_the_hub_stops_while_somebody_downloads(tmp_path: Path) -> None:
    with running_hub(tmp_path / "hub", faults=[Fault("", times=None, delay_s=60)]) as hub:
        errors: list[Exception] = []

        def ask() -> None:
            try:
                requests.get(hub.endpoint, timeout=30)
            except requests.RequestException as error:
                errors.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(0.2)
    thread.join(20)
    assert not thread.is_alive()


def test_each_fault_counts_for_itself() -> None:
    faults = Faults([Fault("a", times=2), Fault("b"), Fault("", method="PUT", times=None)])
    assert len(faults.take("GET", "/c")) == 0
    assert len(faults.take("PUT", "/a/b")) == 3
    assert len(faults.take("GET", "/a/b")) == 1
    assert len(faults.take("GET", "/a/b")) == 0
    assert len(faults.take("PUT", "/")) == 1


def test_bytes_sent_twice() -> None:
    log = RequestLog()
    for path, start, sent in (("/a", 0, 10), ("/a", 20, 10), ("/a", 5, 17), ("/b", 0, 10), ("/a", 30, 1)):
        log.add(Exchange("GET", path, "", None, 206, 0, start, sent, whole=True))
    assert log.bytes_sent_twice() == 5 + 2
    assert log.bytes_sent_twice("/b") == 0
    assert log.bytes_sent("/a") == 38
