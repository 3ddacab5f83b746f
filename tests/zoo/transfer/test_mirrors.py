from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="needs the [serve] extra")
pytest.importorskip("uvicorn", reason="needs the [serve] extra")

from tests.zoo.transfer.pull_support import bytes_of, publish
from zoo.errors import DigestMismatch, HubError, UsageError
from zoo.hub_server.faults import Fault
from zoo.hub_server.process import RunningHub, running_hub
from zoo.lock import LockedFile, Source
from zoo.transfer.http import MIRROR_ATTEMPTS, HttpFetcher, Retry, Unreachable
from zoo.transfer.remote import Endpoint, resolve_endpoints, with_token

REPO = "zoo/one"
FILES = {f"{name}.bin": bytes_of(name, 500_000) for name in "abc"}
QUICK = Retry(attempts=4, first=0.0, longest=0.0)


class Hubs:
    """A Hub, a mirror of it, and files that both have."""

    def __init__(self, main: RunningHub, mirror: RunningHub) -> None:
        self.main, self.mirror = main, mirror
        commits = {publish(hub, REPO, FILES) for hub in (main, mirror)}
        assert len(commits) == 1, "the same content is the same commit everywhere"
        self.commit = commits.pop()
        for hub in (main, mirror):
            hub.log.clear()
            hub.faults.clear()

    def file(self, path: str = "a.bin") -> LockedFile:
        data = FILES[path]
        source = Source(repo=REPO, commit=self.commit, path=path)
        digest = hashlib.sha256(data).hexdigest()
        return LockedFile(path=path, component="x", size=len(data), sha256=digest, sources=(source,))

    def fetcher(self, retry: Retry = QUICK) -> HttpFetcher:
        return HttpFetcher(self.main.endpoint, mirrors=[Endpoint(self.mirror.endpoint)], retry=retry)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hubs]:
    with (
        running_hub(tmp_path_factory.mktemp("main")) as main,
        running_hub(tmp_path_factory.mktemp("mirror")) as mirror,
    ):
        yield Hubs(main, mirror)


@pytest.fixture
def hubs(running: Hubs) -> Hubs:
    for hub in (running.main, running.mirror):
        hub.log.clear()
        hub.faults.clear()
    return running


def test_the_mirror_is_not_asked_while_the_first_endpoint_answers(hubs: Hubs, tmp_path: Path) -> None:
    hubs.fetcher().fetch(hubs.file(), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == FILES["a.bin"]
    assert hubs.mirror.log.all() == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=503, times=None),
        Fault(status=404, times=None),
        Fault(status=403, times=None),
        Fault(status=429, headers={"Retry-After": "300"}, times=None),
        Fault(flip_at=7, times=None),
        Fault(status=200, body=b"<html>login", headers={"Content-Type": "text/html"}, times=None),
    ],
    ids=["503", "404", "403", "429", "wrong bytes", "login page"],
)
def test_what_one_endpoint_cannot_give_comes_from_the_next(hubs: Hubs, tmp_path: Path, fault: Fault) -> None:
    hubs.main.faults.add(fault)
    done = hubs.fetcher().fetch(hubs.file(), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == FILES["a.bin"]
    assert done.digests.sha256 == hubs.file().sha256
    assert 1 <= len(hubs.main.log.all()) <= MIRROR_ATTEMPTS


def test_bytes_of_the_first_are_continued_at_the_second(hubs: Hubs, tmp_path: Path) -> None:
    hubs.main.faults.add(Fault(cut_after=300_000, times=1))
    hubs.main.faults.add(Fault(status=503, skip=1, times=None))
    done = hubs.fetcher().fetch(hubs.file(), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == FILES["a.bin"]
    assert done.received == len(FILES["a.bin"]), "no byte travelled twice"
    assert 0 < hubs.mirror.log.bytes_sent("a.bin") < len(FILES["a.bin"])


def test_an_endpoint_that_is_down_comes_last_from_then_on(hubs: Hubs, tmp_path: Path) -> None:
    fetcher = HttpFetcher("http://127.0.0.1:9", mirrors=[Endpoint(hubs.main.endpoint)], retry=QUICK)
    for path in FILES:
        fetcher.fetch(hubs.file(path), tmp_path / path)
    fetcher.close()
    hubs.main.faults.add(Fault(status=503, times=None))
    down = hubs.fetcher()
    for path in FILES:
        down.fetch(hubs.file(path), tmp_path / f"again-{path}")
    down.close()
    tried = [exchange for exchange in hubs.main.log.all() if exchange.status == 503]
    assert len(tried) == MIRROR_ATTEMPTS, "later files do not wait for it"


def test_if_all_fail_the_first_one_s_error_is_told(hubs: Hubs, tmp_path: Path) -> None:
    hubs.main.faults.add(Fault(flip_at=7, times=None))
    hubs.mirror.faults.add(Fault(status=404, times=None))
    with pytest.raises(DigestMismatch):
        hubs.fetcher().fetch(hubs.file(), tmp_path / "x")
    hubs.main.faults.clear()
    hubs.main.faults.add(Fault(status=503, times=None))
    with pytest.raises(Unreachable, match="503"):
        hubs.fetcher().fetch(hubs.file(), tmp_path / "y")
    assert issubclass(Unreachable, HubError)


class _Refusing(BaseHTTPRequestHandler):
    """Writes down who came with which token, and has nothing."""

    def do_GET(self) -> None:
        assert isinstance(self.server, _Server)
        self.server.seen.append(self.headers.get("Authorization"))
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        pass


class _Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Refusing)
        self.seen: list[str | None] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def servers() -> Iterator[list[_Server]]:
    servers = [_Server(), _Server()]
    threads = [
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        for server in servers
    ]
    for thread in threads:
        thread.start()
    yield servers
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("home", [0, 1])
def test_the_token_goes_only_where_it_belongs(
    servers: list[_Server], home: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", servers[home].address + "/")
    addresses = resolve_endpoints([server.address for server in servers])
    first, *mirrors = with_token(addresses, "hf_secret")
    fetcher = HttpFetcher(first.address, token=first.token, mirrors=mirrors, retry=QUICK)
    wanted = LockedFile(
        path="x", component="x", size=5, sha256="0" * 64, sources=(Source(repo=REPO, commit="0" * 40, path="x"),)
    )
    with pytest.raises(HubError) as error:
        fetcher.fetch(wanted, tmp_path / "x")
    fetcher.close()
    assert "hf_secret" not in str(error.value) + repr(first) + repr(mirrors)
    assert servers[home].seen == ["Bearer hf_secret"]
    assert servers[1 - home].seen == [None]


def test_which_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://home.example")
    assert resolve_endpoints() == ("https://home.example",)
    assert resolve_endpoints(["http://a/", "http://b", "http://a"]) == ("http://a", "http://b")
    with pytest.raises(UsageError):
        resolve_endpoints(["http://a", "b"])
    assert with_token(["http://a"], "t") == (Endpoint("http://a", "t"),), "a single one was chosen for it"
    assert [e.token for e in with_token(["http://a", "https://home.example:443"], "t")] == [None, "t"]
    assert [e.token for e in with_token(["http://a", "http://home.example"], "t")] == [None, None]
