"""What is decided for folders on a disk: links, owners, strays, refusals. Nothing is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from zoo.errors import UnusableBundle
from zoo.lock import LOCK_SCHEMA, Lock, LockedFile, save_lock
from zoo.receipt import Installed, Receipt, ReceiptFile, save_receipt
from zoo.run.decision import Decision, chosen, decide, require_driven, split_of
from zoo.run.routing import CHUNKED_SIDECARS, FOUR_CHUNKS, STATEFUL_FOLDER, TEXT_SIDECARS, Role

MERGED = ("chunk2_3way", "chunk3_3way")


def never(path: Path) -> list[str]:
    raise AssertionError(f"{path} was looked into")


def make(folder: Path, *models: str, sidecars: tuple[str, ...] = (*TEXT_SIDECARS, *CHUNKED_SIDECARS)) -> Path:
    for name in (*sidecars, *(f"{model}.mlpackage/Manifest.json" for model in models)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def owned_by_a_receipt(folder: Path) -> None:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = tuple(ReceiptFile(path=name, size=0) for name in names)
    save_receipt(folder, Receipt(entries={"tiny": Installed(lock="0" * 64, files=files)}))


def test_without_owners_nothing_is_a_stray(tmp_path: Path) -> None:
    found = decide(make(tmp_path, *FOUR_CHUNKS), never)
    assert found.owners is None
    assert found.strays == ()
    assert list(found.paths(Role.decoder)) == list(FOUR_CHUNKS)
    require_driven(found)


def test_a_receipt_says_what_belongs_there(tmp_path: Path) -> None:
    folder = make(tmp_path, *FOUR_CHUNKS, "vision.ane")
    owned_by_a_receipt(folder)
    assert decide(folder, never).strays == ()
    make(folder, "vision", sidecars=("notes.txt",))
    found = decide(folder, never)
    assert found.owners == "receipt"
    assert found.strays == ("notes.txt", "vision.mlpackage/Manifest.json")
    assert [item.path for item in found.reroutings] == ["vision.mlpackage"]
    document = found.to_json()
    assert document["models"][-1] == {"path": "vision.mlpackage", "role": "image", "function": None}
    assert document["rerouted_by"][0]["path"] == "vision.mlpackage"


def test_the_lock_beside_a_build_says_it_too(tmp_path: Path) -> None:
    folder = make(tmp_path / "build" / "tiny", *FOUR_CHUNKS)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = tuple(LockedFile(path=name, size=0, component="all") for name in names)
    save_lock(
        tmp_path / "build" / "tiny.lock.json", Lock(schema=LOCK_SCHEMA, entry="tiny", manifest="0" * 64, files=files)
    )
    make(folder, sidecars=("probe.marker",))
    found = decide(folder, never)
    assert (found.owners, found.strays) == ("lock", ("probe.marker",))
    assert found.reroutings[0].changes[0].endswith("for checking drafts")


def test_links_are_followed_as_the_app_follows_them(tmp_path: Path) -> None:
    source = make(tmp_path / "source", *FOUR_CHUNKS, *MERGED)
    folder = tmp_path / "linked"
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "loop").symlink_to(folder)
    (folder / "dangling.mlmodelc").symlink_to(tmp_path / "nowhere")
    found = decide(folder, never)
    assert found.route.decoder == ("chunk1", *MERGED)
    assert found.route.missing == ()


def test_the_third_chunk_is_asked_only_if_it_matters(tmp_path: Path) -> None:
    folder = make(tmp_path / STATEFUL_FOLDER, "chunk_1", "chunk_2", "chunk_3", sidecars=TEXT_SIDECARS).parent
    assert len(decide(folder, never).route.decoder) == 3
    make(folder / STATEFUL_FOLDER, "chunk_4", sidecars=())
    asked: list[Path] = []

    def outputs_of(path: Path) -> list[str]:
        asked.append(path)
        return ["token_id"]

    found = decide(folder, outputs_of)
    assert asked == [folder / STATEFUL_FOLDER / "chunk_3.mlpackage"]
    assert len(found.route.decoder) == 3
    assert found.base == folder / STATEFUL_FOLDER
    assert len(decide(folder, lambda _: ["hidden_states_out"]).route.decoder) == 4


def test_the_split_form_of_a_merged_bundle(tmp_path: Path) -> None:
    folder = make(tmp_path, *FOUR_CHUNKS, *MERGED, "audio")
    found = decide(folder, never)
    split = split_of(found)
    assert split is not None
    assert split.route.decoder == FOUR_CHUNKS
    assert list(split.paths(Role.audio)) == ["audio"]
    (folder / "chunk4.mlpackage" / "Manifest.json").unlink()
    (folder / "chunk4.mlpackage").rmdir()
    assert split_of(decide(folder, never)) is None
    assert split_of(split) is None


@dataclass(frozen=True)
class Picked:
    """What `converters.run.folder.Chosen` takes."""

    folder: Path
    stateful: bool
    decoder: dict[str, Path]
    prefill: dict[str, Path]
    image: Path | None
    video: Path | None
    audio: Path | None


def test_what_the_converters_get(tmp_path: Path) -> None:
    found = decide(make(tmp_path, *FOUR_CHUNKS, "vision.ane", "vision_video"), never)
    picked: Any = chosen(found, Picked)
    assert not picked.stateful
    assert picked.image == tmp_path / "vision.ane.mlpackage"
    assert picked.video == tmp_path / "vision_video.mlpackage"
    assert picked.audio is None


def refused(found: Decision) -> UnusableBundle:
    with pytest.raises(UnusableBundle) as error:
        require_driven(found)
    return error.value


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UnusableBundle, match="no such folder"):
        decide(tmp_path / "nowhere", never)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "not a bundle, the app would look for model" in refused(decide(empty, never)).message

    holes = make(tmp_path / "holes", *FOUR_CHUNKS)
    for name in ("sin_full.npy", "embed_tokens_scales.bin"):
        (holes / name).unlink()
    error = refused(decide(holes, never))
    assert error.message.endswith("embed_tokens_scales.bin and 1 more is missing")

    other = make(tmp_path / "qwen" / "qwen3_5_2b_decode_chunks", *(f"chunk_{letter}" for letter in "abcd"))
    (other / "embed_weight.bin").touch()
    assert "with qwen3.5, qwen3_5_2b_decode_chunks/chunk_a.mlpackage" in refused(decide(other.parent, never)).message

    partial = make(tmp_path / "partial", *FOUR_CHUNKS, "prefill_chunk1")
    require_driven(decide(partial, never))  # the app decodes prompts then


def test_a_stray_that_leads_to_what_is_missing_is_blamed(tmp_path: Path) -> None:
    folder = make(tmp_path, *FOUR_CHUNKS)
    owned_by_a_receipt(folder)
    make(folder, "audio", sidecars=())
    error = refused(decide(folder, never))
    assert error.message.endswith("mel_filterbank.bin and 4 more is missing")
    assert error.hint == "audio.mlpackage makes the app look for it"
