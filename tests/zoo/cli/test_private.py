"""Repos that not everybody may read: the user's own token opens them, and is never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.zoo.cli.in_process import run_zoo
from tests.zoo.transfer.push_support import TEXT_REPO, tiny_zoo
from zoo.errors import HubError
from zoo.hub_server.access import Access, Account
from zoo.hub_server.process import running_hub
from zoo.hub_server.records import RepoId
from zoo.hub_server.settings import HubSettings

OWNER, STRANGER = "hf_owner_secret", "hf_stranger_secret"
ACCOUNTS = {OWNER: Account("zoo"), STRANGER: Account("stranger", can_write=False, sees=frozenset())}


@pytest.mark.parametrize("kind", ["private", "gated"])
def test_only_who_may_read_a_repo_can_pull_it(kind: str, tmp_path: Path) -> None:
    tiny_zoo(tmp_path)
    with running_hub(tmp_path / "hub", settings=HubSettings(access=Access(accounts=ACCOUNTS))) as hub:

        def zoo(*arguments: str, token: str) -> tuple[int, str]:
            done = run_zoo(*arguments, cwd=tmp_path, hub=None if arguments[0] == "verify" else hub, token=token)
            return done.returncode, done.stderr

        assert zoo("push", "tiny", "--yes", token=OWNER)[0] == 0
        repo = RepoId("models", TEXT_REPO)
        hub.store.update_repo(repo, private=kind == "private", gated="auto" if kind == "gated" else None)
        for token in ("", STRANGER):
            code, said = zoo("pull", "tiny", "--models", "models", token=token)
            assert code == HubError.exit_code, said
            assert "hint: " in said
            # The listing of a gated repo is public, as on the Hub; its small files are not.
            assert zoo("lock", "tiny", "--from-hub", "--check", token=token)[0] == HubError.exit_code
        assert not [path for path in tmp_path.glob("models/tiny/*") if path.name != ".zoo"]
        assert zoo("pull", "tiny", "--models", "models", token=OWNER)[0] == 0
        assert zoo("verify", "--models", "models", token="")[0] == 0
        assert zoo("lock", "tiny", "--from-hub", "--check", token=OWNER)[0] == 0
