from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.zoo.transfer.push_support import SIGHT_REPO, TEXT_REPO, TinyZoo, bundle, sha256, tiny_zoo
from zoo.plan.lock import remote_paths
from zoo.report.card import generated_files, written_by_zoo


@pytest.fixture
def zoo(tmp_path: Path) -> TinyZoo:
    return tiny_zoo(tmp_path)


def files_of(zoo: TinyZoo, name: str, repo: str) -> dict[str, bytes]:
    entry, lock = zoo.catalog.get(name), zoo.build_entry(name)
    return generated_files(entry, lock, repo, remote_paths(entry, lock))


def test_the_hub_s_own_reader_understands_the_card(zoo: TinyZoo) -> None:
    from huggingface_hub import ModelCard

    text = files_of(zoo, "tiny-sight", SIGHT_REPO)["README.md"].decode()
    card = ModelCard(text)
    data = card.data.to_dict()  # type: ignore[no-untyped-call]
    assert data["license"] == "gemma"
    assert data["library_name"] == "coreml"
    assert data["base_model"] == "acme/tiny"
    assert data["pipeline_tag"] == "image-text-to-text"
    assert data["tags"] == ["coreml", "on-device", "tiny", "image"]
    assert f"hf download {SIGHT_REPO}" in card.text
    assert "zoo pull tiny-sight" in card.text
    for component in ("chunk1", "chunk4", "chunk3_3way", "vision", "rope", "config"):
        assert f"| `{component}` |" in card.text


def test_a_licence_the_hub_does_not_know_is_named(zoo: TinyZoo) -> None:
    from huggingface_hub import ModelCard

    manifest = zoo.manifests / "tiny.toml"
    manifest.write_text(manifest.read_text().replace('license = "apache-2.0"', 'license = "Tiny: own \\"terms\\""'))
    data = ModelCard(files_of(zoo, "tiny", TEXT_REPO)["README.md"].decode()).data.to_dict()  # type: ignore[no-untyped-call]
    assert (data["license"], data["license_name"]) == ("other", 'Tiny: own "terms"')


def test_the_index_lists_every_file_with_its_digest(zoo: TinyZoo) -> None:
    index = json.loads(files_of(zoo, "tiny", TEXT_REPO)["zoo.json"])
    assert {file["path"]: file["sha256"] for file in index["files"]} == {
        path: sha256(data) for path, data in bundle("tiny").items()
    }
    assert {file["in_repo"] for file in index["files"] if file["component"] == "rope"} == {
        "swa/cos_full.npy",
        "swa/sin_full.npy",
    }


def test_the_same_bundle_gives_the_same_bytes_and_zoo_knows_its_own(zoo: TinyZoo) -> None:
    first = files_of(zoo, "tiny", TEXT_REPO)
    assert first == files_of(zoo, "tiny", TEXT_REPO)
    assert written_by_zoo(first["README.md"])
    assert written_by_zoo(first["NOTICE"])
    assert not written_by_zoo(b"# My model\n")


def test_gemma_s_notice_has_the_sentence_its_terms_ask_for(zoo: TinyZoo) -> None:
    assert b"Gemma Terms of Use" in files_of(zoo, "tiny-sight", SIGHT_REPO)["NOTICE"]
    assert b"Gemma" not in files_of(zoo, "tiny", TEXT_REPO)["NOTICE"]


def test_the_card_says_what_the_stock_client_alone_would_miss(zoo: TinyZoo) -> None:
    entry, lock = zoo.catalog.get("tiny"), zoo.build_entry("tiny")
    text = generated_files(entry, lock, TEXT_REPO, remote_paths(entry, lock), branch="n1024")["README.md"].decode()
    assert f"hf download {TEXT_REPO} --revision n1024 --local-dir tiny" in text
    assert "other paths" in text
    assert "other paths" not in files_of(zoo, "tiny-sight", SIGHT_REPO)["README.md"].decode()
