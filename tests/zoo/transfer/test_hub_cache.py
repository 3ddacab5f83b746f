from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.zoo.transfer.pull_support import bytes_of
from zoo.hub_server.gitids import object_id
from zoo.transfer.hub_cache import hub_cache, hub_cache_directory
from zoo.transfer.reuse import find_candidates


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_the_directory_is_the_stock_client_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub_cache_directory() == tmp_path / ".cache/huggingface/hub"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert hub_cache_directory() == tmp_path / "xdg/huggingface/hub"
    monkeypatch.setenv("HF_HOME", "~/hf")
    assert hub_cache_directory() == tmp_path / "hf/hub"
    monkeypatch.setenv("HF_HUB_CACHE", "$HOME/cache")
    assert hub_cache_directory() == tmp_path / "cache"


def test_blobs_are_found_under_all_their_names_and_proven(tmp_path: Path) -> None:
    large, shared, orphaned, small, wrong = (bytes_of(name, 1000 + index) for index, name in enumerate("abcde"))
    blobs = tmp_path / "models--zoo--tiny" / "blobs"
    store = tmp_path / "blobs"
    blobs.mkdir(parents=True)
    for xet, data in (("1" * 64, shared), ("2" * 64, orphaned)):
        (store / xet[:2]).mkdir(parents=True)
        (store / xet[:2] / xet).write_bytes(data)
        (store / xet[:2] / f"{xet}.refs").write_bytes(b"not a blob")
    (blobs / sha256(large)).write_bytes(large)
    (blobs / sha256(shared)).symlink_to(f"../../blobs/11/{'1' * 64}")
    (blobs / object_id("blob", small)).write_bytes(small)
    (blobs / sha256(wrong)).write_bytes(bytes_of("flipped", len(wrong)))
    (blobs / sha256(b"gone")).symlink_to("nowhere")
    (blobs / f"{sha256(large)}.incomplete").write_bytes(b"")
    (tmp_path / "models--empty--repo").mkdir()
    wanted = {sha256(data): len(data) for data in (large, shared, orphaned, small, wrong, b"gone")}
    findings = find_candidates(wanted, [hub_cache(tmp_path)])
    assert findings.found == {
        sha256(large): (str(blobs / sha256(large)),),
        sha256(shared): (str(store / "11" / ("1" * 64)),),
        sha256(orphaned): (str(store / "22" / ("2" * 64)),),
        sha256(small): (str(blobs / object_id("blob", small)),),
    }
    assert ["Hugging Face cache" in note for note in findings.notes] == [True]
    assert find_candidates(wanted, [hub_cache(tmp_path / "nowhere")]).found == {}
