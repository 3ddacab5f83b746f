from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

pytest.importorskip("starlette", reason="needs the [serve] extra")
pytest.importorskip("uvicorn", reason="needs the [serve] extra")

from tests.zoo.transfer.pull_support import bytes_of, publish
from zoo.errors import DigestMismatch, DiskError, HubError, UsageError, ZooError
from zoo.hub_server.faults import Fault
from zoo.hub_server.process import RunningHub, running_hub
from zoo.lock import LockedFile, Source
from zoo.transfer.answers import LONGEST_WAIT, TryAgain, bytes_to_skip
from zoo.transfer.http import HttpFetcher, RangesIgnored, Retry, Stopped
from zoo.transfer.remote import file_url, resolve_endpoint

REPO = "zoo/one"
DATA = bytes_of("one", 2_500_000)
PATH = "a folder/weight + 100%.bin"
QUICK = Retry(attempts=3, first=0.0, longest=0.0)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with running_hub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture
def hub(running: RunningHub) -> RunningHub:
    running.log.clear()
    running.faults.clear()
    return running


@pytest.fixture
def file(hub: RunningHub) -> LockedFile:
    commit = publish(hub, REPO, {PATH: DATA, "small.json": b"{}", "page.html": b"<html>", "empty.bin": b""})
    return locked(DATA, PATH, commit)


def locked(data: bytes, path: str, commit: str) -> LockedFile:
    return LockedFile(
        path=path,
        component="x",
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        sources=(Source(repo=REPO, commit=commit, path=path),),
    )


def get(hub: RunningHub, file: LockedFile, target: Path, retry: Retry = QUICK) -> tuple[int, int]:
    """Fetch; returns bytes received and resumed."""
    fetcher = HttpFetcher(hub.endpoint, retry=retry)
    try:
        done = fetcher.fetch(file, target)
    finally:
        fetcher.close()
    assert target.read_bytes() == DATA
    assert done.digests.sha256 == file.sha256
    return done.received, done.resumed


def test_a_file_comes_whole_and_leaves_nothing_else(hub: RunningHub, file: LockedFile, tmp_path: Path) -> None:
    target = tmp_path / "partial" / "x"
    target.parent.mkdir()
    assert get(hub, file, target) == (len(DATA), 0)
    assert list(target.parent.iterdir()) == [target]
    assert hub.log.all(method="GET")[-1].path.endswith(PATH)


def test_a_body_that_is_cut_is_continued(hub: RunningHub, file: LockedFile, tmp_path: Path) -> None:
    hub.faults.add(Fault(path="weight", cut_after=700_000, times=2))
    assert get(hub, file, tmp_path / "x") == (len(DATA), 0)
    assert [e.start for e in hub.log.all("weight")] == [0, 700_000, 1_400_000]
    assert hub.log.bytes_sent_twice("weight") == 0


def test_what_an_earlier_process_left_is_continued(hub: RunningHub, file: LockedFile, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(DATA[:1_000_000])
    assert get(hub, file, tmp_path / "x") == (len(DATA) - 1_000_000, 1_000_000)
    assert [e.range for e in hub.log.all("weight")] == ["bytes=1000000-"]


def test_all_bytes_there_means_no_request(hub: RunningHub, file: LockedFile, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(DATA)
    assert get(hub, file, tmp_path / "x") == (0, len(DATA))
    assert hub.log.all("weight") == []


def test_a_damaged_beginning_is_noticed_and_fetched_again(hub: RunningHub, file: LockedFile, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"?" + DATA[1:1_000_000])
    received, resumed = get(hub, file, tmp_path / "x")
    assert (received, resumed) == (len(DATA) - 1_000_000 + len(DATA), 1_000_000)


def test_more_bytes_than_the_file_has_are_thrown_away(hub: RunningHub, file: LockedFile, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(DATA + b"tail")
    assert get(hub, file, tmp_path / "x") == (len(DATA), 0)


def test_a_server_without_ranges_costs_bytes_but_not_the_ones_on_disk(
    hub: RunningHub, file: LockedFile, tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(DATA[:1_000_000])
    hub.faults.add(Fault(path="weight", ignore_range=True))
    assert get(hub, file, tmp_path / "x") == (len(DATA), 1_000_000)


def test_one_flipped_bit_is_fetched_again_and_a_second_is_an_error(
    hub: RunningHub, file: LockedFile, tmp_path: Path
) -> None:
    hub.faults.add(Fault(path="weight", flip_at=1_234_567))
    assert get(hub, file, tmp_path / "x") == (2 * len(DATA), 0)
    hub.faults.add(Fault(path="weight", flip_at=1_234_567, times=None))
    with pytest.raises(DigestMismatch) as caught:
        get(hub, file, tmp_path / "y")
    wrong = bytearray(DATA)
    wrong[1_234_567] ^= 1
    for part in (file.path, file.sha256, hashlib.sha256(wrong).hexdigest(), "/resolve/"):
        assert str(part) in caught.value.message
    assert caught.value.hint
    assert not (tmp_path / "y").exists(), "wrong bytes are not kept"


def test_a_busy_server_is_asked_again_when_it_says(hub: RunningHub, file: LockedFile, tmp_path: Path) -> None:
    hub.faults.add(Fault(path="weight", status=503, headers={"Retry-After": "0"}, times=2))
    assert get(hub, file, tmp_path / "x") == (len(DATA), 0)
    hub.faults.add(Fault(path="weight", status=429, headers={"Retry-After": "0"}, times=None))
    with pytest.raises(HubError, match="429 Too Many Requests"):
        get(hub, file, tmp_path / "y")


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"Retry-After": "99999"}, LONGEST_WAIT),
        ({"Retry-After": "soon"}, None),
        ({"RateLimit": '"resolvers";r=0;t=42'}, 42.0),
        ({}, None),
    ],
)
def test_the_wait_a_server_asks_for(headers: dict[str, str], wait: float | None) -> None:
    file = locked(DATA, "x", "0" * 40)
    with pytest.raises(TryAgain) as caught:
        bytes_to_skip(429, headers, file=file, source=file.sources[0], url="u", have=0)
    assert caught.value.wait == wait


def test_a_login_page_is_not_a_file(hub: RunningHub, file: LockedFile, tmp_path: Path) -> None:
    hub.faults.add(Fault(path="weight", status=200, headers={"content-type": "text/html; charset=utf-8"}, body=b"<p>"))
    with pytest.raises(HubError, match="a web page came"):
        get(hub, file, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_another_size_is_refused_before_it_travels(hub: RunningHub, file: LockedFile, tmp_path: Path) -> None:
    short = replace_size(file, len(DATA) + 1)
    with pytest.raises(HubError, match=r"2,500,001 bytes, the Hub has 2,500,000"):
        get(hub, short, tmp_path / "x")
    # Continuing where the Hub's file ends: 416, then the same.
    (tmp_path / "y").write_bytes(DATA)
    with pytest.raises(HubError, match=r"2,500,001 bytes, the Hub has 2,500,000"):
        get(hub, short, tmp_path / "y")


def replace_size(file: LockedFile, size: int) -> LockedFile:
    return LockedFile(path=file.path, component="x", size=size, sha256=file.sha256, sources=file.sources)


def test_what_the_hub_says_it_has_is_compared_before_it_travels(
    hub: RunningHub, file: LockedFile, tmp_path: Path
) -> None:
    other = LockedFile(path=file.path, component="x", size=file.size, sha256="f" * 64, sources=file.sources)
    with pytest.raises(DigestMismatch, match="the Hub says it has other bytes"):
        get(hub, other, tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("repo", "commit", "path", "said"),
    [
        ("zoo/none", None, PATH, "no such repo"),
        (REPO, "f" * 40, PATH, "no commit"),
        (REPO, None, "none.bin", "no file none.bin"),
    ],
)
def test_what_is_not_there_is_named(
    hub: RunningHub, file: LockedFile, tmp_path: Path, repo: str, commit: str | None, path: str, said: str
) -> None:
    source = Source(repo=repo, commit=commit or file.sources[0].commit, path=path)
    lost = LockedFile(path="x", component="x", size=3, sha256="0" * 64, sources=(source,))
    with pytest.raises(HubError, match=said):
        get(hub, lost, tmp_path / "x")
    # Another source of the same bytes will do.
    both = LockedFile(path="x", component="x", size=file.size, sha256=file.sha256, sources=(source, *file.sources))
    get(hub, both, tmp_path / "y")


def test_an_unreachable_hub_is_one_line(tmp_path: Path, file: LockedFile) -> None:
    with pytest.raises(HubError, match=r"the connection failed \(Connection refused\)") as caught:
        HttpFetcher("http://127.0.0.1:9", retry=QUICK).fetch(file, tmp_path / "x")
    assert "\n" not in caught.value.message


def test_offline_forbids_travel_but_not_what_is_there(
    hub: RunningHub, file: LockedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        get(hub, file, tmp_path / "x")
    (tmp_path / "x").write_bytes(DATA)
    get(hub, file, tmp_path / "x")
    assert hub.log.all("weight") == []


def test_nothing_stays_where_nothing_came(
    hub: RunningHub, file: LockedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        get(hub, file, tmp_path / "x")
    assert list(tmp_path.glob("x*")) == []


def test_a_stop_ends_it_and_keeps_what_came(hub: RunningHub, file: LockedFile, tmp_path: Path) -> None:
    hub.faults.add(Fault(path="weight", bytes_per_s=2_000_000))
    stop = threading.Event()

    class Stopper:
        def start(self, item: str, total: int, done: int = 0) -> None: ...
        def advance(self, item: str, amount: int) -> None:
            stop.set()

        def finish(self, item: str, note: str = "") -> None: ...
        def say(self, text: str) -> None: ...

    with pytest.raises(Stopped):
        HttpFetcher(hub.endpoint, stop=stop).fetch(file, tmp_path / "x", Stopper())
    kept = (tmp_path / "x").read_bytes()
    assert kept
    assert DATA.startswith(kept)
    for _ in range(500):  # until the Hub has noticed, so that the next test's log is its own
        if hub.log.all("weight"):
            break
        time.sleep(0.01)


def test_a_full_disk_keeps_what_was_written(
    hub: RunningHub, file: LockedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    left = [900_000]

    def small_disk(handle: int, data: bytes | memoryview) -> int:
        if isinstance(data, bytes):
            return write(handle, data)
        if left[0] <= 0:
            raise OSError(28, "No space left on device")
        done = write(handle, data[: left[0]])
        left[0] -= done
        return done

    monkeypatch.setattr("zoo.transfer.arriving.os.write", small_disk)
    with pytest.raises(DiskError, match="No space left") as caught:
        get(hub, file, tmp_path / "x")
    assert "kept" in str(caught.value.hint)
    kept = (tmp_path / "x").read_bytes()
    assert DATA.startswith(kept)
    assert len(kept) > 500_000


def test_a_linked_partial_is_never_written_through(hub: RunningHub, file: LockedFile, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    os.link(tmp_path / "precious", tmp_path / "x")
    (tmp_path / "y").symlink_to(tmp_path / "precious")
    get(hub, file, tmp_path / "x")
    get(hub, file, tmp_path / "y")
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_an_empty_file_needs_no_request(hub: RunningHub, file: LockedFile, tmp_path: Path) -> None:
    empty = locked(b"", "empty.bin", file.sources[0].commit)
    HttpFetcher(hub.endpoint).fetch(empty, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b""
    assert hub.log.all("empty") == []


def test_without_a_digest_two_parts_of_different_files_are_not_joined(
    hub: RunningHub, file: LockedFile, tmp_path: Path
) -> None:
    unknown = LockedFile(path="x", component="x", size=file.size, sources=file.sources)
    (tmp_path / "x").write_bytes(b"another version"[:10])
    (tmp_path / "x.etag").write_text('"another"')
    HttpFetcher(hub.endpoint).fetch(unknown, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA


class _Recorder(BaseHTTPRequestHandler):
    """Redirects `/zoo/...` to another host name of the same machine, and serves DATA there."""

    seen: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        self.seen.append((self.headers["Host"].split(":")[0], self.headers.get("Authorization")))
        if self.path.startswith("/zoo/"):
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.connection.getsockname()[1]}/cdn")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(DATA)))
        self.end_headers()
        self.wfile.write(DATA)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        pass


@contextmanager
def redirecting_server() -> Iterator[str]:
    _Recorder.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Recorder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_token_goes_to_the_hub_and_no_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    wanted = locked(DATA, "x.bin", "0" * 40)
    with redirecting_server() as endpoint:
        for token in ("hf_secret", None):
            fetcher = HttpFetcher(endpoint, token=token)
            fetcher.fetch(wanted, tmp_path / str(token))
            fetcher.close()
    assert _Recorder.seen == [
        ("127.0.0.1", "Bearer hf_secret"),
        ("localhost", None),
        ("127.0.0.1", None),
        ("localhost", None),
    ]


@pytest.mark.parametrize(
    "address", ["huggingface.co", "ftp://x", "https://", "https://u:p@x", "http://x?y", "http://x:99999999"]
)
def test_what_is_no_endpoint(address: str) -> None:
    with pytest.raises(UsageError):
        resolve_endpoint(address)


def test_the_endpoint_comes_from_the_option_then_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/hf/")
    assert resolve_endpoint() == "https://mirror.example/hf"
    assert resolve_endpoint("http://127.0.0.1:1234") == "http://127.0.0.1:1234"
    monkeypatch.delenv("HF_ENDPOINT")
    assert resolve_endpoint() == "https://huggingface.co"


def test_a_path_stays_a_path() -> None:
    source = Source(repo="a/b", commit="0" * 40, path="c d/100%?x=#.bin")
    assert file_url("http://h", source) == f"http://h/a/b/resolve/{'0' * 40}/c%20d/100%25%3Fx%3D%23.bin"


def test_no_kind_of_trouble_is_an_unknown_exception(hub: RunningHub, file: LockedFile, tmp_path: Path) -> None:
    for number, status in enumerate((300, 304, 400, 401, 403, 405, 410, 418, 451, 500, 599)):
        hub.faults.add(Fault(path="weight", status=status, times=QUICK.attempts))
        with pytest.raises(ZooError):
            get(hub, file, tmp_path / str(number))
        hub.faults.clear()


def test_more_retries_are_patient_only_without_progress() -> None:
    patience = Retry(first=1.0, longest=5.0)
    assert 0.8 <= patience.wait(1) <= 1.2
    assert patience.wait(30) <= 6.0
    assert replace(patience, attempts=2).attempts == 2


def test_a_part_of_what_lies_at_an_address(hub: RunningHub, file: LockedFile, tmp_path: Path) -> None:
    url = file_url(hub.endpoint, file.sources[0])
    whole = replace_sources(file)
    fetcher = HttpFetcher(hub.endpoint, retry=QUICK)
    try:
        part = replace_sources(file, size=1_000, sha256=hashlib.sha256(DATA[500_000:501_000]).hexdigest())
        (tmp_path / "part").write_bytes(DATA[500_000:500_300])
        done = fetcher.fetch_address(url, part, tmp_path / "part", begin=500_000, of=whole)
        assert ((tmp_path / "part").read_bytes(), done.received, done.resumed) == (DATA[500_000:501_000], 700, 300)
        hub.faults.add(Fault(path="weight", ignore_range=True))
        with pytest.raises(RangesIgnored):
            fetcher.fetch_address(url, part, tmp_path / "again", begin=500_000, of=whole)
        hub.faults.add(Fault(path="weight", cut_after=400, times=1))
        assert fetcher.fetch_address(url, part, tmp_path / "cut", begin=500_000, of=whole).received == 1_000
        done = fetcher.fetch_address(url, whole, tmp_path / "whole")
        assert (done.digests.sha256, done.received) == (file.sha256, len(DATA))
        with pytest.raises(HubError, match="404"):
            fetcher.fetch_address(url + ".not", whole, tmp_path / "not")
    finally:
        fetcher.close()


def replace_sources(file: LockedFile, **fields: object) -> LockedFile:
    """The file as it is at an address of its own."""
    return msgspec.structs.replace(file, sources=(), **fields)
