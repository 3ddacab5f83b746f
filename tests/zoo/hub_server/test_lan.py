"""A Hub that other machines can reach: who may do what, under which name, and how much of it."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from zoo.cli.serve import EVERYWHERE, Tokens, read_tokens, settings_for
from zoo.errors import UsageError
from zoo.hub_server.addresses import host_name, is_loopback, reachable_names
from zoo.hub_server.changes import PutSmall
from zoo.hub_server.process import RunningHub, running_hub
from zoo.hub_server.records import RepoId
from zoo.hub_server.settings import HubSettings, Limits

PUBLIC, PRIVATE, GATED = (RepoId("models", f"me/{name}") for name in ("public", "private", "gated"))
WRITER, READER = "writer-0123456789", "reader-0123456789"
BOTH = Tokens(write=(WRITER,), read=(READER,))


@contextlib.contextmanager
def hub_of(folder: Path, settings: HubSettings) -> Iterator[RunningHub]:
    """A Hub with these rules on loopback; nothing else of them depends on the address."""
    with running_hub(folder, settings=settings) as hub:
        for repo in (PUBLIC, PRIVATE, GATED):
            hub.store.create_repo(repo, private=repo == PRIVATE)
            hub.store.commit(repo, "main", [PutSmall("t.txt", b"0123456789")], title="m")
        hub.store.update_repo(GATED, private=None, gated="auto")
        yield hub


def get(hub: RunningHub, repo: RepoId, token: str | None = None, **headers: str) -> requests.Response:
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    return requests.get(f"{hub.endpoint}/{repo.name}/resolve/main/t.txt", headers=headers, timeout=20)


def test_without_tokens_everybody_reads_and_nobody_writes(tmp_path: Path) -> None:
    with hub_of(tmp_path, settings_for(Tokens(), host=EVERYWHERE)) as hub:
        part = get(hub, PUBLIC, Range="bytes=2-4")
        assert (part.status_code, part.content) == (206, b"234")
        # A token for the real Hub, which clients send everywhere, changes nothing.
        assert get(hub, PUBLIC, "hf_of_another_hub").status_code == 200
        assert (get(hub, PRIVATE).status_code, get(hub, GATED).status_code) == (401, 401)
        api = HfApi(hub.endpoint, token="any")
        assert [model.id for model in api.list_models()] == ["me/gated", "me/public"]
        assert "me/private" not in requests.get(hub.endpoint, timeout=20).text
        for change in (
            lambda: api.create_repo("me/new"),
            lambda: api.delete_repo("me/public"),
            lambda: api.upload_file(repo_id="me/public", path_or_fileobj=b"x", path_in_repo="x"),
            lambda: api.create_tag("me/public", tag="t"),
            lambda: api.update_repo_settings("me/private", private=False),
        ):
            with pytest.raises(HfHubHTTPError, match="read-only") as caught:
                change()
            assert caught.value.response.status_code == 403


def test_tokens_for_reading_and_for_writing(tmp_path: Path) -> None:
    with hub_of(tmp_path, settings_for(BOTH, host=EVERYWHERE)) as hub:
        for repo, nobody in ((PUBLIC, 200), (PRIVATE, 401), (GATED, 401)):
            assert get(hub, repo).status_code == nobody
            assert get(hub, repo, READER).status_code == get(hub, repo, WRITER).status_code == 200
            assert get(hub, repo, WRITER[:-1]).status_code == get(hub, repo, f"{WRITER}0").status_code == 401
        for token, status in (("none", 401), (READER, 403)):
            with pytest.raises(HfHubHTTPError) as caught:
                HfApi(hub.endpoint, token=False if token == "none" else token).create_repo("me/new")
            assert caught.value.response.status_code == status
        HfApi(hub.endpoint, token=WRITER).create_repo("me/new")


def test_read_only_is_for_all(tmp_path: Path) -> None:
    with hub_of(tmp_path, settings_for(BOTH, host=EVERYWHERE, read_only=True)) as hub:
        assert get(hub, PRIVATE, READER).status_code == 200
        with pytest.raises(HfHubHTTPError, match="read-only"):
            HfApi(hub.endpoint, token=WRITER).create_repo("me/new")


def test_what_is_open_on_loopback_alone() -> None:
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        assert settings_for(Tokens(), host=host).access.is_open
    for host in (EVERYWHERE, "::", "192.168.1.2", "hub.local"):
        assert settings_for(Tokens(), host=host).access.read_only
        assert not settings_for(BOTH, host=host).access.read_only
        assert settings_for(Tokens(read=(READER,)), host=host).access.read_only
    # Behind a proxy everybody comes from loopback.
    assert settings_for(Tokens(), public_url="https://hub.example.org").access.read_only


def test_tokens_that_do_not_do() -> None:
    for token in ("", "a b", "ä", "a\n"):
        with pytest.raises(UsageError, match="printable"):
            settings_for(Tokens(write=(token,)))
    settings_for(Tokens(write=("short",)))
    with pytest.raises(UsageError, match="guessed"):
        settings_for(Tokens(read=("short",)), host=EVERYWHERE)


def test_a_file_of_tokens(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"# for CI\n{WRITER}\nread {READER}\n\nwrite other\n")
    assert read_tokens(path) == Tokens(write=(WRITER, "other"), read=(READER,))
    for text, reason in (("# none\n", "has no token"), ("a secret phrase\n", "neither TOKEN")):
        path.write_text(text)
        with pytest.raises(UsageError, match=reason) as caught:
            read_tokens(path)
        assert "secret" not in str(caught.value)
    with pytest.raises(UsageError, match="cannot be read"):
        read_tokens(tmp_path / "missing")


def test_names_in_answers_are_those_the_client_used(tmp_path: Path) -> None:
    with hub_of(tmp_path, settings_for(Tokens(), host=EVERYWHERE)) as hub:
        address = f"{hub.endpoint}/api/models/me/public/tree/main?limit=1"
        for name in ("my-mac.local:8750", "192.168.1.7", "[fe80::1]:80"):
            link = requests.get(address, headers={"Host": name}, timeout=20).headers["Link"]
            assert link.startswith(f"<http://{name}/api/models/me/public/tree/main?")
        for name in ('a"><b', "a/b", "user@a", "a:b", "a b", "-", "[::1", "a" * 300):
            assert requests.get(address, headers={"Host": name}, timeout=20).status_code == 400, name


def test_behind_a_proxy(tmp_path: Path) -> None:
    settings = settings_for(BOTH, public_url="https://hub.example.org/")
    with hub_of(tmp_path, settings) as hub:
        address = f"{hub.endpoint}/api/models/me/public/tree/main?limit=1"
        for name in ("hub.example.org", "127.0.0.1"):
            headers = {"Host": name, "X-Forwarded-Host": "evil.example", "X-Forwarded-For": "127.0.0.1"}
            link = requests.get(address, headers=headers, timeout=20).headers["Link"]
            assert link.startswith("<https://hub.example.org/api/models/me/public/tree/main?")
        assert requests.get(address, headers={"Host": "evil.example"}, timeout=20).status_code == 421
    for url in ("hub.example.org", "ftp://a", "https://", "https://a/b", "https://a b"):
        with pytest.raises(UsageError, match="not an address"):
            settings_for(Tokens(), public_url=url)


def test_a_name_that_was_pointed_to_loopback_reads_nothing(tmp_path: Path) -> None:
    with hub_of(tmp_path, settings_for(Tokens())) as hub:
        for name, status in (("evil.example", 421), ("localhost:1", 200), ("127.0.0.1", 200), ("[::1]", 200)):
            assert get(hub, PRIVATE, Host=name).status_code == status


def test_addresses() -> None:
    assert reachable_names("192.168.1.2") == ["192.168.1.2"]
    assert reachable_names("fe80::1") == ["[fe80::1]"]
    assert reachable_names(EVERYWHERE)
    assert all(host_name(name) for name in reachable_names(EVERYWHERE))
    assert is_loopback("::ffff:127.0.0.1")
    assert not is_loopback("127.0.0.1.example.org")


@contextlib.contextmanager
def raw(hub: RunningHub, text: bytes) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", int(hub.endpoint.rpartition(":")[2])), timeout=20) as connection:
        connection.sendall(text)
        yield connection


def everything(connection: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(1 << 16):
            found += data
    return found


IMPATIENT = HubSettings(limits=Limits(head_s=0.3, idle_s=0.3))


def test_a_head_that_does_not_arrive(tmp_path: Path) -> None:
    with hub_of(tmp_path, IMPATIENT) as hub:
        for beginning in (b"", b"GET / HTTP/1.1\r\nHost: a\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HT"):
            with raw(hub, beginning) as connection:
                started = time.monotonic()
                answered = everything(connection)
                assert time.monotonic() - started < 10
                assert answered.count(b"HTTP/1.1 200") == (1 if b"\r\n\r\n" in beginning else 0)


def test_a_head_that_is_too_long(tmp_path: Path) -> None:
    with hub_of(tmp_path, IMPATIENT) as hub, raw(hub, b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000) as connection:
        assert everything(connection).startswith((b"HTTP/1.1 400", b""))
        assert requests.get(hub.endpoint, timeout=20).status_code == 200


def test_a_body_that_does_not_arrive(tmp_path: Path) -> None:
    with hub_of(tmp_path, IMPATIENT) as hub:
        for path in (b"/api/models/me/public/commit/main", b"/api/models/me/public/paths-info/main"):
            head = b"POST " + path + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{"
            with raw(hub, head) as connection:
                assert everything(connection).startswith(b"HTTP/1.1 408")


def test_an_answer_that_is_not_taken(tmp_path: Path) -> None:
    with hub_of(tmp_path, IMPATIENT) as hub:
        repo = RepoId("models", "me/large")
        hub.store.create_repo(repo)
        for number in range(4):
            hub.store.commit(repo, "main", [PutSmall(f"{number}.txt", bytes(10 << 20))], title="m")
        with raw(hub, b"GET /me/large/resolve/main/0.txt HTTP/1.1\r\nHost: a\r\n\r\n"):
            deadline = time.monotonic() + 20
            while not (ended := hub.log.all("0.txt")) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert [exchange.whole for exchange in ended] == [False]


def test_too_much_at_once(tmp_path: Path) -> None:
    with hub_of(tmp_path, HubSettings(limits=Limits(connections=3))) as hub:
        held = [socket.create_connection(("127.0.0.1", int(hub.endpoint.rpartition(":")[2]))) for _ in range(3)]
        refused = requests.get(hub.endpoint, timeout=20)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        for connection in held:
            connection.close()
        deadline = time.monotonic() + 20
        while requests.get(hub.endpoint, timeout=20).status_code != 200:
            assert time.monotonic() < deadline


def test_bodies_that_are_too_large(tmp_path: Path) -> None:
    with hub_of(tmp_path, settings_for(Tokens(), host=EVERYWHERE)) as hub:
        address = f"{hub.endpoint}/api/models/me/public/paths-info/main"
        assert requests.post(address, data=b"paths=" + b"a" * (2 << 20), timeout=20).status_code == 413
        # Who may not write is told so before anything is read.
        commit = f"{hub.endpoint}/api/models/me/public/commit/main"
        assert requests.post(commit, data=b"{}", timeout=20).status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "/me/public/resolve/main/../../../../../../etc/passwd",
        "/me/public/resolve/main/%2e%2e%2f%2e%2e%2frepo.json",
        "/me/public/resolve/..%2f..%2f/t.txt",
        "/me/..%2fpublic/resolve/main/t.txt",
        "/..%2f..%2f/public/resolve/main/t.txt",
        "/me%00/public/resolve/main/t.txt",
        "/me/public/resolve/main/t.txt%00",
        "/datasets/..%2fmodels%2fme/public/resolve/main/t.txt",
        "/api/models/me/public/tree/..%2f..%2fmain",
        "/api/models/me/public/revision/*",
        "//etc/passwd",
        "/me/public/resolve/main//etc/passwd",
        "/" + "a/" * 3000,
    ],
)
def test_paths_stay_inside(tmp_path: Path, path: str) -> None:
    with hub_of(tmp_path, settings_for(Tokens(), host=EVERYWHERE)) as hub:
        request = f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        with raw(hub, request.encode()) as connection:
            answered = everything(connection)
        assert re.match(rb"HTTP/1\.1 40[014] ", answered), answered[:200]
        assert b"root:" not in answered


def test_the_command_on_a_network(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import typer; from zoo.cli.serve import serve; typer.run(serve)"]
    command += [str(tmp_path / "hub"), "--lan", "--port", "0", "--for", "60", "--make-token"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip())
            if line.startswith("Ctrl-C"):
                break
        (port,) = set(re.findall(r"http://[^ /]+:(\d+)", "\n".join(lines)))
        endpoint = f"http://127.0.0.1:{port}"
        (token,) = (line.split()[1] for line in lines if line.startswith("token:"))
        with pytest.raises(HfHubHTTPError):
            HfApi(endpoint, token=False).create_repo("me/a")
        HfApi(endpoint, token=token).create_repo("me/a")
        assert HfApi(endpoint, token=False).model_info("me/a").sha
        process.terminate()
        assert process.wait(timeout=30) == 0
        assert process.stderr is not None
        assert token not in process.stdout.read() + process.stderr.read()
    assert "\n".join(lines).count(token) == 1
    assert any("Everybody on this network may read" in line for line in lines)
