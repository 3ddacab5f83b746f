from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import requests
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from zoo.hub_server.access import Access, Account
from zoo.hub_server.process import RunningHub, running_hub
from zoo.hub_server.records import RepoId
from zoo.hub_server.settings import HubSettings

ACCOUNTS = {
    "owner-token": Account("owner"),
    "reader-token": Account("reader", can_write=False),
    "stranger-token": Account("stranger", sees=frozenset()),
}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    with running_hub(tmp_path / "hub", settings=HubSettings(access=Access(ACCOUNTS))) as running:
        yield running


@pytest.fixture
def owner(hub: RunningHub, no_xet_uploads: None) -> HfApi:
    api = HfApi(hub.endpoint, token="owner-token")
    api.create_repo("owner/a", private=True)
    api.create_commit("owner/a", [CommitOperationAdd("w.bin", b"\0" * 1000)], commit_message="m")
    return api


def client(hub: RunningHub, token: str | bool) -> HfApi:
    return HfApi(hub.endpoint, token=token)


def download(api: HfApi, folder: Path) -> bytes:
    return Path(api.hf_hub_download("owner/a", "w.bin", local_dir=folder)).read_bytes()


def test_a_private_repo(hub: RunningHub, owner: HfApi, tmp_path: Path) -> None:
    assert owner.whoami()["name"] == "owner"
    assert download(owner, tmp_path / "1") == b"\0" * 1000
    assert download(client(hub, "reader-token"), tmp_path / "2") == b"\0" * 1000
    for token, status in ((False, 401), ("stranger-token", 404)):
        with pytest.raises(RepositoryNotFoundError) as caught:
            client(hub, token).model_info("owner/a")
        assert caught.value.response.status_code == status
        with pytest.raises(RepositoryNotFoundError):
            client(hub, token).model_info("owner/missing")
        assert list(client(hub, token).list_models()) == []
    assert requests.get(f"{hub.endpoint}/owner/a/resolve/main/w.bin", timeout=20).status_code == 401
    assert "owner/a" not in requests.get(hub.endpoint, timeout=20).text


def test_a_wrong_token(hub: RunningHub, owner: HfApi) -> None:
    with pytest.raises(HfHubHTTPError, match="Invalid credentials") as caught:
        client(hub, "guess").model_info("owner/a")
    assert caught.value.response.status_code == 401
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        client(hub, "guess").whoami()


def test_a_gated_repo_shows_its_listing_only(hub: RunningHub, owner: HfApi, tmp_path: Path) -> None:
    owner.update_repo_settings("owner/a", gated="auto", private=False)
    assert download(owner, tmp_path / "1")
    for token, status in ((False, 401), ("stranger-token", 403)):
        api = client(hub, token)
        assert api.model_info("owner/a").gated == "auto"
        assert api.get_paths_info("owner/a", "w.bin")
        with pytest.raises(GatedRepoError) as caught:
            api.get_hf_file_metadata(url=f"{hub.endpoint}/owner/a/resolve/main/w.bin")
        assert caught.value.response.status_code == status


def test_reading_is_not_writing(hub: RunningHub, owner: HfApi) -> None:
    owner.update_repo_settings("owner/a", private=False)
    for token, status in ((False, 401), ("reader-token", 403)):
        api = client(hub, token)
        assert api.model_info("owner/a").id == "owner/a"
        addition = CommitOperationAdd("b", b"1")
        changes: list[Callable[[], object]] = [
            partial(api.create_repo, "x/y"),
            partial(api.create_commit, "owner/a", [addition], commit_message="m"),
            partial(api.create_branch, "owner/a", branch="b"),
            partial(api.delete_repo, "owner/a"),
        ]
        for change in changes:
            with pytest.raises(HfHubHTTPError) as caught:
                change()
            assert caught.value.response.status_code == status
    assert owner.model_info("owner/a").sha


def test_a_copy_needs_the_right_to_read_the_source(hub: RunningHub, owner: HfApi) -> None:
    data = {"target": {"type": "model", "name": "s/t"}, "files": []}
    hub.store.create_repo(RepoId("models", "s/t"))
    accounts = {"Authorization": "Bearer stranger-token"}
    url = f"{hub.endpoint}/api/models/owner/a/lfs-files/duplicate"
    assert requests.post(url, json=data, headers=accounts, timeout=20).status_code == 404
    owners = {"Authorization": "Bearer owner-token"}
    assert requests.post(url, json=data, headers=owners, timeout=20).json() == {"success": 0, "failed": []}


def test_tokens_are_not_shown(hub: RunningHub) -> None:
    assert "owner-token" not in repr(HubSettings(access=Access(ACCOUNTS)))
    assert "owner-token" not in repr(hub)


def test_a_web_page_cannot_write(hub: RunningHub, owner: HfApi) -> None:
    headers = {"Authorization": "Bearer owner-token", "Origin": "http://evil.example"}
    body = {"name": "b", "organization": "x"}
    response = requests.post(f"{hub.endpoint}/api/repos/create", json=body, headers=headers, timeout=20)
    assert response.status_code == 403
    assert [repo.name for repo in hub.store.list_repos("models")] == ["owner/a"]
