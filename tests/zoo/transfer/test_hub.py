from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from tests.zoo.transfer.push_support import Waits, client, content, sha256
from zoo.errors import Conflict, DiskError, HubError
from zoo.hub_server.access import Access, Account
from zoo.hub_server.faults import Fault
from zoo.hub_server.process import RunningHub, running_hub
from zoo.hub_server.records import RepoId
from zoo.hub_server.settings import HubSettings
from zoo.plan.remote import git_object_id
from zoo.transfer.hub import Addition, HubClient
from zoo.transfer.hub_errors import RepoMissing, RevisionMissing, TransientHubError, host_of

REPO = "zoo/some"


class Recorder:
    """Remembers progress."""

    def __init__(self) -> None:
        self.totals: dict[str, int] = {}
        self.done: dict[str, int] = defaultdict(int)
        self.finished: list[str] = []
        self.said: list[str] = []
        self._guard = threading.Lock()

    def start(self, item: str, total: int, done: int = 0) -> None:
        self.totals[item] = total
        self.done[item] = done

    def advance(self, item: str, amount: int) -> None:
        with self._guard:
            self.done[item] += amount

    def finish(self, item: str, note: str = "") -> None:
        self.finished.append(item)

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    # Small limits, so that small files are uploaded in parts and listed in pages.
    settings = HubSettings(page_size=3, multipart_threshold=100_000, part_size=30_000)
    with running_hub(tmp_path / "hub", settings=settings) as running:
        yield running


def addition(tmp_path: Path, name: str, size: int, path: str | None = None) -> Addition:
    data = content(name, size)
    place = tmp_path / name
    place.write_bytes(data)
    return Addition(path or name, size, sha256(data), place)


def commit(talk: HubClient, additions: list[Addition]) -> str:
    parent = talk.resolve(REPO, "main")
    staged = talk.stage(REPO, "main", additions)
    done = talk.commit(
        REPO, "main", additions=staged, copies=(), deletions=(), message="m", description="", parent=parent
    )
    return done.commit


def test_listing_over_pages_tells_what_the_stock_client_tells(tmp_path: Path, hub: RunningHub) -> None:
    talk = client(hub.endpoint)
    talk.create_repo(REPO)
    small = [Addition(f"d/{number}.json", 3, sha256(b"{ }"), b"{ }") for number in range(7)]
    done = commit(talk, [addition(tmp_path, "w.bin", 5000), *small])
    listing = talk.listing(REPO, done)
    stock = {item.path: item for item in HfApi(hub.endpoint).list_repo_tree(REPO, recursive=True)}
    assert {file.path: file.size for file in listing.files} == {
        path: item.size for path, item in stock.items() if hasattr(item, "size")
    }
    by_path = listing.by_path()
    assert by_path["w.bin"].sha256 == sha256(content("w.bin", 5000))
    assert by_path["d/3.json"].sha256 is None
    assert by_path["d/3.json"].git_sha1 == git_object_id(b"{ }")
    assert talk.read(REPO, done, "d/3.json") == b"{ }"


def test_xet_hashes_are_asked_for_where_the_listing_lacks_them(tmp_path: Path, hub: RunningHub) -> None:
    import hf_xet  # type: ignore[import-untyped]

    talk = client(hub.endpoint)
    talk.create_repo(REPO)
    wanted = addition(tmp_path, "w.bin", 5000)
    listing = talk.listing(REPO, commit(talk, [wanted]))
    found = talk.with_xet_hashes(listing, ["w.bin"]).by_path()["w.bin"]
    (local,) = hf_xet.hash_files([str(wanted.content)])
    assert found.xet_hash == local.hash


def test_progress_counts_every_byte_once_also_in_parts_and_after_a_break(tmp_path: Path, hub: RunningHub) -> None:
    recorder = Recorder()
    talk = HubClient(hub.endpoint, token="hf_zoo_test", progress=recorder, sleep=Waits())
    talk.create_repo(REPO)
    hub.faults.add(Fault(path="/lfs/(objects|parts)/", method="PUT", times=1, cut_request_after=1000))
    files = [addition(tmp_path, "parts.bin", 250_000), addition(tmp_path, "whole.bin", 90_000)]
    commit(talk, files)
    assert recorder.done["parts.bin"] == recorder.totals["parts.bin"] == 250_000
    assert recorder.done["whole.bin"] == recorder.totals["whole.bin"] == 90_000
    assert sorted(recorder.finished) == ["parts.bin", "whole.bin"]
    assert len(hub.log.all("/lfs/parts/", "PUT")) >= 9


def test_identical_content_is_sent_once(tmp_path: Path, hub: RunningHub) -> None:
    talk = client(hub.endpoint)
    talk.create_repo(REPO)
    one = addition(tmp_path, "one.bin", 40_000)
    done = commit(talk, [one, Addition("two.bin", one.size, one.sha256, one.content)])
    assert len(hub.log.all("/lfs/objects/", "PUT")) == 1
    assert {file.sha256 for file in talk.listing(REPO, done).files if file.sha256} == {one.sha256}


def test_xet_is_used_where_the_server_has_it_and_the_setting_is_put_back(tmp_path: Path, hub: RunningHub) -> None:
    storage = tmp_path / "cas"
    storage.mkdir()
    answer = {"accessToken": "t", "exp": 4_000_000_000, "casUrl": f"local://{storage}"}
    headers = {
        "X-Xet-Cas-Url": answer["casUrl"],
        "X-Xet-Access-Token": "t",
        "X-Xet-Token-Expiration": str(answer["exp"]),
    }
    talk = client(hub.endpoint)
    talk.create_repo(REPO)
    hub.faults.add(
        Fault(path="/xet-write-token/", times=None, status=200, headers=headers, body=json.dumps(answer).encode())  # type: ignore[arg-type]
    )
    before = constants.HF_HUB_DISABLE_XET
    talk.stage(REPO, "main", [addition(tmp_path, "w.bin", 50_000)])
    assert hub.log.all("/lfs/objects/", "PUT") == []
    assert sum(place.stat().st_size for place in storage.rglob("*") if place.is_file()) > 50_000
    assert before == constants.HF_HUB_DISABLE_XET


def test_a_server_without_xet_gets_lfs(tmp_path: Path, hub: RunningHub) -> None:
    talk = client(hub.endpoint)
    talk.create_repo(REPO)
    hub.faults.add(Fault(path="/xet-write-token/", times=2, status=503))
    before = constants.HF_HUB_DISABLE_XET
    talk.stage(REPO, "main", [addition(tmp_path, "w.bin", 50_000)])
    assert len(hub.log.all("/lfs/objects/", "PUT")) == 1
    assert before == constants.HF_HUB_DISABLE_XET


def test_missing_things_are_told_apart(hub: RunningHub) -> None:
    talk = client(hub.endpoint)
    with pytest.raises(RepoMissing, match=f"no repo {REPO}"):
        talk.resolve(REPO, "main")
    talk.create_repo(REPO)
    talk.create_repo(REPO)
    with pytest.raises(RevisionMissing, match="no revision 'n1024'"):
        talk.resolve(REPO, "n1024")
    with pytest.raises(HubError, match=r"not there|not found|[Nn]ot found"):
        talk.read(REPO, talk.resolve(REPO, "main"), "nothing.json")


def test_a_stale_parent_is_a_conflict(tmp_path: Path, hub: RunningHub) -> None:
    talk = client(hub.endpoint)
    talk.create_repo(REPO)
    first = talk.resolve(REPO, "main")
    commit(talk, [addition(tmp_path, "w.bin", 5000)])
    staged = talk.stage(REPO, "main", [addition(tmp_path, "v.bin", 5000)])
    with pytest.raises(Conflict) as caught:
        talk.commit(REPO, "main", additions=staged, copies=(), deletions=(), message="m", description="", parent=first)
    assert "again" in (caught.value.hint or "")


@pytest.mark.parametrize(("status", "kind"), [(503, TransientHubError), (429, TransientHubError), (418, HubError)])
def test_answers_that_are_no_answer(hub: RunningHub, status: int, kind: type[HubError]) -> None:
    waits = Waits()
    talk = client(hub.endpoint, waits)
    hub.faults.add(Fault(path="/api/models/", times=None, status=status, headers={"Retry-After": "2"}))
    with pytest.raises(kind, match=str(status)) as caught:
        talk.resolve(REPO, "main")
    assert waits.seconds == ([2.0, 2.0, 4.0, 8.0] if kind is TransientHubError else [])
    assert "\n" not in caught.value.message


def test_who_may_not(tmp_path: Path) -> None:
    accounts = {"hf_writer": Account("zoo"), "hf_reader": Account("eve", can_write=False, sees=frozenset())}
    with running_hub(tmp_path / "hub", settings=HubSettings(access=Access(accounts=accounts))) as hub:
        HubClient(hub.endpoint, token="hf_writer").create_repo(REPO)
        for token in ("hf_reader", "hf_unknown"):
            with pytest.raises(HubError) as caught:
                HubClient(hub.endpoint, token=token).create_repo("zoo/other")
            assert token not in f"{caught.value.message}{caught.value.hint}"
            assert "token" in (caught.value.hint or "")
        hub.store.update_repo(RepoId("models", REPO), private=None, gated="manual")
        commit = HubClient(hub.endpoint, token="hf_writer").resolve(REPO, "main")
        with pytest.raises(HubError, match=f"{REPO} is gated"):
            HubClient(hub.endpoint, token="hf_reader").read(REPO, commit, ".gitattributes")


def test_a_file_that_cannot_be_read_is_a_disk_error(tmp_path: Path, hub: RunningHub) -> None:
    talk = client(hub.endpoint)
    talk.create_repo(REPO)
    gone = addition(tmp_path, "w.bin", 100)
    Path(str(gone.content)).unlink()
    with pytest.raises(DiskError, match=r"w\.bin"):
        talk.stage(REPO, "main", [gone])


def test_user_names_in_an_endpoint_are_not_shown() -> None:
    assert host_of("https://me:secret@hub.example:8080/x/") == "https://hub.example:8080/x"


def test_progress_bars_of_the_client_are_off(
    tmp_path: Path, hub: RunningHub, capfd: pytest.CaptureFixture[str]
) -> None:
    talk = client(hub.endpoint)
    talk.create_repo(REPO)
    commit(talk, [addition(tmp_path, "w.bin", 5000), addition(tmp_path, "v.bin", 5000)])
    assert capfd.readouterr() == ("", "")
