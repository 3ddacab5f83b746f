from __future__ import annotations

from pathlib import Path

import pytest

from tests.zoo.bundles import TEXT_MANIFEST, write_zoo
from zoo.errors import InvalidDocument, UnknownEntry, UnsafePath
from zoo.locations import packaged_manifests
from zoo.manifest import load_manifest, manifest_digest, parse_manifest


def test_a_manifest_says_what_a_bundle_is() -> None:
    manifest = parse_manifest(TEXT_MANIFEST.encode(), where="tiny.toml")
    assert manifest.id == "tiny"
    assert [component.name for component in manifest.component] == ["chunk1", "tokenizer"]
    assert manifest.component[0].parameters == {"chunk": 1}
    assert manifest.component[0].required
    assert manifest.hub is not None
    assert manifest.hub.revision == "main"


def test_comments_and_key_order_do_not_change_the_digest() -> None:
    manifest = parse_manifest(TEXT_MANIFEST.encode(), where="x")
    moved = TEXT_MANIFEST.replace('name = "Tiny"\n', "").replace("order = 2", 'order = 2 # second\nname = "Tiny"')
    assert manifest_digest(parse_manifest(moved.encode(), where="x")) == manifest_digest(manifest)
    other = TEXT_MANIFEST.replace("order = 2", "order = 3")
    assert manifest_digest(parse_manifest(other.encode(), where="x")) != manifest_digest(manifest)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schema = 1", "schema = 99", "schema 99 is newer than 1"),
        ("schema = 1", "schema = 0", "schema: expected 1, found 0"),
        ("order = 2", "order = 'two'", "order: Expected `int`, got `str`"),
        ("order = 2", "order = 2\nsize = 3", "unknown field `size`"),
        ("order = 2", "", "missing required field `order`"),
        ("order = 2", "order = = 2", "line"),
        ('id = "tiny"', 'id = "Tiny model"', "id: Expected `str` matching regex"),
        ('repo = "zoo/tiny-coreml"', 'repo = "just-a-name"', "hub.repo"),
        ('role = "decoder"', 'role = "decider"', "component[0].role: Invalid enum value 'decider'"),
        ('role = "decoder"\n', "", "component[0] (chunk1): role: missing"),
        ('model = "chunk1"', 'model = "chunk1.mlpackage"', "leave out the suffix"),
        ('model = "chunk1"', 'model = "../chunk1"', "'..' part"),
        ('model = "chunk1"', 'model = "chunk1"\nfiles = ["x"]', "not both"),
        ('model = "chunk1"\n', "", "give `model`"),
        ('recipe = "gemma4.decode-chunk"', 'recipe = "gemma4.decode-chunk"\nprebuilt = true', "exactly one"),
        ('recipe = "gemma4.tokenizer"\n', "", "exactly one"),
        ('name = "tokenizer"', 'name = "chunk1"', "two components have this name"),
        ("hf_model/config.json", "hf_model/TOKENIZER.json", "letter case only"),
        ("hf_model/config.json", "chunk1.mlpackage/Manifest.json", "given with `model`"),
        ("order = 2", 'order = 2\nabsent = ["vision.mlmodelc"]', "absent: vision.mlmodelc: leave out the suffix"),
        ("order = 2", 'order = 2\nabsent = ["../x*"]', "'..' part"),
        ("order = 2", 'order = 2\narchive = { url = "https://example.org/x.zip" }', "`hub` or `archive`, not both"),
        ("order = 2", 'order = 2\narchive = { url = "http://example.org/x.zip" }', "archive.url"),
        ("order = 2", 'order = 2\nblocked = { windows = "no" }', "unknown field `windows`"),
        ('model = "chunk1"', 'model = "chunk1"\noptional = ["x.json"]', "optional: x.json must be in `files`"),
        ('model = "chunk1"', 'model = "chunk1"\nremote = "."', "'.' part"),
        ('model = "chunk1"', 'model = "chunk1"\nweights = "chunk1"', "weights: no other component is called 'chunk1'"),
        ('model = "chunk1"', 'model = "chunk1"\nweights = "chunk2"', "weights: no other component is called 'chunk2'"),
        ('role = "tokenizer"', 'role = "tokenizer"\nweights = "chunk1"', "weights: only a model has weights"),
    ],
)
def test_a_bad_manifest_is_one_line_with_file_key_and_reason(old: str, new: str, message: str) -> None:
    assert old in TEXT_MANIFEST
    with pytest.raises((InvalidDocument, UnsafePath)) as caught:
        parse_manifest(TEXT_MANIFEST.replace(old, new, 1).encode(), where="zoo/tiny.toml")
    text = str(caught.value)
    assert text.startswith("zoo/tiny.toml: ")
    assert message in text
    assert "\n" not in text


def test_a_manifest_lies_in_a_file_of_its_name(tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text(TEXT_MANIFEST)
    with pytest.raises(InvalidDocument, match=r"must be in a file called tiny\.toml"):
        load_manifest(path)


def test_not_text(tmp_path: Path) -> None:
    with pytest.raises(InvalidDocument, match="not UTF-8"):
        parse_manifest(b"\xff\xfe", where="x.toml")


def test_shares_are_resolved(tmp_path: Path) -> None:
    catalog = write_zoo(tmp_path)
    assert [entry.id for entry in catalog.entries] == ["tiny-multimodal", "tiny"]
    shared = catalog.get("tiny-multimodal").part("chunk1")
    assert (shared.origin_entry, shared.origin_name) == ("tiny", "chunk1")
    assert shared.recipe == "gemma4.decode-chunk"
    assert shared.parameters == {"chunk": 1}
    assert shared.owns("chunk1.mlmodelc/weights/weight.bin")
    assert not shared.owns("chunk1.mlmodelc2/x")
    assert not shared.owns("chunk10.mlmodelc/x")
    assert catalog.get("tiny-multimodal").modalities() == ("text", "image")


@pytest.mark.parametrize(
    ("share", "message"),
    [
        ("nowhere/chunk1", "no entry called 'nowhere'"),
        ("tiny/chunk9", "tiny has no component called 'chunk9'"),
        ("tiny/chunk1", "leads back to itself"),
    ],
)
def test_a_share_that_leads_nowhere_is_refused(tmp_path: Path, share: str, message: str) -> None:
    text = TEXT_MANIFEST.replace('recipe = "gemma4.decode-chunk"\nparameters = { chunk = 1 }', f'share = "{share}"')
    with pytest.raises(InvalidDocument) as caught:
        write_zoo(tmp_path, text)
    assert message in caught.value.message


def test_keys_with_their_default_do_not_change_the_digest() -> None:
    spelled = TEXT_MANIFEST.replace("order = 2", "order = 2\nabsent = []\nvisibility = 'default'")
    assert manifest_digest(parse_manifest(spelled.encode(), where="x")) == manifest_digest(
        parse_manifest(TEXT_MANIFEST.encode(), where="x")
    )


def test_sidecar_files_may_lie_in_another_folder_of_the_repo(tmp_path: Path) -> None:
    for remote, place in (("swa", "swa/config.json"), (".", "config.json"), ("a/b", "a/b/config.json")):
        text = TEXT_MANIFEST.replace('role = "tokenizer"', f'role = "tokenizer"\nremote = "{remote}"')
        part = write_zoo(tmp_path / remote.replace("/", "-").replace(".", "top"), text).get("tiny").part("tokenizer")
        assert part.remote_path("hf_model/config.json") == place


OTHER_MANIFEST = """
schema = 1
id = "other"
name = "Other"
family = "tiny"
folder = "{folder}"
order = 3
description = "Another bundle."
license = "apache-2.0"
absent = ["chunk*"]
[[component]]
name = "last"
share = "tiny/tokenizer"
[[component]]
name = "more"
{more}
"""


@pytest.mark.parametrize(
    ("folder", "more", "message"),
    [
        ("other", 'share = "tiny/chunk1"\nmodel = "x"\nremote = "."', "remote: path '.' has a '.' part"),
        ("other", 'share = "tiny/chunk1"\nremote = "."', "component more: remote: name the model folder in the repo"),
        ("other", 'share = "tiny/chunk1"\nmodel = "x"\nweights = "last"', "more: weights: only models have weights"),
        (
            "other",
            'share = "tiny/chunk1"',
            "absent: chunk1 is a component of other, which has the same folder 'other'",
        ),
        ("tiny", 'share = "tiny/chunk1"\nmodel = "x"', "absent: chunk1 is a component of tiny"),
    ],
)
def test_what_shows_once_shares_are_resolved(tmp_path: Path, folder: str, more: str, message: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        write_zoo(tmp_path, TEXT_MANIFEST, OTHER_MANIFEST.format(folder=folder, more=more))
    assert message in caught.value.message


def test_what_must_be_absent_is_a_file_or_a_model_of_either_kind(tmp_path: Path) -> None:
    text = TEXT_MANIFEST.replace("order = 2", 'order = 2\nabsent = ["a/prefill_*", "probe.marker"]')
    entry = write_zoo(tmp_path, text).get("tiny")
    for path in ("a/prefill_1.mlmodelc/model.mil", "a/prefill_1.mlpackage/Data/x", "a/prefill_x", "probe.marker"):
        assert entry.must_be_absent(path), path
    for path in ("prefill_1.mlmodelc/model.mil", "a/b/prefill_1.mlmodelc/x", "a/prefill_1/x", "probe.marker2"):
        assert not entry.must_be_absent(path), path


def test_unknown_entries_come_with_the_nearest_names(tmp_path: Path) -> None:
    with pytest.raises(UnknownEntry) as caught:
        write_zoo(tmp_path).get("tiny-multimodel")
    assert caught.value.hint is not None
    assert "tiny-multimodal" in caught.value.hint


def test_an_empty_zoo_directory_says_what_to_do(tmp_path: Path) -> None:
    from zoo.catalog import load_catalog

    with pytest.raises(InvalidDocument) as caught:
        load_catalog(tmp_path)
    assert "--zoo" in (caught.value.hint or "")


def test_the_zoo_that_ships_loads_and_shares_the_text_side() -> None:
    from zoo.catalog import load_catalog

    catalog = load_catalog(packaged_manifests())
    text = catalog.get("gemma4-e4b")
    multimodal = catalog.get("gemma4-e4b-multimodal")
    assert text.manifest.folder == multimodal.manifest.folder
    by_name = {part.name: part for part in multimodal.parts}
    for part in text.parts:
        assert by_name[part.name].origin_entry == "gemma4-e4b"
    own = {part.name for part in multimodal.parts if part.origin_entry == multimodal.id}
    assert own == {"chunk2_3way", "chunk3_3way", "vision.ane", "audio", "audio-features", "audio-projection"}
