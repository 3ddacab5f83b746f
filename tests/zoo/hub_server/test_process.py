from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
import typer
from typer.testing import CliRunner

from zoo.cli.serve import serve
from zoo.errors import Conflict, DiskError, MissingExtra, UsageError
from zoo.hub_server.changes import PutLarge, PutSmall
from zoo.hub_server.errors import Refusal
from zoo.hub_server.process import RunningHub, check_serve_extra, running_hub
from zoo.hub_server.records import RepoId
from zoo.hub_server.store import Store

PROGRAM = "import typer; from zoo.cli.serve import serve; typer.run(serve)"


def test_two_hubs_do_not_share_a_directory(hub: RunningHub) -> None:
    with pytest.raises(Conflict, match="another process"), running_hub(hub.directory):
        pass


def test_a_taken_port(hub: RunningHub, tmp_path: Path) -> None:
    port = int(hub.endpoint.rpartition(":")[2])
    with pytest.raises(Conflict, match=f"port {port} is in use"), running_hub(tmp_path / "other", port=port):
        pass
    # The directory is free again after the failure.
    with running_hub(tmp_path / "other"):
        pass


def test_a_port_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError), running_hub(tmp_path, port=70_000):
        pass


def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="cannot be served"), running_hub(tmp_path / "file" / "hub"):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_until_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "hub"), "--port", "0", "--for", "60"]
    environment = {**os.environ, "ZOO_SERVE_TOKEN": "very-secret"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        endpoint = process.stdout.readline().split()[-1]
        assert requests.get(f"{endpoint}/api/whoami-v2", timeout=20).status_code == 401
        headers = {"Authorization": "Bearer very-secret"}
        assert requests.get(f"{endpoint}/api/whoami-v2", headers=headers, timeout=20).json()["name"] == "zoo"
        process.send_signal(number)
        assert process.wait(timeout=30) == 0
        assert process.stderr is not None
        output, errors = process.stdout.read(), process.stderr.read()
    assert errors.strip() == "stopped"
    assert "HF_TOKEN=... hf upload" in output
    assert "very-secret" not in output


def test_a_client_that_does_not_read_cannot_keep_the_hub(tmp_path: Path) -> None:
    repo = RepoId("models", "me/a")
    with running_hub(tmp_path / "hub") as hub:
        hub.store.create_repo(repo)
        sha256 = hub.store.blobs.put(bytes(30_000_000))
        hub.store.grant_object(repo, sha256)
        hub.store.commit(repo, "main", [PutLarge("w.bin", sha256, None)], title="m")
        address = ("127.0.0.1", int(hub.endpoint.rpartition(":")[2]))
        stalled = socket.create_connection(address, timeout=20)
        stalled.sendall(b"GET /me/a/resolve/main/w.bin HTTP/1.1\r\nHost: x\r\n\r\n")
        assert stalled.recv(1000).startswith(b"HTTP/1.1 200")
        # Others are served meanwhile.
        assert len(requests.get(f"{hub.endpoint}/me/a/resolve/main/w.bin", timeout=20).content) == 30_000_000
    stalled.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "zoo-hub"]


def test_what_a_killed_hub_left_half_done_is_cleared(tmp_path: Path) -> None:
    (tmp_path / "hub" / "uploads").mkdir(parents=True)
    (tmp_path / "hub" / "uploads" / "half").write_bytes(b"x")
    with running_hub(tmp_path / "hub"):
        assert list((tmp_path / "hub" / "uploads").iterdir()) == []


def test_of_commits_at_the_same_time_on_the_same_parent_one_wins(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    repo = RepoId("models", "me/a")
    store.create_repo(repo)
    parent = store.resolve(repo, "main")

    def commit(number: int) -> int:
        try:
            store.commit(repo, "main", [PutSmall(f"{number}", b"x")], title=f"{number}", parent=parent)
        except Refusal as refusal:
            return refusal.status
        return 200

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(commit, range(8))) == [200] + [412] * 7
    assert len(store.history(repo, "main")) == 2


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_serve_extra()
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingExtra, match="needs uvicorn"):
        check_serve_extra()


def test_serve_ends_by_itself(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(serve)
    done = CliRunner().invoke(app, [str(tmp_path / "hub"), "--port", "0", "--for", "0.01"])
    assert done.exit_code == 0, done.output
    assert f"serving {tmp_path / 'hub'} at http://127.0.0.1:" in done.output


def test_nothing_heavy_is_imported_by_the_command_s_module() -> None:
    heavy = {"starlette", "uvicorn", "requests", "huggingface_hub", "zoo.hub_server"}
    check = f"import sys, zoo.cli.serve; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
