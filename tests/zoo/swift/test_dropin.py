"""The lists for the app's own downloader: what is in them, and that they compile and run against its types."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from tests.zoo.bundles import COMMIT, locked_zoo, text_files
from tests.zoo.swift.conftest import Compiler
from tests.zoo.swift.swift_values import constants, parse
from zoo import provisional
from zoo.catalog import Catalog, load_catalog
from zoo.errors import UsageError
from zoo.lock import LockedArchive, LockedFile, Source, load_lock, lock_path, make_lock, save_lock
from zoo.swift.dropin import APP_LINKS, DropInModel, drop_in_models
from zoo.swift.dropin_source import render_drop_in
from zoo.swift.files import PUBLIC_ENDPOINT, chosen_entries, generate_drop_in

PROGRAMS = Path(__file__).parent / "programs"

MULTIMODAL = {
    *(f"{model}.mlmodelc" for model in ("vision", "vision_video", "audio")),
    *("mel_filterbank.bin", "audio_config.json", "output_proj_weight.npy", "output_proj_bias.npy"),
    "embed_proj_weight.npy",
}
"""What the app's own lists of gemma4-e2b and gemma4-e2b-3way lack when the person opts out of images and audio."""


@pytest.fixture(scope="module")
def shipped() -> Catalog:
    return load_catalog(provisional.ROOT / "manifests")


@pytest.fixture(scope="module")
def models(shipped: Catalog) -> dict[str, DropInModel]:
    found = drop_in_models(chosen_entries(shipped, [], unlocked=True), endpoint=PUBLIC_ENDPOINT)
    return {model.id: model for model in found}


def relock(zoo: Catalog, entry: str, files: list[LockedFile]) -> Catalog:
    path = lock_path(zoo.directory, entry)
    save_lock(path, make_lock(entry, load_lock(path).manifest, files))
    return load_catalog(zoo.directory)


@pytest.mark.parametrize("name", provisional.load_lists(provisional.ROOT / provisional.LISTS))
def test_the_files_are_the_app_s_largest_first(models: dict[str, DropInModel], name: str) -> None:
    listed = provisional.load_lists(provisional.ROOT / provisional.LISTS)[name]
    ours = models[name].files
    dropped = {f"chunk{number}.mlmodelc/metadata.json" for number in (1, 2, 3, 4)} if name == "gemma4-e4b" else set()
    assert {(file.remote, file.path) for file in ours} == {
        (file.remote, file.path) for file in listed if file.path not in dropped
    }
    assert [file.size for file in ours] == sorted((file.size for file in ours), reverse=True)
    sizes = {file.path: file.size for file in ours}
    app = [file.path for file in listed if sizes.get(file.path, 0) >= 10_000_000 and file.size == sizes[file.path]]
    here = [file.path for file in ours if file.path in app]
    assert [sizes[path] for path in here] == [sizes[path] for path in app], "the same order up to equal sizes"


def test_a_text_only_install_leaves_out_what_the_app_s_does(models: dict[str, DropInModel]) -> None:
    for name, kept in (("gemma4-e2b", 50), ("gemma4-e2b-3way", 47)):
        files = models[name].files
        left_out = {file.path.split("/")[0] for file in files if file.optional}
        assert left_out == MULTIMODAL
        assert sum(not file.optional for file in files) == kept
    assert not any(file.optional for name, model in models.items() if "e2b" not in name for file in model.files)


def test_what_the_app_links_itself_is_not_listed(models: dict[str, DropInModel], shipped: Catalog) -> None:
    for name in ("gemma4-e2b", "gemma4-e2b-3way"):
        lock = shipped.get(name).lock
        assert lock is not None
        assert lock.by_path().keys() - {file.path for file in models[name].files} <= APP_LINKS.keys()
    assert "prefill_chunk2.mlmodelc/weights/weight.bin" in {file.path for file in models["gemma4-e2b-3way"].files}


def test_a_link_that_would_have_other_bytes_is_listed(shipped: Catalog, tmp_path: Path) -> None:
    """With digests it is they that count: the app's link of chunk1 over other weights would be wrong."""
    entry = shipped.get("gemma4-e2b")
    lock = entry.lock
    assert lock is not None
    weights = "prefill_chunk1.mlmodelc/weights/weight.bin"
    source = (Source(repo="mlboydaisuke/gemma-4-E2B-coreml", commit=COMMIT, path="x"),)

    def listed(digest_of_prefill: str) -> set[str]:
        digests = {"chunk1.mlmodelc/weights/weight.bin": "a" * 64, weights: digest_of_prefill}
        files = [
            msgspec.structs.replace(file, sha256=digests.get(file.path, f"{number:064x}"), sources=source, size=7)
            for number, file in enumerate(lock.files)
        ]
        path = lock_path(tmp_path, entry.id)
        save_lock(path, make_lock(entry.id, lock.manifest, files))
        changed = replace(entry, lock_file=path)
        return {file.path for file in drop_in_models([changed], endpoint=PUBLIC_ENDPOINT)[0].files}

    assert weights not in listed("a" * 64)
    assert weights in listed("b" * 64)


def test_a_locked_entry_is_fetched_at_its_commit_and_from_elsewhere_by_a_whole_url(tmp_path: Path) -> None:
    zoo = locked_zoo(tmp_path, {"tiny": text_files()})
    lock = load_lock(lock_path(zoo.directory, "tiny"))
    moved = Source(repo="zoo/other", commit="f" * 40, path="old name#1/config.json")
    files = [
        msgspec.structs.replace(file, sources=(moved,)) if file.path == "hf_model/config.json" else file
        for file in lock.files
    ]
    model = drop_in_models([relock(zoo, "tiny", files).get("tiny")], endpoint=f"{PUBLIC_ENDPOINT}/")[0]
    assert model.url == f"{PUBLIC_ENDPOINT}/zoo/tiny-coreml/resolve/{COMMIT}"
    remotes = {file.path: file.remote for file in model.files}
    assert remotes["hf_model/tokenizer.json"] == "hf_model/tokenizer.json"
    elsewhere = f"{PUBLIC_ENDPOINT}/zoo/other/resolve/{'f' * 40}/old%20name%231/config.json"
    assert remotes["hf_model/config.json"] == elsewhere
    assert len(model.files) == len(lock.files)


def test_a_build_that_is_not_published_is_only_sideloaded(tmp_path: Path) -> None:
    zoo = locked_zoo(tmp_path, {"tiny": text_files()}, published=False)
    model = drop_in_models([zoo.get("tiny")], endpoint=PUBLIC_ENDPOINT)[0]
    assert (model.url, model.files) == ("", ())
    assert model.size.endswith("kB")


def test_a_zip_file_is_as_large_as_it_travels(shipped: Catalog, tmp_path: Path) -> None:
    entry = shipped.get("qwen2.5-0.5b")
    archive = entry.manifest.archive
    assert archive is not None
    unlocked = replace(entry, lock_file=tmp_path / "none.json")
    model = drop_in_models([unlocked], endpoint=PUBLIC_ENDPOINT)[0]
    assert (model.url, model.size, model.bytes, model.files) == (archive.url, "zip file", None, ())

    path = lock_path(tmp_path, entry.id)
    weights = LockedFile(path="model.mlmodelc/weights/weight.bin", component="model", size=400_000_000)
    lock = make_lock(entry.id, "a" * 64, [weights])
    save_lock(path, msgspec.structs.replace(lock, archive=LockedArchive(url=archive.url, size=309_000_000)))
    model = drop_in_models([replace(entry, lock_file=path)], endpoint=PUBLIC_ENDPOINT)[0]
    assert (model.url, model.size, model.files) == (archive.url, "309 MB", ())


def test_an_endpoint_that_the_app_would_take_for_a_zip_file_is_refused(shipped: Catalog) -> None:
    with pytest.raises(UsageError, match=r"huggingface\.co"):
        generate_drop_in([shipped.get("gemma4-e4b")], endpoint="http://127.0.0.1:8000")


def test_the_swift_has_the_models_and_their_files(models: dict[str, DropInModel]) -> None:
    source = render_drop_in(list(models.values())).encode()
    values = constants(source)
    assert values["gemma4E4bMultimodal"] == {
        "id": "gemma4-e4b-multimodal",
        "name": "Gemma 4 E4B (multimodal)",
        "size": "8.16 GB",
        "downloadURL": models["gemma4-e4b-multimodal"].url,
        "folderName": "gemma4-e4b",
    }
    assert values["gemma4E4bMultimodalFiles"] == [
        {
            "remotePath": file.remote,
            "localPath": file.path,
            "estimatedSize": file.size,
            "isOptional": file.optional,
        }
        for file in models["gemma4-e4b-multimodal"].files
    ]
    header = source.decode().split("\n\n")[0]
    assert "Generated by `zoo swift --drop-in`" in header
    for model in models.values():
        assert f"//   {model.id}  {model.lock or 'no lock'}\n" in f"{header}\n"


def test_prefix_and_access(models: dict[str, DropInModel]) -> None:
    source = render_drop_in(list(models.values()), access="internal", prefix="Acme")
    parse(source.encode())
    assert "public" not in source
    assert "Zoo" not in source


def test_it_runs_in_the_app(swift: Compiler, models: dict[str, DropInModel], tmp_path: Path) -> None:
    """Compiled with the app's two types: its private `DownloadFile` takes the files as they are."""
    program = swift.program(
        {
            "ZooDropIn.swift": render_drop_in(list(models.values())).encode(),
            "main.swift": (PROGRAMS / "dropin.swift").read_bytes(),
        },
        *("-swift-version", "6"),
    )
    done = swift.run(program, place=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["picker"] == [model.id for model in models.values() if not model.experimental]
    assert said["experimental"] == list(models)
    assert said["infos"] == [[model.id, model.name, model.size, model.url, model.folder] for model in models.values()]
    for model in models.values():
        expected = [[file.remote, file.path, str(file.size)] for file in model.files]
        assert said["files"][model.id] == expected
        text = [row for row, file in zip(expected, model.files, strict=True) if not file.optional]
        assert said["text"][model.id] == text
